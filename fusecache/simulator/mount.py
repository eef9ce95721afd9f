"""What a mount does with misses and with cached blocks, without the policy that decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fusecache.simulator.blocks import CachedBlocks
from fusecache.simulator.counts import Counts
from fusecache.simulator.misses import Misses
from fusecache.simulator.read_ahead import ReadAhead
from fusecache.simulator.requests import WHOLE, WRITES, count_origin
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.trace import Trace

AT_ONCE: Final = {DataPath.FILL: WRITES + WHOLE, DataPath.ABSORB: WRITES}
"""Bits of the kinds of requests that may come with the promotion of their block."""
REQUESTS_PER_LOOK: Final = 32
"""Block requests from one look for blocks that have been dirty for too long to the next."""


class Mount:
    """A mount in a replay; loops use its parts themselves where no other part has to know."""

    def __init__(
        self, trace: Trace, block_size: int, data_path: DataPath, rules: Rules, clear_dirty: Callable[[int], None]
    ) -> None:
        self.at_once = AT_ONCE[data_path]
        self.counts = counts = Counts()
        self.blocks = CachedBlocks(counts, block_size, rules=rules, timed=trace.timed, clear_dirty=clear_dirty)
        self._ahead: ReadAhead | None = None
        if rules.read_ahead:
            origin_blocks = count_origin(trace, block_size)
            self._ahead = ReadAhead(rules.read_ahead, block_size, origin_blocks, self.blocks.cblocks, counts)
        self.misses = Misses(counts.disk, block_size, self._ahead)
        self._block_size = block_size

    def hit(self, index: int, time_us: int, kind: int, oblock: int, offset: int, length: int) -> bool:
        """Serve a hit from the cache; True if its block turns dirty.  A read of a whole block needs no such call."""
        if kind & WRITES:
            self.counts.written += length
            return self.blocks.write(index, time_us, oblock, offset, length)
        if oblock in self.blocks.partial:
            self.blocks.read(oblock, offset, length)
        return False

    def absorb(self, index: int, time_us: int, kind: int, oblock: int, cblock: int, offset: int, length: int) -> None:
        """Cache a block with what a request writes; no run of misses is under way.  The buffer drops it."""
        if self._ahead is not None:
            self._ahead.drop(oblock)
        self.blocks.absorb(index, time_us, kind, oblock, cblock, offset, length)

    def promote(self, oblock: int, cblock: int, *, fills: bool) -> None:
        """Cache a block, whole; ``fills`` tells whether the request made just now was a read that missed it."""
        if fills:
            self.counts.fills += 1
            self.misses.fill(oblock)
        else:
            self.counts.disk.read(oblock * self._block_size, self._block_size)
        if self._ahead is not None:
            self._ahead.drop(oblock)
        self.blocks.promote(oblock, cblock)

    def check(self) -> None:
        """Assert the invariants of all parts."""
        self.counts.check()
        self.blocks.check()
        if self._ahead is not None:
            self._ahead.check()
