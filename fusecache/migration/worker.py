"""Who has blocks moved: a worker that asks the policy, and requests that move a block themselves.

Theory of operation
-------------------
The worker asks the policy for work whenever something may have changed (a lookup queued some, a migration ended, a
second passed), and *collects* what it is given, up to a bound, in a backlog (:mod:`fusecache.migration.backlog`).  From
there runs of neighbours are started, in the order of the origin, so many of each kind side by side: writebacks that let
users go first keep no promotion waiting.  What they do is in :mod:`fusecache.migration.migrations`; what they may use
of the origin, in
:mod:`fusecache.migration.traffic`.

The policy's decisions are asked for in its own order, and handed out is handed out: what is in the backlog counts
with what is under way where dm-cache counts migrations (2.9), so that ``migration_threshold`` bounds both.  Work that
is there only because the origin is idle comes in batches, up to the threshold, and then not again before all
of it is done: one at a time would have no neighbours.  While users write a lot to what is cached, a batch begins once
a second at most: what is written back then is soon dirty again.

*A limited rate.*  Bytes are waited for before a run leaves the backlog.  What must hold: a pause (unmounting, a change
of policy) does not last as long as the limit makes copies last.  So the backlog goes back to the policy, undone, and
whoever waits for bytes stops waiting.  What it costs: the policy has to want those items again.

An item that fails goes back to the policy as failed, and the worker pauses for longer and longer while stores go on
failing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.block import ALL_OUT, UNMAPPED
from fusecache.config import COPY_SIZE, Mode
from fusecache.errors import BusyError, FusecacheError
from fusecache.migration.backlog import Backlog
from fusecache.migration.batches import Batch, Held
from fusecache.migration.migrations import Migrations
from fusecache.migration.traffic import Traffic
from policies import Op, PolicyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fusecache.volume import Volume
    from policies import Work

log = structlog.get_logger(__name__)

LANES: Final = {Op.PROMOTE: 8, Op.DEMOTE: 8, Op.WRITEBACK: 4}
"""Runs side by side; a run of copies holds :data:`fusecache.config.COPY_SIZE` bytes in memory."""
_LEAST_COLLECTED: Final = 16
_ASKED_AT_ONCE: Final = 16
"""Items that are asked for before others in the loop have their turn."""
_MANY_WRITES: Final = 32
"""Write hits a second."""
_FIRST_BACKOFF: Final = 0.5
_LAST_BACKOFF: Final = 30.0


class MigrationWorker:
    """The migrations of one volume; :meth:`run` carries out what the policy asks for.

    :ivar moves: how a block is moved.
    :ivar traffic: when copies may go to the origin.
    """

    __slots__ = (
        "_asking",
        "_backlog",
        "_backoff",
        "_distrusted",
        "_ended",
        "_filling",
        "_lanes",
        "_most",
        "_pauses",
        "_resume_at",
        "_running",
        "_second_began",
        "_untrusted",
        "_volume",
        "_waiting_for_rate",
        "_was_busy",
        "_woken",
        "_writes",
        "migrations",
        "traffic",
    )

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.traffic = Traffic(volume.activity, burst=max(COPY_SIZE, volume.geometry.block_size))
        self.migrations = Migrations(volume, self.traffic)
        neighbours = max(1, COPY_SIZE // volume.geometry.block_size)
        self._backlog = Backlog(neighbours)
        self._most = max(_LEAST_COLLECTED, 2 * neighbours)
        self._lanes = dict.fromkeys(Op, 0)
        self._asking = False
        self._woken = trio.Event()
        self._ended = trio.Event()
        self._distrusted: set[int] = set()
        self._untrusted = trio.Event()
        self._waiting_for_rate = trio.CancelScope()
        self._filling = True
        self._second_began = -1.0
        self._writes = 0
        self._was_busy = False
        self._running = 0
        self._pauses = 0
        self._backoff = 0.0
        self._resume_at = 0.0

    # The worker

    def wake(self) -> None:
        """Say that the policy may have work."""
        self._asking = True
        self._woken.set()

    @property
    def accepting(self) -> bool:
        """Whether new work may be taken from the policy now."""
        return not (self._pauses or self._volume.health.cache_lost)

    async def run(self) -> None:
        """Carry out the policy's work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_drops)
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                while run := await self._next_neighbours():
                    await self._start(run, nursery)
                    await trio.lowlevel.checkpoint()  # hits come between two of them

    async def _next_neighbours(self) -> list[Work]:
        """Choose what to do next, or nothing."""
        if self._asking:
            self._asking = False
            await self._collect()
        if not self._may_work():
            self._give_back()
        return self._backlog.next_neighbours([op for op, lanes in LANES.items() if self._lanes[op] < lanes])

    def _may_work(self) -> bool:
        volume = self._volume
        broken = volume.health.read_only or volume.health.cache_lost
        return not (broken or self._pauses or volume.mode is Mode.PASSTHROUGH)

    async def _collect(self) -> None:
        """Take from the policy what it has, up to the bound."""
        asked = 0
        while (work := self._next_work()) is not None:
            self._backlog.add(work)
            asked += 1
            if asked % _ASKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _next_work(self) -> Work | None:
        volume = self._volume
        now = trio.current_time()
        in_flight = len(self._backlog) + self._running
        if not self._may_work() or in_flight >= self._most or now < self._resume_at:
            return None
        fits = (in_flight + 1) * volume.geometry.block_size <= volume.migration_threshold
        self._filling = fits and (self._filling if in_flight else self._may_begin_batch(now))
        return volume.policy.get_background_work(self._filling and volume.activity.is_quiet(now))

    def _may_begin_batch(self, now: float) -> bool:
        """Tell whether to begin with work that is there only because the origin is idle."""
        writes = self._volume.counters.write_hits
        many = writes - self._writes > _MANY_WRITES
        if now < self._second_began + 1:
            return not (many or self._was_busy)
        self._second_began, self._writes, self._was_busy = now, writes, many
        return True

    async def _start(self, run: list[Work], nursery: trio.Nursery) -> None:
        """Wait until a run may be copied, then have that done; not those items that were called back meanwhile."""
        op = run[0].op
        copies = op is not Op.DEMOTE or self._volume.is_dirty(run[0].cblock)
        self._waiting_for_rate = trio.CancelScope()
        with self._waiting_for_rate:
            await self.traffic.allowed(len(run) * self._volume.geometry.block_size if copies else 0)
        if works := self._backlog.take(run):
            self._lanes[op] += 1
            self._running += len(works)
            nursery.start_soon(self._carry_out, op, Batch(works, self._volume.policy, rate_applied=copies))

    async def _carry_out(self, op: Op, batch: Batch) -> None:
        steps = {
            Op.PROMOTE: self.migrations.promote,
            Op.DEMOTE: self.migrations.demote,
            Op.WRITEBACK: self.migrations.write_back,
        }[op]
        count = len(batch.works)
        try:
            await steps(batch)
        finally:
            batch.close()
            self._lanes[op] -= 1
            self._note_errors(batch)
            busy = any(isinstance(error, BusyError) for error in batch.errors.values())
            self._finished(count, ask=not busy)  # somebody else migrates the block: asked at once, it would come again

    def _note_errors(self, batch: Batch) -> None:
        errors = {work: error for work, error in batch.errors.items() if not isinstance(error, BusyError)}
        for work, error in errors.items():
            log.warning("migration failed", op=work.op.value, oblock=work.oblock, cblock=work.cblock, error=str(error))
        if errors:
            self._back_off()
        elif not batch.errors:
            self._backoff = 0.0

    def _back_off(self) -> None:
        """Take no work for a while, longer each time that a store fails anew."""
        now = trio.current_time()
        if now >= self._resume_at:
            self._backoff = min(max(2 * self._backoff, _FIRST_BACKOFF), _LAST_BACKOFF)
            self._resume_at = now + self._backoff

    def _give_back(self) -> None:
        """Let the policy have back what nobody does yet."""
        for work in self._backlog.clear():
            self._volume.policy.complete_background_work(work, False)

    def _finished(self, count: int = 1, *, ask: bool = True) -> None:
        self._running -= count
        self._announce_end()
        self._asking = self._asking or ask
        self._woken.set()

    def _announce_end(self) -> None:
        """Let those look again who wait for something to end: a migration, or a pause."""
        ended, self._ended = self._ended, trio.Event()
        ended.set()

    # Blocks that cannot be read

    def distrust(self, oblock: int) -> None:
        """Have a block dropped, because its copy in the cache cannot be read."""
        self._distrusted.add(oblock)
        self._untrusted.set()

    async def _run_drops(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._untrusted.wait()
                self._untrusted = trio.Event()
                while self._distrusted:
                    nursery.start_soon(self._drop, self._distrusted.pop())

    async def _drop(self, oblock: int) -> None:
        try:
            if await self.invalidate(oblock):
                self._volume.content_changed()  # its copy may have been anything
        except FusecacheError as exc:
            log.warning("unreadable block not dropped", oblock=oblock, error=str(exc))

    # Pauses

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Take no new work within this block; it begins when all that was handed out has come back."""
        self._pauses += 1
        try:
            self._give_back()
            self._waiting_for_rate.cancel()
            while self._running:
                await self._ended.wait()
            yield
        finally:
            self._pauses -= 1
            self._announce_end()
            self.wake()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Be one of those for whom :meth:`paused` waits."""
        self._running += 1
        try:
            yield
        finally:
            self._finished()

    # Migrations that come with a request

    def begin_overwrite(self, work: Work) -> None:
        """Take charge of a promotion that the policy handed out to a request, and of its block, at once.

        The block is one that nobody has exclusively.
        """
        took = self._volume.locks.try_exclusive(work.oblock, ALL_OUT)
        assert took, f"oblock {work.oblock} is locked"
        self._running += 1

    async def overwrite(self, work: Work, data: memoryview) -> None:
        """Promote a block by the write that covers all of it; follows :meth:`begin_overwrite`.

        :raises StoreError: neither the cache nor the origin takes the data.
        """
        batch = Batch([work], self._volume.policy)
        try:
            await self.migrations.overwrite(batch, data)
        finally:
            batch.close()
            self._volume.locks.end_exclusive(work.oblock)
            self._finished()

    async def invalidate(self, oblock: int) -> bool:
        """Drop a block's cached copy; returns whether there was one, durably gone now.

        What only the cache has is written back first.
        """
        volume = self._volume
        while self._pauses:
            await self._ended.wait()
        with self._counted(), Held(volume) as held:
            await held.take_when_free(oblock, ALL_OUT)
            cblock = volume.mapping.find(oblock)
            if cblock == UNMAPPED:
                return False
            await self.migrations.copy_back(oblock, cblock)
            await self.migrations.unmap(cblock)
            while True:
                try:
                    volume.forget(cblock)
                except PolicyError:
                    # An item for it is outstanding.  One under way cannot get our lock, and comes back as failed.
                    if not self._recall(cblock):
                        await self._ended.wait()
                else:
                    return True

    def _recall(self, cblock: int) -> bool:
        """Give the policy back the item for a block that nobody does yet; returns whether there was one.

        Items that the policy has queued before it are given up as well; it will want them again.
        """
        policy = self._volume.policy
        if (work := self._backlog.find(cblock)) is not None:
            self._backlog.remove(work)
            policy.complete_background_work(work, False)
            return True
        taken: list[Work] = []
        while (work := policy.get_background_work(idle=False)) is not None:
            taken.append(work)
            if work.cblock == cblock:
                break
        for item in taken:
            policy.complete_background_work(item, False)
        return work is not None

    def check(self) -> None:
        """Assert that nothing runs more than once at a time, and that the policy's items are somewhere."""
        self._backlog.check()
        self.traffic.check()
        assert self._running >= sum(self._lanes.values()) >= 0
        assert self._pauses >= 0
