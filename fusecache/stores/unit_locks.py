"""Writes that share a unit of the disk take turns.

Theory of operation
-------------------
Where only whole units can be written, a write of a part of one reads it, changes the part and writes it all.  A second
write to the same unit in between, be it of a part or of all, would be undone by that.  So a write waits for every
earlier one with which it shares a unit that either of them has in part, and for no other.

A write joins in one synchronous step and waits for earlier ones only: first come, first served, and no deadlock.  Most
writes are of whole units, and there, only the few that are not are looked through.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@final
class _Write:
    """Units ``begin`` to ``end`` (excluded); of those in ``partial``, the first or the last, it has but a part."""

    __slots__ = ("begin", "end", "over", "partial")

    def __init__(self, begin: int, end: int, partial: tuple[int, ...]) -> None:
        self.begin = begin
        self.end = end
        self.partial = partial
        self.over = trio.Event()

    def hinders(self, other: _Write) -> bool:
        return any(other.begin <= unit < other.end for unit in self.partial) or any(
            self.begin <= unit < self.end for unit in other.partial
        )


@final
class UnitLocks:
    """The writes under way in one store."""

    __slots__ = ("_partial", "_writes")

    def __init__(self) -> None:
        self._writes: dict[_Write, None] = {}
        self._partial: dict[_Write, None] = {}
        """Those that have units in part."""

    @asynccontextmanager
    async def locked(self, begin: int, end: int, partial: tuple[int, ...]) -> AsyncIterator[None]:
        """Wait for one's turn to write units ``begin`` to ``end`` (excluded), of which ``partial`` in part."""
        write = _Write(begin, end, partial)
        earlier = [other for other in (self._writes if partial else self._partial) if other.hinders(write)]
        self._writes[write] = None
        if partial:
            self._partial[write] = None
        try:
            for other in earlier:
                await other.over.wait()
            yield
        finally:
            del self._writes[write]
            self._partial.pop(write, None)
            write.over.set()

    def check(self) -> None:
        """Assert that every write has units, and that those in part are known as such."""
        for write in self._writes:
            assert write.begin < write.end
            assert all(write.begin <= unit < write.end for unit in write.partial)
            assert not write.over.is_set()
        assert list(self._partial) == [write for write in self._writes if write.partial]
