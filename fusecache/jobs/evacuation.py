"""When the cache has failed: everything goes to the origin, block by block, until the cache is empty.

A block whose only copy cannot be read stays, and is tried again: its readers get errors for just what is unreadable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.errors import FusecacheError, RefusedError
from fusecache.tasks import for_each

if TYPE_CHECKING:
    from fusecache.jobs.table import Jobs
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_SIDE_BY_SIDE: Final = 64
_FIRST_PAUSE: Final = 1.0
_LAST_PAUSE: Final = 60.0


async def evacuate(volume: Volume, worker: MigrationWorker, jobs: Jobs) -> None:
    """Wait until the cache fails, if it ever does; then empty it, for as long as that takes."""
    await volume.durability.flushes.cache_failed.wait()
    mapping = volume.mapping
    log.error("the cache is given up", blocks=mapping.mapped_count, dirty=mapping.dirty_count)
    async with worker.paused():
        pass  # a promotion that was under way has mapped its block now

    async def leave(oblock: int) -> None:
        if job.cancelled:
            return
        try:
            await worker.invalidate(oblock)
        except FusecacheError as exc:
            errors.append(exc)
            del errors[:-1]  # one of them says it for all
        else:
            job.advance()

    errors: list[FusecacheError] = []
    pause = _FIRST_PAUSE
    with jobs.job("evacuate", total=mapping.mapped_count) as job:
        while mapping.mapped_count:
            errors.clear()
            await for_each((oblock for _, oblock in mapping.mapped()), leave, side_by_side=_SIDE_BY_SIDE)
            if left := mapping.mapped_count:
                if job.cancelled:
                    job.fail(RefusedError(job.cancelled))
                    return
                if errors:
                    log.warning("blocks are not brought to safety yet", blocks=left, error=str(errors[-1]))
                await trio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE)
    volume.health.emptying = False
    log.info("the cache is empty: the origin has everything")
