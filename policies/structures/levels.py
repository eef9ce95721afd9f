"""Queues of 64 levels, as SMQ uses them for clean, for dirty and for hot blocks.

Theory of operation
-------------------
Level 0 is the coldest; within a level the head is the oldest entry, the tail the newest.  A hit lifts an entry, and
the oldest entry of its new level drops to the old one.  So only pushes and removals change how many entries a level
has; once a period, :meth:`LevelQueue.redistribute` makes the levels even again.

Redistribution is defined one entry at a time (dm-cache does it so): from the lowest level up, a level that has too
few takes the oldest entry of the nearest level above that has any; one that has too many gives its newest entry to
the level above, at the tail.  So each level reverses the overflow.  Here the overflow moves up as a whole, a
:class:`_Carry` of runs that can be reversed in one step; the outcome is the same to the last entry.

The dirty queue has *markers* in its levels, two sets of them.  Every period the set that was moved longer ago goes to
the tails; so an entry with no marker before it has been where it is for at least one period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from policies.structures.runs import LEVELS, RunPool

_TOP: Final = LEVELS - 1
_TIDY_BUDGET: Final = 2048
_RAISED: Final = (*range(LEVELS), *(_TOP for _ in range(LEVELS)))
"""The level that is some levels up, the top one at most: min() without the call."""


def even_targets(count: int, in_top: int = 0, top_levels: int = 0) -> list[int]:
    """Share ``count`` entries out among the levels: ``in_top`` among the top ones, the rest among the others."""
    low_levels = LEVELS - top_levels
    return [*_shares(max(0, count - in_top), low_levels), *_shares(in_top, top_levels)]


def _shares(count: int, levels: int) -> list[int]:
    return [count // levels + (level < count % levels) for level in range(levels)]


class _Carry:
    """Runs on their way up, in order; prepending, taking the first and reversing all are O(1)."""

    __slots__ = ("_pool", "_reversed", "_runs", "size")

    def __init__(self, pool: RunPool) -> None:
        self._pool = pool
        self._runs: deque[int] = deque()
        self._reversed = False
        self.size = 0

    def reverse(self) -> None:
        self._reversed = not self._reversed

    def prepend(self, run: int) -> None:
        self.size += self._pool.count[run]
        if self._reversed:
            self._pool.reversed[run] ^= 1
            self._runs.append(run)
        else:
            self._runs.appendleft(run)

    def take_first(self) -> int:
        if self._reversed:
            run = self._runs.pop()
            self._pool.reversed[run] ^= 1
        else:
            run = self._runs.popleft()
        self.size -= self._pool.count[run]
        return run


class LevelQueue:
    """A queue of 64 levels without markers.

    :ivar size: how many entries it holds.
    """

    def __init__(self, pool: RunPool) -> None:
        """Make an empty queue; before the first push anywhere in the pool."""
        self._pool = pool
        self._heads = pool.add_anchor(0)
        for level in range(1, LEVELS):
            pool.add_anchor(level)
        pool.add_user(self)
        self.size = 0
        self._lowest = 0
        """No level below this one has any entry; spares searches that begin at the coldest."""
        self._even: tuple[int, int] | None = None
        """How it was redistributed, if since then no level has got longer or shorter."""

    def push(self, entry: int, level: int) -> None:
        """Add an entry at the tail of a level."""
        self._pool.append_before(entry, self._heads + level)
        self.size += 1
        self._even = None
        self._lowest = min(self._lowest, level)

    def push_first(self, entries: Sequence[int], level: int) -> None:
        """Add entries, one after the other, at the head of a level, before any marker."""
        self._pool.prepend_after(entries, self._heads + level)
        self.size += len(entries)
        self._even = None
        self._lowest = min(self._lowest, level)

    def remove(self, entry: int) -> int:
        """Take an entry out; it keeps its level, which is returned."""
        pool = self._pool
        level = pool.level[pool.label[entry]]
        pool.unlink(entry)
        pool.label[entry] = level
        self.size -= 1
        self._even = None
        return level

    def requeue(self, entry: int, extra: int) -> None:
        """Move an entry up by ``extra`` levels, to the tail; the oldest one there changes places with it.

        No method is called more often, although a block's hits call it at most once a period: so it is written out.
        """
        pool = self._pool
        older, newer, label, count, before = pool.older, pool.newer, pool.label, pool.count, pool.before
        level = pool.level[label[entry]]
        goal = _RAISED[level + extra]
        head = self._heads + goal
        if goal != level:
            run = pool.after[head]
            if run != head:
                displaced = pool.oldest(run)
                pool.unlink(displaced)
                pool.append_before(displaced, self._heads + level)
            else:
                self._even = None
        ahead, behind = older[entry], newer[entry]
        newer[ahead] = behind
        older[behind] = ahead
        home = label[entry]
        left = count[home] - 1
        count[home] = left
        if not left:
            pool.close_run(home)
        run = before[head]
        if count[run] >= pool.run_size or pool.reversed[run]:
            run = pool.open_before(head)
        node = pool.entries + run
        last = older[node]
        older[entry] = last
        newer[entry] = node
        newer[last] = entry
        older[node] = entry
        label[entry] = run
        count[run] += 1

    def peek(self, levels: int = LEVELS) -> int:
        """Return the oldest entry of the lowest level that has any, looking at the lowest ``levels``; -1 if none."""
        pool = self._pool
        after = pool.after
        for level in range(self._lowest, levels):
            head = self._heads + level
            run = after[head]
            if run != head:
                self._lowest = level
                return pool.oldest(run)
        self._lowest = max(self._lowest, levels)
        return -1

    def _runs(self, level: int) -> Iterator[int]:
        """Yield the runs of a level, oldest first; the last one yielded may be closed meanwhile."""
        pool = self._pool
        head = self._heads + level
        run = pool.after[head]
        while run != head:
            following = pool.after[run]
            if run >= pool.anchors:
                yield run
            run = following

    def _tail_run(self, level: int) -> int:
        pool = self._pool
        run = pool.before[self._heads + level]
        while run < pool.anchors:
            run = pool.before[run]
        return run

    def _head_run(self, level: int) -> int:
        pool = self._pool
        run = pool.after[self._heads + level]
        while run < pool.anchors:
            run = pool.after[run]
        return run

    def tidy(self, budget: int) -> None:
        """Merge neighbouring runs that are half full together; touch about ``budget`` entries at most."""
        pool = self._pool
        for level in range(LEVELS):
            for run in self._runs(level):
                previous = pool.before[run]
                if previous >= pool.anchors and pool.count[previous] + pool.count[run] <= pool.run_size // 2:
                    budget -= pool.count[run]
                    if budget < 0:
                        return
                    pool.absorb(previous, run)

    def redistribute(self, in_top: int = 0, top_levels: int = 0) -> None:
        """Bring the levels to their targets: ``in_top`` entries for the top levels, the rest for the others."""
        if self._even == (in_top, top_levels):
            return
        pool = self._pool
        self._lowest = 0
        self.tidy(_TIDY_BUDGET)
        lengths = [sum(pool.count[run] for run in self._runs(level)) for level in range(LEVELS)]
        targets = even_targets(self.size, in_top, top_levels)
        carry = _Carry(pool)
        for level in range(_TOP):
            surplus = lengths[level] + carry.size - targets[level]
            if surplus > 0:
                self._unload(carry, level, max(0, carry.size - surplus))
                self._lift(carry, level, surplus - carry.size)
                carry.reverse()
            else:
                self._unload(carry, level, carry.size)
                self._pull_down(level, -surplus, lengths)
        self._unload(carry, _TOP, carry.size)
        assert carry.size == 0
        self._even = (in_top, top_levels)

    def _unload(self, carry: _Carry, level: int, wanted: int) -> None:
        """Append the first entries of the carry to a level."""
        pool = self._pool
        while wanted:
            run = carry.take_first()
            if pool.count[run] > wanted:
                run, rest = pool.cut(run, wanted)
                carry.prepend(rest)
            self._append_run(run, level)
            wanted -= pool.count[run]

    def _lift(self, carry: _Carry, level: int, wanted: int) -> None:
        """Put the newest entries of a level in front of the carry."""
        pool = self._pool
        while wanted > 0:
            run = self._tail_run(level)
            place = pool.after[run]
            pool.unchain(run)
            if pool.count[run] > wanted:
                rest, run = pool.cut(run, pool.count[run] - wanted)
                pool.chain_before(rest, place)
            carry.prepend(run)
            wanted -= pool.count[run]

    def _pull_down(self, level: int, wanted: int, lengths: list[int]) -> None:
        """Append the oldest entries of the levels above, the nearest first, to a level."""
        pool = self._pool
        source = level + 1
        while wanted and source < LEVELS:
            if not lengths[source]:
                source += 1
                continue
            run = self._head_run(source)
            place = pool.after[run]
            pool.unchain(run)
            if pool.count[run] > wanted:
                run, rest = pool.cut(run, wanted)
                pool.chain_before(rest, place)
            self._append_run(run, level)
            wanted -= pool.count[run]
            lengths[source] -= pool.count[run]

    def _append_run(self, run: int, level: int) -> None:
        self._pool.level[run] = level
        self._pool.chain_before(run, self._heads + level)

    def check(self) -> list[list[int]]:
        """Assert that chains and runs are sound; return the entries of each level, oldest first."""
        pool = self._pool
        found: list[list[int]] = []
        for level in range(LEVELS):
            assert all(pool.level[run] == level for run in self._runs(level))
            found.append([entry for run in self._runs(level) for entry in pool.members(run)])
        assert sum(map(len, found)) == self.size
        assert not any(found[: self._lowest])
        if self._even is not None:
            left = self.size
            for level, target in enumerate(even_targets(self.size, *self._even)[:_TOP]):
                assert len(found[level]) == min(target, left)
                left -= len(found[level])
        return found


class MarkedQueue(LevelQueue):
    """A queue of 64 levels with two sets of markers, which tell old entries from new ones."""

    def __init__(self, pool: RunPool) -> None:
        """Make an empty queue whose markers stand at the (empty) levels."""
        super().__init__(pool)
        self._lowest_old = 0
        """No level below this one has an entry before its markers."""
        self._markers = [pool.anchors, pool.anchors + LEVELS]
        for level in (*range(LEVELS), *range(LEVELS)):
            pool.chain_before(pool.add_anchor(level), self._heads + level)

    def flip(self) -> None:
        """Move the older set of markers to the tails; it becomes the newer one."""
        if not self.size:
            return  # two markers side by side in each level, as they would be afterwards
        before, after = self._pool.before, self._pool.after
        self._lowest_old = 0
        self._markers.reverse()
        head, marker = self._heads, self._markers[1]
        for _ in range(LEVELS):
            ahead, behind = before[marker], after[marker]
            after[ahead] = behind
            before[behind] = ahead
            last = before[head]
            before[marker], after[marker] = last, head
            after[last] = before[head] = marker
            head += 1
            marker += 1

    def push_first(self, entries: Sequence[int], level: int) -> None:
        """Add entries at the head of a level, before any marker: they are old."""
        super().push_first(entries, level)
        self._lowest_old = min(self._lowest_old, level)

    def redistribute(self, in_top: int = 0, top_levels: int = 0) -> None:
        """Bring the levels to their targets, as in any queue."""
        self._lowest_old = 0
        super().redistribute(in_top, top_levels)

    def requeue(self, entry: int, extra: int) -> None:
        """Move an entry up as in any queue; the one that it displaces stays as old as it was."""
        pool = self._pool
        level = pool.level[pool.label[entry]]
        goal = _RAISED[level + extra]
        if goal != level:
            head = self._heads + goal
            run = pool.after[head]
            passed = 0
            while run < pool.anchors and run != head:
                passed += 1
                run = pool.after[run]
            if run != head:
                if not passed and level < self._lowest_old:
                    self._lowest_old = level
                displaced = pool.oldest(run)
                pool.unlink(displaced)
                places = (self._markers[0] + level, self._markers[1] + level, self._heads + level)
                pool.append_before(displaced, places[passed])
            else:
                self._even = None
        pool.unlink(entry)
        pool.append_before(entry, self._heads + goal)

    def peek(self, levels: int = LEVELS) -> int:
        """Return the oldest entry of the lowest level that has any, markers or not; -1 if none."""
        pool = self._pool
        for level in range(self._lowest, levels):
            head = self._heads + level
            run = pool.after[head]
            while run < pool.anchors and run != head:
                run = pool.after[run]
            if run != head:
                self._lowest = level
                return pool.oldest(run)
        self._lowest = max(self._lowest, levels)
        return -1

    def peek_old(self) -> int:
        """Return an entry with no marker before it, from the lowest level that has any; -1 if none."""
        pool = self._pool
        for level in range(self._lowest_old, LEVELS):
            run = pool.after[self._heads + level]
            if run >= pool.anchors:
                self._lowest_old = level
                return pool.oldest(run)
        self._lowest_old = LEVELS
        return -1

    def check(self) -> list[list[int]]:
        """Assert the same as any queue, and that each level has both markers in order."""
        pool = self._pool
        for level in range(LEVELS):
            chain = []
            run = pool.after[self._heads + level]
            while run != self._heads + level:
                chain.append(run)
                run = pool.after[run]
            assert [run for run in chain if run < pool.anchors] == [first + level for first in self._markers]
            assert level >= self._lowest_old or chain[0] < pool.anchors
        return super().check()
