"""Writing back everything that is dirty, because a user asked for it or because writeback mode is being left.

What is dirty when a flush is asked for is what it writes, in the order of the origin; blocks that turn dirty
meanwhile belong to the next one.  Flushes that are asked for while one runs are joined to it.

Neighbours go together, and keep nobody from writing to them while they do.  What is still dirty after that, because it
was written to, or failed, or was being migrated, goes alone, and keeps writers out: so there is an end to it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.config import COPY_SIZE
from fusecache.errors import FusecacheError
from fusecache.tasks import for_each
from policies import Op, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_SIDE_BY_SIDE: Final = 4
_ATTEMPTS: Final = 3
_RETRY_SECONDS: Final = 0.2


class Flusher:
    """The flush of one volume; :meth:`run` does the work."""

    __slots__ = (
        "_asked",
        "_done",
        "_failed",
        "_position",
        "_reason",
        "_running",
        "_stopped",
        "_todo",
        "_volume",
        "_worker",
        "_writing",
    )

    def __init__(self, volume: Volume, worker: MigrationWorker) -> None:
        self._volume = volume
        self._worker = worker
        self._todo = array("q")
        """Blocks of the origin, in its order; 8 bytes each, since a cache may have millions."""
        self._position = 0
        """Those before this one in it have been taken."""
        self._writing = 0
        self._running = False
        self._asked = trio.Event()
        self._done = trio.Event()
        self._failed: set[int] = set()
        self._reason = ""
        self._stopped = ""

    @property
    def pending(self) -> int:
        """Blocks that the flush under way has still to look at; at least 1 until everything is durable."""
        return max(len(self._todo) - self._position + self._writing, int(self._running))

    @property
    def failed(self) -> int:
        """Blocks that the last flush could not write; at least 1 if something else went wrong."""
        return max(len(self._failed), int(bool(self._reason)))

    def start(self) -> None:
        """Ask for everything that is dirty now to be written; returns at once."""
        if not self._running:
            self._failed.clear()
            self._reason = ""
        self._running = True
        left = self._todo[self._position :]
        dirty = self._volume.mapping.dirty_oblocks()
        self._todo = array("q", sorted({*left, *dirty}) if left else dirty)
        self._position = 0
        self._asked.set()

    async def flush(self) -> None:
        """Write everything that is dirty now, durably; raises FusecacheError if some of it could not be."""
        self.start()
        await self._done.wait()
        if self._reason:
            raise FusecacheError(self._reason)
        if self._failed:
            msg = f"{self.failed} blocks could not be written to the origin; they are still dirty in the cache"
            raise FusecacheError(msg)

    def give_up(self, reason: str) -> None:
        """Count what the flush was asked for as failed, for a reason that is no block's own."""
        self._reason = reason

    def stop(self, reason: str) -> None:
        """Begin no more writes; this flush, and any later one, ends early and says why."""
        self._stopped = reason

    async def run(self) -> None:
        """Serve flushes until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            await for_each(self._taken(), self._write, side_by_side=_SIDE_BY_SIDE)
            try:
                await self._volume.durability.flush()
            except FusecacheError as exc:
                self.give_up(str(exc))
                log.error("flush failed", error=str(exc))
            if self._stopped:
                self._position = len(self._todo)
                self.give_up(self._stopped)
            if not self._asked.is_set():
                self._running = False
                done, self._done = self._done, trio.Event()
                done.set()

    def _taken(self) -> Iterator[range]:
        """Take runs of neighbours out of what is to be done."""
        most = max(1, COPY_SIZE // self._volume.geometry.block_size)
        while self._position < len(self._todo) and not self._stopped:
            first = end = self._todo[self._position]
            while end - first < most and self._position < len(self._todo) and self._todo[self._position] == end:
                self._position += 1
                end += 1
            yield range(first, end)

    async def _write(self, oblocks: range) -> None:
        self._writing += len(oblocks)
        works = [Work(Op.WRITEBACK, oblock, self._dirty_cblock(oblock)) for oblock in oblocks]
        if works := [work for work in works if work.cblock >= 0]:
            await self._write_together(works)
        for oblock in oblocks:
            if await self._clean(oblock):
                self._failed.discard(oblock)
            else:
                self._failed.add(oblock)
            self._writing -= 1

    async def _write_together(self, works: list[Work]) -> None:
        errors = await self._worker.write_back(works)
        for work, error in errors.items():
            log.warning("writeback failed", oblock=work.oblock, error=str(error))

    async def _clean(self, oblock: int) -> bool:
        for attempt in range(1, _ATTEMPTS + 1):
            if self._dirty_cblock(oblock) < 0:
                return True
            try:
                await self._worker.steps.clean(oblock)
            except FusecacheError as exc:
                log.warning("writeback failed", oblock=oblock, attempt=attempt, error=str(exc))
                await trio.sleep(_RETRY_SECONDS)
            else:
                return True
        return False

    def _dirty_cblock(self, oblock: int) -> int:
        """Return where a block is cached, or -1 if it need not be written back."""
        cblock = self._volume.mapping.find(oblock)
        return cblock if cblock >= 0 and self._volume.is_dirty(cblock) else -1
