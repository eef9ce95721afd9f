"""Writing back everything that is dirty, because a user asked for it or because writeback mode is being left.

Theory of operation
-------------------
*Each who asks has a flush of their own*: the blocks that were dirty at that moment, as one byte for each cache block.
It ends when these are written, whatever turns dirty meanwhile and whoever asks after it, and its failures are told to
who asked and to nobody else.

*What several of them want is written once.*  The flush that was asked for first is worked at, in the order of the
origin; each block that it is through with is crossed off all the others that want it.  So nobody waits for a block of
others, but for those that were dirty already when they were asked to wait for it.

What must hold: a cache block that is crossed off holds nothing that was dirty when the flush was asked for.  It is
crossed off when it is found clean, or when what it held has left; both mean that the origin was given it.

Neighbours go together, and keep nobody from writing to them while they do.  What is still dirty after that, because it
was written to, or failed, or was being migrated, goes alone, and keeps writers out: so there is an end to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.block import UNMAPPED
from fusecache.config import COPY_SIZE
from fusecache.errors import BusyError, FusecacheError, RefusedError
from fusecache.migration import in_origin_order
from fusecache.tasks import for_each
from policies import Op, Work

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusecache.jobs.job import Job
    from fusecache.jobs.table import Jobs
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

FLUSH: Final = "flush"
_MOST_FLUSHES: Final = 64
"""Flushes at a time; each takes a byte of memory for each cache block."""
_SIDE_BY_SIDE: Final = 4
_ATTEMPTS: Final = 3
_RETRY_SECONDS: Final = 0.2
_HOPELESS: Final = 64
"""When so many blocks in a row could not be written, the next ones are not tried again and again."""
_MOST_LINES: Final = 16
"""Blocks that one flush names in the log because they could not be written."""


class _Flush:
    """What somebody asked for: blocks that were dirty then."""

    __slots__ = ("ended", "failed", "failure", "is_part", "job", "left", "reason", "wanted")

    def __init__(self, job: Job, wanted: bytearray, *, is_part: bool) -> None:
        self.job = job
        self.is_part = is_part
        """Whether the job goes on when this has ended."""
        self.wanted = wanted
        """For each cache block 1 while this waits for it."""
        self.left = wanted.count(1)
        self.failed = 0
        """Blocks that could not be written."""
        self.reason = ""
        """Why the last one of these could not."""
        self.failure: FusecacheError | None = None
        self.ended = trio.Event()

    def cross_off(self, cblock: int, error: FusecacheError | None) -> None:
        """Wait for a block no longer, if this does."""
        if self.wanted[cblock]:
            self.wanted[cblock] = 0
            self.left -= 1
            self.job.advance()
            if error is not None:
                self.failed += 1
                self.reason = str(error)


class Flusher:
    """The flushes of one volume; :meth:`run` does the work."""

    __slots__ = ("_asked", "_failed", "_flushes", "_hopeless", "_jobs", "_lines", "_volume", "_worker")

    def __init__(self, volume: Volume, worker: MigrationWorker, jobs: Jobs) -> None:
        self._volume = volume
        self._worker = worker
        self._jobs = jobs
        self._flushes: list[_Flush] = []
        """Those that have not ended, in the order in which they were asked for."""
        self._asked = trio.Event()
        self._failed = 0
        self._hopeless = 0
        """How many blocks in a row could not be written."""
        self._lines = 0
        """How many blocks the flush that is worked at has named in the log."""

    @property
    def pending(self) -> int:
        """Blocks that are still to be written; at least 1 until everything is durable."""
        return max((max(1, flush.left) for flush in self._flushes), default=0)

    @property
    def failed(self) -> int:
        """Blocks that the flush that ended last could not write; at least 1 if something else went wrong."""
        return self._failed

    def start(self) -> Job:
        """Ask for everything that is dirty now to be written; returns at once.

        :raises BusyError: too many wait already.
        """
        if len(self._flushes) >= _MOST_FLUSHES:
            msg = f"{len(self._flushes)} flushes are under way already: try again when some have ended"
            raise BusyError(msg)
        return self._ask(self._jobs.begin(FLUSH)).job

    async def flush(self, job: Job | None = None) -> None:
        """Write everything that is dirty now, durably; raises FusecacheError if some of it could not be.

        :param job: what this is a part of; none for a flush by itself.
        """
        flush = self._ask(job or self._jobs.begin(FLUSH), is_part=job is not None)
        await flush.ended.wait()
        if flush.failure is not None:
            raise flush.failure

    def _ask(self, job: Job, *, is_part: bool = False) -> _Flush:
        if not self._flushes:
            self._failed = 0
        flush = _Flush(job, self._volume.mapping.dirty_map(), is_part=is_part)
        job.total += flush.left
        self._flushes.append(flush)
        self._asked.set()
        return flush

    async def run(self) -> None:
        """Serve flushes until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while self._flushes:
                self._hopeless = self._lines = 0
                cblocks = await in_origin_order(self._volume.mapping, self._flushes[0].wanted.__getitem__)
                await for_each(self._take(self._flushes[0], cblocks), self._write, side_by_side=_SIDE_BY_SIDE)
                await self._complete()

    def _take(self, flush: _Flush, cblocks: Iterable[int]) -> Iterator[list[int]]:
        """Take runs of neighbours out of what a flush wants."""
        oblock_of = self._volume.mapping.oblock_of
        most = max(1, COPY_SIZE // self._volume.geometry.block_size)
        run: list[int] = []
        for cblock in cblocks:
            if run and (len(run) == most or oblock_of[cblock] != oblock_of[run[-1]] + 1):
                yield run
                run = []
            if flush.job.cancelled:
                return
            run.append(cblock)
        if run:
            yield run

    async def _write(self, cblocks: list[int]) -> None:
        """Write cache blocks that are neighbours at the origin, and cross them off."""
        works = list[Work]()
        for cblock in cblocks:
            if self._is_dirty(cblock):
                works.append(Work(Op.WRITEBACK, self._volume.mapping.oblock_of[cblock], cblock))
            else:
                self._cross_off(cblock, None)
        if not works:
            return
        errors = await self._worker.write_back(works)
        for work in works:
            error = errors.get(work)
            if self._hopeless < _HOPELESS or error is None or isinstance(error, BusyError):
                error = await self._clean(work.cblock)
            self._cross_off(work.cblock, error)

    async def _clean(self, cblock: int) -> FusecacheError | None:
        """Write what a cache block holds alone if it is dirty still; returns why that could not be done.

        When this returns None, the block has just been seen clean.
        """
        error: FusecacheError | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                if self._hopeless >= _HOPELESS:
                    break
                await trio.sleep(_RETRY_SECONDS)
            if not self._is_dirty(cblock):
                return None
            try:
                await self._worker.steps.clean(self._volume.mapping.oblock_of[cblock])
            except FusecacheError as exc:
                error = exc
            else:
                if not self._is_dirty(cblock):
                    return None
                error = BusyError(f"cache block {cblock} holds another block each time")
        return error

    def _cross_off(self, cblock: int, error: FusecacheError | None) -> None:
        self._hopeless = self._hopeless + 1 if error is not None else 0
        if error is not None and self._lines < _MOST_LINES:
            self._lines += 1
            log.warning("writeback failed", oblock=self._volume.mapping.oblock_of[cblock], error=str(error))
        for flush in self._flushes:
            flush.cross_off(cblock, error)

    def _is_dirty(self, cblock: int) -> bool:
        return self._volume.mapping.oblock_of[cblock] != UNMAPPED and self._volume.is_dirty(cblock)

    async def _complete(self) -> None:
        """Make durable what was written, and end the flushes that wait for nothing else."""
        ready = [flush for flush in self._flushes if not flush.left or flush.job.cancelled]
        error: FusecacheError | None = None
        if any(not flush.left for flush in ready):
            try:
                await self._volume.durability.flush()
            except FusecacheError as exc:
                error = exc
        for flush in ready:
            self._end(flush, error)

    def _end(self, flush: _Flush, error: FusecacheError | None) -> None:
        """End a flush; ``error`` is why what was written is not durable."""
        job = flush.job
        if flush.left:
            flush.failure = RefusedError(job.cancelled)
        elif error is not None:
            flush.failure = error
        elif flush.failed:
            msg = f"{flush.failed} blocks could not be written to the origin; they are still dirty in the cache"
            flush.failure = FusecacheError(f"{msg}: {flush.reason}")
        self._failed = max(flush.failed, int(flush.failure is not None))
        self._flushes.remove(flush)
        if flush.failure is not None and not job.cancelled:
            log.error("flush failed", job=job.title, blocks=flush.failed, error=str(flush.failure))
        if not flush.is_part:
            if flush.failure is not None:
                job.fail(flush.failure)
            self._jobs.end(job)
        flush.ended.set()

    def check(self) -> None:
        """Assert that every flush knows for how many blocks it waits, and will end."""
        for flush in self._flushes:
            assert flush.left == flush.wanted.count(1)
            assert flush.job in self._jobs.running
            assert not flush.ended.is_set()
