"""What policies are compared with: the best that any could do, and exact LRU.

Theory of operation
-------------------
Both start empty.  They fetch and evict blocks at once, while the request waits; nothing is kept free for later.

*Belady's OPT with bypass* knows the future: it keeps the blocks that are used again soonest.  A block that was missed
is left out (bypassed) if it is used again later than all that are cached, or never.  No policy has more hits; but one
may well cause fewer operations of the slow disk, because OPT does not care what is dirty.
L. A. Belady: A study of replacement algorithms for a virtual-storage computer (IBM Systems Journal 5, 1966).

*LRU* takes in every block that it misses, in place of the one that was used least recently.

With ``copy``, a write that misses is made in the cache once its block has been read, unless that is left out.  A block
that was written in the cache is dirty; it is written back when it is evicted, and not before.  With ``fill`` and
``absorb``, both are played as policies are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from fusecache.simulator.counts import Counts
from fusecache.simulator.mount import REQUESTS_PER_LOOK, Mount
from fusecache.simulator.requests import WHOLE, WRITES, Progress, split
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.trace import Trace

_NOT_CACHED: Final = -1
_PAST_PER_LIVE: Final = 3
_FEW: Final = 1024
_NO_CBLOCK: Final = 0


class Limit(ABC):
    """The blocks of a cache without a policy; requests are numbered from 0."""

    @abstractmethod
    def use(self, index: int, oblock: int) -> bool:
        """Use the block of request number ``index``; False if it is not cached."""

    def wants(self, index: int) -> bool:
        """Tell whether the block of a request that missed is worth a place."""
        del index
        return True

    @abstractmethod
    def is_full(self) -> bool:
        """Tell whether all places are taken."""

    @abstractmethod
    def evict(self) -> int:
        """Evict a block; return it."""

    @abstractmethod
    def insert(self, index: int, oblock: int) -> None:
        """Take in the block of a request; there must be a place for it."""


def replay_limit(
    trace: Trace, limit: Limit, block_size: int, data_path: DataPath, rules: Rules, report: Progress
) -> Counts:
    """Replay a trace through one of :data:`LIMITS`, made for this trace and block size."""
    if data_path is DataPath.COPY:
        return _replay_copying(trace, limit, block_size, report)
    return _replay_mounted(trace, limit, Mount(trace, block_size, data_path, rules, _tell_nobody), block_size, report)


def _tell_nobody(_cblock: int) -> None:
    """Let nobody know of a block that is clean."""


def _replay_copying(trace: Trace, limit: Limit, block_size: int, report: Progress) -> Counts:
    counts = Counts()
    disk = counts.disk
    dirty: set[int] = set()
    for portion in split(trace, block_size):
        indices = range(counts.requests, counts.requests + len(portion.oblocks))
        counts.requests = indices.stop
        columns = zip(indices, portion.kinds, portion.oblocks, portion.offsets, portion.lengths, strict=True)
        for index, kind, oblock, offset, length in columns:
            if limit.use(index, oblock):
                counts.hits += 1
                if kind & WRITES:
                    counts.written += length
                    dirty.add(oblock)
                continue
            (disk.write if kind & WRITES else disk.read)(offset, length)
            if not limit.wants(index):
                continue
            if limit.is_full():
                victim = limit.evict()
                counts.demotions += 1
                if victim in dirty:
                    dirty.remove(victim)
                    counts.writebacks += 1
                    disk.write(victim * block_size, block_size)
            limit.insert(index, oblock)
            counts.promotions += 1
            if kind & WHOLE:
                counts.fills += 1
            else:
                disk.read(oblock * block_size, block_size)
            if kind & WRITES:
                dirty.add(oblock)
                if not kind & WHOLE:
                    counts.written += length
        report(portion.done, len(trace.writes))
    return counts


def _replay_mounted(trace: Trace, limit: Limit, mount: Mount, block_size: int, report: Progress) -> Counts:
    counts, blocks, misses, at_once = mount.counts, mount.blocks, mount.misses, mount.at_once
    is_run = False
    for portion in split(trace, block_size):
        indices = range(counts.requests, counts.requests + len(portion.oblocks))
        counts.requests = indices.stop
        for index, time_us, kind, oblock, offset, length in zip(indices, *portion[1:], strict=True):
            if not index % REQUESTS_PER_LOOK:
                blocks.write_back_old(index, time_us)
            is_hit = limit.use(index, oblock)
            is_wanted = not is_hit and limit.wants(index)
            is_absorbed = is_wanted and kind & at_once == at_once
            if is_hit or is_absorbed:
                if is_run:
                    misses.end(kind)
                    is_run = False
            else:
                is_run = misses.add(kind, oblock, offset, length)
            if is_hit:
                counts.hits += 1
                mount.hit(index, time_us, kind, oblock, offset, length)
            elif is_wanted:
                if limit.is_full():
                    blocks.demote(limit.evict())
                limit.insert(index, oblock)
                if is_absorbed:
                    mount.absorb(index, time_us, kind, oblock, _NO_CBLOCK, offset, length)
                else:
                    mount.promote(oblock, _NO_CBLOCK, fills=not kind & WRITES)
        report(portion.done, len(trace.writes))
    return counts


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


class Foresight(Limit):
    """The blocks that OPT has in its cache, by when they are used next."""

    def __init__(self, trace: Trace, block_size: int, cache_blocks: int) -> None:
        self._cache_blocks = cache_blocks
        self._next_uses = _find_next_uses(trace, block_size)
        self._never = len(self._next_uses)
        self._by_next_use: dict[int, int] = {}
        self._dead: list[int] = []  # blocks that are never used again
        self._latest: list[int] = []  # a heap of negative next uses; those that are past may stay: they are never first

    def use(self, index: int, oblock: int) -> bool:
        """Use the block of request number ``index``; False if it is not cached."""
        if self._by_next_use.pop(index, _NOT_CACHED) == _NOT_CACHED:
            return False
        self.insert(index, oblock)
        return True

    def wants(self, index: int) -> bool:
        """Tell whether a block is worth a free place, or else that of the block which :meth:`evict` would return."""
        next_use = self._next_uses[index]
        if next_use == self._never:
            return False
        return not self.is_full() or bool(self._dead) or next_use < -self._latest[0]

    def is_full(self) -> bool:
        """Tell whether all places are taken."""
        return len(self._by_next_use) + len(self._dead) == self._cache_blocks

    def evict(self) -> int:
        """Evict the block that is used again last, or never; return it."""
        return self._dead.pop() if self._dead else self._by_next_use.pop(-heappop(self._latest))

    def insert(self, index: int, oblock: int) -> None:
        """Take in the block of a request; there must be a place for it."""
        next_use = self._next_uses[index]
        if next_use == self._never:
            self._dead.append(oblock)
            return
        self._by_next_use[next_use] = oblock
        heappush(self._latest, -next_use)
        if len(self._latest) > _PAST_PER_LIVE * len(self._by_next_use) + _FEW:
            self._latest = [-use for use in self._by_next_use]
            heapify(self._latest)


class Recency(Limit):
    """The blocks that LRU has in its cache, the one that was used least recently first."""

    def __init__(self, _trace: Trace, _block_size: int, cache_blocks: int) -> None:
        self._cache_blocks = cache_blocks
        self._cached: OrderedDict[int, None] = OrderedDict()

    def use(self, index: int, oblock: int) -> bool:
        """Use the block of a request; False if it is not cached."""
        del index
        if oblock not in self._cached:
            return False
        self._cached.move_to_end(oblock)
        return True

    def is_full(self) -> bool:
        """Tell whether all places are taken."""
        return len(self._cached) == self._cache_blocks

    def evict(self) -> int:
        """Evict the block that was used least recently; return it."""
        return self._cached.popitem(last=False)[0]

    def insert(self, index: int, oblock: int) -> None:
        """Take in the block of a request; there must be a place for it."""
        del index
        self._cached[oblock] = None


LIMITS: Final[dict[str, Callable[[Trace, int, int], Limit]]] = {"opt": Foresight, "exact-lru": Recency}
"""By the names that they are simulated by: made for a trace, a block size and a number of cache blocks."""
