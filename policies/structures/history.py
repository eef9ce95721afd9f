"""Which blocks were cached until a while ago: the ghosts of policies that learn from what comes back.

Blocks stand in queues by when they left; an entry costs 16 bytes and a bit or, if block numbers are very large, 22.
"""

from __future__ import annotations

from typing import Final

from policies.structures.blockindex import BlockIndex
from policies.structures.freelist import FreeList
from policies.structures.queues import Queues

_QUEUES: Final = 2


class History:
    """Block numbers, at most so many, each in one of two queues: the *left* one (0) or the *right* one (1).

    :ivar size: how many blocks each queue has.
    """

    __slots__ = ("_free", "_index", "_queues", "_right", "size")

    def __init__(self, entries: int, key_limit: int) -> None:
        """Remember nothing yet, and never more than ``entries`` blocks."""
        self._index = BlockIndex(entries, key_limit, compact=True)
        self._queues = queues = Queues(entries, _QUEUES, more_nodes=1)
        self._right = bytearray(-(-entries // 8))
        self.size = queues.size
        self._free = FreeList(queues.older, queues.newer, queues.heads + _QUEUES)
        self._free.fill(range(entries))

    def take(self, oblock: int) -> int:
        """Forget a block; return the queue that it was in, or -1 if it is not remembered."""
        entry = self._index.find(oblock)
        return -1 if entry < 0 else self._forget(entry)

    def _forget(self, entry: int) -> int:
        queue = self._right[entry >> 3] >> (entry & 7) & 1
        self._queues.remove(entry, queue)
        self._free.give_back_first(entry)
        self._index.remove(entry)
        return queue

    def add(self, oblock: int, queue: int) -> None:
        """Remember a block that is not remembered; if all is full, forget the oldest of this queue, or of the other."""
        queues = self._queues
        if not self._free.size:
            self.drop(queue if queues.size[queue] else 1 - queue)
        entry = self._free.take()
        queues.push(entry, queue)
        if queue:
            self._right[entry >> 3] |= 1 << (entry & 7)
        else:
            self._right[entry >> 3] &= ~(1 << (entry & 7))
        self._index.insert(entry, oblock)

    def drop(self, queue: int) -> None:
        """Forget the oldest block of a queue that has any."""
        self._forget(self._queues.oldest(queue))

    def check(self) -> list[list[int]]:
        """Assert that all structures agree; return the blocks of both queues, oldest first."""
        left, right = self._queues.check()
        free = self._free.check()
        block_of = {entry: oblock for oblock, entry in self._index.check().items()}
        assert set(block_of) == {*left, *right}
        assert len(block_of) + len(free) == self._queues.entries
        for queue, entries in enumerate((left, right)):
            assert all(self._right[entry >> 3] >> (entry & 7) & 1 == queue for entry in entries)
        return [[block_of[entry] for entry in entries] for entries in (left, right)]
