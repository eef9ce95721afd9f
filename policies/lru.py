"""LRU: keep what was used last.  The yardstick of all yardsticks.

P. J. Denning, "The working set model for program behavior", CACM 11 (1968), has the reasons; the algorithm is older.

Theory of operation
-------------------
One queue.  A block enters as the newest, and each hit makes it the newest again.  The oldest block is the victim.
Everything is admitted, so a scan longer than the cache empties it.

The hint of a block is the age of its last use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from policies.admitting import AdmittingPolicy
from policies.structures.queues import AGES, AgedQueues


class LruPolicy(AdmittingPolicy):
    """Least recently used."""

    name: ClassVar[str] = "lru"
    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        super().__init__(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)
        self._queues = AgedQueues(cache_blocks, 1)

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """Refer one bio to the policy; as :meth:`AdmittingPolicy.lookup`, with what a hit does written out."""
        index = self._index
        tag = oblock // index.size
        word = index.buckets[oblock % index.size]
        while word >> index.shift != tag:
            if word < 0:
                return self._miss(oblock, write)
            word = index.chain[word & index.mask]
        cblock = word & index.mask
        queues = self._queues
        newer = queues.newer
        behind = newer[cblock]
        head = queues.heads
        if behind != head and not self._marks[cblock >> 3] >> (cblock & 7) & 1:
            older = queues.older
            ahead = older[cblock]
            newer[ahead] = behind
            older[behind] = ahead
            last = older[head]
            older[cblock] = last
            newer[cblock] = head
            newer[last] = cblock
            older[head] = cblock
            queues.stamp[cblock] = queues.now
        return cblock

    def _hit(self, cblock: int, write: bool) -> None:
        self._queues.renew(cblock, 0)

    def _admit(self, oblock: int, write: bool) -> int:
        self._queues.pass_time()
        return 0

    def _entered(self, cblock: int, oblock: int) -> None:
        self._queues.push(cblock, 0)

    def _learned(self, cblocks: Sequence[int], hints: Sequence[int | None]) -> None:
        queues = self._queues
        for cblock, hint in zip(cblocks, hints, strict=True):
            if hint is None:
                queues.push(cblock, 0)
            else:
                queues.push_aged(cblock, 0, min(hint, AGES - 1))

    def _victim(self) -> int:
        cblock = self._queues.oldest(0)
        if cblock >= 0:
            self._queues.remove(cblock, 0)
        return cblock

    def _evicted(self, cblock: int, oblock: int) -> None:
        """Forget it: LRU has no memory of what it has not."""

    def _kept(self, cblock: int) -> None:
        self._queues.push(cblock, 0)

    def _removed(self, cblock: int) -> None:
        self._queues.remove(cblock, 0)

    def _hint(self, cblock: int) -> int:
        return self._queues.age(cblock)

    def coldest_first(self) -> Iterator[list[int]]:
        """List the blocks, the one used longest ago first."""
        return self._queues.walk(0)

    def _check_order(self) -> Iterable[int]:
        (order,) = self._queues.check()
        return order
