"""The requests of a trace while it is read: four columns, and what is wrong with a line."""

from __future__ import annotations

from array import array
from typing import Final

MAX_NUMBER: Final = 2**63 - 1
"""The largest offset that the kernel knows, and the largest number in any column."""
MAX_DIGITS: Final = 19
SECTOR: Final = 512

_SHOWN: Final = 40


class LineError(Exception):
    """A line cannot be read; ``line`` counts from 1."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class Columns:
    """Requests in the order of the file, a column each for the time, whether it writes, the offset, and the length."""

    __slots__ = ("lengths", "offsets", "timed", "times_us", "writes")

    def __init__(self) -> None:
        self.times_us = array("q")
        self.writes = bytearray()
        self.offsets = array("q")
        self.lengths = array("q")
        self.timed = True

    def __len__(self) -> int:
        return len(self.writes)

    def append(self, line: int, time_us: int, write: bool, offset: int, length: int) -> None:
        """Add one request; numbers are not negative.

        :raises LineError: nothing is read or written, or a number is too large.
        """
        if length == 0:
            raise LineError(line, "a request of no bytes")
        if offset + length > MAX_NUMBER:
            raise LineError(line, f"the request ends beyond {MAX_NUMBER}")
        if time_us > MAX_NUMBER:
            raise LineError(line, f"the time is beyond {MAX_NUMBER} us")
        self.times_us.append(time_us)
        self.writes.append(write)
        self.offsets.append(offset)
        self.lengths.append(length)


def number(line: int, what: str, text: bytes) -> int:
    """Read decimal digits; raises LineError, which calls the number ``what``."""
    if text.isdigit():
        if len(text) <= MAX_DIGITS and (value := int(text)) <= MAX_NUMBER:
            return value
        raise LineError(line, f"{what} is beyond {MAX_NUMBER}: {shown(text)}")
    raise LineError(line, f"{what} must be a whole number, not {shown(text)}")


def shown(text: bytes) -> str:
    """Write part of a line for people: in quotes, printable, and not too long."""
    cut = text[:_SHOWN] + b"..." if len(text) > _SHOWN else text
    return repr(cut.decode("utf-8", "backslashreplace"))
