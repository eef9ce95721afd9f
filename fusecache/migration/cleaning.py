"""Writebacks that no policy orders: of what has been dirty for long, of too much that is dirty, and at leisure.

Theory of operation
-------------------
One task looks what there is to do, does a little of it, and looks again.  In this order:

*Beyond the dirty limit* (:mod:`fusecache.migration.admission`) it writes back until no more is dirty than may be, and
does not wait for users to leave the origin alone.  What is overdue goes first.

*What is overdue* (:mod:`fusecache.migration.overdue`) is written back when the origin is calm.  The next period ends
only when what was overdue before is through, since a list of more to do would not make the origin faster.

*When the origin is idle*, everything that is dirty is written back, and then partial blocks are made whole.  Some
policies order these writebacks themselves (:attr:`policies.base.Policy.orders_writebacks`); then nobody else does.
While users write a lot to what is cached, what is written back at leisure is soon dirty again, so it is left to the
dirty age.

These two do one thing at a time, and look before each whether users are there.

Each is a *walk* over cache blocks in the order of the origin.  A walk may be left and taken up again.  So a block is
looked at when its turn comes: what it holds by then, whether that is dirty, and whether somebody migrates it.  Dirty
neighbours go with it, due or not: one write at the origin costs as much as many.

A walk that meets failures goes on after a pause, which gets longer and longer.  A block that cannot be made whole keeps
no writeback waiting.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.block import PARTIAL, UNMAPPED
from fusecache.config import DirtyAge, DirtyLimit, Mode
from fusecache.errors import StoreError
from fusecache.migration.backoff import Backoff
from fusecache.migration.busy_writers import BusyWriters
from fusecache.migration.neighbours import dirty_around
from fusecache.migration.origin_order import in_origin_order
from fusecache.migration.origin_slots import PATIENCE, SHORT_PATIENCE
from fusecache.migration.overdue import Overdue
from fusecache.tasks import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from fusecache.errors import FusecacheError
    from fusecache.migration.worker import MigrationWorker
    from fusecache.volume import Volume
    from policies import Work

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 1.0
"""How often it looks whether there is anything to do; also the pause between two walks at leisure, at least."""
_CALM_LOOK_SECONDS: Final = 0.02
"""How often while it waits for users to leave the origin alone for a moment."""
_SIDE_BY_SIDE: Final = 4
"""Writes at a time beyond the dirty limit; otherwise one, so that users who come wait behind one at most."""
_LOOKED_AT_AT_ONCE: Final = 1024
"""Blocks of a walk that are looked at before other tasks may run."""


class Cleaning:
    """What keeps the dirty blocks of one volume few, and young.

    :ivar limit: how much may be dirty.
    """

    __slots__ = (
        "_backoff",
        "_completion_backoff",
        "_dirty",
        "_due",
        "_leisure_at",
        "_overdue",
        "_partial",
        "_volume",
        "_woken",
        "_worker",
        "_writers",
        "limit",
    )

    def __init__(
        self,
        volume: Volume,
        worker: MigrationWorker,
        age: DirtyAge = DirtyAge(),  # noqa: B008 - it is frozen
        limit: DirtyLimit = DirtyLimit(),  # noqa: B008 - likewise
    ) -> None:
        self._volume = volume
        self._worker = worker
        self._woken = trio.Event()
        self._backoff = Backoff()
        self._completion_backoff = Backoff()
        """Of its own: where the origin cannot be read, it can perhaps be written, and that is more urgent."""
        self._overdue = Overdue(volume, age)
        self._due: Iterator[int] | None = None
        """The walk over what is overdue; None if there is none under way, as for the others."""
        self._dirty: Iterator[int] | None = None
        """The walk over all that is dirty."""
        self._partial: Iterator[int] | None = None
        """The walk over partial blocks."""
        self._leisure_at = 0.0
        """Before this time no walk at leisure begins."""
        self._writers = BusyWriters()
        worker.admission.on_excess = self._wake
        self.set_limit(limit)

    # What can be set

    @property
    def age(self) -> DirtyAge:
        """How long a block may be dirty."""
        return self._overdue.age

    def set_age(self, age: DirtyAge) -> None:
        """Hold another dirty age from now on; what was overdue by the old one is so no more."""
        self._overdue.set_age(age, trio.current_time())
        self._due = None

    def set_limit(self, limit: DirtyLimit) -> None:
        """Hold another dirty limit from now on."""
        self.limit = limit
        self._worker.admission.set_limit(limit)
        self._worker.admission.look()
        self._wake()

    def _wake(self) -> None:
        self._woken.set()

    # The task

    async def run(self) -> None:
        """Clean until cancelled."""
        while True:
            now = trio.current_time()
            self._writers.look(now, self._writes)
            if self._due is None and self._overdue.is_over(now):
                self._due = await self._overdue.end(now)
            if self._may_work(now) and await self._do_something():
                await trio.lowlevel.checkpoint()
            else:
                self._worker.admission.look()
                await self._rest()

    async def _rest(self) -> None:
        """Wait until it is time to look again."""
        waits_for_calm = self._due is not None and self._may_work(trio.current_time())
        with trio.move_on_after(_CALM_LOOK_SECONDS if waits_for_calm else _LOOK_SECONDS):
            await self._woken.wait()
        self._woken = trio.Event()

    def _may_work(self, now: float) -> bool:
        """Tell whether anything may be moved between the stores now."""
        broken = self._volume.health.read_only or self._volume.health.cache_lost
        stands_still = self._volume.mode is Mode.PASSTHROUGH or not self._worker.accepting
        return not (broken or stands_still) and self._backoff.is_over(now)

    @property
    def _writes(self) -> int:
        return self._volume.counters.write_hits + self._volume.counters.write_misses

    async def _do_something(self) -> bool:
        """Do a little of what is most urgent; returns whether there was anything."""
        volume = self._volume
        now = trio.current_time()
        is_idle = volume.activity.is_quiet(now) and not self._writers.are_busy(self._writes)
        if not volume.health.origin_read_only:
            if self._worker.admission.is_exceeded:
                return await self._write_excess()
            if self._due is not None and volume.activity.is_calm(now):
                if await self._write_some(self._due, 1, PATIENCE):
                    return True
                self._due = None
            if is_idle and not volume.policy.orders_writebacks and await self._write_at_leisure(now):
                return True
        is_through = not volume.mapping.dirty_count or not volume.policy.orders_writebacks
        return is_idle and (is_through or bool(volume.health.origin_read_only)) and await self._complete_at_leisure(now)

    # Writing back

    async def _write_excess(self) -> bool:
        """Write back some of what is too much; returns whether there was anything that could be."""
        excess = self._volume.mapping.dirty_count - self._worker.admission.most
        if self._due is not None:
            if await self._write_some(self._due, excess, SHORT_PATIENCE):
                return True
            self._due = None
        began = self._dirty is None
        if self._dirty is None:
            self._dirty = await in_origin_order(self._volume.mapping, self._volume.mapping.dirty_map)
        if await self._write_some(self._dirty, excess, SHORT_PATIENCE):
            return True
        self._dirty = None
        return not began  # then there may be more

    async def _write_at_leisure(self, now: float) -> bool:
        """Write back some of what is dirty; returns whether there was anything."""
        mapping = self._volume.mapping
        if self._dirty is None and now >= self._leisure_at and mapping.dirty_count:
            self._dirty = await in_origin_order(mapping, mapping.dirty_map)
        if self._dirty is None:
            return False
        if await self._write_some(self._dirty, 1, PATIENCE):
            return True
        self._dirty = None
        self._leisure_at = now + _LOOK_SECONDS
        return False

    async def _write_some(self, walk: Iterator[int], blocks: int, patience: float) -> bool:
        """Write back what comes next in a walk, with its neighbours; returns whether there was any.

        :param blocks: how many are enough for now.
        """
        taken: set[int] = set()
        stretches: list[list[Work]] = []
        while len(taken) < blocks and len(stretches) < _SIDE_BY_SIDE:
            oblock = await self._next(walk, partial(self._may_write_back, taken))
            if oblock == UNMAPPED:
                break
            stretches.append(dirty_around(self._volume, oblock, taken))
            taken.update(work.oblock for work in stretches[-1])
        if not stretches:
            return False
        errors: list[FusecacheError] = []

        async def write(works: list[Work]) -> None:
            errors.extend((await self._worker.write_back(works, patience)).values())

        began = trio.current_time()
        await gather([partial(write, works) for works in stretches])
        failures = [error for error in errors if isinstance(error, StoreError)]
        self._note(self._backoff, failures[0] if failures else None)
        if not failures:
            self._worker.admission.written_back(len(taken), trio.current_time() - began)
        return True

    def _may_write_back(self, taken: Container[int], cblock: int, oblock: int) -> bool:
        """Tell whether a block is dirty, and nobody writes it back."""
        return self._volume.is_dirty(cblock) and oblock not in taken and self._volume.locks.may_migrate(oblock)

    def _note(self, backoff: Backoff, error: FusecacheError | None) -> None:
        """Go on after a pause if a store has failed."""
        if error is None:
            backoff.succeeded()
        else:
            log.warning("cleaning pauses", error=str(error))
            backoff.failed(trio.current_time())

    # Partial blocks

    async def _complete_at_leisure(self, now: float) -> bool:
        """Make the next partial block whole; returns whether there was one."""
        mapping = self._volume.mapping
        if not self._completion_backoff.is_over(now):
            return False
        if self._partial is None and now >= self._leisure_at and mapping.valid:
            self._partial = await in_origin_order(mapping, mapping.partial_map)
        if self._partial is None:
            return False
        oblock = await self._next(self._partial, self._may_complete)
        if oblock == UNMAPPED:
            self._partial = None
            self._leisure_at = now + _LOOK_SECONDS
            return False
        await self._worker.copy_rate.wait_for(self._volume.geometry.block_size)
        fill = self._worker.filler.fill_rest(oblock, for_user=False)
        if fill is None:
            return False
        await fill.ended.wait()
        cblock = mapping.find(oblock)
        is_whole = cblock == UNMAPPED or not mapping.flags[cblock] & PARTIAL
        self._note(self._completion_backoff, None if is_whole else StoreError(f"oblock {oblock} is still partial"))
        return True

    def _may_complete(self, cblock: int, oblock: int) -> bool:
        return bool(self._volume.mapping.flags[cblock] & PARTIAL) and self._volume.locks.may_migrate(oblock)

    async def _next(self, walk: Iterator[int], is_wanted: Callable[[int, int], bool]) -> int:
        """Return the origin block of the next cache block of a walk that is wanted still; UNMAPPED if there is none."""
        oblock_of = self._volume.mapping.oblock_of
        for number, cblock in enumerate(walk, start=1):
            oblock = oblock_of[cblock]
            if oblock != UNMAPPED and is_wanted(cblock, oblock):
                return oblock
            if number % _LOOKED_AT_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return UNMAPPED

    def check(self) -> None:
        """Assert that every part is sound, and that the limit is held that was set."""
        self._overdue.check()
        geometry = self._volume.geometry
        assert self._worker.admission.most == self.limit.blocks(geometry.cache_blocks, geometry.block_size)
