"""W-TinyLFU: a newcomer has to have been used more often than who would go for it; with a window that climbs.

G. Einziger, R. Friedman and B. Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM TOS 13 (2017);
the climbing after G. Einziger, O. Eytan, R. Friedman and B. Manes, "Adaptive Software Cache Management", Middleware
2018.

Theory of operation
-------------------
A new block enters the *window*, an LRU.  The rest of the room is *main*, an LRU in two parts: who is hit on *probation*
is *protected*, and when four fifths of main are, the oldest protected block is on probation again.  Who is pushed out
of the window, the *candidate*, is compared with the oldest block on probation: who was used less often of late, by
the sketch's counts, is the victim; the candidate, if they are equal.  The other one is on probation, if it is not yet.

The window begins as a fifth of the room, which suits disks better than the paper's hundredth, and climbs the hill of
hit ratios.  After ten uses for each block of the room, it goes on in the same direction if there were more hits than
the time before, else it turns round.  Steps begin as a sixteenth of the room and get smaller, until the hit ratio
changes by 5 % at once.

A use is a miss, or a hit of a block that is not marked.  In a use a block is marked, and all marks are dropped after an
eighth of the room in uses: many hits of one block in a row are one use.

The hint of a block is the age of its last use, its count, and in which queue it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final

from policies.admitting import AdmittingPolicy
from policies.structures.queues import AGES, AgedQueues
from policies.structures.sketch import MOST, Sketch

_WINDOW: Final = 0
_PROBATION: Final = 1
_PROTECTED: Final = 2
_WINDOW_SHARE: Final = 0.2
_PROTECTED_SHARE: Final = 0.8
_FIRST_STEP: Final = 0.0625
_STEP_DECAY: Final = 0.98
_RESTART_CHANGE: Final = 0.05
_MARKED_SHARE: Final = 8
_PATIENCE: Final = 1000
_AGE_BITS: Final = 6
_AGE_MASK: Final = (1 << _AGE_BITS) - 1
_COUNT_BITS: Final = 4


class TinyLfuPolicy(AdmittingPolicy):
    """W-TinyLFU; ``_kind`` is the queue of a block."""

    name: ClassVar[str] = "tinylfu"
    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        super().__init__(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)
        self._queues = AgedQueues(cache_blocks, 3)
        self._sketch = Sketch(cache_blocks)
        self._window = max(self._room * _WINDOW_SHARE, 1.0)
        self._step = -_FIRST_STEP * self._room
        self._hits = self._misses = 0
        self._hit_ratio = 0.0
        self._unmark_in = self._room // _MARKED_SHARE

    def _admit(self, oblock: int, write: bool) -> int:
        self._queues.pass_time()
        self._sketch.add(oblock)
        self._misses += 1
        if self._hits + self._misses >= self._sketch.period:
            self._climb()
        return _WINDOW

    def _climb(self) -> None:
        """Change the window's size, by whether the latest change was for the better."""
        ratio = self._hits / (self._hits + self._misses)
        self._hits = self._misses = 0
        change = ratio - self._hit_ratio
        self._hit_ratio = ratio
        step = self._step if change >= 0 else -self._step
        self._window = min(max(self._window + step, 1.0), max(self._room - 1.0, 1.0))
        if abs(change) >= _RESTART_CHANGE:
            self._step = _FIRST_STEP * self._room * (1 if step >= 0 else -1)
        else:
            self._step = _STEP_DECAY * step

    def _entered(self, cblock: int, oblock: int) -> None:
        self._queues.push(cblock, _WINDOW)

    def _learned(self, cblocks: Sequence[int], hints: Sequence[int | None]) -> None:
        for cblock, hint in zip(cblocks, hints, strict=True):
            if hint is None:
                self._protect(cblock)
                continue
            self._kind[cblock] = queue = min(hint >> _AGE_BITS + _COUNT_BITS & 3, _PROTECTED)
            self._queues.push_aged(cblock, queue, min(hint & _AGE_MASK, AGES - 1))
            count = hint >> _AGE_BITS & MOST
            if count:
                self._sketch.learn(self._index.key_of(cblock), count)

    def _hit(self, cblock: int, write: bool) -> None:
        self._hits += 1
        self._sketch.add(self._index.key_of(cblock))
        self._use(cblock)
        queues, queue = self._queues, self._kind[cblock]
        if queue == _PROBATION:
            queues.remove(cblock, _PROBATION)
            self._protect(cblock)
        else:
            queues.renew(cblock, queue)

    def _use(self, cblock: int) -> None:
        self._mark(cblock)
        self._unmark_in -= 1
        if self._unmark_in <= 0:
            self._unmark_in = self._room // _MARKED_SHARE
            self._unmark_all()

    def _protect(self, cblock: int) -> None:
        """Have a block protected that is in no queue; if that is too many, the oldest is so no longer."""
        self._push(cblock, _PROTECTED)
        if self._queues.size[_PROTECTED] > (self._room - self._window) * _PROTECTED_SHARE:
            self._move(self._queues.oldest(_PROTECTED), _PROTECTED, _PROBATION)

    def _push(self, cblock: int, queue: int) -> None:
        self._kind[cblock] = queue
        self._queues.push(cblock, queue)

    def _move(self, cblock: int, old: int, new: int) -> None:
        self._queues.remove(cblock, old)
        self._push(cblock, new)

    def _victim(self) -> int:
        queues = self._queues
        size = queues.size
        victim = self._oldest_of_main()
        for step in range(_PATIENCE + 1):
            candidate = queues.oldest(_WINDOW)
            if candidate < 0 or (victim >= 0 and size[_WINDOW] <= self._window):
                break
            is_room = size[_PROBATION] + size[_PROTECTED] < int(self._room - self._window)
            if is_room and step < _PATIENCE and size[_WINDOW] > 1:
                self._move(candidate, _WINDOW, _PROBATION)
                victim = self._oldest_of_main()
                continue
            if victim >= 0 and self._count(candidate) > self._count(victim):
                self._move(candidate, _WINDOW, _PROBATION)
            else:
                victim = candidate
            break
        if victim >= 0:
            queues.remove(victim, self._kind[victim])
        return victim

    def _oldest_of_main(self) -> int:
        cblock = self._queues.oldest(_PROBATION)
        return cblock if cblock >= 0 else self._queues.oldest(_PROTECTED)

    def _count(self, cblock: int) -> int:
        return self._sketch.count(self._index.key_of(cblock))

    def _evicted(self, cblock: int, oblock: int) -> None:
        """Forget it: the sketch remembers."""

    def _kept(self, cblock: int) -> None:
        self._queues.push(cblock, self._kind[cblock])

    def _removed(self, cblock: int) -> None:
        self._queues.remove(cblock, self._kind[cblock])

    def _hint(self, cblock: int) -> int:
        return (self._kind[cblock] << _COUNT_BITS | self._count(cblock)) << _AGE_BITS | self._queues.age(cblock)

    def coldest_first(self) -> Iterator[list[int]]:
        """List the blocks on probation, those of the window, and the protected ones, each by age."""
        return self._queues.walk(_PROBATION, _WINDOW, _PROTECTED)

    def _check_order(self) -> Iterable[int]:
        self._sketch.check()
        order = self._queues.check()
        for queue, cblocks in enumerate(order):
            assert {self._kind[cblock] for cblock in cblocks} <= {queue}
        assert 1.0 <= self._window <= max(self._room - 1.0, 1.0)
        return [cblock for cblocks in order for cblock in cblocks]
