"""Work that the policy has ordered and that nobody does yet, sorted so that neighbours can be migrated together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from policies import Op

if TYPE_CHECKING:
    from collections.abc import Container

    from policies import Policy, Work


class Backlog:
    """Items of work, by kind and by origin block.

    Items of one kind are taken in the order of the origin, from where the last one ended, and at the end from the
    beginning again (C-LOOK).  The kind of the oldest item comes first.

    :param most: how many neighbours can be migrated together, at least 1.
    """

    __slots__ = ("_by_age", "_ends", "_most", "_sorted")

    def __init__(self, most: int) -> None:
        self._most = most
        self._sorted: dict[Op, SortedDict[int, Work]] = {op: SortedDict() for op in Op}
        self._ends = dict.fromkeys(Op, 0)
        self._by_age: dict[Work, None] = {}
        """All items, the oldest first."""

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, work: Work) -> None:
        """Add an item; there is none for its block yet."""
        assert work.oblock not in self._sorted[work.op]
        self._sorted[work.op][work.oblock] = work
        self._by_age[work] = None

    def next_neighbours(self, ops: Container[Op]) -> list[Work]:
        """Return the items of these kinds to do next: neighbours, in order, or none; they stay here.

        Demotions share nothing but their commit, so they come one by one.
        """
        op = next((work.op for work in self._by_age if work.op in ops), None)
        if op is None:
            return []
        items = self._sorted[op]
        start = items.bisect_left(self._ends[op])
        if start == len(items):
            start = 0
        oblocks = items.keys()
        most = 1 if op is Op.DEMOTE else min(self._most, len(items) - start)
        first = oblocks[start]
        count = 1
        while count < most and oblocks[start + count] == first + count:
            count += 1
        return [items[first + number] for number in range(count)]

    def take(self, neighbours: list[Work]) -> list[Work]:
        """Take out items that are about to be done; returns those that were still here."""
        present = [work for work in neighbours if work in self._by_age]
        for work in present:
            self.remove(work)
            self._ends[work.op] = work.oblock + 1
        return present

    def remove(self, work: Work) -> None:
        """Take one item out."""
        del self._by_age[work]
        del self._sorted[work.op][work.oblock]

    def recall(self, cblock: int, policy: Policy) -> bool:
        """Give the policy back the item for a block, if nobody does it yet; returns whether there was one.  O(n).

        Items that the policy has queued before it are taken and given back as well; the policy will order them again.
        """
        work = next((work for work in self._by_age if work.cblock == cblock), None)
        if work is not None:
            self.remove(work)
            policy.complete_background_work(work, False)
            return True
        taken: list[Work] = []
        while (work := policy.get_background_work(idle=False)) is not None:
            taken.append(work)
            if work.cblock == cblock:
                break
        for item in taken:
            policy.complete_background_work(item, False)
        return work is not None

    def clear(self) -> list[Work]:
        """Take everything out."""
        taken = list(self._by_age)
        self._by_age.clear()
        for items in self._sorted.values():
            items.clear()
        return taken

    def check(self) -> None:
        """Assert that both views agree."""
        for op, items in self._sorted.items():
            for oblock, work in items.items():
                assert work.oblock == oblock
                assert work.op is op
                assert work in self._by_age
        assert sum(map(len, self._sorted.values())) == len(self._by_age)
