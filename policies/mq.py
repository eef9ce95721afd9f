"""MQ, the classic multiqueue: dm-cache's first policy.  It makes the same decisions as that of Linux 4.1.

Theory of operation
-------------------
Three queues of 16 levels rank blocks by how often they were hit; a block's level is the logarithm of its count.
``clean`` and ``dirty`` hold the cached blocks.  ``pre`` holds blocks that are not cached, as many as there are cache
blocks.  Bios close together in time are one hit: a hit counts only if a tick falls before the next bio.  Counts never
decay.

A block that is not cached is promoted when its count exceeds a base by an adjustment.  The base is the count of the
coldest clean block, or zero while there is room.  While access is sequential, the policy promotes nothing, and learns
nothing of blocks that are not cached.

How decisions become work
~~~~~~~~~~~~~~~~~~~~~~~~~
The kernel's mq decides "promote X in place of V" in one step, with both blocks locked.  Here that is a demotion of V,
and when that has succeeded, a promotion of X into the same cache block.  Meanwhile:

* V is *pending*: lookups still find it, but it stands in no queue, so that no other block can take its place.  It may
  become dirty, and the demotion has to deal with that.  If the demotion fails, V returns to the queue that its dirty
  flag names, and X is forgotten.
* X is *chosen*: ``pre`` still counts its hits, but a further miss of it asks for nothing more.  Its cache block is V's
  (or a free one) once and for all; the cache block becomes free only if the promotion fails.
* A block that is being written back counts as clean and stands in ``clean``, but cannot be a victim.
"""

from __future__ import annotations

from typing import ClassVar, Final

from policies.base import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work
from policies.mq_queues import ALLOCATED, DIRTY, PENDING, SIMPLE_STATES, MqQueues
from policies.sequential import SequentialDetector
from policies.sizes import check_sizes
from policies.structures.hitcounts import NOTHING
from policies.structures.tracker import WorkTracker
from policies.tunables import ABSORB, Tunables, is_switched_on, switch_text

_DIRTY_HANDICAP: Final = 128
_CLEAN_TARGET_PERCENT: Final = 25
_WRITEBACK_PERIOD_MS: Final = 1000

_DEFAULTS: Final = {
    "random_threshold": 4,
    "sequential_threshold": 512,
    "discard_promote_adjustment": 1,
    "read_promote_adjustment": 4,
    "write_promote_adjustment": 8,
}


