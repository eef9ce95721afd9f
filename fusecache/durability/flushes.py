"""Flushing the two stores: what fsyncs are owed, and what a flush that fails takes with it.

Theory of operation
-------------------
The origin *owes* a flush from the moment at which it has taken something that the next fsync has to make durable, until
a flush that began later has ended.  What migrations write there is not owed: their rows see to that.

A flush of the cache that fails may have lost whatever the cache took since the last one: what the kernel could not
write it forgets (fsync(2)), and sooner or later reads what was there before.  Where that is an older content of the
same block, it is one that was durable; but a block that no flush has made durable since its promotion, a *fresh* one,
would show what another block has left there.  Such blocks are *forsaken*: the origin has what was there before.
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

    :ivar given_up: set when the cache is given up, since it could not be flushed.
    :ivar forsake: called then for every fresh block.
    """

    __slots__ = ("_cache", "_fresh", "_health", "_origin", "_owed", "_paid", "_promotions", "forsake", "given_up")

    def __init__(self, cache: Store, origin: Store, health: Health) -> None:
        self._cache = cache
        self._origin = origin
        self._health = health
        self._owed = 1  # what a killed process left, if any
        self._paid = 0
        self._fresh: dict[int, int] = {}
        self._promotions = 0
        self.forsake: Callable[[int], None] = lambda _: None
        self.given_up = trio.Event()

    def owe(self) -> None:
        """Learn that the origin has taken what the next fsync has to make durable there."""
        self._owed += 1

    @property
    def owed(self) -> bool:
        """Whether an fsync has to flush the origin."""
        return self._owed > self._paid or bool(self._health.origin_lost)

    def promoted(self, cblock: int) -> None:
        """Learn that a cache block has another block's content from now on, which may not be durable."""
        self._promotions += 1
        self._fresh[cblock] = self._promotions

    def unmapped(self, cblocks: Iterable[int]) -> None:
        """Learn that no row names these cache blocks any more."""
        for cblock in cblocks:
            self._fresh.pop(cblock, None)

    def is_forsaken(self, cblock: int) -> bool:
        """Tell whether nothing counts that the cache has of a block."""
        return bool(self._health.cache_lost) and cblock in self._fresh

    async def flush(self, *, cache: bool, origin: bool) -> None:
        """Flush one store or both, side by side, but never a cache that is given up; raises StoreError."""
        needs = ((self._flush_cache, cache and not self._health.cache_lost), (self._flush_origin, origin))
        await gather([flush for flush, needed in needs if needed])

    async def _flush_cache(self) -> None:
        fresh = list(self._fresh.items())
        try:
            await self._cache.flush()
        except StoreError as exc:
            if not self._health.cache_lost:
                self._health.cache_lost = self._health.untold = str(exc)
                self._health.emptying = True
                for cblock in self._fresh:
                    self.forsake(cblock)
            self.given_up.set()
            raise
        for cblock, promotion in fresh:
            if self._fresh.get(cblock) == promotion:
                del self._fresh[cblock]

    async def _flush_origin(self) -> None:
        owed = self._owed
        try:
            await self._origin.flush()
        except StoreError as exc:
            self._health.origin_lost = str(exc)
            raise
        self._paid = max(self._paid, owed)
