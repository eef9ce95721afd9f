"""What policies are compared with: the best that any could do, and plain LRU.

Theory of operation
-------------------
Both start empty.  They fetch and evict blocks at once, while the request waits.

*Belady's OPT with bypass* knows the future: it keeps the blocks that are used again soonest.  A block that was missed
is left out (bypassed) if it is used again later than all that are cached, or never.  No policy has more hits; but one
may well cause fewer operations of the slow disk, because OPT does not care what is dirty.
L. A. Belady: A study of replacement algorithms for a virtual-storage computer (IBM Systems Journal 5, 1966).

*LRU* takes in every block that it misses, in place of the one that was used least recently.

A block that was written in the cache is dirty; it is written back when it is evicted, and not before.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Final

from fusecache.simulator.counts import Counts
from fusecache.simulator.requests import WHOLE, WRITES, Progress, split
from fusecache.simulator.trace import Trace

_NOT_CACHED: Final = -1
_PAST_PER_LIVE: Final = 3
_FEW: Final = 1024


def replay_lru(trace: Trace, block_size: int, cache_blocks: int, report: Progress) -> Counts:
    """Replay a trace through a cache that evicts the block that was used least recently."""
    counts = Counts()
    cached: OrderedDict[int, int] = OrderedDict()  # oblock, least recently used first: WRITES if dirty, else 0
    for portion in split(trace, block_size):
        counts.requests += len(portion.oblocks)
        for kind, oblock, length in zip(portion.kinds, portion.oblocks, portion.lengths, strict=True):
            if oblock in cached:
                cached.move_to_end(oblock)
                counts.hits += 1
                if kind & WRITES:
                    cached[oblock] = WRITES
                    counts.written += length
            else:
                if len(cached) == cache_blocks:
                    _, dirty = cached.popitem(last=False)
                    counts.demotions += 1
                    counts.writebacks += dirty
                _count_promotion(counts, kind, length)
                cached[oblock] = kind & WRITES
        report(portion.done, len(trace.writes))
    return counts


def replay_opt(trace: Trace, block_size: int, cache_blocks: int, report: Progress) -> Counts:
    """Replay a trace through a cache that knows the future."""
    next_uses = _find_next_uses(trace, block_size)
    cache = _Foresight(cache_blocks, len(next_uses))
    dirty: set[int] = set()
    counts = Counts()
    for portion in split(trace, block_size):
        indices = range(counts.requests, counts.requests + len(portion.oblocks))
        counts.requests = indices.stop
        for index, kind, oblock, length in zip(indices, portion.kinds, portion.oblocks, portion.lengths, strict=True):
            next_use = next_uses[index]
            if cache.use(index, oblock, next_use):
                counts.hits += 1
                if kind & WRITES:
                    counts.written += length
            elif not cache.wants(next_use):
                continue
            else:
                if cache.is_full():
                    victim = cache.evict()
                    counts.demotions += 1
                    counts.writebacks += victim in dirty
                    dirty.discard(victim)
                cache.insert(oblock, next_use)
                _count_promotion(counts, kind, length)
            if kind & WRITES:
                dirty.add(oblock)
        report(portion.done, len(trace.writes))
    return counts


def _count_promotion(counts: Counts, kind: int, length: int) -> None:
    """Count a promotion that a request waits for; a write that does not fill the block is made in the cache then."""
    counts.promotions += 1
    if kind & WHOLE:
        counts.fills += 1
    elif kind & WRITES:
        counts.written += length


def _find_next_uses(trace: Trace, block_size: int) -> array[int]:
    """Tell for each block request when its block is requested next; if never, how many there are."""
    following = array("q")
    for portion in split(trace, block_size):
        following.extend(portion.oblocks)
    never = len(following)
    seen: dict[int, int] = {}
    for index in range(never - 1, -1, -1):
        oblock = following[index]
        following[index] = seen.get(oblock, never)
        seen[oblock] = index
    return following


class _Foresight:
    """The blocks that OPT has in its cache, by when they are used next."""

    def __init__(self, cache_blocks: int, never: int) -> None:
        self._cache_blocks = cache_blocks
        self._never = never
        self._by_next_use: dict[int, int] = {}
        self._dead: list[int] = []  # blocks that are never used again
        self._latest: list[int] = []  # a heap of negative next uses; those that are past may stay: they are never first

    def use(self, index: int, oblock: int, next_use: int) -> bool:
        """Use the block of request number ``index``; False if it is not cached."""
        if self._by_next_use.pop(index, _NOT_CACHED) == _NOT_CACHED:
            return False
        self.insert(oblock, next_use)
        return True

    def wants(self, next_use: int) -> bool:
        """Tell whether a block is worth a free place, or else that of the block which :meth:`evict` would return."""
        if next_use == self._never:
            return False
        return not self.is_full() or bool(self._dead) or next_use < -self._latest[0]

    def is_full(self) -> bool:
        """Tell whether all places are taken."""
        return len(self._by_next_use) + len(self._dead) == self._cache_blocks

    def evict(self) -> int:
        """Evict the block that is used again last, or never; return it."""
        return self._dead.pop() if self._dead else self._by_next_use.pop(-heappop(self._latest))

    def insert(self, oblock: int, next_use: int) -> None:
        """Take in a block; there must be a place for it."""
        if next_use == self._never:
            self._dead.append(oblock)
            return
        self._by_next_use[next_use] = oblock
        heappush(self._latest, -next_use)
        if len(self._latest) > _PAST_PER_LIVE * len(self._by_next_use) + _FEW:
            self._latest = [-use for use in self._by_next_use]
            heapify(self._latest)
