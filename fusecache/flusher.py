"""Writing back everything that is dirty, because a user asked for it or because writeback mode is being left.

What is dirty when a flush is asked for is what it writes, in the order of the origin; blocks that turn dirty
meanwhile belong to the next one.  Flushes that are asked for while one runs are joined to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.errors import FusecacheError
from fusecache.gather import for_each
from fusecache.mapping import DIRTY

if TYPE_CHECKING:
    from fusecache.migrations import Migrations
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_SIDE_BY_SIDE: Final = 4
_ATTEMPTS: Final = 3
_RETRY_SECONDS: Final = 0.2
_NO_BLOCK: Final = -1
"""Stands for a failure that is no block's own."""


class Flusher:
    """The flush of one volume; :meth:`run` does the work."""

    __slots__ = ("_asked", "_blocks", "_done", "_failed", "_migrations", "_running", "_todo", "_volume")

    def __init__(self, volume: Volume, migrations: Migrations) -> None:
        self._volume = volume
        self._migrations = migrations
        self._todo: set[int] = set()
        self._asked = trio.Event()
        self._done = trio.Event()
        self._blocks = 0
        self._running = False
        self._failed: set[int] = set()

    @property
    def pending(self) -> int:
        """Blocks that the flush under way has still to look at; at least 1 until everything is durable."""
        return max(self._blocks, int(self._running))

    @property
    def failed(self) -> int:
        """Blocks that the last flush could not write; at least 1 if it could not be made durable."""
        return len(self._failed)

    def start(self) -> None:
        """Ask for everything that is dirty now to be written; returns at once."""
        mapping = self._volume.mapping
        if not self._running:
            self._failed.clear()
        self._running = True
        new = {mapping.oblock_of[cblock] for cblock in mapping.dirty_blocks()} - self._todo
        self._todo |= new
        self._blocks += len(new)
        self._asked.set()

    async def flush(self) -> None:
        """Write everything that is dirty now, durably; raises FusecacheError if some of it could not be."""
        self.start()
        await self._done.wait()
        if self.failed:
            msg = f"{self.failed} blocks could not be written to the origin; they are still dirty in the cache"
            raise FusecacheError(msg)

    def give_up(self) -> None:
        """Count what the flush was asked for as failed, for a reason that is no block's own."""
        self._failed.add(_NO_BLOCK)

    async def run(self) -> None:
        """Serve flushes until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while self._todo:
                todo, self._todo = sorted(self._todo), set()
                await self._write(todo)
            try:
                await self._volume.durability.flush()
            except FusecacheError as exc:
                self.give_up()
                log.error("flush failed", error=str(exc))
            if not self._asked.is_set():
                self._running = False
                done, self._done = self._done, trio.Event()
                done.set()

    async def _write(self, todo: list[int]) -> None:
        async def write(oblock: int) -> None:
            if await self._clean(oblock):
                self._failed.discard(oblock)
            else:
                self._failed.add(oblock)
            self._blocks -= 1

        await for_each(todo, write, side_by_side=_SIDE_BY_SIDE)

    async def _clean(self, oblock: int) -> bool:
        mapping = self._volume.mapping
        for attempt in range(1, _ATTEMPTS + 1):
            cblock = mapping.find(oblock)
            if cblock < 0 or not mapping.flags[cblock] & DIRTY:
                return True
            try:
                await self._migrations.clean(oblock)
            except FusecacheError as exc:
                log.warning("writeback failed", oblock=oblock, attempt=attempt, error=str(exc))
                await trio.sleep(_RETRY_SECONDS)
            else:
                return True
        return False
