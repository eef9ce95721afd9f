"""Reading ahead: what a sequential read will want next waits in a small buffer outside the cache.

Theory of operation
-------------------
A read that misses is *sequential* if the block before its own was asked for by one of the last 64 block requests, and
that was a read that missed too (whether the buffer had it or not).  It goes on reading in the same operation: the
blocks that follow, up to the number wanted, but not beyond the origin's end, nor from a block on that is cached or in
the buffer.

The buffer holds 64 blocks; the oldest ones give way.  A block leaves it as well when it is promoted or written.  Each
block that leaves is *judged*: was it used?  If fewer than a quarter of the last 256 were, reading ahead stops.  The
1000th chance after that is taken again, and the judgement begins anew.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container
from typing import Final

from fusecache.simulator.counts import Counts

BUFFER_BLOCKS: Final = 64
REACH: Final = 64
"""Block requests back that a sequential read may go on from."""
JUDGED_BLOCKS: Final = 256
LEAST_USED: Final = JUDGED_BLOCKS // 4
PAUSE: Final = 1000
"""Chances that are let pass when too little was used."""

_LONG_AGO: Final = -REACH - 1
_MOST_REMEMBERED: Final = 16 * REACH


class ReadAhead:
    """The buffer, and when it pays."""

    def __init__(self, blocks: int, origin_blocks: int, cached: Container[int], counts: Counts) -> None:
        self._blocks = blocks
        self._origin_blocks = origin_blocks
        self._cached = cached
        self._counts = counts
        self._buffer: OrderedDict[int, bool] = OrderedDict()  # oblock, oldest first: whether it was used
        self._missed_at: dict[int, int] = {}  # oblock: number of the last request that missed it
        self._judged: deque[bool] = deque(maxlen=JUDGED_BLOCKS)
        self._used = 0  # of those judged
        self._pause = 0

    def meet(self, index: int, oblock: int) -> bool:
        """Take note of a read that missed, request number ``index``; True if the buffer has its block."""
        if len(self._missed_at) == _MOST_REMEMBERED:
            self._missed_at = {block: at for block, at in self._missed_at.items() if index - at <= REACH}
        self._missed_at[oblock] = index
        used = self._buffer.get(oblock)
        if used is None:
            return False
        if not used:
            self._buffer[oblock] = True
            self._counts.read_ahead_used += 1
        return True

    def follow(self, index: int, oblock: int) -> int:
        """Read on after the read of a block, request number ``index``; return by how many blocks."""
        if index - self._missed_at.get(oblock - 1, _LONG_AGO) > REACH:
            return 0
        if self._pause:
            self._pause -= 1
            if self._pause:
                return 0
        begin = following = oblock + 1
        while following < min(begin + self._blocks, self._origin_blocks):
            if following in self._cached or following in self._buffer:
                break
            if len(self._buffer) == BUFFER_BLOCKS:
                self._judge(self._buffer.popitem(last=False)[1])
            self._buffer[following] = False
            following += 1
        self._counts.read_ahead += following - begin
        return following - begin

    def drop(self, oblock: int) -> None:
        """Take a block out of the buffer, if it is there: it is cached now, or is older than the origin's."""
        used = self._buffer.pop(oblock, None)
        if used is not None:
            self._judge(used)

    def _judge(self, used: bool) -> None:
        if len(self._judged) == JUDGED_BLOCKS:
            self._used -= self._judged[0]
        self._judged.append(used)
        self._used += used
        if len(self._judged) == JUDGED_BLOCKS and self._used < LEAST_USED:
            self._judged.clear()
            self._used = 0
            self._pause = PAUSE

    def check(self) -> None:
        """Assert that the buffer is no larger than it may be, has nothing that is cached, and the sums are right."""
        assert len(self._buffer) <= BUFFER_BLOCKS
        assert not any(oblock in self._cached for oblock in self._buffer)
        assert len(self._missed_at) <= _MOST_REMEMBERED
        assert self._used == sum(self._judged)
        assert self._used <= self._counts.read_ahead_used <= self._counts.read_ahead
        assert 0 <= self._pause <= PAUSE
