"""What FUSE says of a mount that it refuses.

libfuse and ``fusermount3`` tell on stderr what is wrong (a wrong option, an option that needs ``user_allow_other``, a
directory that may not be written), and give back a failure without words.  In the background stderr is the log; so what
has come to the log meanwhile is read there, and becomes part of the one line that the user sees.  In the foreground the
user has seen it already.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_STDERR: Final = 2
_ITSELF: Final = Path("/proc/self/fd", str(_STDERR))
_SPEAKERS: Final = ("fuse: ", "fusermount3: ", "fusermount: ")
_MOST_BYTES: Final = 1 << 14
_MOST_LINES: Final = 3


class FuseWords:
    """Listens, from when it was made, to what FUSE says."""

    def __init__(self) -> None:
        self._begin = _length()

    def heard(self) -> str:
        """Return what was said, in one line; nothing if that cannot be known."""
        lines = dict.fromkeys(line.strip() for line in self._text().splitlines() if line.startswith(_SPEAKERS))
        return "; ".join(list(lines)[:_MOST_LINES])

    def _text(self) -> str:
        with suppress(OSError):
            if _length():
                with _ITSELF.open("rb") as file:
                    file.seek(self._begin)
                    return file.read(_MOST_BYTES).decode(errors="replace")
        return ""


def name_of_log() -> str:
    """Return which file the log is; nothing if it is none, as in the foreground."""
    try:
        return str(_ITSELF.readlink()) if stat.S_ISREG(os.fstat(_STDERR).st_mode) else ""
    except OSError:
        return ""


def _length() -> int:
    """Return how long the log is; 0 if it is no file."""
    try:
        status = os.fstat(_STDERR)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
