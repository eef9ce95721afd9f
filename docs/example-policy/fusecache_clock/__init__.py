"""CLOCK with a waiting list: a small replacement policy for fusecache, complete.

Each cached block has a reference bit, which a hit sets.  To make room, a hand goes round: it clears the bit of a block
that was hit, and takes the block that was not (F. J. Corbató, "A Paging Experiment with the Multics System", 1968).  A
block is promoted when it is missed again ``patience_ms`` or more after its first miss, so a block that is read once is
not cached.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Final

from policies import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work
from policies.structures.tracker import WorkTracker
from policies.tunables import Tunables

_NOTHING: Final = -1
_SWEEP: Final = 256  # most steps of the hand in one call: no call may last long, however large the cache is
_DEMOTIONS: Final = 8  # most of them outstanding at a time


class ClockPolicy(Policy):
    """CLOCK with a waiting list."""

    name: ClassVar[str] = "clock"
    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)
    hint_size: ClassVar[int] = 4  # the reference bit is kept over restarts

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        self._cblock_of: dict[int, int] = {}
        self._oblock_of = [_NOTHING] * cache_blocks
        self._referenced = bytearray(cache_blocks)
        self._dirty: OrderedDict[int, None] = OrderedDict()  # cblocks, longest dirty first
        self._free = dict.fromkeys(range(cache_blocks))
        self._hand = 0
        self._waiting: OrderedDict[int, int] = OrderedDict()  # oblocks missed lately: the time of the first miss
        self._tracker = WorkTracker()  # what was asked for, at most one item for a block
        self._tunables = Tunables(self.name, {"patience_ms": 1000})
        self._is_allowed = True
        self._now_ms = now_ms

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """Find a block and set its reference bit; or decide whether it deserves to be cached."""
        cblock = self._cblock_of.get(oblock, _NOTHING)
        if cblock >= 0:
            self._referenced[cblock] = 1
            return cblock
        if not self._is_allowed or oblock in self._tracker or not self._is_wanted(oblock):
            return MISS
        return MISS_QUEUED if self._queue_promotion(oblock) or self._queue_demotion() else MISS

    def _is_wanted(self, oblock: int) -> bool:
        first_ms = self._waiting.setdefault(oblock, self._now_ms)
        if len(self._waiting) > len(self._oblock_of):
            self._waiting.popitem(last=False)
        return self._now_ms - first_ms >= self._tunables["patience_ms"]

    def _queue_promotion(self, oblock: int) -> bool:
        if not self._free:
            return False
        cblock, _ = self._free.popitem()
        if not self._tracker.queue(Op.PROMOTE, oblock, cblock):
            self._free[cblock] = None
            return False
        self._waiting.pop(oblock, None)
        return True

    def _queue_demotion(self) -> bool:
        """Make room; the block that needs it has to be missed once more."""
        if self._free or self._tracker.demotions >= _DEMOTIONS:
            return False
        victim = self._turn_hand()
        return victim >= 0 and self._tracker.queue(Op.DEMOTE, self._oblock_of[victim], victim)

    def _turn_hand(self) -> int:
        for _ in range(_SWEEP):
            cblock = self._hand
            self._hand = (cblock + 1) % len(self._oblock_of)
            oblock = self._oblock_of[cblock]
            if oblock == _NOTHING or oblock in self._tracker:
                continue
            if not self._referenced[cblock]:
                return cblock
            self._referenced[cblock] = 0
        return _NOTHING

    def get_background_work(self, idle: bool) -> Work | None:
        """Hand out what was queued last, or else, when the origin is idle, a writeback."""
        work = self._tracker.issue()
        if work is None and idle and self._dirty:
            cblock = next(iter(self._dirty))
            self._dirty.move_to_end(cblock)  # even if the writeback fails, the others come first now
            work = self._tracker.issue_new(Op.WRITEBACK, self._oblock_of[cblock], cblock)
        return work

    def complete_background_work(self, work: Work, success: bool) -> None:
        """Take back an item."""
        self._tracker.complete(work)
        if work.op is Op.PROMOTE:
            if success:
                self._map(work.oblock, work.cblock)
            else:
                self._free[work.cblock] = None
        elif work.op is Op.DEMOTE and success:
            self._unmap(work.cblock)

    def _map(self, oblock: int, cblock: int) -> None:
        self._cblock_of[oblock] = cblock
        self._oblock_of[cblock] = oblock

    def _unmap(self, cblock: int) -> None:
        del self._cblock_of[self._oblock_of[cblock]]
        self._oblock_of[cblock] = _NOTHING
        self._referenced[cblock] = 0
        self._dirty.pop(cblock, None)
        self._free[cblock] = None

    def set_dirty(self, cblock: int) -> None:
        """Learn that a block has become dirty."""
        self._dirty[cblock] = None

    def clear_dirty(self, cblock: int) -> None:
        """Learn that a block has become clean; it may be so already."""
        self._dirty.pop(cblock, None)

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        """Learn of a block that is cached already."""
        if oblock in self._cblock_of or self._oblock_of[cblock] != _NOTHING:
            msg = f"origin block {oblock} or cache block {cblock} is mapped already"
            raise PolicyError(msg)
        del self._free[cblock]
        self._map(oblock, cblock)
        self._referenced[cblock] = bool(hint)
        if dirty:
            self.set_dirty(cblock)

    def invalidate_mapping(self, cblock: int) -> bool:
        """Forget a mapped block."""
        if cblock in self._free:
            return False
        oblock = self._oblock_of[cblock]
        if oblock == _NOTHING or oblock in self._tracker:
            msg = f"cache block {cblock} cannot be invalidated: work is outstanding for it"
            raise PolicyError(msg)
        self._unmap(cblock)
        return True

    def get_hint(self, cblock: int) -> int:
        """Return the reference bit of a block."""
        return self._referenced[cblock]

    def residency(self) -> int:
        """Count the cache blocks that are not free."""
        return len(self._oblock_of) - len(self._free)

    def tick(self, now_ms: int) -> None:
        """Learn what time it is."""
        self._now_ms = now_ms

    def set_config_value(self, key: str, value: str) -> None:
        """Set ``patience_ms``, an unsigned number of 32 bits."""
        self._tunables.set(key, value)

    def config_values(self) -> dict[str, str]:
        """List the one tunable."""
        return self._tunables.texts()

    def allow_migrations(self, allowed: bool) -> None:
        """Forbid or allow new promotions and demotions."""
        self._is_allowed = allowed

    def check(self) -> None:
        """Assert that each cache block is free, reserved or mapped, and that all structures agree on it."""
        outstanding = self._tracker.check()
        reserved = {work.cblock for work in outstanding.values() if work.op is Op.PROMOTE}
        mapped = {cblock: oblock for cblock, oblock in enumerate(self._oblock_of) if oblock != _NOTHING}
        assert {oblock: cblock for cblock, oblock in mapped.items()} == self._cblock_of
        assert sorted([*self._free, *reserved, *mapped]) == list(range(len(self._oblock_of)))
        assert all(mapped.get(work.cblock) == work.oblock for work in outstanding.values() if work.op is not Op.PROMOTE)
        assert not reserved & mapped.keys()
        assert self._dirty.keys() <= mapped.keys()
        assert all(cblock in mapped for cblock, referenced in enumerate(self._referenced) if referenced)
        assert len(self._waiting) <= len(self._oblock_of)
        assert 0 <= self._hand < len(self._oblock_of)
