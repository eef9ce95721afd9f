"""Lines for the user: what stands in files and names is shown, and does nothing to the terminal."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Final

from fusecache.errors import FusecacheError

STDOUT: Final = 1
STDERR: Final = 2
_ESCAPED_BYTES: Final = range(0xDC80, 0xDD00)
"""What Python makes of the bytes of a name that are not UTF-8."""


def printable(text: str) -> str:
    """Return a text in one line, in which only what can be seen stands as it is."""
    return text if text.isprintable() else "".join(map(_shown, text))


def say(line: str) -> None:
    """Print a line of the answer; raises FusecacheError if it cannot be printed, BrokenPipeError if nobody reads it."""
    try:
        print(printable(line), flush=True)  # noqa: T201 - the one place where answers are shown
    except OSError as exc:
        give_up(STDOUT)
        if exc.errno == errno.EPIPE:
            raise
        msg = f"cannot print the answer: {exc.strerror}"
        raise FusecacheError(msg) from exc


def complain(message: object) -> None:
    """Print a line about what went wrong; if that goes wrong as well, the exit code has to say it."""
    try:
        print(f"fusecache: {printable(str(message))}", file=sys.stderr, flush=True)  # noqa: T201 - likewise for errors
    except OSError:
        give_up(STDERR)


def give_up(stream: int) -> None:
    """Have nothing go to a stream any more; else what it did not take would be tried again at the end."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, stream)
        os.close(null)


def have_standard_streams() -> None:
    """Open ``/dev/null`` for those of stdin, stdout and stderr that are closed.

    Else the next file that is opened gets the number, and what is printed goes into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - it stays open
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if ord(character) in _ESCAPED_BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