class MqPolicy(Policy):
    """The classic multiqueue."""

    name: ClassVar[str] = "mq"
    version: ClassVar[tuple[int, int, int]] = (1, 3, 0)
    hint_size: ClassVar[int] = 4
    orders_writebacks: ClassVar[bool] = True
    observes_bios: ClassVar[bool] = True

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        check_sizes(cache_blocks, origin_blocks, block_size)
        self._cache_blocks = cache_blocks
        self._origin_blocks = origin_blocks
        queues = self._queues = MqQueues(cache_blocks, origin_blocks)
        # For hits: the policy reaches its own attributes fastest.
        self._index, self._hits, self._state, self._rings = queues.index, queues.hits, queues.state, queues.rings
        self._older, self._newer = queues.older, queues.newer
        self._clean, self._dirty, self._pre = queues.clean, queues.dirty, queues.pre
        self._free, self._pre_free = queues.free, queues.pre_free
        self._tunables = Tunables(self.name, _DEFAULTS)
        self._detector = SequentialDetector(self._tunables["sequential_threshold"], self._tunables["random_threshold"])
        self._tracker = WorkTracker()
        self._chosen: dict[int, int] = {}  # oblock to be promoted: its hit count
        self._successor: dict[int, int] = {}  # cblock of a victim: the oblock chosen for it
        self._migrations_allowed = True
        self._discarded = False
        self._now_ms = now_ms
        self._writeback_due_ms = now_ms + _WRITEBACK_PERIOD_MS
        self._is_eventful = False  # whether something was put off until the next bio

    def observe_bio(self, offset: int, length: int, discarded: bool, now_ms: int) -> None:
        """See where the next bio lies, whether its block is discarded, and what time it is."""
        self._detector.examine(offset, length)
        self._discarded = discarded
        self._now_ms = now_ms
        if now_ms > self._writeback_due_ms:
            self._is_eventful = True

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """Refer one bio to the policy; a hit makes the block the newest of its level."""
        if self._is_eventful:
            self._catch_up()
        hits, index = self._hits, self._index
        tag = oblock // index.size
        word = index.buckets[oblock % index.size]
        while word >> index.shift != tag:
            if word < 0:
                return self._miss(oblock, write)
            word = index.chain[word & index.mask]
        entry = word & index.mask
        if entry >= self._cache_blocks:
            return self._miss_tracked(entry, oblock, write)
        older, newer = self._older, self._newer
        ahead, behind = older[entry], newer[entry]
        state = self._state[entry]
        if state >= SIMPLE_STATES:
            if state & PENDING:
                hits.newest = NOTHING
                return entry
            hits.settle(entry)
            state = self._state[entry]
        hits.newest = entry
        node = self._rings[state]
        if behind != node:
            newer[ahead] = behind
            older[behind] = ahead
            last = older[node]
            older[entry] = last
            newer[entry] = node
            newer[last] = entry
            older[node] = entry
        return entry

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        """Refer one bio to the policy; to absorb it, hand out the promotion of its block if that has room already."""
        found = self.lookup(oblock, write, fast_copy)
        if found == MISS_QUEUED and self.absorbs and self._tracker.requeue(oblock):
            return MISS, self._tracker.issue()
        return found, None

    def _catch_up(self) -> None:
        """Do what was put off since the previous bio."""
        self._is_eventful = False
        self._hits.begin_bio()
        if self._now_ms > self._writeback_due_ms:
            self._writeback_due_ms = self._now_ms + _WRITEBACK_PERIOD_MS
            self._dirty.flip()

    def _push(self, cblock: int) -> None:
        """Queue a cached block, by its hits and its dirty flag, for another reason than a bio."""
        self._queues.push(cblock)
        self._is_eventful = True

    def _is_bypassed(self) -> bool:
        return self._detector.is_sequential and self._detector.sequential_threshold != 0

    def _threshold(self, write: bool) -> int:
        """Return the hit count that a block needs to be promoted."""
        base = 0
        is_room = True
        if not self._free.size:
            coldest = self._clean.peek()
            if coldest >= 0:
                base = self._hits.of(coldest)
            else:
                is_room = False
                coldest = self._dirty.peek()
                if coldest >= 0:
                    base = self._hits.of(coldest) + _DIRTY_HANDICAP
        if not write:
            return base + self._tunables["read_promote_adjustment"]
        if self._discarded and is_room:
            return self._tunables["discard_promote_adjustment"]
        return base + self._tunables["write_promote_adjustment"]

    def _miss_tracked(self, entry: int, oblock: int, write: bool) -> int:
        """Handle a miss of a block that is in pre."""
        self._hits.newest = NOTHING
        if self._is_bypassed():
            return MISS
        wanted = self._hits.counts[entry] >= self._threshold(write)
        if wanted and not self._migrations_allowed:
            return MISS
        self._pre.remove(entry)
        self._queues.push_pre(entry)
        return MISS_QUEUED if wanted and self._choose(oblock, self._hits.counts[entry]) else MISS

    def _miss(self, oblock: int, write: bool) -> int:
        """Handle a miss of an unknown block."""
        self._hits.newest = NOTHING
        if self._is_bypassed():
            return MISS
        if self._threshold(write) <= 1:
            return MISS_QUEUED if self._migrations_allowed and self._choose(oblock, 1) else MISS
        if self._pre_free.size:
            entry = self._pre_free.take()
        else:
            entry = self._pre.peek()
            self._queues.remove_pre(entry)
            self._index.remove(entry)
        self._index.insert(entry, oblock)
        self._hits.counts[entry] = 1
        self._queues.push_pre(entry)
        return MISS

    def _choose(self, oblock: int, hits: int) -> bool:
        """Queue the promotion of a block, or first the demotion of the coldest clean one; False if neither can be."""
        if oblock in self._chosen:
            return False
        if self._free.size:
            cblock = self._free.take()
            if not self._tracker.queue(Op.PROMOTE, oblock, cblock):
                self._free.give_back_first(cblock)
                return False
            self._state[cblock] = ALLOCATED | PENDING
        else:
            cblock = self._clean.peek()
            if cblock < 0 or not self._tracker.queue(Op.DEMOTE, self._index.key_of(cblock), cblock):
                return False
            self._queues.remove(cblock)
            self._state[cblock] |= PENDING
            self._successor[cblock] = oblock
        self._chosen[oblock] = hits
        return True

    def get_background_work(self, idle: bool) -> Work | None:
        """Hand out what was queued last, or else a writeback of an old dirty block, idle or not."""
        work = self._tracker.issue()
        return self._next_writeback() if work is None else work

    def _next_writeback(self) -> Work | None:
        if self._tracker.is_full:
            return None
        cblock = self._dirty.peek_old()
        if cblock < 0 and self._is_mostly_dirty():
            cblock = self._dirty.peek()
        if cblock < 0:
            return None
        work = self._tracker.issue_new(Op.WRITEBACK, self._index.key_of(cblock), cblock)
        if work is None:
            self._queues.remove(cblock)  # its last writeback is still under way: let others go first
            self._push(cblock)
            return None
        self.clear_dirty(cblock)
        return work

    def _is_mostly_dirty(self) -> bool:
        return self._cache_blocks - self._queues.dirty_count < self._cache_blocks * _CLEAN_TARGET_PERCENT // 100

    def complete_background_work(self, work: Work, success: bool) -> None:
        """Take back an item.

        :raises PolicyError: it has not been handed out, or is complete already.
        """
        self._tracker.complete(work)
        if work.op is Op.PROMOTE:
            self._finish_promotion(work, success)
        elif work.op is Op.DEMOTE:
            self._finish_demotion(work, success)
        elif not success:
            self.set_dirty(work.cblock)

    def _finish_promotion(self, work: Work, success: bool) -> None:
        hits = self._chosen.pop(work.oblock)
        if not success:
            self._queues.release(work.cblock)
            return
        entry = self._index.find(work.oblock)
        if entry >= 0:
            hits = self._hits.counts[entry]
            self._queues.remove_pre(entry)
            self._index.remove(entry)
            self._pre_free.give_back_first(entry)
        self._index.insert(work.cblock, work.oblock)
        self._hits.counts[work.cblock] = hits
        self._state[work.cblock] = ALLOCATED
        self._push(work.cblock)

    def _finish_demotion(self, work: Work, success: bool) -> None:
        cblock = work.cblock
        successor = self._successor.pop(cblock)
        if not success:
            del self._chosen[successor]
            self._state[cblock] &= ~PENDING
            self._push(cblock)
            return
        self._queues.unmap(cblock)
        self._state[cblock] = ALLOCATED | PENDING
        if not (self._migrations_allowed and self._tracker.queue(Op.PROMOTE, successor, cblock)):
            del self._chosen[successor]
            self._queues.release(cblock)

    def set_dirty(self, cblock: int) -> None:
        """Learn that a block has become dirty; it is queued as the newest of its level."""
        if self._queues.set_flag(cblock, DIRTY):
            self._is_eventful = True

    def clear_dirty(self, cblock: int) -> None:
        """Learn that a block has become clean; it is queued as the newest of its level."""
        if self._queues.set_flag(cblock, 0):
            self._is_eventful = True

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        """Learn of a block that is cached already; the hint is its hit count.

        :raises PolicyError: out of range, or one of the two is mapped already.
        """
        if not 0 <= cblock < self._cache_blocks or not 0 <= oblock < self._origin_blocks:
            msg = f"no room for origin block {oblock} at cache block {cblock}: out of range"
            raise PolicyError(msg)
        if self._state[cblock] or self._index.find(oblock) >= 0:
            msg = f"origin block {oblock} or cache block {cblock} is mapped already"
            raise PolicyError(msg)
        self._free.take_this(cblock)
        self._index.insert(cblock, oblock)
        self._state[cblock] = ALLOCATED | (DIRTY if dirty else 0)
        self._queues.dirty_count += dirty
        self._hits.counts[cblock] = hint or 1
        self._push(cblock)

    def invalidate_mapping(self, cblock: int) -> bool:
        """Forget a mapped block.

        :raises PolicyError: work is outstanding for it.
        """
        state = self._state[cblock] if 0 <= cblock < self._cache_blocks else 0
        if not state:
            return False
        if state & PENDING or self._index.key_of(cblock) in self._tracker:
            msg = f"cache block {cblock} cannot be invalidated: work is outstanding for it"
            raise PolicyError(msg)
        self._queues.remove(cblock)
        self._queues.unmap(cblock)
        self._queues.release(cblock)
        return True

    def get_hint(self, cblock: int) -> int:
        """Return the hit count of a block."""
        is_mapped = self._state[cblock] and (not self._state[cblock] & PENDING or cblock in self._successor)
        return self._hits.of(cblock) if is_mapped else 0

    def residency(self) -> int:
        """Count the cache blocks that are not free."""
        return self._cache_blocks - self._free.size

    def tick(self, now_ms: int) -> None:
        """Have the next bio count what was hit since the previous one."""
        self._now_ms = now_ms
        self._hits.ticked = True
        self._is_eventful = True

    def set_config_value(self, key: str, value: str) -> None:
        """Set a tunable to an unsigned number of 32 bits, in decimal; or ``absorb``, off at first, to on or off.

        :raises BadTunableError: no such tunable, or a bad value; nothing was changed.
        """
        if key.lower() == ABSORB:
            self.absorbs = is_switched_on(ABSORB, value)
            return
        self._tunables.set(key, value)
        self._detector.sequential_threshold = self._tunables["sequential_threshold"]
        self._detector.random_threshold = self._tunables["random_threshold"]

    def config_values(self) -> dict[str, str]:
        """List the tunables in the order of dm-cache's status line; ``absorb``, which that does not know, while on."""
        return self._tunables.texts() | ({ABSORB: switch_text(self.absorbs)} if self.absorbs else {})

    def allow_migrations(self, allowed: bool) -> None:
        """Forbid or allow new promotions and demotions."""
        self._migrations_allowed = allowed

    def check(self) -> None:
        """Assert that each cache block is in exactly one state, and that all structures agree on it."""
        outstanding = self._tracker.check()
        pending = {work.cblock for work in outstanding.values() if work.op is not Op.WRITEBACK}
        reserved = {work.cblock for work in outstanding.values() if work.op is Op.PROMOTE}
        mapping = self._queues.check(pending, reserved)
        assert set(self._successor) == pending - reserved
        promoting = {oblock for oblock, work in outstanding.items() if work.op is Op.PROMOTE}
        assert set(self._chosen) == promoting | set(self._successor.values())
        assert len(self._chosen) == len(pending)
        for oblock, work in outstanding.items():
            assert work.op is Op.PROMOTE or mapping[oblock] == work.cblock
            assert work.op is not Op.PROMOTE or mapping.get(oblock, self._cache_blocks) >= self._cache_blocks
