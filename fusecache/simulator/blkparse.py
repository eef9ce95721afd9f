"""What blkparse prints of a block device's trace, in its default format.

Theory of operation
-------------------
An event is a line::

      8,64  11  2951  33.791608964 90790  Q  WS 7614368 + 8 [fio]
    device cpu   seq       seconds   pid  action, kind, first sector + sectors, program

A request has many events; the first, ``Q`` (queued), stands for it: that is what a cache in this place would have been
asked, before merging and sorting.  Reads (``R``) and writes (``W``) count, whatever else their kind says; discards
(``D``) and flushes without data do not.  The summary at the end is skipped.  A trace is of one device: if it has
several, choose one with ``blkparse -i`` first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fusecache.simulator.columns import Columns, LineError, lines, number, shown
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from typing import BinaryIO

START: Final = re.compile(rb"\s*(?:[0-9]+,[0-9]+\s|Input file )")

_EVENT: Final = re.compile(
    rb"\s*([0-9]+,[0-9]+)\s+[0-9]+\s+[0-9]+\s+([0-9]+)\.([0-9]{9})\s+[0-9]+\s+([A-Za-z]+)(?:\s+([^\n]*))?"
)
_DATA: Final = re.compile(rb"([A-Z]+)\s+([0-9]+)\s+\+\s+([0-9]+)(?:\s|$)")
_NO_DATA: Final = re.compile(rb"[A-Z]+\s+\[")
_SUMMARY: Final = re.compile(rb"(?:CPU\s?[0-9]+ \(.+\):|Total \(.+\):|.+ \([0-9]+\)|Throughput .+)\s*$")
_NANOSECONDS_PER_US: Final = 1000
_US_PER_SECOND: Final = 1_000_000


def read_blkparse(file: BinaryIO, columns: Columns) -> None:
    """Read blkparse's output into ``columns``.

    :raises LineError: a line is not an event, or the requests are of several devices.
    """
    traced = b""
    summary = False
    for line, text in lines(file, 1):
        event = _EVENT.match(text)
        if event is None:
            summary = summary or _SUMMARY.match(text) is not None
            if not (summary or text.isspace() or text.startswith(b"Input file ")):
                raise LineError(line, f"not an event of blkparse's default format: {shown(text.rstrip())}")
            continue
        device, seconds, nanoseconds, action, rest = event.groups()
        if action != b"Q" or not (request := _request(line, rest or b"")):
            continue
        if device != (traced := traced or device):
            raise LineError(
                line, f"a request of device {device.decode()} in a trace of {traced.decode()}: take one device"
            )
        time_us = number(line, "the time", seconds) * _US_PER_SECOND + int(nanoseconds) // _NANOSECONDS_PER_US
        columns.append(line, time_us, *request)


def _request(line: int, text: bytes) -> tuple[bool, int, int] | None:
    """Read what follows a Q: whether it writes, the offset and the length in bytes; None if it moves no data."""
    data = _DATA.match(text)
    if data is None:
        if _NO_DATA.match(text):
            return None
        raise LineError(line, f"expected a kind, a sector and a number of sectors, not {shown(text)}")
    kind, first, count = data.groups()
    sectors = number(line, "the number of sectors", count)
    if b"D" in kind or not (b"W" in kind or b"R" in kind) or not sectors:
        return None
    return b"W" in kind, number(line, "the sector", first) * SECTOR, sectors * SECTOR
