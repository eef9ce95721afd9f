"""What blkparse prints of block devices' traces, in its default format.

Theory of operation
-------------------
An event is a line::

      8,64  11  2951  33.791608964 90790  Q  WS 7614368 + 8 [fio]
    device cpu   seq       seconds   pid  action, kind, first sector + sectors, program

A request has many events; one of them stands for it.  The best is ``Q`` (queued): that is what a cache in this place
would have been asked, before merging and sorting.  A recorder may have been told to leave it out, so for a device
without any ``Q`` it is ``D`` (issued to the driver), then ``I`` (inserted into the scheduler's queue), then ``C``
(completed, at a later time).  A note says which, unless it is ``Q``.

Reads (``R``) and writes (``W``) count, whatever else their kind says; discards (``D``) and flushes without data do not.
The summary at the end is skipped.

*Layers.*  If a device lies on another that was recorded as well (a logical volume and its disk), each request is in the
trace twice.  ``A`` events tell: ``8,0 ... A W 100 + 8 <- (253,0) 50`` is a request of 253,0 that went on to 8,0.  Such
a trace is refused until one of the two has been chosen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fusecache.simulator.columns import Columns, LineError, lines, number, shown
from fusecache.simulator.devices import Devices
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from typing import BinaryIO

START: Final = re.compile(rb"\s*(?:[0-9]+,[0-9]+\s|Input file )")

_EVENT: Final = re.compile(
    rb"\s*([0-9]+,[0-9]+)\s+[0-9]+\s+[0-9]+\s+([0-9]+)\.([0-9]{9})\s+[0-9]+\s+([A-Za-z]+)(?:\s+([^\n]*))?"
)
_DATA: Final = re.compile(rb"([A-Z]+)\s+([0-9]+)\s+\+\s+([0-9]+)(?:\s|$)")
_NO_DATA: Final = re.compile(rb"[A-Z]+\s+(?:[0-9]+\s+)?[\[(]")
_GONE_ON: Final = re.compile(rb"[^<]*<-\s+\(([0-9]+,[0-9]+)\)")
_SUMMARY: Final = re.compile(rb"(?:CPU\s?[0-9]+ \(.+\):|Total \(.+\):|.+ \([0-9]+\)|Throughput .+)\s*$")
_RANKS: Final = {b"Q": 0, b"D": 1, b"I": 2, b"C": 3}
"""The best first."""
_NOTES: Final = (
    "",
    "without Q events, so requests as they were issued to the driver (D)",
    "without Q and D events, so requests as they were inserted into the scheduler's queue (I)",
    "without Q, D and I events, so requests when they were completed (C)",
)
_NANOSECONDS_PER_US: Final = 1000
_NANOSECONDS_PER_SECOND: Final = 1_000_000_000


def read_blkparse(file: BinaryIO, columns: Columns) -> None:
    """Read blkparse's output into ``columns``.

    :raises LineError: a line is not an event, or each request is in the trace twice.
    """
    columns.ticks_per_us = _NANOSECONDS_PER_US
    devices = Devices(columns)
    below: dict[tuple[bytes, bytes], int] = {}  # a device and the one that it lies on: the first line that tells
    ranks: dict[bytes, int] = {}  # of the events that stand for a device's requests so far
    summary = False
    for line, text in lines(file, 1):
        event = _EVENT.match(text)
        if event is None:
            summary = summary or _SUMMARY.match(text) is not None
            if not (summary or text.isspace() or text.startswith(b"Input file ")):
                raise LineError(line, f"not an event of blkparse's default format: {shown(text.rstrip())}")
            continue
        device, seconds, nanoseconds, action, rest = event.groups()
        if action == b"A" and (gone_on := _GONE_ON.match(rest or b"")):
            below.setdefault((gone_on[1], device), line)
        rank = _RANKS.get(action)
        known = ranks.get(device, rank)
        if rank is None or known is None or rank > known or not (request := _request(line, rest or b"")):
            continue
        if rank < known:
            devices.restart(line, device)
        ranks[device] = rank
        ticks = number(line, "the time", seconds) * _NANOSECONDS_PER_SECOND + int(nanoseconds)
        devices.append(line, device, ticks, *request)
    devices.finish()
    asked = devices.asked()
    _refuse_layers(asked, below)
    for rank, note in enumerate(_NOTES):
        alike = [name.decode() for name in asked if ranks[name] == rank]
        if note and alike:
            columns.notes.append(f"{', '.join(alike)} {note}")


def _request(line: int, text: bytes) -> tuple[bool, int, int] | None:
    """Read what follows an action: whether it writes, the offset and the length in bytes; None if it moves no data."""
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


def _refuse_layers(asked: list[bytes], below: dict[tuple[bytes, bytes], int]) -> None:
    for (upper, lower), line in below.items():
        if upper != lower and upper in asked and lower in asked:
            names = upper.decode(), lower.decode()
            msg = f"requests of {names[0]} go on to {names[1]}, and would count twice: take --device {names[0]}"
            raise LineError(line, msg)
