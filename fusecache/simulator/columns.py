"""The requests of a trace while it is read: four columns, and what is wrong with a line."""

from __future__ import annotations

from array import array
from itertools import compress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

MAX_NUMBER: Final = 2**63 - 1
"""The largest offset that the kernel knows, and the largest number in any column."""
MAX_LENGTH: Final = 1 << 30
"""Bytes of the largest request: far beyond what disks take at once, and a limit to what one line can mean."""
MOST_REQUESTS: Final = 1 << 24
"""So many requests are kept, unless more are asked for: a few megabytes of gzip can hold hundreds of millions."""
LONGEST_LINE: Final = 1 << 12
"""Bytes; what is longer is no line of any trace, and perhaps never ends."""
OUT_OF_ORDER_US: Final = 1_000_000
"""How much earlier than one before it a request may be, unless the format knows better.

Recorders write what several processors did: nearly sorted.
"""

_MAX_DIGITS: Final = 19
_SHOWN: Final = 40


class LineError(Exception):
    """A line cannot be read; ``line`` counts from 1, and is None where all of the file is meant."""

    def __init__(self, line: int | None, what: str) -> None:
        super().__init__(what)
        self.line = line


class Columns:
    """Requests, a column each for the time, whether it writes, the offset and the length; ``most`` of them at most.

    Times count from the first request.  What readers give are *ticks* of the recorder's clock, wherever that began;
    ``ticks_per_us`` of them are a microsecond.

    :ivar timed: whether the times are real.
    :ivar latest_us: the greatest of them, -1 before the first.
    :ivar disorder_us: how much earlier than one before it a request may be.
    :ivar chosen: the devices whose requests are wanted; if empty, all.
    :ivar notes: what users should know of how the trace was read, a line each.
    """

    __slots__ = (
        "_begin",
        "_sorted",
        "chosen",
        "disorder_us",
        "latest_us",
        "lengths",
        "most",
        "notes",
        "offsets",
        "ticks_per_us",
        "timed",
        "times_us",
        "writes",
    )

    def __init__(self, most: int = MOST_REQUESTS, chosen: frozenset[bytes] = frozenset()) -> None:
        self.most = most
        self.chosen = chosen
        self.ticks_per_us = 1
        self.disorder_us = OUT_OF_ORDER_US
        self.timed = True
        self.notes: list[str] = []
        self.times_us = array("q")
        self.writes = bytearray()
        self.offsets = array("q")
        self.lengths = array("q")
        self.latest_us = -1
        self._begin: int | None = None
        self._sorted = True

    def __len__(self) -> int:
        return len(self.writes)

    def append(self, line: int, ticks: int, write: bool, offset: int, length: int) -> None:
        """Add one request; no number is negative.

        :raises LineError: a number is too large, the request has no bytes, time goes back by more than
            ``disorder_us``, or there are as many requests as may be.
        """
        if len(self.writes) >= self.most:
            raise LineError(line, f"more than {self.most} requests (--most-requests allows more, if memory does)")
        if length == 0:
            raise LineError(line, "a request of no bytes")
        if length > MAX_LENGTH:
            raise LineError(line, f"a request of {length} bytes is larger than {MAX_LENGTH} (1 GiB)")
        if offset + length > MAX_NUMBER:
            raise LineError(line, f"the request ends beyond {MAX_NUMBER}")
        if self._begin is None:
            self._begin = ticks
        time_us = (ticks - self._begin) // self.ticks_per_us
        if time_us > MAX_NUMBER:
            raise LineError(line, f"the time is beyond {MAX_NUMBER} us")
        if time_us < self.latest_us:
            if time_us < self.latest_us - self.disorder_us:
                raise LineError(line, f"time goes back by {self.latest_us - time_us} us")
            self._sorted = False
        else:
            self.latest_us = time_us
        self.times_us.append(time_us)
        self.writes.append(write)
        self.offsets.append(offset)
        self.lengths.append(length)

    def keep(self, kept: Sequence[bool]) -> None:
        """Forget the requests that are not to be kept, of which there is one at least; sort those that are."""
        self.times_us = array("q", compress(self.times_us, kept))
        self.writes = bytearray(compress(self.writes, kept))
        self.offsets = array("q", compress(self.offsets, kept))
        self.lengths = array("q", compress(self.lengths, kept))
        self._sorted = False

    def begin_at(self, ticks: int) -> int:
        """Return when the first request was made, which is now if there was none yet."""
        if self._begin is None:
            self._begin = ticks
        return self._begin

    def sort(self) -> None:
        """Put the requests in the order of their times; those of one time stay in the order of the file."""
        if self._sorted or not self.times_us:
            return
        order = sorted(range(len(self)), key=self.times_us.__getitem__)
        # One before the first of the file makes the times negative: they count from the earliest one.
        earliest = self.times_us[order[0]]
        self.times_us = array("q", (self.times_us[index] - earliest for index in order))
        self.writes = bytearray(map(self.writes.__getitem__, order))
        self.offsets = array("q", map(self.offsets.__getitem__, order))
        self.lengths = array("q", map(self.lengths.__getitem__, order))
        self._sorted = True


def lines(file: BinaryIO, first: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, the next one being number ``first``.

    :raises LineError: one is longer than lines are.
    """
    line = first
    while text := file.readline(LONGEST_LINE):
        require_line(line, text)
        yield line, text
        line += 1


def require_line(line: int, text: bytes) -> None:
    """Raise LineError if ``text``, read by ``readline(LONGEST_LINE)``, is not all of its line."""
    if len(text) == LONGEST_LINE and not text.endswith(b"\n"):
        raise LineError(line, f"a line longer than {LONGEST_LINE} bytes: {shown(text)}")


def number(line: int, what: str, text: bytes) -> int:
    """Read decimal digits; raises LineError, which calls the number ``what``."""
    if not text.isdigit():
        raise LineError(line, f"{what} must be a whole number, not {shown(text)}")
    if len(text) > _MAX_DIGITS or (value := int(text)) > MAX_NUMBER:
        raise LineError(line, f"{what} is beyond {MAX_NUMBER}: {shown(text)}")
    return value


def shown(text: bytes) -> str:
    """Write part of a line for people: in quotes, printable, and not too long."""
    cut = text[:_SHOWN] + b"..." if len(text) > _SHOWN else text
    return repr(cut.decode("utf-8", "backslashreplace"))
