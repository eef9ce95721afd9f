from __future__ import annotations

import pytest

from fusecache.lines import complain, printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/Jürgen/disk 1.img", "/home/Jürgen/disk 1.img"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x9b31m", r"\x9b31m"),
        ("exe\u202egpj", r"exe\u202egpj"),
        ("a\u2028b\U000e0041", r"a\u2028b\U000e0041"),
        ("J\udcfcrgen", r"J\xfcrgen"),
        ("\ud800", r"\ud800"),
        ("\\x1b", r"\x1b"),
        ("", ""),
    ],
)
def test_f18_only_what_can_be_seen_stands_as_it_is(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert shown.encode().decode() == shown


def test_f18_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("answer\nwith \x1b[2J")
    complain(ValueError("error\nwith \udcff"))
    assert capsys.readouterr() == ("answer\\nwith \\x1b[2J\n", "fusecache: error\\nwith \\xff\n")
