"""Misses of a mount, as the origin sees them: neighbours of one request are one operation."""

from __future__ import annotations

from fusecache.simulator.read_ahead import ReadAhead
from fusecache.simulator.requests import GOES_ON, WRITES
from fusecache.simulator.rules import MERGED_BYTES
from fusecache.simulator.slow_disk import SlowDisk


class Misses:
    """The misses of a replay: a *run* of them is under way while a request goes on and each of its blocks misses."""

    def __init__(self, disk: SlowDisk, block_size: int, ahead: ReadAhead | None) -> None:
        self._disk = disk
        self._block_size = block_size
        self._ahead = ahead
        self._offset = 0
        self._length = 0  # of the run; 0 if there is none
        self._unread = 0  # bytes of the block missed last that have not been read with it

    def add(self, kind: int, oblock: int, offset: int, length: int) -> bool:
        """Take a miss to the origin; True if a run is under way then: see :meth:`end`."""
        ahead = self._ahead
        if ahead is not None:
            if kind & WRITES:
                ahead.drop(oblock)
            elif ahead.take(oblock, offset + length):
                self.end(kind)
                self._unread = 0
                self._read_ahead(ahead.look(oblock, oblock + 1))
                return False
        self._unread = self._block_size - length
        if ahead is None and not (kind & GOES_ON or self._length):  # most misses: a run of one block, which ends here
            (self._disk.write if kind & WRITES else self._disk.read)(offset, length)
            return False
        if self._length + length > MERGED_BYTES:
            self._carry_out(kind)
        if not self._length:
            self._offset = offset
        self._length += length
        if kind & GOES_ON:
            return True
        self.end(kind)
        return False

    def end(self, kind: int) -> None:
        """End the run that is under way, if one is."""
        if not self._length:
            return
        first, after = self._offset // self._block_size, -(-(self._offset + self._length) // self._block_size)
        self._carry_out(kind)
        if self._ahead is not None and not kind & WRITES:
            blocks = self._ahead.look(first, after)
            if blocks and blocks.start == after:  # what is left of the block before them passes by, filled or not
                self._disk.position = after * self._block_size
            self._read_ahead(blocks)

    def _read_ahead(self, blocks: range) -> None:
        if blocks:
            self._disk.read(blocks.start * self._block_size, len(blocks) * self._block_size)

    def _carry_out(self, kind: int) -> None:
        if self._length:
            (self._disk.write if kind & WRITES else self._disk.read)(self._offset, self._length)
            self._length = 0

    def fill(self, oblock: int) -> None:
        """Have the read that missed a block just now read all of it."""
        if self._length:
            self._disk.moved += self._unread  # with the run, once that ends
        else:
            begin = oblock * self._block_size
            self._disk.read_on(self._unread, begin, begin + self._block_size)
