"""Flushing the two stores: which flushes an fsync needs, and what is lost when one fails.

Theory of operation
-------------------
The origin is *unflushed* from the moment at which it has taken something that the next fsync has to make durable,
until a flush that began later has ended.  What writebacks copy there does not count, since their blocks stay suspect
until a round of commits has flushed the origin.

A flush of the cache that fails may have lost whatever the cache took since the last one: the kernel forgets what it
could not write (fsync(2)), and sooner or later reads what was there before.  If that is an older content of the same
block, it is one that was durable.  But the first content of a promoted block may not be durable yet, and then its
place would show what another block has left there.  The writes to such a block are *lost*, and the origin has what was
there before them.  So the cache is given up, and these blocks count as clean.  Of a block that had some durable sectors
and has got more of them since, the durable ones still count.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from fusecache.errors import StoreError
from fusecache.tasks import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fusecache.block import Health, Mapping
    from fusecache.stores import Store


@dataclass(slots=True, eq=False)
class _Unflushed:
    """A cache block of which something may not be durable since it was filled.

    :ivar filling: the number of the last time that something came to it.
    :ivar durable: sectors of which what they hold, or something older of the same block, is durable.
    """

    filling: int
    durable: int = 0


class Flushes:
    """The flushes of one volume's stores.  Flushes of one store that come side by side wait for each other there.

    :ivar cache_failed: set when the cache is given up because it could not be flushed.
    :ivar on_lost_write: called then with every cache block of which writes are lost, and the sectors that stay.
    """

    __slots__ = (
        "_cache",
        "_fillings",
        "_health",
        "_mapping",
        "_origin",
        "_origin_flushed",
        "_origin_writes",
        "_unflushed",
        "cache_failed",
        "on_lost_write",
    )

    def __init__(self, mapping: Mapping, cache: Store, origin: Store, health: Health) -> None:
        self._mapping = mapping
        self._cache = cache
        self._origin = origin
        self._health = health
        self._origin_writes = 1  # what a killed process left, if any
        self._origin_flushed = 0
        self._unflushed: dict[int, _Unflushed] = {}
        self._fillings = 0
        self.on_lost_write: Callable[[int, int], None] = lambda _, __: None
        self.cache_failed = trio.Event()

    def origin_written(self) -> None:
        """Learn that the origin has taken what the next fsync has to make durable there."""
        self._origin_writes += 1

    @property
    def origin_unflushed(self) -> bool:
        """Whether an fsync has to flush the origin."""
        return self._origin_writes > self._origin_flushed or bool(self._health.origin_lost)

    def filled(self, cblock: int) -> None:
        """Learn that a cache block has another block's content from now on, which may not be durable."""
        self._fillings += 1
        self._unflushed[cblock] = _Unflushed(self._fillings)

    def extended(self, cblock: int, before: int) -> None:
        """Learn that a cache block has more sectors from now on than these, and that they may not be durable."""
        self._fillings += 1
        entry = self._unflushed.setdefault(cblock, _Unflushed(0, before))
        entry.filling = self._fillings

    def unmapped(self, cblocks: Iterable[int]) -> None:
        """Learn that no row names these cache blocks any more."""
        for cblock in cblocks:
            self._unflushed.pop(cblock, None)

    def what_is_left(self, cblock: int) -> int | None:
        """Return the sectors of a cache block that are not lost; None for all of them, as while no cache is lost.

        The others may show what another block has left there.
        """
        entry = self._unflushed.get(cblock) if self._health.cache_lost else None
        return None if entry is None else entry.durable

    async def flush(self, *, cache: bool, origin: bool) -> None:
        """Flush one store or both, side by side, but never a cache that is given up; raises StoreError."""
        needs = ((self._flush_cache, cache and not self._health.cache_lost), (self._flush_origin, origin))
        await gather([flush for flush, needed in needs if needed])

    async def origin_has_all(self) -> bool:
        """Tell whether the origin has all that was written to it; one that has forgotten some says so at a flush."""
        with suppress(StoreError):  # health has it
            await self._flush_origin()
        return not self._health.origin_lost

    async def _flush_cache(self) -> None:
        valid = self._mapping.valid
        before = [(cblock, entry, entry.filling, valid.get(cblock, 0)) for cblock, entry in self._unflushed.items()]
        try:
            await self._cache.flush()
        except StoreError as exc:
            if not self._health.cache_lost:
                self._health.cache_lost = self._health.unreported = str(exc)
                self._health.emptying = True
                for cblock, entry in self._unflushed.items():
                    self.on_lost_write(cblock, entry.durable)
            self.cache_failed.set()
            raise
        for cblock, entry, filling, sectors in before:
            if self._unflushed.get(cblock) is entry:
                if entry.filling == filling:
                    del self._unflushed[cblock]
                else:
                    entry.durable |= sectors

    async def _flush_origin(self) -> None:
        writes = self._origin_writes
        try:
            await self._origin.flush()
        except StoreError as exc:
            self._health.origin_lost = str(exc)
            raise
        self._origin_flushed = max(self._origin_flushed, writes)
