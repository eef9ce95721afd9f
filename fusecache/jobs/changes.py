"""Changes that need the rest to stand still: of policy and mode, dropping blocks, decommissioning.  One at a time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.config import Mode, PolicyChoice
from fusecache.errors import FusecacheError, InvalidError, RefusedError
from fusecache.grammar import parse_range
from fusecache.jobs.flush import FLUSH
from fusecache.jobs.switching import drop_all, switch_mode, switch_policy
from fusecache.volume import new_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusecache.jobs.flush import Flusher
    from fusecache.jobs.job import Job
    from fusecache.jobs.table import Jobs
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_DECOMMISSION: Final = "decommission"


class Changes:
    """Whoever changes something of one volume waits here for those before.

    :ivar decommissioned: whether the origin alone is complete and nothing is cached, because somebody asked for that.
    """

    __slots__ = ("_asked", "_flusher", "_jobs", "_one_at_a_time", "_volume", "_waiting", "_worker", "decommissioned")

    def __init__(self, volume: Volume, worker: MigrationWorker, flusher: Flusher, jobs: Jobs) -> None:
        self._volume = volume
        self._worker = worker
        self._flusher = flusher
        self._jobs = jobs
        self._one_at_a_time = trio.Lock()
        self._asked = trio.Event()
        self._waiting: Job | None = None
        """The decommissioning that was asked for and has not been taken up yet."""
        self.decommissioned = False

    async def set_policy(self, choice: PolicyChoice) -> None:
        """Have another policy decide; raises InvalidError, and then the old one still does."""
        volume = self._volume
        async with self._one_at_a_time:
            new = new_policy(volume.geometry, choice)
            with self._jobs.job("policy", new.name) as job, _taking_over(choice.name):
                await switch_policy(volume, self._worker, new, job)
            if choice.migration_threshold is not None:
                volume.migration_threshold = choice.migration_threshold
                self._worker.wake()

    async def set_mode(self, mode: Mode) -> None:
        """Change the mode; raises FusecacheError, and then it is what it was."""
        async with self._one_at_a_time:
            await self._set_mode(mode)

    async def _set_mode(self, mode: Mode) -> None:
        volume = self._volume
        policy = volume.policy
        replacement = new_policy(volume.geometry, PolicyChoice(policy.name, tuple(policy.config_values().items())))
        with self._jobs.job("mode", mode.value) as job, _taking_over(policy.name):
            await switch_mode(volume, self._worker, self._flusher, mode, replacement, job)
        if mode is not Mode.PASSTHROUGH:
            self.decommissioned = False

    async def drop(self, ranges: Iterable[str]) -> None:
        """Drop ranges of cache blocks in passthrough mode, one by one; those before a bad one stay dropped."""
        volume = self._volume
        async with self._one_at_a_time:
            if volume.mode is not Mode.PASSTHROUGH:
                msg = "invalidate_cblocks works in passthrough mode only"
                raise RefusedError(msg)
            with self._jobs.job("invalidate") as job:
                for text in ranges:
                    begin, end = parse_range(text, volume.geometry.cache_blocks)
                    job.total += end - begin
                    for cblock in range(begin, end):
                        if (oblock := volume.mapping.oblock_of[cblock]) >= 0:
                            await self._worker.invalidate(oblock)
                        job.advance()

    # Decommissioning

    def decommission(self) -> None:
        """Begin to make the origin complete and the cache empty; the image stays, served by the origin alone."""
        self.decommissioned = False
        if self._waiting is None:
            self._waiting = self._jobs.begin(_DECOMMISSION)
        self._flusher.start()
        self._asked.set()

    @property
    def decommission_failed(self) -> bool:
        """Whether the last decommissioning failed, and no flush has begun since."""
        asked, flush = self._jobs.latest(_DECOMMISSION), self._jobs.latest(FLUSH)
        if asked is None or asked.ended is None or not asked.error:
            return False
        return flush is None or flush.began <= asked.ended

    async def run(self) -> None:
        """Carry out decommissioning, each time that it is asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            job, self._waiting = self._waiting, None
            assert job is not None, "whoever asks begins one"
            try:
                with self._jobs.ending(job):
                    await self._decommission(job)
            except FusecacheError as exc:
                log.error("decommissioning failed", error=str(exc))

    async def _decommission(self, job: Job) -> None:
        async with self._one_at_a_time:
            await self._set_mode(Mode.PASSTHROUGH)
            await drop_all(self._volume, self._worker, job)
            self.decommissioned = True
        log.info("decommissioned: the origin alone is complete")

    def check(self) -> None:
        """Assert that a decommissioning that was asked for will be taken up."""
        assert (self._waiting is not None) == self._asked.is_set()
        assert self._waiting is None or self._waiting in self._jobs.running


@contextmanager
def _taking_over(name: str) -> Iterator[None]:
    """Let whatever another package's policy raises while it is told of what is cached be an InvalidError."""
    try:
        yield
    except FusecacheError:
        raise
    except Exception as exc:
        log.exception("policy does not take over", policy=name)
        msg = f"policy {name!r} does not take over: {type(exc).__name__}: {exc}"
        raise InvalidError(msg) from exc
