"""The slow disk of a replay: what it is asked, and how long that would take two kinds of it.

Theory of operation
-------------------
Nothing is queued or sorted: operations come in the order in which the replay makes them.  An operation that begins
where the one before it ended needs no *seek*.

``hdd``
    One head: 5 ms for each seek, and 150 MB/s.
``net``
    A distant disk that serves 16 operations at a time: 1.5 ms for each, and 200 MB/s for all.  Latencies and
    transfers overlap, so the longer of both counts; there are always 16 operations to overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

_SEEK_SECONDS: Final = 0.005
_HDD_BYTES_A_SECOND: Final = 150e6
_LATENCY_SECONDS: Final = 0.0015
_LANES: Final = 16
_NET_BYTES_A_SECOND: Final = 200e6
_NOWHERE: Final = -1


class Disk(Enum):
    """A kind of slow disk."""

    HDD = "hdd"
    NET = "net"


@dataclass(slots=True)
class SlowDisk:
    """Operations so far, and where the last one ended."""

    reads: int = 0
    writes: int = 0
    seeks: int = 0
    """Operations that did not begin where the one before them ended."""
    moved: int = 0
    """Bytes read and written."""
    position: int = _NOWHERE
    """Where the last operation ended, in bytes of the image."""

    def read(self, offset: int, length: int) -> None:
        """Read some bytes, at least one."""
        self.reads += 1
        self.moved += length
        if offset != self.position:
            self.seeks += 1
        self.position = offset + length

    def write(self, offset: int, length: int) -> None:
        """Write some bytes, at least one."""
        self.writes += 1
        self.moved += length
        if offset != self.position:
            self.seeks += 1
        self.position = offset + length

    def read_on(self, length: int, begin: int, end: int) -> None:
        """Read ``length`` bytes more by an operation that ended between ``begin`` and ``end``: all there."""
        self.moved += length
        if begin < self.position < end:
            self.position = end

    def seconds(self, kind: Disk) -> float:
        """Return how long all of that would take a disk of some kind."""
        if kind is Disk.HDD:
            return self.seeks * _SEEK_SECONDS + self.moved / _HDD_BYTES_A_SECOND
        return max((self.reads + self.writes) * _LATENCY_SECONDS / _LANES, self.moved / _NET_BYTES_A_SECOND)

    def check(self) -> None:
        """Assert that each operation moved something, and that no more seeks than operations were made."""
        assert min(self.reads, self.writes) >= 0
        assert 0 <= self.seeks <= self.reads + self.writes <= self.moved
        assert (self.seeks > 0) == (self.moved > 0) == (self.position != _NOWHERE)
