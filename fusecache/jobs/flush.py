"""Writing back everything that is dirty, because a user asked for it or because writeback mode is being left.

A flush writes what is dirty when it is asked for, in the order of the origin; blocks that turn dirty meanwhile belong
to the next one.  Whoever asks while a flush runs joins it, and it goes on with what is dirty by then.

Neighbours go together, and keep nobody from writing to them while they do.  What is still dirty after that, because it
was written to, or failed, or was being migrated, goes alone, and keeps writers out: so there is an end to it.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.config import COPY_SIZE
from fusecache.errors import FusecacheError
from fusecache.tasks import for_each
from policies import Op, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.jobs.job import Job
    from fusecache.jobs.table import Jobs
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

FLUSH: Final = "flush"
_SIDE_BY_SIDE: Final = 4
_ATTEMPTS: Final = 3
_RETRY_SECONDS: Final = 0.2


class Flusher:
    """The flush of one volume; :meth:`run` does the work."""

    __slots__ = (
        "_asked",
        "_failed",
        "_finished",
        "_job",
        "_jobs",
        "_position",
        "_todo",
        "_volume",
        "_worker",
    )

    def __init__(self, volume: Volume, worker: MigrationWorker, jobs: Jobs) -> None:
        self._volume = volume
        self._worker = worker
        self._jobs = jobs
        self._job: Job | None = None
        """The flush that is under way, or the last one."""
        self._asked = trio.Event()
        self._finished = trio.Event()
        """Set when the flush that is under way has ended."""
        self._todo = array("q")
        """Blocks of the origin, in its order; 8 bytes each, since a cache may have millions."""
        self._position = 0
        """Those before this one in it have been taken."""
        self._failed: set[int] = set()
        """Blocks that it could not write."""

    @property
    def pending(self) -> int:
        """Blocks that the flush under way has still to look at; at least 1 until everything is durable."""
        return self._job.left if self._job is not None else 0

    @property
    def failed(self) -> int:
        """Blocks that the last flush could not write; at least 1 if something else went wrong."""
        return max(len(self._failed), int(self._job is not None and bool(self._job.error)))

    def start(self) -> Job:
        """Ask for everything that is dirty now to be written; returns at once."""
        if self._job is None or self._job.ended is not None:
            self._failed.clear()
            self._job = self._jobs.begin(FLUSH)
        left = self._todo[self._position :]
        dirty = self._volume.mapping.dirty_oblocks()
        self._todo = array("q", sorted({*left, *dirty}) if left else dirty)
        self._position = 0
        self._job.total += len(self._todo) - len(left)
        self._asked.set()
        return self._job

    async def flush(self) -> None:
        """Write everything that is dirty now, durably; raises FusecacheError if some of it could not be."""
        job = self.start()
        await self._finished.wait()
        if job.error:
            raise FusecacheError(job.error)

    async def run(self) -> None:
        """Serve flushes until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            job = self._job
            assert job is not None, "whoever asks begins one"
            await for_each(self._take(job), partial(self._write, job), side_by_side=_SIDE_BY_SIDE)
            try:
                await self._volume.durability.flush()
            except FusecacheError as exc:
                job.fail(str(exc))
                log.error("flush failed", error=str(exc))
            if not self._asked.is_set():
                self._finish(job)

    def _finish(self, job: Job) -> None:
        if job.cancelled:
            job.fail(job.cancelled)
        elif self._failed and not job.error:
            job.fail(
                f"{len(self._failed)} blocks could not be written to the origin; they are still dirty in the cache"
            )
        self._todo = array("q")
        self._position = 0
        self._jobs.end(job)
        finished, self._finished = self._finished, trio.Event()
        finished.set()

    def _take(self, job: Job) -> Iterator[range]:
        """Take runs of neighbours out of what is to be done."""
        most = max(1, COPY_SIZE // self._volume.geometry.block_size)
        while self._position < len(self._todo) and not job.cancelled:
            first = end = self._todo[self._position]
            while end - first < most and self._position < len(self._todo) and self._todo[self._position] == end:
                self._position += 1
                end += 1
            yield range(first, end)

    async def _write(self, job: Job, oblocks: range) -> None:
        works = [Work(Op.WRITEBACK, oblock, self._dirty_cblock(oblock)) for oblock in oblocks]
        if works := [work for work in works if work.cblock >= 0]:
            await self._write_together(works)
        for oblock in oblocks:
            if await self._clean(oblock):
                self._failed.discard(oblock)
            else:
                self._failed.add(oblock)
            job.advance()

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

    def check(self) -> None:
        """Assert that what is to be done is counted, and belongs to a flush that is under way."""
        to_take = len(self._todo) - self._position
        assert 0 <= to_take <= self.pending, (to_take, self.pending)
        assert self.pending or not self._asked.is_set()
