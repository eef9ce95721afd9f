"""How often blocks were hit, where bios close together in time are one hit: the counts of the classic multiqueue.

Theory of operation
-------------------
A hit counts only if a tick falls before the next bio.  The kernel finds what was hit since the previous bio by walking
its queues back to a marker; here it is a small set, ``recent``: whoever queues an entry adds it, whoever takes it out
for good discards it.

Only loading a cache would make that set large, and counting it slow.  So entries that are loaded get a mark instead,
and one bonus serves all that bear it: a tick before the first bio counts for each of them.
"""

from __future__ import annotations

from array import array
from typing import Final

MAX_HITS: Final = 2**32 - 1
_ALL_LOADED: Final = -1


class HitCounts:
    """Counts of a fixed number of entries.

    :ivar counts: hits of each entry that bears no mark.
    :ivar is_loaded: 1 for entries that bear the mark: read them with :meth:`of`, or :meth:`settle` them first.
    :ivar recent: what was queued since the previous bio; cleared by the owner at each bio.
    :ivar ticked: whether a tick has fallen since the previous bio.
    """

    __slots__ = ("_bonus", "counts", "is_loaded", "recent", "ticked")

    def __init__(self, entries: int, loadable: int) -> None:
        """Count nothing yet; only the first ``loadable`` entries can be loaded."""
        self.counts = array("I", (0,)) * entries
        self.is_loaded = bytearray(loadable)
        self.recent = {_ALL_LOADED}
        self.ticked = False
        self._bonus = 0

    def load(self, entry: int, hits: int) -> None:
        """Set the count of an entry that is being queued."""
        self.counts[entry] = hits
        if _ALL_LOADED in self.recent:
            self.is_loaded[entry] = 1
        else:
            self.recent.add(entry)

    def of(self, entry: int) -> int:
        """Return the hits of a loadable entry, marked or not."""
        return min(self.counts[entry] + (self._bonus & self.is_loaded[entry]), MAX_HITS)

    def settle(self, entry: int) -> None:
        """Take the mark off a loadable entry; its count is what it was with it."""
        self.counts[entry] = self.of(entry)
        self.is_loaded[entry] = 0

    def forget(self, entry: int) -> None:
        """Take the mark off a loadable entry that is no longer mapped."""
        self.is_loaded[entry] = 0

    def count_recent(self) -> None:
        """Count a hit of all that was queued since the previous bio, because of a tick."""
        self.ticked = False
        counts = self.counts
        for entry in self.recent:
            if entry == _ALL_LOADED:
                self._bonus = 1
            elif counts[entry] < MAX_HITS:
                counts[entry] += 1

    def check(self, queued: set[int], mapped: set[int]) -> None:
        """Assert that only what is queued is recent, and that only what is mapped is marked."""
        assert self.recent - {_ALL_LOADED} <= queued
        assert {entry for entry, is_loaded in enumerate(self.is_loaded) if is_loaded} <= mapped
        assert self._bonus in {0, 1}
