"""How often blocks were hit, where bios close together in time are one hit: the counts of the classic multiqueue.

Theory of operation
-------------------
A hit counts only if a tick falls before the next bio.  The kernel finds what was hit since the previous bio by walking
its queues back to a marker; here it is a small set, ``recent``: whoever queues an entry adds it, whoever takes it out
for good discards it.

Loading a cache, or cleaning it while there are no bios, would make that set large, and counting it slow.  So what is
queued beyond some thousands gets the number of a *batch* instead, and whether a tick came before the next bio is noted
once for the batch: entries of a batch have its *bonus*, 0 or 1, on top of what is written down for them.
"""

from __future__ import annotations

from array import array
from typing import Final

MAX_HITS: Final = 2**32 - 1
_MANY: Final = 4096
_BATCHES: Final = 2**16
_OPEN_BATCH: Final = -1


class HitCounts:
    """Counts of a fixed number of entries, the first ``batched`` of which can be in batches.

    :ivar counts: hits of each entry that is in no batch.
    :ivar batch: batch of each entry, 0 if none: read those in one with :meth:`of`, or :meth:`settle` them first.
    :ivar recent: what was queued since the previous bio; cleared by the owner at each bio.
    :ivar ticked: whether a tick has fallen since the previous bio.
    """

    __slots__ = ("_bonus", "batch", "counts", "recent", "ticked")

    def __init__(self, entries: int, batched: int) -> None:
        """Count nothing yet."""
        self.counts = array("I", (0,)) * entries
        self.batch = array("H", (0,)) * batched
        self.recent: set[int] = set()
        self.ticked = False
        self._bonus = bytearray(1)

    def of(self, entry: int) -> int:
        """Return the hits of an entry that may be in a batch."""
        return min(self.counts[entry] + self._bonus[self.batch[entry]], MAX_HITS)

    def settle(self, entry: int) -> None:
        """Take an entry out of its batch; its hits stay what they are."""
        self.counts[entry] = self.of(entry)
        self.batch[entry] = 0

    def queue(self, entry: int) -> None:
        """Note that an entry that may be in a batch has been queued, for another reason than a bio."""
        if len(self.recent) < _MANY or entry in self.recent or len(self._bonus) == _BATCHES:
            self.recent.add(entry)
            return
        if _OPEN_BATCH not in self.recent:
            self.recent.add(_OPEN_BATCH)
            self._bonus.append(0)
        self.batch[entry] = len(self._bonus) - 1

    def forget(self, entry: int) -> None:
        """Note that an entry that may be in a batch has been taken out of its queue."""
        self.recent.discard(entry)
        self.settle(entry)

    def count_recent(self) -> None:
        """Count a hit of all that was queued since the previous bio, because of a tick."""
        self.ticked = False
        counts = self.counts
        for entry in self.recent:
            if entry == _OPEN_BATCH:
                self._bonus[-1] = 1
            elif counts[entry] < MAX_HITS:
                counts[entry] += 1

    def check(self, queued: set[int]) -> None:
        """Assert that only what is queued is recent or in a batch, and not both."""
        assert self.recent - {_OPEN_BATCH} <= queued
        batched = {entry for entry, batch in enumerate(self.batch) if batch}
        assert batched <= queued
        assert not any(self.batch[entry] == len(self._bonus) - 1 for entry in batched & self.recent)
