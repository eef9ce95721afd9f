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
there before them.  So the cache is given up, and these blocks count as clean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from fusecache.errors import StoreError
from fusecache.tasks import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fusecache.block import Health
    from fusecache.stores import Store


class Flushes:
    """The flushes of one volume's stores.  Flushes of one store that come side by side wait for each other there.

    :ivar cache_failed: set when the cache is given up because it could not be flushed.
    :ivar on_lost_write: called then with every cache block whose writes are lost.
    """

    __slots__ = (
        "_cache",
        "_health",
        "_origin",
        "_origin_flushed",
        "_origin_writes",
        "_promotions",
        "_unflushed",
        "cache_failed",
        "on_lost_write",
    )

    def __init__(self, cache: Store, origin: Store, health: Health) -> None:
        self._cache = cache
        self._origin = origin
        self._health = health
        self._origin_writes = 1  # what a killed process left, if any
        self._origin_flushed = 0
        self._unflushed: dict[int, int] = {}
        """Cache blocks that no flush has made durable since their promotion, with the number of that promotion."""
        self._promotions = 0
        self.on_lost_write: Callable[[int], None] = lambda _: None
        self.cache_failed = trio.Event()

    def origin_written(self) -> None:
        """Learn that the origin has taken what the next fsync has to make durable there."""
        self._origin_writes += 1

    @property
    def origin_unflushed(self) -> bool:
        """Whether an fsync has to flush the origin."""
        return self._origin_writes > self._origin_flushed or bool(self._health.origin_lost)

    def promoted(self, cblock: int) -> None:
        """Learn that a cache block has another block's content from now on, which may not be durable."""
        self._promotions += 1
        self._unflushed[cblock] = self._promotions

    def unmapped(self, cblocks: Iterable[int]) -> None:
        """Learn that no row names these cache blocks any more."""
        for cblock in cblocks:
            self._unflushed.pop(cblock, None)

    def has_lost_writes(self, cblock: int) -> bool:
        """Tell whether what the cache has of a block may be what another block has left there."""
        return bool(self._health.cache_lost) and cblock in self._unflushed

    async def flush(self, *, cache: bool, origin: bool) -> None:
        """Flush one store or both, side by side, but never a cache that is given up; raises StoreError."""
        needs = ((self._flush_cache, cache and not self._health.cache_lost), (self._flush_origin, origin))
        await gather([flush for flush, needed in needs if needed])

    async def _flush_cache(self) -> None:
        unflushed = list(self._unflushed.items())
        try:
            await self._cache.flush()
        except StoreError as exc:
            if not self._health.cache_lost:
                self._health.cache_lost = self._health.unreported = str(exc)
                self._health.emptying = True
                for cblock in self._unflushed:
                    self.on_lost_write(cblock)
            self.cache_failed.set()
            raise
        for cblock, promotion in unflushed:
            if self._unflushed.get(cblock) == promotion:
                del self._unflushed[cblock]

    async def _flush_origin(self) -> None:
        writes = self._origin_writes
        try:
            await self._origin.flush()
        except StoreError as exc:
            self._health.origin_lost = str(exc)
            raise
        self._origin_flushed = max(self._origin_flushed, writes)
