"""Queues of entries, each from the oldest to the newest, and how old an entry is: what orders of recency are made of.

Theory of operation
-------------------
Entries and nodes are indices of two link arrays that all queues share, so an entry stands in at most one of them.  Each
queue is a ring closed by its *head*, a node: behind it comes the oldest entry, before it the newest.

In :class:`AgedQueues`, an entry that is pushed is stamped with a coarse clock, which its owner advances: a unit of it
is a 64th of the entries.  The clock has 16 bits; who stays unmoved for 1024 times the entries looks young again.

After a restart, entries come in no order, but with their ages, on a logarithmic scale of 60 *bins*.  They are put
in order without sorting: *anchors*, one for each bin, stand in the queue, and an entry is linked right before that of
its age.  Anchors that have become the oldest nodes are dropped.

A *walk* goes over all queues in slices while they change.  Its place is a node of its own, the *cursor*: whatever
is moved to the end of a queue meanwhile is met there, perhaps a second time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

AGES: Final = 60
"""Bins of ages, 0 for the youngest."""

_CLOCK_BITS: Final = 16
_CLOCK_MASK: Final = (1 << _CLOCK_BITS) - 1
_UNITS: Final = 64
_SLICE: Final = 512
_PER_OCTAVE: Final = 4


def _bin_of(age: int) -> int:
    """Return the bin of an age of 16 bits: four to an octave."""
    shift = max(age.bit_length() - 3, 0)
    return _PER_OCTAVE * shift + (age >> shift)


def _youngest_of(age_bin: int) -> int:
    """Return the least age in a bin."""
    shift = max(age_bin // _PER_OCTAVE - 1, 0)
    return age_bin - _PER_OCTAVE * shift << shift


class Queues:
    """Some queues over a fixed number of entries.

    :ivar older: the next older node of each entry, or node.
    :ivar newer: the next newer one.
    :ivar heads: the head of queue 0; those of the others follow it.
    :ivar size: how many entries each queue has.
    """

    __slots__ = ("entries", "heads", "newer", "older", "size")

    def __init__(self, entries: int, queues: int, more_nodes: int = 0) -> None:
        """Start with empty queues; ``more_nodes`` follow the heads, each its own neighbour."""
        self.entries = entries
        self.heads = entries
        self.older = array("I", (0,)) * (entries + queues + more_nodes)
        for node in range(entries, len(self.older)):
            self.older[node] = node
        self.newer = self.older[:]
        self.size = [0] * queues

    def push(self, entry: int, queue: int) -> None:
        """Add an entry as the newest of a queue."""
        self._link(entry, self.heads + queue)
        self.size[queue] += 1

    def _link(self, entry: int, node: int) -> None:
        """Put an entry right before a node: as the next older one."""
        older = self.older
        last = older[node]
        older[entry] = last
        self.newer[entry] = node
        self.newer[last] = entry
        older[node] = entry

    def remove(self, entry: int, queue: int) -> None:
        """Take an entry out of its queue."""
        self._unlink(entry)
        self.size[queue] -= 1

    def _unlink(self, entry: int) -> None:
        ahead, behind = self.older[entry], self.newer[entry]
        self.newer[ahead] = behind
        self.older[behind] = ahead

    def oldest(self, queue: int) -> int:
        """Return the oldest entry of a queue, or -1."""
        entry = self.newer[self.heads + queue]
        return entry if entry < self.entries else -1

    def check(self) -> list[list[int]]:
        """Assert that links agree both ways and with the sizes; return the entries of each queue, oldest first."""
        queues = []
        for queue, size in enumerate(self.size):
            found = []
            head = self.heads + queue
            node = self.newer[head]
            assert self.older[node] == head
            while node != head:
                assert self.newer[self.older[node]] == self.older[self.newer[node]] == node
                if node < self.entries:
                    found.append(node)
                node = self.newer[node]
            assert len(found) == size
            queues.append(found)
        return queues


class AgedQueues(Queues):
    """Queues that know the ages of their entries.

    :ivar stamp: the clock when each entry was pushed.
    :ivar now: the clock.
    """

    __slots__ = ("_anchors", "_cursor", "_passed", "_unit", "_walks", "now", "stamp")

    def __init__(self, entries: int, queues: int) -> None:
        """Start with empty queues, and all anchors outside."""
        super().__init__(entries, queues, 1 + AGES * queues)
        self._cursor = entries + queues
        self._anchors = self._cursor + 1
        self.stamp = array("H", (0,)) * entries
        self.now = 0
        self._unit = max(entries // _UNITS, 1)
        self._passed = 0
        self._walks = 0

    def pass_time(self) -> None:
        """Let the clock go on by one event, of which a unit has many."""
        self._passed += 1
        if self._passed == self._unit:
            self._passed = 0
            self.now = self.now + 1 & _CLOCK_MASK

    def push(self, entry: int, queue: int) -> None:
        """Add an entry as the newest of a queue."""
        super().push(entry, queue)
        self.stamp[entry] = self.now

    def push_aged(self, entry: int, queue: int, age_bin: int) -> None:
        """Add an entry where its age (0 <= age_bin < AGES) puts it among others added so; before those pushed."""
        first = self._anchors + AGES * queue
        head = self.heads + queue
        if self.newer[head] == head:
            for anchor in range(first + AGES - 1, first - 1, -1):
                self._link(anchor, head)
        anchor = first + age_bin
        self._link(entry, self.newer[head] if self.newer[anchor] == anchor else anchor)
        self.stamp[entry] = self.now - _youngest_of(age_bin) & _CLOCK_MASK
        self.size[queue] += 1

    def renew(self, entry: int, queue: int) -> None:
        """Make an entry of a queue its newest; a hit does so, and therefore it is written out."""
        older, newer = self.older, self.newer
        ahead, behind = older[entry], newer[entry]
        newer[ahead] = behind
        older[behind] = ahead
        head = self.heads + queue
        last = older[head]
        older[entry] = last
        newer[entry] = head
        newer[last] = entry
        older[head] = entry
        self.stamp[entry] = self.now

    def oldest(self, queue: int) -> int:
        """Return the oldest entry of a queue, or -1; drop the anchors before it."""
        head = self.heads + queue
        node = self.newer[head]
        while node >= self.entries:
            if node == head:
                return -1
            behind = self.newer[node]
            if node != self._cursor:
                self._take_away(node)
            node = behind
        return node

    def age(self, entry: int) -> int:
        """Return the bin of an entry's age, 0 <= bin < AGES."""
        return _bin_of(self.now - self.stamp[entry] & _CLOCK_MASK)

    def walk(self, *queues: int) -> Iterator[list[int]]:
        """List the entries of these queues, one queue after the other and the oldest first, in slices; some are empty.

        Each queue ends where it ends when the walk comes there.  A new walk ends the one before.
        """
        cursor, entries, newer = self._cursor, self.entries, self.newer
        self._take_away(cursor)
        self._walks += 1
        walk = self._walks
        try:
            for queue in queues:
                head = self.heads + queue
                node = newer[head]
                while node != head:
                    found = []
                    for _ in range(_SLICE):
                        if node < entries:
                            found.append(node)
                        node = newer[node]
                        if node == head:
                            break
                    is_end = node == head
                    self._link(cursor, node)
                    yield found
                    if self._walks != walk:
                        return
                    node = head if is_end else newer[cursor]
                    self._take_away(cursor)
        finally:
            if self._walks == walk:
                self._take_away(cursor)

    def _take_away(self, node: int) -> None:
        """Take an anchor or the cursor out of its queue; such a node is its own neighbour then."""
        self._unlink(node)
        self.older[node] = self.newer[node] = node

    def check(self) -> list[list[int]]:
        """Assert what :meth:`Queues.check` does, and that each anchor stands in its queue, in the order of ages."""
        for queue in range(len(self.size)):
            head = self.heads + queue
            first = self._anchors + AGES * queue
            node, bins = self.newer[head], []
            while node != head:
                if node >= self.entries and node != self._cursor:
                    bins.append(node - first)
                node = self.newer[node]
            assert bins == sorted(bins, reverse=True)
            assert set(bins) <= set(range(AGES))
            assert all(self.newer[first + age] == first + age for age in set(range(AGES)) - set(bins))
        return super().check()
