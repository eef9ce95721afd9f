"""ARC: a list of what was used once and one of what was used more often, whose shares adapt to what comes back.

N. Megiddo and D. S. Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003.

Theory of operation
-------------------
The cache has two LRU lists: *once* (T1) for blocks used once of late, *again* (T2) for the others.  A hit moves a block
to the newest end of *again*.  Behind each list stand ghosts, blocks that it has lost (B1, B2).  A miss of a ghost of
*once* says that *once* ought to be larger, one of a ghost of *again* that it ought to be smaller; the ``target`` of
*once* moves by the ratio of the ghosts.  Such a block enters *again*.  The victim is the oldest of *once* if that is
larger than its target, else the oldest of *again*.

Of blocks used once, cached or not, no more are known than fit the cache; of all blocks, no more than twice as many.

The paper chooses a victim before the new block enters, we do afterwards: a target of 0 counts as 1, or each new block
would be its own victim.  The hint of a block is the age of its last use, and in which list it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final

from policies.admitting import AdmittingPolicy
from policies.structures.history import History
from policies.structures.queues import AGES, AgedQueues

_ONCE: Final = 0
_AGAIN: Final = 1
_AGE_BITS: Final = 6
_AGE_MASK: Final = (1 << _AGE_BITS) - 1


class ArcPolicy(AdmittingPolicy):
    """The adaptive replacement cache; ``_kind`` is the list of a block."""

    name: ClassVar[str] = "arc"
    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        super().__init__(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)
        self._queues = AgedQueues(cache_blocks, 2)
        self._ghosts = History(cache_blocks, origin_blocks)
        self._target = 0.0

    def _admit(self, oblock: int, write: bool) -> int:
        self._queues.pass_time()
        once, again = self._ghosts.size
        ghost_of = self._ghosts.take(oblock)
        if ghost_of < 0:
            return _ONCE
        if ghost_of == _ONCE:
            self._target = min(self._target + max(again / once, 1.0), float(self._room))
        else:
            self._target = max(self._target - max(once / again, 1.0), 0.0)
        return _AGAIN

    def _shut_out(self, oblock: int, kind: int) -> None:
        self._remember(oblock, kind)

    def _entered(self, cblock: int, oblock: int) -> None:
        self._queues.push(cblock, self._kind[cblock])

    def _learned(self, cblocks: Sequence[int], hints: Sequence[int | None]) -> None:
        kind, queues = self._kind, self._queues
        for cblock, hint in zip(cblocks, hints, strict=True):
            if hint is None:
                kind[cblock] = _AGAIN
                queues.push(cblock, _AGAIN)
            else:
                kind[cblock] = queue = hint >> _AGE_BITS & 1
                queues.push_aged(cblock, queue, min(hint & _AGE_MASK, AGES - 1))

    def _hit(self, cblock: int, write: bool) -> None:
        queues = self._queues
        if self._kind[cblock] == _AGAIN:
            queues.renew(cblock, _AGAIN)
        else:
            queues.remove(cblock, _ONCE)
            self._kind[cblock] = _AGAIN
            queues.push(cblock, _AGAIN)

    def _victim(self) -> int:
        queues = self._queues
        once, again = queues.size
        queue = _ONCE if once > max(self._target, 1.0) or not again else _AGAIN
        cblock = queues.oldest(queue)
        if cblock >= 0:
            queues.remove(cblock, queue)
        return cblock

    def _evicted(self, cblock: int, oblock: int) -> None:
        self._remember(oblock, self._kind[cblock])

    def _remember(self, oblock: int, queue: int) -> None:
        ghosts, size = self._ghosts, self._queues.size
        ghosts.add(oblock, queue)
        while ghosts.size[_ONCE] and size[_ONCE] + ghosts.size[_ONCE] > self._room:
            ghosts.drop(_ONCE)
        while sum(size) + sum(ghosts.size) > 2 * self._room and any(ghosts.size):
            ghosts.drop(_AGAIN if ghosts.size[_AGAIN] else _ONCE)

    def _kept(self, cblock: int) -> None:
        self._queues.push(cblock, self._kind[cblock])

    def _removed(self, cblock: int) -> None:
        self._queues.remove(cblock, self._kind[cblock])

    def _hint(self, cblock: int) -> int:
        return self._kind[cblock] << _AGE_BITS | self._queues.age(cblock)

    def coldest_first(self) -> Iterator[list[int]]:
        """List what was used once, then the rest, each by age."""
        return self._queues.walk(_ONCE, _AGAIN)

    def _check_order(self) -> Iterable[int]:
        once, again = self._queues.check()
        assert {self._kind[cblock] for cblock in once} <= {_ONCE}
        assert {self._kind[cblock] for cblock in again} <= {_AGAIN}
        assert 0 <= self._target <= self._room
        ghosts = self._ghosts.check()
        assert all(self._index.find(oblock) < 0 for oblock in ghosts[_ONCE] + ghosts[_AGAIN]), "a ghost is cached"
        return once + again
