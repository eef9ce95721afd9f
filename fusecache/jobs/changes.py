"""Changes that need the rest to stand still: of policy and mode, dropping blocks, decommissioning.

Theory of operation
-------------------
A change is asked for and carried out later, one at a time, in the order in which they were asked for.  Whoever asks
hears at once of what cannot be: a policy that there is not, a range beyond the cache.  What goes wrong later is told by
the job.

*Who asks does not wait.*  The kernel holds the lock of the image's inode while an attribute is set, so whoever would
wait there keeps every write and every fsync of the image waiting.

*What follows a change that waits is held against what will be then.*  Blocks may be dropped if the mode is to be
passthrough by their turn, and a tunable is set of the policy that was asked for last.  What was set later is not undone
by a change that was asked for earlier: a migration threshold is taken out of those that wait.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.config import GIB, Mode, PolicyChoice
from fusecache.errors import BusyError, FusecacheError, InvalidError, RefusedError
from fusecache.grammar import parse_range
from fusecache.jobs.switching import drop, switch_mode, switch_policy
from fusecache.volume import new_policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from fusecache.jobs.flush import Flusher
    from fusecache.jobs.job import Job
    from fusecache.jobs.table import Jobs
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume
    from policies import Policy

log = structlog.get_logger(__name__)

_MOST_CHANGES: Final = 8
"""Changes that may be under way and waiting; a policy that waits takes as much memory as the present one."""

_DISCARDED_AT_ONCE: Final = 1 * GIB
"""Bytes between two looks whether to go on."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Change:
    """One change that was asked for, and what it will have changed."""

    job: Job
    carry_out: Callable[[_Change], Awaitable[None]]
    mode: Mode | None = None
    policy: Policy | None = None
    threshold: int | None = None


