"""Writes that share a unit of the disk go one after the other.

Theory of operation
-------------------
Only whole units can be written, so a write of part of a unit reads the unit, changes the part and writes it all.  That
would undo a second write to the same unit in between, whether of a part or of all.  So a write waits for every earlier
write with which it shares a unit, if either of the two has only a part of that unit.  It waits for no other.

A write joins in one synchronous step and waits for earlier ones only: first come, first served, and no deadlock.  Most
writes are of whole units; these look only through the few that are not.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@final
class _Write:
    """Units ``begin`` to ``end`` (excluded); of those in ``partial``, the first or the last, it has only a part."""

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
        """The writes that have units in part."""

    @asynccontextmanager
    async def locked(self, begin: int, end: int, partial: tuple[int, ...]) -> AsyncIterator[None]:
        """Wait until units ``begin`` to ``end`` (excluded) may be written, those in ``partial`` in part."""
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
        """Assert that every write has units, and that those with units in part are known as such."""
        for write in self._writes:
            assert write.begin < write.end
            assert all(write.begin <= unit < write.end for unit in write.partial)
            assert not write.over.is_set()
        assert list(self._partial) == [write for write in self._writes if write.partial]
