"""Policies that admit at once, small and slow; ``policies.base`` has the protocol."""

from __future__ import annotations

import random
from typing import ClassVar

from policies import MISS, MISS_QUEUED, Op, Policy, Work


class Admitting(Policy):
    """LRU: admits every block if a cblock is free, and keeps some free."""

    name: ClassVar[str] = "admitting"

    def __init__(self, cache_blocks: int, reserve: int = 1, *, absorbs: bool = True) -> None:
        self.absorbs = absorbs
        self.cached: dict[int, int] = {}  # oblock: cblock, least recently used first
        self.dirty: set[int] = set()  # cblocks
        self.calls: list[str] = []
        self._cache_blocks = cache_blocks
        self._free = list(range(cache_blocks))
        self._reserve = reserve
        self._queue: list[Work] = []
        self._handed_out: list[Work] = []

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        if oblock in self.cached:
            cblock = self.cached[oblock] = self.cached.pop(oblock)
            return cblock
        if not self.admits(oblock):
            return MISS
        if self._free and not any(work.oblock == oblock for work in self._queue):
            self._queue.append(Work(Op.PROMOTE, oblock, self._free.pop()))
        return MISS_QUEUED

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        answer = self.lookup(oblock, write, fast_copy)
        if answer == MISS_QUEUED and self._queue and self._queue[-1].oblock == oblock and not self.defers():
            return MISS, self._hand_out(self._queue.pop())
        return answer, None

    def get_background_work(self, idle: bool) -> Work | None:
        if self._queue and not self.defers():
            return self._hand_out(self._queue.pop())
        candidates = [oblock for oblock in self.cached if all(work.oblock != oblock for work in self._handed_out)]
        if not candidates:
            return None
        if len(self._free) < self._reserve:
            return self._hand_out(Work(Op.DEMOTE, candidates[0], self.cached[candidates[0]]))
        oblock = self.to_write_back(candidates)
        return None if oblock is None else self._hand_out(Work(Op.WRITEBACK, oblock, self.cached[oblock]))

    def admits(self, oblock: int) -> bool:
        return True

    def defers(self) -> bool:
        """Whether a promotion is to wait for a later call."""
        return False

    def to_write_back(self, candidates: list[int]) -> int | None:
        return None

    def _hand_out(self, work: Work) -> Work:
        self._handed_out.append(work)
        return work

    def complete_background_work(self, work: Work, success: bool) -> None:
        assert success
        self._handed_out.remove(work)
        if work.op is Op.PROMOTE:
            self.cached[work.oblock] = work.cblock
            self.dirty.add(work.cblock)  # until told
        elif work.op is Op.DEMOTE:
            assert work.cblock not in self.dirty, "it has been written back before"
            del self.cached[work.oblock]
            self._free.append(work.cblock)
        else:
            assert work.cblock not in self.dirty, "likewise"

    def set_dirty(self, cblock: int) -> None:
        self.dirty.add(cblock)

    def clear_dirty(self, cblock: int) -> None:
        assert cblock in self.dirty, "the policy is told of what turns clean, and of nothing else"
        self.dirty.remove(cblock)

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        raise AssertionError

    def invalidate_mapping(self, cblock: int) -> bool:
        raise AssertionError

    def residency(self) -> int:
        return self._cache_blocks - len(self._free)

    def check(self) -> None:
        places = [*self.cached.values(), *self._free, *(work.cblock for work in self._queue)]
        assert sorted(places) == list(range(self._cache_blocks))
        assert self.dirty <= set(self.cached.values())
        assert not self._handed_out


class Moody(Admitting):
    """The same, in moods: it may not admit, put promotions off, or want something written back."""

    def __init__(self, cache_blocks: int, reserve: int, *, absorbs: bool, seed: int) -> None:
        super().__init__(cache_blocks, reserve, absorbs=absorbs)
        self._chance = random.Random(seed)

    def admits(self, oblock: int) -> bool:
        return self._chance.random() < 0.8

    def defers(self) -> bool:
        return self._chance.random() < 0.2

    def to_write_back(self, candidates: list[int]) -> int | None:
        dirty = [oblock for oblock in candidates if self.cached[oblock] in self.dirty]
        return self._chance.choice(dirty) if dirty and self._chance.random() < 0.1 else None