class Changes:
    """The changes of one volume; :meth:`run` carries them out.

    :ivar decommissioned: whether the origin alone is complete and nothing is cached, because somebody asked for that.
    """

    __slots__ = ("_asked", "_changes", "_flusher", "_jobs", "_mode", "_volume", "_worker", "decommissioned")

    def __init__(self, volume: Volume, worker: MigrationWorker, flusher: Flusher, jobs: Jobs) -> None:
        self._volume = volume
        self._worker = worker
        self._flusher = flusher
        self._jobs = jobs
        self._changes: list[_Change] = []
        """In the order in which they were asked for; the first is under way."""
        self._asked = trio.Event()
        self._mode: Mode | None = None
        """The mode that is being left, while that lasts."""
        self.decommissioned = False

    @property
    def mode(self) -> Mode:
        """The mode; while another one is being reached, the one that is being left."""
        return self._volume.mode if self._mode is None else self._mode

    @property
    def policy(self) -> Policy:
        """The policy that will decide when everything that was asked for is done."""
        asked = (change.policy for change in reversed(self._changes) if change.policy is not None)
        return next(asked, self._volume.policy)

    # Asking: nothing here waits

    def set_policy(self, choice: PolicyChoice) -> Job:
        """Have another policy decide; raises FusecacheError if that cannot be.  If it fails, the old one decides."""
        self._require_room()
        new = new_policy(self._volume.geometry, choice)
        carry_out = partial(self._set_policy, choice.name)
        return self._ask("policy", new.name, carry_out, policy=new, threshold=choice.migration_threshold)

    def set_mode(self, mode: Mode) -> Job:
        """Change the mode; if that fails, it is what it was."""
        return self._ask("mode", mode.value, partial(self._set_mode, mode), mode=mode)

    def set_threshold(self, size: int) -> None:
        """Set the migration threshold, at once; no change that waits sets it to anything else."""
        for change in self._changes:
            change.threshold = None
        self._take_threshold(size)

    def drop(self, ranges: Iterable[str]) -> Job:
        """Drop ranges of cache blocks in passthrough mode; raises FusecacheError if one of them is none."""
        mode = next((change.mode for change in reversed(self._changes) if change.mode is not None), self.mode)
        if mode is not Mode.PASSTHROUGH:
            msg = "invalidate_cblocks works in passthrough mode only"
            raise RefusedError(msg)
        cache_blocks = self._volume.geometry.cache_blocks
        cblocks = [range(*parse_range(text, cache_blocks)) for text in ranges]
        return self._ask("invalidate", "", partial(self._drop, cblocks))

    def discard(self, ranges: Iterable[tuple[int, int]], discard: Callable[[int, int], Awaitable[None]]) -> Job:
        """Have ranges of the image read as zeros.

        :param ranges: begin and end of each, in bytes.
        :param discard: does it, for an offset and a length.
        """
        return self._ask("discard", "", partial(self._discard, ranges, discard))

    def decommission(self) -> Job:
        """Make the origin complete and the cache empty; the image stays, served by the origin alone."""
        return self._ask("decommission", "", self._decommission, mode=Mode.PASSTHROUGH)

    def _require_room(self) -> None:
        if len(self._changes) >= _MOST_CHANGES:
            msg = f"{len(self._changes)} changes wait for one another: try again when some are done ({self._jobs})"
            raise BusyError(msg)

    def _ask(
        self,
        name: str,
        detail: str,
        carry_out: Callable[[_Change], Awaitable[None]],
        *,
        mode: Mode | None = None,
        policy: Policy | None = None,
        threshold: int | None = None,
    ) -> Job:
        self._require_room()
        job = self._jobs.begin(name, detail)
        job.waiting = bool(self._changes)
        self._changes.append(
            _Change(job=job, carry_out=carry_out, mode=mode, policy=policy, threshold=threshold),
        )
        self._asked.set()
        return job

    # Carrying out

    async def run(self) -> None:
        """Carry out what was asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while self._changes:
                change = self._changes[0]
                change.job.start()
                try:
                    with self._jobs.ending(change.job):
                        change.job.require_going_on()
                        await change.carry_out(change)
                except FusecacheError as exc:
                    log.error("change failed", change=change.job.title, error=str(exc))
                except Exception:  # the mount goes on, and who asked is told
                    log.exception("change failed unexpectedly", change=change.job.title)
                finally:
                    self._changes.remove(change)

    async def settle(self) -> None:
        """Wait until nothing that was asked for is under way."""
        while self._changes:
            with suppress(FusecacheError):
                await self._changes[-1].job.wait()
            await trio.lowlevel.checkpoint()

    async def _set_policy(self, name: str, change: _Change) -> None:
        assert change.policy is not None
        with _taking_over(name):
            await switch_policy(self._volume, self._worker, change.policy, change.job)
        if change.threshold is not None:
            self._take_threshold(change.threshold)

    def _take_threshold(self, size: int) -> None:
        self._volume.migration_threshold = size
        self._worker.wake()

    async def _set_mode(self, mode: Mode, change: _Change) -> None:
        volume = self._volume
        policy = volume.policy

        def replacement() -> Policy:
            choice = PolicyChoice(policy.name, tuple(policy.config_values().items()))
            change.policy = new_policy(volume.geometry, choice)
            return change.policy

        self._mode = volume.mode
        try:
            with _taking_over(policy.name):
                await switch_mode(volume, self._worker, self._flusher, mode, replacement, change.job)
        finally:
            self._mode = None
        if mode is not Mode.PASSTHROUGH:
            self.decommissioned = False

    async def _drop(self, cblocks: Iterable[range], change: _Change) -> None:
        if self._volume.mode is not Mode.PASSTHROUGH:
            msg = "passthrough mode was not reached"
            raise RefusedError(msg)
        for some in cblocks:
            await drop(self._volume, self._worker, some, change.job)

    async def _discard(
        self, ranges: Iterable[tuple[int, int]], discard: Callable[[int, int], Awaitable[None]], change: _Change
    ) -> None:
        try:
            for begin, end in ranges:
                for offset in range(begin, end, _DISCARDED_AT_ONCE):
                    change.job.require_going_on()
                    await discard(offset, min(_DISCARDED_AT_ONCE, end - offset))
        finally:
            self._volume.content_changed()  # the kernel knows nothing of it

    async def _decommission(self, change: _Change) -> None:
        volume = self._volume
        await self._set_mode(Mode.PASSTHROUGH, change)
        await drop(volume, self._worker, range(volume.geometry.cache_blocks), change.job)
        await volume.durability.flush()
        self.decommissioned = True
        log.info("decommissioned: the origin alone is complete")

    def check(self) -> None:
        """Assert that what was asked for will be carried out, one after the other."""
        for number, change in enumerate(self._changes):
            assert change.job in self._jobs.running
            assert number == 0 or change.job.waiting
        assert self._mode is None or self._changes


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
