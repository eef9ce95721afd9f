from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusecache.daemon.fuse_words import FuseWords, name_of_log


@contextmanager
def stderr_in(path: Path) -> Iterator[None]:
    """Have stderr go to a file."""
    before = os.dup(2)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(fd, 2)
    os.close(fd)
    yield
    os.dup2(before, 2)
    os.close(before)


def tell(text: str) -> None:
    os.write(2, text.encode())


def test_g04_what_fuse_says_is_heard(tmp_path: Path) -> None:
    """G04: the user saw ``fuse_session_mount() failed``, and the reason was in a log that nobody named."""
    with stderr_in(tmp_path / "log"):
        tell("fuse: of an earlier mount\n")
        words = FuseWords()
        assert words.heard() == ""
        tell("2026-11-28T06:24:13 [info     ] recovered\n")
        tell("fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf\n")
        assert (
            words.heard()
            == "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf"
        )
        tell("fuse: mount failed\nfuse: mount failed\n")
        assert words.heard().endswith("in /etc/fuse.conf; fuse: mount failed")
        assert name_of_log() == str(tmp_path / "log")


def test_g04_what_is_no_text_is_one_short_line(tmp_path: Path) -> None:
    with stderr_in(tmp_path / "log"):
        words = FuseWords()
        os.write(2, b"fuse: \xff\n" + b"".join(b"fuse: %d\n" % number for number in range(5000)))
        assert words.heard() == "fuse: \ufffd; fuse: 0; fuse: 1"


def test_g04_a_log_that_was_begun_anew_says_nothing(tmp_path: Path) -> None:
    with stderr_in(tmp_path / "log"):
        tell("fuse: long ago\n" * 9)
        words = FuseWords()
        os.truncate(tmp_path / "log", 0)
        tell("fuse: now\n")
        assert words.heard() == ""


def test_g04_what_is_no_file_cannot_be_read() -> None:
    before, (read, write) = os.dup(2), os.pipe()
    try:
        os.dup2(write, 2)
        words = FuseWords()
        tell("fuse: heard by whoever reads the pipe\n")
        assert (words.heard(), name_of_log()) == ("", "")
        os.close(2)
        assert (FuseWords().heard(), name_of_log()) == ("", "")
    finally:
        os.dup2(before, 2)
        for fd in (before, read, write):
            os.close(fd)
