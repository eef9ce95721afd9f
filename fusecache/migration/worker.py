"""The worker that carries out what the policy orders, and what requests and jobs ask of migrations.

Theory of operation
-------------------
The worker asks the policy for work whenever something may have changed: a lookup queued an item, a migration ended, a
second passed.  It puts the items into a backlog (:mod:`fusecache.migration.backlog`), up to a bound.  From there it
starts batches of neighbours, in the order of the origin.  Each kind of migration may have so many batches under way,
so writebacks that let users go first do not keep promotions waiting.  :mod:`fusecache.migration.migrations` says what
a batch does, :mod:`fusecache.migration.origin_slots` when it may write to the origin,
:mod:`fusecache.migration.copy_rate` how fast it may copy.

dm-cache counts migrations under way (2.9).  Here items in the backlog count as well, since the policy has ordered them
in its own order; so ``migration_threshold`` bounds both together.

*Work for an idle origin* comes in waves (:mod:`fusecache.migration.waves`).

*A limited rate.*  A batch waits for its bytes before its items leave the backlog.  What must hold: a pause
(unmounting, a change of policy) does not last as long as the limit makes copies last.  So a pause returns the backlog
to the policy, undone, and ends the wait for bytes.  What it costs: the policy has to order these items again.

An item that fails goes back to the policy as failed.  While stores go on failing, the worker's pauses grow.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.block import ALL_OUT, WRITERS_OUT
from fusecache.config import COPY_SIZE, Mode
from fusecache.errors import BusyError, FusecacheError, StoreError
from fusecache.migration.admission import Admission
from fusecache.migration.backlog import Backlog
from fusecache.migration.backoff import Backoff
from fusecache.migration.batches import Batch
from fusecache.migration.copier import Copier
from fusecache.migration.copy_rate import CopyRate
from fusecache.migration.filling import Filler
from fusecache.migration.migrations import Migrations
from fusecache.migration.origin_slots import SHORT_PATIENCE, OriginSlots
from fusecache.migration.read_ahead import ReadAhead
from fusecache.migration.removal import Removal
from fusecache.migration.steps import Steps
from fusecache.migration.unreadable import Unreadable
from fusecache.migration.waves import Waves
from policies import Op, PolicyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from fusecache.volume import Volume
    from policies import Work

log = structlog.get_logger(__name__)

SIDE_BY_SIDE: Final = {Op.PROMOTE: 8, Op.DEMOTE: 64, Op.WRITEBACK: 4}
"""Batches under way at most, by kind; one that copies holds :data:`fusecache.config.COPY_SIZE` bytes in memory.
Demotions mostly wait for the commit that they share."""
_LEAST_ORDERS: Final = 128
_MOST_AT_ONCE: Final = 1024
"""Items, those included that requests take for themselves: as many as there can be requests."""
_ASKED_AT_ONCE: Final = 16
"""Items for which the policy is asked before other tasks may run."""


class MigrationWorker:
    """The migrations of one volume; :meth:`run` carries out what the policy orders.

    :ivar admission: how fast writes may be absorbed.
    :ivar filler: the reads of the origin from which blocks are being filled.
    :ivar copy_rate: how many bytes a second may be copied.
    :ivar origin_slots: when writebacks may write to the origin.
    :ivar read_ahead: what is read ahead of misses in order.
    :ivar removal: what takes blocks out of the cache, or is to read as zeros, beside the policy.
    :ivar steps: what can be asked for one block, beside the policy.
    """

    __slots__ = (
        "_backlog",
        "_backoff",
        "_batches",
        "_ended",
        "_in_flight",
        "_migrations",
        "_most_orders",
        "_pauses",
        "_policy_may_have_work",
        "_unreadable",
        "_volume",
        "_waiting_for_rate",
        "_waves",
        "_woken",
        "admission",
        "copy_rate",
        "filler",
        "origin_slots",
        "read_ahead",
        "removal",
        "steps",
    )

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.admission = Admission(volume)
        self.copy_rate = CopyRate(burst=max(COPY_SIZE, volume.geometry.block_size))
        self.origin_slots = OriginSlots(volume.activity)
        copier = Copier(volume)
        self.read_ahead = ReadAhead(volume)
        self.steps = Steps(volume, copier, self.copy_rate, self.origin_slots, self.read_ahead)
        self._migrations = Migrations(volume, self.steps, copier, self.origin_slots, self.read_ahead)
        self.filler = Filler(volume, self.steps, copier, self.read_ahead, self._begin_completion, self._end_fill)
        self.removal = Removal(volume, self.steps, self.read_ahead, self._unpaused, self._forget)
        self._backlog = Backlog(max(1, COPY_SIZE // volume.geometry.block_size))
        self._most_orders = max(_LEAST_ORDERS, 2 * COPY_SIZE // volume.geometry.block_size)
        """Items that may be in the backlog or in flight before the policy is asked for another."""
        self._batches = dict.fromkeys(Op, 0)
        self._in_flight = 0
        """Items and requests for which a pause has to wait."""
        self._ended = trio.Event()
        """Set, and replaced, when one of them or a pause ends."""
        self._woken = trio.Event()
        self._policy_may_have_work = False
        self._unreadable = Unreadable(self._drop)
        self._waiting_for_rate = trio.CancelScope()
        self._waves = Waves(volume)
        self._pauses = 0
        self._backoff = Backoff()

    # The worker

    def wake(self) -> None:
        """Say that the policy may have work."""
        self._policy_may_have_work = True
        self._woken.set()

    @property
    def accepting(self) -> bool:
        """Whether new work may be taken from the policy now."""
        return not (self._pauses or self._volume.health.cache_lost)

    async def run(self) -> None:
        """Carry out what the policy orders until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._unreadable.run)
            self.filler.nursery = self.read_ahead.nursery = nursery
            try:
                while True:
                    await self._woken.wait()
                    self._woken = trio.Event()
                    while neighbours := await self._next_neighbours():
                        await self._start(neighbours, nursery)
                        await trio.lowlevel.checkpoint()  # hits come between two of them
            finally:
                self.filler.nursery = self.read_ahead.nursery = None

    async def _next_neighbours(self) -> list[Work]:
        """Choose what to do next, or nothing."""
        if self._policy_may_have_work:
            self._policy_may_have_work = False
            await self._fill_backlog()
        if not self._may_migrate():
            self._return_backlog()
        return self._backlog.next_neighbours([op for op, most in SIDE_BY_SIDE.items() if self._batches[op] < most])

    def _may_migrate(self) -> bool:
        volume = self._volume
        broken = volume.health.read_only or volume.health.cache_lost
        return not (broken or self._pauses or volume.mode is Mode.PASSTHROUGH)

    async def _fill_backlog(self) -> None:
        """Take from the policy what it has, up to the bound."""
        asked = 0
        while (work := self._ask_policy(self._most_orders)) is not None:
            self._backlog.add(work)
            asked += 1
            if asked % _ASKED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _ask_policy(self, most: int) -> Work | None:
        """Ask the policy for an item, if we could take one now, beside fewer than so many others."""
        volume = self._volume
        now = trio.current_time()
        orders = len(self._backlog) + self._in_flight
        if not self._may_migrate() or orders >= most or not self._backoff.is_over(now):
            return None
        return volume.policy.get_background_work(self._waves.is_idle(orders, now))

    async def _start(self, neighbours: list[Work], nursery: trio.Nursery) -> None:
        """Wait until neighbours may be copied, then start their batch, without those that were recalled meanwhile."""
        op = neighbours[0].op
        copies = op is not Op.DEMOTE or self._volume.is_dirty(neighbours[0].cblock)
        self._waiting_for_rate = trio.CancelScope()
        with self._waiting_for_rate:
            await self.copy_rate.wait_for(len(neighbours) * self._volume.geometry.block_size if copies else 0)
        if works := self._backlog.take(neighbours):
            self._batches[op] += 1
            self._in_flight += len(works)
            nursery.start_soon(self._carry_out, op, Batch(works, self._volume.policy, rate_applied=copies))

    async def _carry_out(self, op: Op, batch: Batch) -> None:
        migrate = {
            Op.PROMOTE: self._migrations.promote,
            Op.DEMOTE: self._migrations.demote,
            Op.WRITEBACK: self._migrations.write_back,
        }[op]
        try:
            await migrate(batch)
        finally:
            batch.close()
            self._batches[op] -= 1
            self._note_errors(batch)
            busy = any(isinstance(error, BusyError) for error in batch.errors.values())
            # If somebody else migrates a block, the policy would order it again at once.
            self._end(len(batch.works), ask_policy=not busy)

    def _note_errors(self, batch: Batch) -> None:
        errors = {work: error for work, error in batch.errors.items() if not isinstance(error, BusyError)}
        for work, error in errors.items():
            log.warning("migration failed", op=work.op.value, oblock=work.oblock, cblock=work.cblock, error=str(error))
            if work.op is Op.PROMOTE and isinstance(error, StoreError):
                self._volume.health.promotion_failed(str(error))
        if errors:
            self._backoff.failed(trio.current_time())
        elif not batch.errors:
            self._backoff.succeeded()

    def _return_backlog(self) -> None:
        """Give the policy back what nobody does yet."""
        for work in self._backlog.clear():
            self._volume.policy.complete_background_work(work, False)

    def _end(self, count: int = 1, *, ask_policy: bool = True) -> None:
        """Note that so many items or requests are in flight no longer."""
        self._in_flight -= count
        self._announce_end()
        self._policy_may_have_work = self._policy_may_have_work or ask_policy
        self._woken.set()

    def _announce_end(self) -> None:
        """Let those look again who wait for something to end: a migration, or a pause."""
        ended, self._ended = self._ended, trio.Event()
        ended.set()

    # Blocks that cannot be read

    def drop_unreadable(self, oblock: int) -> None:
        """Have :meth:`run` drop a block whose copy in the cache cannot be read; returns at once."""
        self._unreadable.report(oblock)

    async def _drop(self, oblock: int) -> None:
        if await self.invalidate(oblock):
            self._volume.reads_differently()  # its copy may have been anything

    # Pauses

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Take no new work within this block; it begins when everything in flight has ended."""
        self._pauses += 1
        try:
            self._return_backlog()
            self._waiting_for_rate.cancel()
            while self._in_flight:
                await self._ended.wait()
            yield
        finally:
            self._pauses -= 1
            self._announce_end()
            self.wake()

    @asynccontextmanager
    async def _unpaused(self) -> AsyncIterator[None]:
        """Wait for the end of a pause, and make the next one wait for the end of this block."""
        while self._pauses:
            await self._ended.wait()
        self._in_flight += 1
        try:
            yield
        finally:
            self._end()

    # What requests and jobs ask for

    def take_promotion(self, oblock: int, *, copies: bool) -> Work | None:
        """Take the promotion of a block from the policy that was ordered because of a request for it just now.

        If there is one, writers are kept out of the block from here on.  The next call has to be :meth:`absorb` or
        :meth:`fusecache.migration.filling.Filler.fill`.  Whatever else the policy orders is left for :meth:`run`.

        :param copies: whether the block would be copied from the origin.
        :raises PolicyFaultError: what the policy orders contradicts the mapping.
        """
        self.wake()
        volume = self._volume
        if (copies and not self.filler.may_begin) or (work := self._ask_policy(_MOST_AT_ONCE)) is None:
            return None
        is_wanted = work.op is Op.PROMOTE and work.oblock == oblock and volume.locks.may_migrate(oblock)
        if not is_wanted or (copies and not self.copy_rate.takes(volume.geometry.block_size)):
            self._backlog.add(work)
            return None
        try:
            volume.require_work(work)
        except BaseException:
            volume.policy.complete_background_work(work, False)
            raise
        volume.locks.try_exclusive(oblock, WRITERS_OUT)
        self._in_flight += 1
        return work

    def _begin_completion(self) -> bool:
        """Count the completion of a block in, if it may begin now."""
        # Without a record the block would lack sectors there for good, and every fsync would have to tell that.
        may_begin = self.accepting and not self._volume.health.read_only
        self._in_flight += may_begin
        return may_begin

    def _end_fill(self, batch: Batch | None) -> None:
        """Count out what a policy has ordered, or a completion."""
        if batch is None:
            self._end(ask_policy=False)
        else:
            self._note_errors(batch)
            self._end(len(batch.works))

    async def absorb(self, work: Work, within: int, data: memoryview) -> None:
        """Promote a block by a write to a part of it; follows :meth:`take_promotion`.

        :raises StoreError: neither the cache nor the origin takes the data, or the origin cannot be read at its edges.
        """
        batch = Batch([work], self._volume.policy)
        try:
            await self.steps.absorb(batch, within, data)
        finally:
            batch.close()
            self._volume.locks.end_exclusive(work.oblock)
            self._end()

    def begin_overwrite(self, work: Work) -> None:
        """Take over a promotion that a request has had ordered, and lock its block, which nobody has exclusively."""
        took = self._volume.locks.try_exclusive(work.oblock, ALL_OUT)
        assert took, f"oblock {work.oblock} is locked"
        self._in_flight += 1

    async def overwrite(self, work: Work, data: memoryview) -> None:
        """Promote a block by the write that covers all of it; follows :meth:`begin_overwrite`.

        :raises StoreError: neither the cache nor the origin takes the data.
        """
        batch = Batch([work], self._volume.policy)
        try:
            await self.steps.overwrite(batch, data)
        finally:
            batch.close()
            self._volume.locks.end_exclusive(work.oblock)
            self._end()

    async def write_back(
        self, works: Sequence[Work], patience: float = SHORT_PATIENCE
    ) -> Mapping[Work, FusecacheError]:
        """Write neighbours back that no policy has ordered; returns what went wrong, by item.

        If a user waits for this, users at the origin go first for a short while only.  What is written to meanwhile
        stays dirty.
        """
        await self.copy_rate.wait_for(len(works) * self._volume.geometry.block_size)
        batch = Batch(works, None, patience=patience)
        await self._migrations.write_back(batch)
        return batch.errors

    async def invalidate(self, oblock: int) -> bool:
        """Drop a block's cached copy; returns whether there was one, which is durably gone now.

        What only the cache has is written back first.
        """
        return await self.removal.invalidate(oblock)

    async def _forget(self, cblock: int) -> None:
        """Have the policy forget a block that was unmapped; whoever keeps everybody out of it calls this."""
        while True:
            try:
                self._volume.forget(cblock)
            except PolicyError:
                # An item for it is outstanding.  If it is under way, it cannot get the block's lock, and will fail.
                if not self._backlog.recall(cblock, self._volume.policy):
                    await self._ended.wait()
            else:
                return

    def check(self) -> None:
        """Assert that what is in flight is counted, and that every part is sound."""
        self.admission.check()
        self._backlog.check()
        self.copy_rate.check()
        self.origin_slots.check()
        self.filler.check()
        assert self._in_flight >= sum(self._batches.values()) >= 0
        assert self._pauses >= 0
