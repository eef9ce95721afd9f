"""S3-FIFO: three queues, first in, first out; what is not used again soon is gone soon.

J. Yang, Y. Zhang, Z. Qiu, Y. Yue and K. V. Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023.

Theory of operation
-------------------
A new block enters *small*, a tenth of the room.  A hit counts up to three, and that is all.  Who reaches the end of
small with two hits or more goes on to *main*, the others leave and are remembered: as many as main has room for.
A miss of a remembered block enters main at once.  Who reaches the end of main with hits goes round once more, with one
hit less, the others leave for good.  Victims come from small while that has more than its share, otherwise from main.
Until there was a first victim, small takes no more than its share, and main the rest.

A call moves so many blocks on at most; who comes to the end then has to leave, hits or not.

The hint of a block is the age of its entry, its hits, and in which queue it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final

from policies.admitting import AdmittingPolicy
from policies.structures.history import History
from policies.structures.queues import AGES, AgedQueues

_SMALL: Final = 0
_MAIN: Final = 1
_HITS: Final = 3
"""The bits of the kind that count hits, and the most that they count."""
_QUEUE_SHIFT: Final = 2
_SMALL_SHARE: Final = 10
_WORTHY_HITS: Final = 2
_PATIENCE: Final = 1000
_AGE_BITS: Final = 6
_AGE_MASK: Final = (1 << _AGE_BITS) - 1


class S3FifoPolicy(AdmittingPolicy):
    """S3-FIFO; ``_kind`` has the hits of a block and, above them, its queue."""

    name: ClassVar[str] = "s3fifo"
    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        super().__init__(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)
        self._queues = AgedQueues(cache_blocks, 2)
        self._is_filling = True
        self._small_share = max(self._room // _SMALL_SHARE, 1)
        self._ghosts = History(max(self._room - self._small_share, 1), origin_blocks)

    def _admit(self, oblock: int, write: bool) -> int:
        self._queues.pass_time()
        is_main = self._ghosts.take(oblock) >= 0 or (
            self._is_filling and self._queues.size[_SMALL] >= self._small_share
        )
        return (_MAIN if is_main else _SMALL) << _QUEUE_SHIFT

    def _shut_out(self, oblock: int, kind: int) -> None:
        self._ghosts.add(oblock, 0)

    def _entered(self, cblock: int, oblock: int) -> None:
        self._queues.push(cblock, self._kind[cblock] >> _QUEUE_SHIFT)

    def _learned(self, cblocks: Sequence[int], hints: Sequence[int | None]) -> None:
        kind, queues = self._kind, self._queues
        for cblock, hint in zip(cblocks, hints, strict=True):
            if hint is None:
                kind[cblock] = _MAIN << _QUEUE_SHIFT
                queues.push(cblock, _MAIN)
                continue
            kind[cblock] = hint >> _AGE_BITS & (1 << _QUEUE_SHIFT | _HITS)
            queues.push_aged(cblock, kind[cblock] >> _QUEUE_SHIFT, min(hint & _AGE_MASK, AGES - 1))
            if kind[cblock] & _HITS == _HITS:
                self._mark(cblock)

    def _hit(self, cblock: int, write: bool) -> None:
        kind = self._kind[cblock] + 1
        self._kind[cblock] = kind
        if kind & _HITS == _HITS:
            self._mark(cblock)

    def _victim(self) -> int:
        self._is_filling = False
        queues, kind = self._queues, self._kind
        for _ in range(_PATIENCE):
            queue, cblock = self._next_out()
            if cblock < 0:
                return cblock
            hits = kind[cblock] & _HITS
            if hits < (_WORTHY_HITS if queue == _SMALL else 1):
                break
            queues.remove(cblock, queue)
            self._unmark(cblock)
            kind[cblock] = _MAIN << _QUEUE_SHIFT | (0 if queue == _SMALL else hits - 1)
            queues.push(cblock, _MAIN)
        queue, cblock = self._next_out()
        queues.remove(cblock, queue)
        return cblock

    def _next_out(self) -> tuple[int, int]:
        """Return the queue that has to give a block, and its oldest, or -1."""
        small, main = self._queues.size
        queue = _SMALL if small > self._small_share or not main else _MAIN
        return queue, self._queues.oldest(queue)

    def _evicted(self, cblock: int, oblock: int) -> None:
        if self._kind[cblock] >> _QUEUE_SHIFT == _SMALL:
            self._ghosts.add(oblock, 0)

    def _kept(self, cblock: int) -> None:
        self._kind[cblock] &= ~_HITS
        self._queues.push(cblock, self._kind[cblock] >> _QUEUE_SHIFT)

    def _removed(self, cblock: int) -> None:
        self._queues.remove(cblock, self._kind[cblock] >> _QUEUE_SHIFT)

    def _hint(self, cblock: int) -> int:
        return self._kind[cblock] << _AGE_BITS | self._queues.age(cblock)

    def coldest_first(self) -> Iterator[list[int]]:
        """List small, then main, in the order of their ends; hits are left out, which a walk cannot sort by."""
        return self._queues.walk(_SMALL, _MAIN)

    def _check_order(self) -> Iterable[int]:
        order = self._queues.check()
        for queue, cblocks in enumerate(order):
            for cblock in cblocks:
                kind = self._kind[cblock]
                assert kind >> _QUEUE_SHIFT == queue
                assert self._marks[cblock >> 3] >> (cblock & 7) & 1 == (kind & _HITS == _HITS)
        ghosts, nothing = self._ghosts.check()
        assert not nothing
        assert all(self._index.find(oblock) < 0 for oblock in ghosts), "a ghost is cached"
        return order[_SMALL] + order[_MAIN]
