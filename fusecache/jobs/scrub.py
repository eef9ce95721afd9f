"""The scrub: reads what is cached, at leisure, and holds it against its checksums.

Theory of operation
-------------------
Every clean block has the CRC-32C of its content, taken when it was copied (:mod:`fusecache.migration.worker`).  A write
that goes to both stores makes it void, and so does a crash.  The scrub goes round and round over the blocks, so many
bytes a second:

* A block whose content is not what its sum says has rotted.  Its readers and writers are kept out, it is looked at once
  more, and is then *healed*: rewritten from the origin.  If that cannot be done it is dropped.
* A block without a sum is compared with the origin.  If they are the same, it gets one; if not, it is healed likewise.

Dirty blocks have no sum, since any write would make it void.  Reading them shows at least whether they can be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio
from crc32c import crc32c

from fusecache.errors import BusyError, FusecacheError, StoreError

if TYPE_CHECKING:
    from fusecache.jobs.job import Job
    from fusecache.jobs.table import Jobs
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_LEAST_PAUSE: Final = 1.0
"""Seconds between two rounds."""


class Scrub:
    """The scrub of one volume; :meth:`run` does the work.

    :ivar rate: bytes a second; 0 for none.
    """

    __slots__ = ("_changed", "_job", "_jobs", "_volume", "_worker", "rate")

    def __init__(self, volume: Volume, worker: MigrationWorker, jobs: Jobs, rate: int = 0) -> None:
        self._volume = volume
        self._worker = worker
        self._jobs = jobs
        self._job: Job | None = None
        self._changed = trio.Event()
        self.rate = rate

    def set_rate(self, rate: int) -> None:
        """Go on at another rate, from now on; 0 ends the round that is under way."""
        self.rate = rate
        if not rate and self._job is not None:
            self._job.cancel("the rate was set to 0")
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def run(self) -> None:
        """Scrub until cancelled."""
        while True:
            while not self.rate:
                await self._changed.wait()
            await self.round()
            await trio.sleep(_LEAST_PAUSE)

    async def round(self) -> None:
        """Look at every block that is cached, once."""
        mapping = self._volume.mapping
        with self._jobs.job("scrub", total=mapping.mapped_count) as job:
            self._job = job
            for cblock, oblock in mapping.mapped():
                if job.cancelled:
                    break
                began = trio.current_time()
                try:
                    await self._look_at(cblock, oblock)
                except BusyError:
                    pass  # it is being migrated; the next round will see it
                except FusecacheError as exc:
                    log.warning("scrub passes a block by", oblock=oblock, error=str(exc))
                job.advance()
                await self._wait_for_rate(job, began)

    async def _wait_for_rate(self, job: Job, began: float) -> None:
        """Wait until the next block may be read, if reading the last one began then; the rate may change meanwhile."""
        while not job.cancelled:
            with trio.move_on_at(began + self._volume.geometry.block_size / self.rate) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                break

    async def _look_at(self, cblock: int, oblock: int) -> None:
        volume = self._volume
        health = volume.health
        if health.cache_lost or health.origin_lost or health.read_only:
            return  # an origin that lost what was written is nothing to heal from
        before = volume.mapping.sum_of(cblock)
        try:
            found = await self._sum(cblock)
        except StoreError:
            volume.counters.cache_errors += 1
            if volume.mapping.oblock_of[cblock] != oblock:
                return
            if volume.is_dirty(cblock):
                await self._worker.steps.name_lost(oblock, cblock)
            else:
                self._worker.drop_unreadable(oblock)
            raise
        volume.counters.scrubbed += 1
        unchanged = volume.mapping.oblock_of[cblock] == oblock and not volume.is_dirty(cblock)
        if not unchanged or (before is not None and before == found):
            return
        try:
            if await self._worker.steps.heal(oblock, cblock):
                log.error("rot healed from the origin", oblock=oblock, cblock=cblock)
        except StoreError:
            self._worker.drop_unreadable(oblock)
            raise

    async def _sum(self, cblock: int) -> int:
        volume = self._volume
        buffer = bytearray(volume.geometry.block_size)
        await volume.cache.read(cblock * volume.geometry.block_size, buffer)
        return crc32c(buffer)
