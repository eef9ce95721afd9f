"""SMQ, the stochastic multiqueue: dm-cache's default policy.  It makes the same decisions as that of Linux 5.10.

Theory of operation
-------------------
Cached blocks stand in one of two queues of 64 levels, clean or dirty.  The first hit of a block in a minute lifts it
by one level; the oldest block of that level drops in exchange.  There are no counters and no history.  Once a minute
the levels are made even.  New blocks start at the top.  Misses go to the hotspot queue (hotspot.py), which decides what
deserves promotion.

A promotion needs a free cache block.  If there is none, SMQ asks instead for the demotion of a clean block from the
lower half of the levels or, if there is no such block, for a writeback; the promotion has to wait for the next miss.
When the origin is idle, SMQ asks for writebacks, coldest block first.

A cache block is in one of four states: free (in the free list), reserved (taken by a promotion under way, not in the
index), queued (in the index, and in the clean or the dirty queue), or pending (in the index, but in no queue: a
demotion or writeback is under way).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Final

from policies.base import DEMOTE, MISS, MISS_QUEUED, PROMOTE, WRITEBACK, Op, Policy, PolicyError, Work
from policies.hotspot import HotspotQueue
from policies.sizes import check_sizes
from policies.structures.blockindex import BlockIndex
from policies.structures.freelist import FreeList
from policies.structures.levels import LevelQueue, MarkedQueue
from policies.structures.ranking import ranked
from policies.structures.runs import LEVELS, RunPool
from policies.structures.tracker import WorkTracker
from policies.tunables import ABSORB, is_switched_on, switch_text

_ALLOCATED: Final = 1
_DIRTY: Final = 2
_PENDING: Final = 4

_TOP: Final = LEVELS - 1
_DEMOTABLE_LEVELS: Final = LEVELS // 2
_FREE_TARGET_PERCENT: Final = 25
_WRITEBACK_PERIOD_MS: Final = 10_000
_CACHE_PERIOD_MS: Final = 60_000


def _level_without_hint(cblock: int) -> int:
    """Scatter blocks of unknown worth over the levels."""
    return cblock * 0x61C88647 % 2**32 >> 23 & _TOP


def _no_room(oblock: int, cblock: int) -> PolicyError:
    return PolicyError(f"no room for origin block {oblock} at cache block {cblock}: out of range, or mapped already")


class SmqPolicy(Policy):
    """The stochastic multiqueue."""

    name: ClassVar[str] = "smq"
    version: ClassVar[tuple[int, int, int]] = (2, 0, 0)
    hint_size: ClassVar[int] = 4
    keeps_heat: ClassVar[bool] = True
    orders_writebacks: ClassVar[bool] = True

    _always_clean: ClassVar[bool] = False
    """Whether dirty blocks are written back even while the origin is busy."""

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        check_sizes(cache_blocks, origin_blocks, block_size)
        self._cache_blocks = cache_blocks
        self._origin_blocks = origin_blocks
        self._index = BlockIndex(cache_blocks, origin_blocks)
        self._flags = bytearray(cache_blocks)
        self._hit = self._no_hits()
        self._pool = RunPool(cache_blocks)
        free_node = cache_blocks + self._pool.add_anchor(0)
        self._clean = LevelQueue(self._pool)
        self._dirty = MarkedQueue(self._pool)
        self._free = FreeList(self._pool.older, self._pool.newer, free_node)
        self._free.fill(range(cache_blocks))
        self._free_target = cache_blocks * _FREE_TARGET_PERCENT // 100
        self._hotspots = HotspotQueue(cache_blocks, origin_blocks, block_size, now_ms)
        self._tracker = WorkTracker()
        self._migrations_allowed = True
        self._writeback_due_ms = now_ms + _WRITEBACK_PERIOD_MS
        self._cache_due_ms = now_ms

    def _no_hits(self) -> bytearray:
        """Make the hit bits, one for each cache block: even those of a large cache stay in the processor's caches."""
        return bytearray(-(-self._cache_blocks // 8))

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """Refer one bio to the policy; a hit costs a search and a look at its hit bit."""
        index = self._index
        tag = oblock // index.size
        word = index.buckets[oblock % index.size]
        while word >> index.shift != tag:
            if word < 0:
                return self._miss(oblock, write, fast_copy)
            word = index.chain[word & index.mask]
        cblock = word & index.mask
        if not self._hit[cblock >> 3] >> (cblock & 7) & 1:
            flags = self._flags[cblock]
            if not flags & _PENDING:
                self._hit[cblock >> 3] |= 1 << (cblock & 7)
                (self._dirty if flags & _DIRTY else self._clean).requeue(cblock, 1)
        return cblock

    def _miss(self, oblock: int, write: bool, fast_copy: bool) -> int:
        if not self._is_wanted(oblock, write, fast_copy):
            return MISS
        if self._may_promote(oblock):
            self._promote(oblock)
        return MISS_QUEUED

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        """Refer one bio to the policy; hand out the promotion of its block if it is wanted and possible."""
        if self._index.find(oblock) >= 0:
            return self.lookup(oblock, write, fast_copy), None
        if not self._is_wanted(oblock, write, fast_copy):
            return MISS, None
        if not self._may_promote(oblock):
            return MISS_QUEUED, None
        cblock = self._reserve()
        work = self._tracker.issue_new(PROMOTE, oblock, cblock)
        if work is None:
            self._release(cblock)
            return MISS_QUEUED, None
        return MISS, work

    def _is_wanted(self, oblock: int, write: bool, fast_copy: bool) -> bool:
        """Learn of a miss; decide whether the block deserves promotion."""
        hotspots = self._hotspots
        level = hotspots.miss(oblock)
        return level >= hotspots.promote_level or (write and fast_copy and self._free.size > 0)

    def _may_promote(self, oblock: int) -> bool:
        """Tell whether a promotion can be asked for; if there is no room, ask for some."""
        if not self._migrations_allowed:
            return False
        if not self._free.size:
            if self._tracker.demotions < self._free_target:
                self._queue_demotion()
            return False
        return oblock not in self._tracker

    def _promote(self, oblock: int) -> None:
        cblock = self._reserve()
        if not self._tracker.queue(PROMOTE, oblock, cblock):
            self._release(cblock)

    def _reserve(self) -> int:
        cblock = self._free.take()
        self._flags[cblock] = _ALLOCATED | _DIRTY | _PENDING
        self._pool.label[cblock] = 0
        return cblock

    def _release(self, cblock: int) -> None:
        self._flags[cblock] = 0
        self._free.give_back(cblock)

    def _queue_demotion(self) -> None:
        victim = self._clean.peek(_DEMOTABLE_LEVELS)
        if victim >= 0:
            self._queue_migration(DEMOTE, self._clean, victim)
        elif self._dirty.size:
            self._queue_writeback(idle=False)

    def _queue_writeback(self, *, idle: bool) -> None:
        candidate = self._dirty.peek() if idle else self._dirty.peek_old()
        if candidate >= 0:
            self._queue_migration(WRITEBACK, self._dirty, candidate)

    def _queue_migration(self, op: Op, queue: LevelQueue, cblock: int) -> None:
        level = queue.remove(cblock)
        if self._tracker.queue(op, self._index.key_of(cblock), cblock):
            self._flags[cblock] |= _PENDING
        else:
            queue.push_first((cblock,), level)

    def get_background_work(self, idle: bool) -> Work | None:
        """Hand out what was queued last, or else, if the time is right, a writeback."""
        tracker = self._tracker
        if not tracker.queued and self._dirty.size and (idle or self._always_clean):
            self._queue_writeback(idle=idle)
        return tracker.issue() if tracker.queued else None

    def complete_background_work(self, work: Work, success: bool) -> None:
        """Take back an item.

        :raises PolicyError: it has not been handed out, or is complete already.
        """
        self._tracker.complete(work)
        cblock = work.cblock
        self._flags[cblock] &= ~_PENDING
        if work.op is PROMOTE:
            if success:
                self._index.insert(cblock, work.oblock)
                self._queue_of(cblock).push(cblock, _TOP)
            else:
                self._release(cblock)
        elif work.op is DEMOTE and success:
            self._index.remove(cblock)
            self._release(cblock)
        else:
            self._queue_of(cblock).push(cblock, self._pool.level_of(cblock))

    def _queue_of(self, cblock: int) -> LevelQueue:
        return self._dirty if self._flags[cblock] & _DIRTY else self._clean

    def set_dirty(self, cblock: int) -> None:
        """Learn that a block has become dirty; it is queued as the newest of its level."""
        self._set_flag(cblock, _DIRTY)

    def clear_dirty(self, cblock: int) -> None:
        """Learn that a block has become clean; it is queued as the newest of its level."""
        self._set_flag(cblock, 0)

    def _set_flag(self, cblock: int, dirty: int) -> None:
        if not (0 <= cblock < self._cache_blocks and (flags := self._flags[cblock])):
            msg = f"nothing is mapped at cache block {cblock}"
            raise PolicyError(msg)
        self._flags[cblock] = flags & ~_DIRTY | dirty
        if not flags & _PENDING:
            level = (self._dirty if flags & _DIRTY else self._clean).remove(cblock)
            (self._dirty if dirty else self._clean).push(cblock, level)

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        """Learn of a block that is cached already; it becomes the oldest of the level that the hint tells.

        :raises PolicyError: out of range, or one of the two is mapped already.
        """
        is_inside = 0 <= cblock < self._cache_blocks and 0 <= oblock < self._origin_blocks
        if not is_inside or self._flags[cblock] or self._index.find(oblock) >= 0:
            raise _no_room(oblock, cblock)
        self._free.take_this(cblock)
        self._flags[cblock] = _ALLOCATED | (_DIRTY if dirty else 0)
        self._index.insert(cblock, oblock)
        level = _level_without_hint(cblock) if hint is None else min(hint, _TOP)
        self._queue_of(cblock).push_first((cblock,), level)

    def load_mappings(self, mappings: Iterable[tuple[int, int, bool, int | None]]) -> None:
        """Learn of many blocks, as by :meth:`load_mapping`; to fill one structure after the other is faster by far.

        :raises PolicyError: as there; the policy is unusable then.
        """
        known = list(mappings)
        flags, size = self._flags, self._cache_blocks
        clean: list[list[int]] = [[] for _ in range(LEVELS)]
        dirty: list[list[int]] = [[] for _ in range(LEVELS)]
        for oblock, cblock, is_dirty, hint in known:
            if not 0 <= cblock < size or not 0 <= oblock < self._origin_blocks or flags[cblock]:
                raise _no_room(oblock, cblock)
            flags[cblock] = _ALLOCATED | (_DIRTY if is_dirty else 0)
            level = _level_without_hint(cblock) if hint is None else min(hint, _TOP)
            (dirty if is_dirty else clean)[level].append(cblock)
        count = self._index.insert_all([(oblock, cblock) for oblock, cblock, _, _ in known])
        if count < len(known):
            raise _no_room(*known[count][:2])
        self._free.take_these([cblock for _, cblock, _, _ in known])
        for level in range(LEVELS):
            self._clean.push_first(clean[level], level)
            self._dirty.push_first(dirty[level], level)

    def invalidate_mapping(self, cblock: int) -> bool:
        """Forget a mapped block.

        :raises PolicyError: work is outstanding for it.
        """
        flags = self._flags[cblock] if 0 <= cblock < self._cache_blocks else 0
        if not flags:
            return False
        if flags & _PENDING:
            msg = f"cache block {cblock} cannot be invalidated: work is outstanding for it"
            raise PolicyError(msg)
        self._queue_of(cblock).remove(cblock)
        self._index.remove(cblock)
        self._release(cblock)
        return True

    def get_hint(self, cblock: int) -> int:
        """Return the level of a block."""
        return self._pool.level_of(cblock) if self._flags[cblock] else 0

    def coldest_first(self) -> Iterator[list[int]]:
        """List the blocks by their levels, the lowest first."""
        return ranked(self._cache_blocks, LEVELS, lambda cblock: self.get_hint(cblock) if self._flags[cblock] else -1)

    def hint_by_rank(self, rank: int, mapped: int) -> int | None:
        """Give each level as many blocks."""
        return rank * LEVELS // mapped

    def residency(self) -> int:
        """Count the cache blocks that are not free."""
        return self._cache_blocks - self._free.size

    def tick(self, now_ms: int) -> None:
        """Let time pass: dirty blocks age, regions may be hit again, and once a minute blocks may too."""
        if now_ms > self._writeback_due_ms:
            self._writeback_due_ms = now_ms + _WRITEBACK_PERIOD_MS
            self._dirty.flip()
        self._hotspots.tick(now_ms)
        if now_ms > self._cache_due_ms:
            self._cache_due_ms = now_ms + _CACHE_PERIOD_MS
            self._hit = self._no_hits()
            self._dirty.redistribute()
            self._clean.redistribute()

    def set_config_value(self, key: str, value: str) -> None:
        """Set ``absorb``, which is off at first, to on or off: whether writes of parts of blocks are absorbed.

        :raises BadTunableError: no such tunable, or a bad value; nothing was changed.
        """
        if key.lower() != ABSORB or self._always_clean:
            super().set_config_value(key, value)
        self.absorbs = is_switched_on(ABSORB, value)

    def config_values(self) -> dict[str, str]:
        """List ``absorb`` while it is on: to dm-cache, smq has no tunables."""
        return {ABSORB: switch_text(self.absorbs)} if self.absorbs else {}

    def allow_migrations(self, allowed: bool) -> None:
        """Forbid or allow new promotions and demotions."""
        self._migrations_allowed = allowed

    def check(self) -> None:
        """Assert that each cache block is in exactly one state, and that all structures agree on it."""
        self._pool.check()
        self._hotspots.check()
        mapped = set(self._index.check().values())
        outstanding = {work.cblock: work for work in self._tracker.check().values()}
        free = set(self._free.check())
        clean = {cblock for level in self._clean.check() for cblock in level}
        dirty = {cblock for level in self._dirty.check() for cblock in level}
        assert len(outstanding) == len(self._tracker.check())
        assert len(clean) + len(dirty) == self._clean.size + self._dirty.size
        for cblock, flags in enumerate(self._flags):
            work = outstanding.get(cblock)
            reserved = work is not None and work.op is PROMOTE
            assert bool(flags & _ALLOCATED) == (cblock not in free) == (cblock in mapped or reserved)
            assert flags & _ALLOCATED or not flags
            assert bool(flags & _PENDING) == (work is not None)
            assert (cblock in mapped) == (flags & _ALLOCATED and not reserved)
            assert (cblock in clean) == (flags == _ALLOCATED)
            assert (cblock in dirty) == (flags == _ALLOCATED | _DIRTY)
            assert work is None or reserved or self._index.find(work.oblock) == cblock
