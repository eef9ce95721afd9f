"""Where each block of the classic multiqueue stands: the state of cache blocks, and the queues of MQ.

Entries ``0 .. cache_blocks - 1`` are cache blocks.  As many more entries are for blocks that are not cached, which
stand in ``pre``.  A cache block is free, or allocated; an allocated one stands in ``clean`` or ``dirty``, or it is
*pending*: it is being demoted or promoted, and stands in no queue.
"""

from __future__ import annotations

from array import array
from typing import Final

from policies.base import PolicyError
from policies.structures.blockindex import BlockIndex
from policies.structures.freelist import FreeList
from policies.structures.hitcounts import LEVEL_BITS, HitCounts
from policies.structures.rings import AgeingQueue, RingQueue

# Bits of a cache block's state; the others are in hitcounts.py.
DIRTY: Final = 16
ALLOCATED: Final = 32
PENDING: Final = 64
SIMPLE_STATES: Final = 64
"""A block whose state is below this one is not pending, and is in no cohort (see hitcounts.py)."""


class MqQueues:
    """The blocks of one policy.  To serve hits, the policy reads the attributes directly.

    :ivar state: of each cache block; 0 if it is free.
    :ivar rings: the ring in which a cache block stands, by its state if that is below ``SIMPLE_STATES``.
    """

    __slots__ = (
        "cache_blocks",
        "clean",
        "dirty",
        "dirty_count",
        "free",
        "hits",
        "index",
        "newer",
        "older",
        "pre",
        "pre_free",
        "rings",
        "state",
    )

    def __init__(self, cache_blocks: int, origin_blocks: int) -> None:
        self.cache_blocks = cache_blocks
        entries = 2 * cache_blocks
        self.index = BlockIndex(entries, origin_blocks)
        self.hits = HitCounts(entries, cache_blocks)
        self.state = self.hits.state
        self.dirty_count = 0
        self.older = array("I", (0,)) * entries
        self.newer = array("I", (0,)) * entries
        self.clean = RingQueue(self.older, self.newer, entries)
        self.dirty = AgeingQueue(self.older, self.newer, entries)
        self.pre = RingQueue(self.older, self.newer, entries)
        queues = {ALLOCATED: self.clean, ALLOCATED | DIRTY: self.dirty}
        self.rings = tuple(
            queues[state & ~LEVEL_BITS].heads + (state & LEVEL_BITS) if state & ALLOCATED else -1
            for state in range(SIMPLE_STATES)
        )
        self.free = self._make_free_list(range(cache_blocks - 1, -1, -1))
        self.pre_free = self._make_free_list(range(cache_blocks, entries))

    def _make_free_list(self, entries: range) -> FreeList:
        node = len(self.older)
        self.older.append(node)
        self.newer.append(node)
        free = FreeList(self.older, self.newer, node)
        free.fill(entries)
        return free

    def _queue_of(self, cblock: int) -> RingQueue:
        return self.dirty if self.state[cblock] & DIRTY else self.clean

    def push(self, cblock: int) -> None:
        """Queue a cached block, by its hits and its dirty flag, for another reason than a bio."""
        self.hits.settle(cblock)
        self._queue_of(cblock).push(cblock, self.state[cblock] & LEVEL_BITS)
        self.hits.queue(cblock)

    def remove(self, cblock: int) -> None:
        """Take a cached block out of its queue."""
        self._queue_of(cblock).remove(cblock)
        self.hits.forget(cblock)

    def push_pre(self, entry: int) -> None:
        """Queue a block that is not cached, because of a bio."""
        self.pre.push(entry, self.hits.level_of(entry))
        self.hits.newest = entry

    def remove_pre(self, entry: int) -> None:
        """Take a block that is not cached out of ``pre``."""
        self.pre.remove(entry)
        self.hits.forget_recent(entry)

    def unmap(self, cblock: int) -> None:
        """Forget which block a cache block holds."""
        self.index.remove(cblock)
        self.dirty_count -= bool(self.state[cblock] & DIRTY)

    def release(self, cblock: int) -> None:
        """Free a cache block that holds nothing."""
        self.state[cblock] = 0
        self.free.give_back_first(cblock)

    def set_flag(self, cblock: int, dirty: int) -> bool:
        """Set a cached block dirty (:data:`DIRTY`) or clean (0); return whether it was queued anew.

        :raises PolicyError: nothing is mapped there.
        """
        state = self.state[cblock] if 0 <= cblock < self.cache_blocks else 0
        if not state:
            msg = f"nothing is mapped at cache block {cblock}"
            raise PolicyError(msg)
        if state & DIRTY == dirty:
            return False
        self.dirty_count += 1 if dirty else -1
        if state & PENDING:
            self.state[cblock] = state ^ DIRTY
            return False
        self.remove(cblock)
        self.state[cblock] ^= DIRTY
        self.push(cblock)
        return True

    def check(self, pending: set[int], reserved: set[int]) -> dict[int, int]:
        """Assert that each block is in exactly one state, and that all structures agree on it.

        :param pending: cache blocks of demotions and promotions under way.
        :param reserved: those of promotions, which hold nothing.
        :return: the entry of each block that is known.
        """
        mapping = self.index.check()
        free, pre_free = set(self.free.check()), set(self.pre_free.check())
        clean, dirty, pre = (set(self._check_levels(queue)) for queue in (self.clean, self.dirty, self.pre))
        assert all(cblock < self.cache_blocks for cblock in free | clean | dirty)
        assert pre | pre_free == set(range(self.cache_blocks, 2 * self.cache_blocks))
        assert not pre & pre_free
        assert set(mapping.values()) == clean | dirty | (pending - reserved) | pre
        for cblock, state in enumerate(self.state):
            flags = state & (ALLOCATED | DIRTY | PENDING)
            assert bool(state) == bool(flags & ALLOCATED) == (cblock not in free)
            assert bool(flags & PENDING) == (cblock in pending)
            assert (cblock in clean) == (flags == ALLOCATED)
            assert (cblock in dirty) == (flags == ALLOCATED | DIRTY)
        assert self.dirty_count == sum(bool(state & DIRTY) for state in self.state)
        self.hits.check(clean | dirty | pre)
        return mapping

    def _check_levels(self, queue: RingQueue) -> list[int]:
        levels = queue.check()
        for level, entries in enumerate(levels):
            assert all(self.hits.level_of(entry) >= level for entry in entries)
        return [entry for entries in levels for entry in entries]
