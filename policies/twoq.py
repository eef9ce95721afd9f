"""2Q, the full version: what was used once waits in a queue of its own until it is used again.

T. Johnson and D. Shasha, "2Q: A Low Overhead High Performance Buffer Management Replacement Algorithm", VLDB 1994.

Theory of operation
-------------------
A new block enters *recent* (the paper's A1in), first in, first out; hits there teach nothing, since they belong to the
same use.  Recent has a quarter of the room.  Who drops out of it is remembered (A1out), half as many blocks as the
cache has.  A miss of a remembered block shows that it is used again and again: it enters *main* (Am), an LRU.  Victims
come from recent while that has more than its share, otherwise from main, and those are not remembered.

The hint of a block is the age of its entry or last use, and whether it is in main.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final

from policies.admitting import AdmittingPolicy
from policies.structures.history import History
from policies.structures.queues import AGES, AgedQueues

_RECENT: Final = 0
_MAIN: Final = 1
_RECENT_SHARE: Final = 4
_AGE_BITS: Final = 6
_AGE_MASK: Final = (1 << _AGE_BITS) - 1


class TwoQPolicy(AdmittingPolicy):
    """2Q; ``_kind`` is the queue of a block."""

    name: ClassVar[str] = "twoq"
    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        super().__init__(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)
        self._queues = AgedQueues(cache_blocks, 2)
        self._recent_share = max(self._room // _RECENT_SHARE, 1)
        self._ghosts = History(max(cache_blocks // 2, 1), origin_blocks)

    def _admit(self, oblock: int, write: bool) -> int:
        self._queues.pass_time()
        return _RECENT if self._ghosts.take(oblock) < 0 else _MAIN

    def _shut_out(self, oblock: int, kind: int) -> None:
        self._ghosts.add(oblock, 0)

    def _entered(self, cblock: int, oblock: int) -> None:
        self._push(cblock, self._kind[cblock])

    def _push(self, cblock: int, queue: int) -> None:
        self._queues.push(cblock, queue)
        if queue == _RECENT:
            self._mark(cblock)

    def _learned(self, cblocks: Sequence[int], hints: Sequence[int | None]) -> None:
        kind, queues = self._kind, self._queues
        for cblock, hint in zip(cblocks, hints, strict=True):
            if hint is None:
                kind[cblock] = _MAIN
                queues.push(cblock, _MAIN)
                continue
            kind[cblock] = queue = hint >> _AGE_BITS & 1
            queues.push_aged(cblock, queue, min(hint & _AGE_MASK, AGES - 1))
            if queue == _RECENT:
                self._mark(cblock)

    def _hit(self, cblock: int, write: bool) -> None:
        self._queues.renew(cblock, _MAIN)

    def _victim(self) -> int:
        queues = self._queues
        wanted = _RECENT if queues.size[_RECENT] > self._recent_share or not queues.size[_MAIN] else _MAIN
        cblock = queues.oldest(wanted)
        if cblock >= 0:
            queues.remove(cblock, wanted)
        return cblock

    def _evicted(self, cblock: int, oblock: int) -> None:
        if self._kind[cblock] == _RECENT:
            self._ghosts.add(oblock, 0)

    def _kept(self, cblock: int) -> None:
        self._push(cblock, self._kind[cblock])

    def _removed(self, cblock: int) -> None:
        self._queues.remove(cblock, self._kind[cblock])

    def _hint(self, cblock: int) -> int:
        return self._kind[cblock] << _AGE_BITS | self._queues.age(cblock)

    def coldest_first(self) -> Iterator[list[int]]:
        """List recent, then main, each by age: what was used again is hotter."""
        return self._queues.walk(_RECENT, _MAIN)

    def _check_order(self) -> Iterable[int]:
        recent, main = self._queues.check()
        assert {self._kind[cblock] for cblock in recent} <= {_RECENT}
        assert {self._kind[cblock] for cblock in main} <= {_MAIN}
        assert all(self._marks[cblock >> 3] >> (cblock & 7) & 1 for cblock in recent)
        ghosts, nothing = self._ghosts.check()
        assert not nothing
        assert all(self._index.find(oblock) < 0 for oblock in ghosts), "a ghost is cached"
        return recent + main
