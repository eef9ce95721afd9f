"""Which entries are free: a ring threaded through link arrays that its owner uses for the entries in use."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

_PART: Final = 65536


class FreeList:
    """Hand out free entries from the head.

    Free entries lie in no queue, so the queues' links can hold the ring: it costs no memory.
    """

    __slots__ = ("_newer", "_node", "_older", "size")

    def __init__(self, older: array[int], newer: array[int], node: int) -> None:
        """Start empty; ``node`` is an index of both arrays that belongs to the ring for ever."""
        self._older = older
        self._newer = newer
        self._node = node
        self.size = 0
        older[node] = newer[node] = node

    def fill(self, entries: range) -> None:
        """Start with neighbouring entries, upwards or downwards, to be handed out in that order."""
        low, high = sorted((entries[0], entries[-1]))
        up, down = (self._newer, self._older) if entries.step > 0 else (self._older, self._newer)
        for start in range(low, high, _PART):  # not one by one, which takes long, nor all at once, which takes memory
            ids = array("I", range(start, min(start + _PART, high) + 1))
            stop = ids[-1]
            up[start:stop] = ids[1:]
            down[start + 1 : stop + 1] = ids[:-1]
        first, last = entries[0], entries[-1]
        self._older[first] = self._newer[last] = self._node
        self._newer[self._node], self._older[self._node] = first, last
        self.size = len(entries)

    def take(self) -> int:
        """Take the head; there must be one."""
        entry = self._newer[self._node]
        self.take_this(entry)
        return entry

    def take_this(self, entry: int) -> None:
        """Take a certain entry, which must be free."""
        before, after = self._older[entry], self._newer[entry]
        self._newer[before] = after
        self._older[after] = before
        self.size -= 1

    def take_these(self, entries: Sequence[int]) -> None:
        """Take many entries, each of which must be free."""
        older, newer = self._older, self._newer
        for entry in entries:
            before, after = older[entry], newer[entry]
            newer[before] = after
            older[after] = before
        self.size -= len(entries)

    def give_back(self, entry: int) -> None:
        """Put an entry at the tail: it is used again when all others have been."""
        self._link(entry, self._older[self._node], self._node)

    def give_back_first(self, entry: int) -> None:
        """Put an entry at the head: it is used again next."""
        self._link(entry, self._node, self._newer[self._node])

    def _link(self, entry: int, before: int, after: int) -> None:
        self._older[entry] = before
        self._newer[entry] = after
        self._newer[before] = entry
        self._older[after] = entry
        self.size += 1

    def check(self) -> list[int]:
        """Assert that links agree both ways and with the size; return the free entries, head first."""
        found = []
        node = self._node
        entry = self._newer[node]
        while entry != node:
            found.append(entry)
            assert self._newer[self._older[entry]] == entry
            assert self._older[self._newer[entry]] == entry
            entry = self._newer[entry]
        assert len(found) == self.size
        return found
