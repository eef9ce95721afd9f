"""Queues of few levels as plain rings: what the classic multiqueue keeps its blocks in.

Theory of operation
-------------------
Entries and nodes are indices of two link arrays that all queues of a policy share.  Each level is a ring closed by a
node; behind the node comes the oldest entry, before it the newest.  Indices from ``entries`` on are nodes: level
heads, or markers that stand in the rings between entries.
"""

from __future__ import annotations

from array import array

from policies.structures.hitcounts import LEVELS


class RingQueue:
    """A queue of 16 levels.

    :ivar heads: the node of level 0; those of the other levels follow it.
    """

    __slots__ = ("_entries", "_newer", "_older", "heads")

    def __init__(self, older: array[int], newer: array[int], entries: int) -> None:
        """Make an empty queue on link arrays of ``entries`` entries, appending nodes to them."""
        self._older = older
        self._newer = newer
        self._entries = entries
        self.heads = self._add_nodes()

    def _add_nodes(self) -> int:
        first = len(self._older)
        nodes = range(first, first + LEVELS)
        self._older.extend(nodes)
        self._newer.extend(nodes)
        return first

    def push(self, entry: int, level: int) -> None:
        """Add an entry as the newest of a level."""
        self._link_before(entry, self.heads + level)

    def _link_before(self, entry: int, node: int) -> None:
        last = self._older[node]
        self._older[entry] = last
        self._newer[entry] = node
        self._newer[last] = entry
        self._older[node] = entry

    def remove(self, entry: int) -> None:
        """Take an entry out, whatever its level."""
        ahead, behind = self._older[entry], self._newer[entry]
        self._newer[ahead] = behind
        self._older[behind] = ahead

    def peek(self) -> int:
        """Return the oldest entry of the lowest level that has any, or -1."""
        newer, entries = self._newer, self._entries
        for head in range(self.heads, self.heads + LEVELS):
            entry = newer[head]
            while entry >= entries and entry != head:
                entry = newer[entry]
            if entry < entries:
                return entry
        return -1

    def check(self) -> list[list[int]]:
        """Assert that links agree both ways; return the entries of each level, oldest first."""
        levels = []
        for head in range(self.heads, self.heads + LEVELS):
            found = []
            entry = head
            while True:
                assert self._newer[self._older[entry]] == self._older[self._newer[entry]] == entry
                entry = self._newer[entry]
                if entry == head:
                    break
                if entry < self._entries:
                    found.append(entry)
            levels.append(found)
        return levels


class AgeingQueue(RingQueue):
    """A queue of 16 levels with two sets of markers; an entry with no marker before it has been there for a while."""

    __slots__ = ("_markers",)

    def __init__(self, older: array[int], newer: array[int], entries: int) -> None:
        """Make an empty queue whose markers stand at the (empty) levels."""
        super().__init__(older, newer, entries)
        self._markers = [self._add_nodes(), self._add_nodes()]
        for markers in self._markers:
            for level in range(LEVELS):
                self._link_before(markers + level, self.heads + level)

    def flip(self) -> None:
        """Move the older set of markers to the tails; it becomes the newer one."""
        self._markers.reverse()
        for level in range(LEVELS):
            marker = self._markers[1] + level
            self.remove(marker)
            self._link_before(marker, self.heads + level)

    def peek_old(self) -> int:
        """Return an entry with no marker before it, from the lowest level that has any; -1 if none."""
        for head in range(self.heads, self.heads + LEVELS):
            entry = self._newer[head]
            if entry < self._entries:
                return entry
        return -1
