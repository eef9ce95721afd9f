"""The cached blocks of a mount: which are dirty and since when, what of them is valid, how they are written back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from fusecache.simulator.counts import Counts
from fusecache.simulator.requests import WHOLE
from fusecache.simulator.rules import MERGED_BYTES, Rules
from fusecache.simulator.sectors import count_runs, hull, runs, sectors_cut, sectors_touched
from fusecache.units import SECTOR

_MOST_RUNS: Final = 2
"""Runs of valid sectors up to which a partial block is written back as it is."""


class CachedBlocks:
    """What a mount knows of its cached blocks; their operations at the origin are counted.

    Loops look into ``partial`` themselves, to save calls.
    """

    def __init__(
        self, counts: Counts, block_size: int, *, rules: Rules, timed: bool, clear_dirty: Callable[[int], None]
    ) -> None:
        self.cblocks: dict[int, int] = {}
        """Where each cached block lies, by oblock."""
        self.dirty: dict[int, int] = {}
        """Number of the block request that made it dirty, by oblock."""
        self.partial: dict[int, int] = {}
        """Valid sectors, by oblock; only of blocks that have others."""
        self._counts = counts
        self._disk = counts.disk
        self._block_size = block_size
        self._all_sectors = (1 << -(-block_size // SECTOR)) - 1
        self._most_blocks = max(MERGED_BYTES // block_size, 1)
        self._dirty_requests = rules.dirty_requests
        self._dirty_us = rules.dirty_us if timed else inf
        self._clear_dirty = clear_dirty
        self._turned: deque[tuple[int, int, int]] = deque()  # index, time, oblock, oldest first; some are clean again

    def promote(self, oblock: int, cblock: int) -> None:
        """Cache a block, whole and clean."""
        self._counts.promotions += 1
        self.cblocks[oblock] = cblock

    def absorb(self, index: int, time_us: int, kind: int, oblock: int, cblock: int, offset: int, length: int) -> None:
        """Cache what a request writes, request number ``index``."""
        counts = self._counts
        counts.promotions += 1
        counts.fills += 1
        self.cblocks[oblock] = cblock
        self._turn_dirty(index, time_us, oblock)
        if kind & WHOLE:
            counts.overwrite_promotions += 1
        else:
            counts.absorbed += 1
            counts.written += length
            self.partial[oblock] = 0
            self._extend(oblock, offset, length)

    def write(self, index: int, time_us: int, oblock: int, offset: int, length: int) -> bool:
        """Write to a cached block, by request number ``index``; True if it was clean before."""
        is_clean = oblock not in self.dirty
        if is_clean:
            self._turn_dirty(index, time_us, oblock)
        if oblock in self.partial:
            self._extend(oblock, offset, length)
        return is_clean

    def _turn_dirty(self, index: int, time_us: int, oblock: int) -> None:
        self.dirty[oblock] = index
        self._turned.append((index, time_us, oblock))

    def _extend(self, oblock: int, offset: int, length: int) -> None:
        """Note what was written to a partial block; what it needs of other sectors' bytes is read, edge by edge."""
        block = oblock * self._block_size
        start, end = offset - block, offset - block + length
        valid = self.partial[oblock]
        cut = sectors_cut(start, end) & ~valid
        while cut:
            edge, _ = hull(cut & -cut)
            self._disk.read(block + edge, SECTOR)
            cut &= cut - 1
        valid |= sectors_touched(start, end)
        if valid == self._all_sectors:
            del self.partial[oblock]
        else:
            self.partial[oblock] = valid

    def read(self, oblock: int, offset: int, length: int) -> None:
        """Read from a partial block; if the origin is needed for that, the block is whole afterwards."""
        start = offset - oblock * self._block_size
        if sectors_touched(start, start + length) & ~self.partial[oblock]:
            self._make_whole(oblock)

    def _make_whole(self, oblock: int) -> None:
        start, end = hull(self._all_sectors & ~self.partial.pop(oblock))
        self._disk.read(oblock * self._block_size + start, end - start)
        self._counts.written += end - start

    def demote(self, oblock: int) -> None:
        """Give up a block."""
        self._counts.demotions += 1
        if oblock in self.dirty:
            self.write_back(oblock)
        if oblock in self.partial:
            del self.partial[oblock]
        del self.cblocks[oblock]

    def write_back_old(self, index: int, time_us: int) -> None:
        """Write back the blocks that have been dirty for too long; request number ``index`` comes next."""
        turned = self._turned
        while turned:
            since, since_us, oblock = turned[0]
            if index - since <= self._dirty_requests and time_us - since_us <= self._dirty_us:
                return
            turned.popleft()
            if self.dirty.get(oblock) == since:
                self.write_back(oblock)

    def write_back(self, oblock: int) -> None:
        """Write back a block, if it is dirty, and its dirty neighbours with it."""
        dirty, partial = self.dirty, self.partial
        if oblock not in dirty:
            return
        stretch = self._dirty_around(oblock)
        if partial:
            for each in stretch:
                if each in partial and count_runs(partial[each]) > _MOST_RUNS:
                    self._make_whole(each)
        start = end = stretch.start * self._block_size
        for run_start, run_end in self._runs(stretch):
            if run_start != end:
                if end > start:
                    self._disk.write(start, end - start)
                start = run_start
            end = run_end
        self._disk.write(start, end - start)
        self._counts.writebacks += len(stretch)
        for each in stretch:
            del dirty[each]
            self._clear_dirty(self.cblocks[each])

    def _dirty_around(self, oblock: int) -> range:
        """Find the dirty blocks around a dirty block that one operation takes, below and above it by turns."""
        dirty = self.dirty
        first = last = oblock
        below = above = True
        while (below or above) and last - first + 1 < self._most_blocks:
            if below:
                below = first - 1 in dirty
                first -= below
            if above and last - first + 1 < self._most_blocks:
                above = last + 1 in dirty
                last += above
        return range(first, last + 1)

    def _runs(self, stretch: range) -> Iterator[tuple[int, int]]:
        """Tell the bytes of the image that are valid in some blocks; runs may go on from block to block."""
        size, partial = self._block_size, self.partial
        if not partial:
            yield stretch.start * size, stretch.stop * size
            return
        for oblock in stretch:
            begin = oblock * size
            if oblock in partial:
                for start, end in runs(partial[oblock]):
                    yield begin + start, begin + end
            else:
                yield begin, begin + size

    def check(self) -> None:
        """Assert that what is dirty or partial is cached, and that no age is forgotten."""
        assert set(self.dirty) <= set(self.cblocks)
        assert set(self.partial) <= set(self.cblocks)
        assert len(self.cblocks) == self._counts.promotions - self._counts.demotions
        assert all(0 < valid < self._all_sectors for valid in self.partial.values())
        assert list(self._turned) == sorted(self._turned, key=lambda turned: turned[0])
        assert {(index, oblock) for index, _, oblock in self._turned} >= {
            (at, block) for block, at in self.dirty.items()
        }
