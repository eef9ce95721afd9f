"""How often blocks were hit, where bios close together in time are one hit: the counts of the classic multiqueue.

Theory of operation
-------------------
A hit counts only if a tick falls before the next bio.  The kernel finds what was hit since the previous bio by walking
its queues back to a marker.  Here ``newest`` is the entry that the previous bio queued, and a small set holds the
entries that were queued for other reasons.  An entry joins the set when it is queued, and leaves it when it is taken
out for good.

Loading a cache, or cleaning it while there are no bios, would make that set large, and counting it slow.  So beyond
some thousands, the entries queued between two bios form a *cohort* instead.  Whether a tick came before the next bio is
noted once for the cohort, as its *bonus*, 0 or 1: the hits of its entries are what is written down for them, plus the
bonus.

Cached entries have a byte of state, so that a hit need look at nothing else.  It holds their owner's flags, the level
that their hits amount to, and whether they are in a cohort; if they are, the level need not be up to date.
"""

from __future__ import annotations

from array import array
from typing import Final

MAX_HITS: Final = 2**32 - 1
LEVELS: Final = 16
LEVEL_BITS: Final = 15
"""The bits of the state that tell the level."""

IN_COHORT: Final = 128
"""The bit of the state that tells that an entry is in a cohort."""

NOTHING: Final = -1
"""``newest`` if there is no newest entry."""

_MANY: Final = 4096
_COHORTS: Final = 2**16
_OPEN_COHORT: Final = -1

_LEVEL_OF_BITS: Final = tuple(min(max(bits, 1), LEVELS) - 1 for bits in range(33))
"""Length of a hit count in bits to its level: the binary logarithm, rounded down, as far as levels go."""


class HitCounts:
    """Counts of a fixed number of entries, the first ones of which have states: these are the cached ones.

    :ivar counts: hits of each entry that is in no cohort; read those in one with :meth:`of`, or settle them first.
    :ivar state: state of each cached entry.
    :ivar newest: what the previous bio queued, or :data:`NOTHING`.
    :ivar ticked: whether a tick has fallen since the previous bio.
    """

    __slots__ = ("_bonus", "_cohort", "_recent", "counts", "newest", "state", "ticked")

    def __init__(self, entries: int, cached: int) -> None:
        """Count nothing yet; all states are 0."""
        self.counts = array("I", (0,)) * entries
        self.state = bytearray(cached)
        self.newest = NOTHING
        self.ticked = False
        self._cohort = array("H", (0,)) * cached
        self._bonus = bytearray(1)
        self._recent: set[int] = set()

    def of(self, entry: int) -> int:
        """Return the hits of a cached entry."""
        return min(self.counts[entry] + self._bonus[self._cohort[entry]], MAX_HITS)

    def level_of(self, entry: int) -> int:
        """Return the level of an entry that is in no cohort."""
        return _LEVEL_OF_BITS[self.counts[entry].bit_length()]

    def settle(self, entry: int) -> None:
        """Take a cached entry out of its cohort; its hits stay what they are."""
        self.write(entry, self.of(entry))

    def write(self, entry: int, hits: int) -> None:
        """Write down the hits of a cached entry, in a cohort or not; it is in none from now on."""
        self.counts[entry] = hits
        self._cohort[entry] = 0
        self.state[entry] = self.state[entry] & ~(LEVEL_BITS | IN_COHORT) | _LEVEL_OF_BITS[hits.bit_length()]

    def queue(self, entry: int) -> None:
        """Note that a cached entry, in no cohort, has been queued for another reason than a bio."""
        recent = self._recent
        if len(recent) < _MANY or entry == self.newest or entry in recent or len(self._bonus) == _COHORTS:
            recent.add(entry)
            return
        if _OPEN_COHORT not in recent:
            recent.add(_OPEN_COHORT)
            self._bonus.append(0)
        self._cohort[entry] = len(self._bonus) - 1
        self.state[entry] |= IN_COHORT

    def forget(self, entry: int) -> None:
        """Note that a cached entry has been taken out of its queue."""
        self.forget_recent(entry)
        if self.state[entry] & IN_COHORT:
            self.settle(entry)

    def forget_recent(self, entry: int) -> None:
        """Note that an entry that is in no cohort has been taken out of its queue."""
        self._recent.discard(entry)
        if entry == self.newest:
            self.newest = NOTHING

    def begin_bio(self) -> None:
        """If there was a tick, count a hit of every entry queued since the previous bio; then start anew."""
        if self.ticked:
            self.ticked = False
            if self.newest != NOTHING:
                self._recent.add(self.newest)
            for entry in self._recent:
                if entry == _OPEN_COHORT:
                    self._bonus[-1] = 1
                elif self.counts[entry] < MAX_HITS:
                    self._count(entry)
        self._recent.clear()
        self.newest = NOTHING

    def _count(self, entry: int) -> None:
        hits = self.counts[entry] + 1
        self.counts[entry] = hits
        if not hits & (hits - 1) and entry < len(self.state):
            self.write(entry, hits)

    def check(self, queued: set[int]) -> None:
        """Assert that recent entries and those in cohorts are queued, and that levels are up to date."""
        recent = self._recent - {_OPEN_COHORT} | {self.newest} - {NOTHING}
        assert recent <= queued
        in_cohorts = {entry for entry, cohort in enumerate(self._cohort) if cohort}
        assert in_cohorts == {entry for entry, state in enumerate(self.state) if state & IN_COHORT} <= queued
        assert not any(self._cohort[entry] == len(self._bonus) - 1 for entry in in_cohorts & recent)
        for entry in queued - in_cohorts:
            if entry < len(self.state):
                assert self.state[entry] & LEVEL_BITS == self.level_of(entry)
