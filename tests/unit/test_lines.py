from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from fusecache import lines
from fusecache.errors import FusecacheError
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


class Full(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    def write(self, _text: str) -> int:
        raise OSError(self._code, os.strerror(self._code))


@pytest.fixture
def given_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    given_up: list[int] = []
    monkeypatch.setattr(lines, "give_up", given_up.append)
    return given_up


def test_g04_an_answer_that_cannot_be_printed_is_an_error(monkeypatch: pytest.MonkeyPatch, given_up: list[int]) -> None:
    monkeypatch.setattr(sys, "stdout", Full(errno.ENOSPC))
    with pytest.raises(FusecacheError, match="cannot print the answer: No space left on device"):
        say("answer")
    assert given_up == [lines.STDOUT]


def test_g04_that_nobody_reads_on_is_none(monkeypatch: pytest.MonkeyPatch, given_up: list[int]) -> None:
    monkeypatch.setattr(sys, "stdout", Full(errno.EPIPE))
    with pytest.raises(BrokenPipeError):
        say("answer")
    assert given_up == [lines.STDOUT]


def test_g04_an_error_that_cannot_be_printed_leaves_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, given_up: list[int]
) -> None:
    monkeypatch.setattr(sys, "stderr", Full(errno.ENOSPC))
    complain("error")
    assert given_up == [lines.STDERR]
