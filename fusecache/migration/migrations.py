"""The migrations that a policy orders: promotion, demotion and writeback, each one straight-line coroutine.

Theory of operation
-------------------
A migration locks its block at two levels (:mod:`fusecache.block.locks`): it keeps only writers out while it copies,
and everybody while it unmaps.  What it is made of is in :mod:`fusecache.migration.steps`.

Promotions and writebacks come in batches of *neighbours*: blocks that are neighbours at the origin.  Some of a batch
may have to be left out; those that remain are cut into *stretches* without a gap, and one I/O at the origin moves a
stretch.

*One coroutine locks several blocks.*
  What must hold: nobody waits in a circle.  So a batch takes only blocks that are free, and leaves out those that
  somebody migrates.  While it holds blocks, it waits only for readers and writers of these blocks, who hold theirs
  without waiting for any other.
  What it costs: a batch that loses a block in the middle becomes two I/Os.

*A writeback keeps writers out of one block at a time, and only while it takes its copy in memory.*
  What must hold: a block turns clean only if nobody has written to it since that copy was taken, and only after the
  copy has been written.  The mapping's flag WRITEBACK_IN_FLIGHT says the first, block by block.  The block stays
  closed to other migrations until then, so that no older content reaches the origin after a newer one.
  What it costs: the copy is written in vain if somebody has written to the block meanwhile.

*A partial block is written back as far as the cache has it*, so it may cut a stretch at the origin.  If it consists of
more than a few runs, the rest of it is read first, and then it is one run.

*The I/O of a stretch may fail in part.*
  What must hold: a block is not worse off for its neighbours, and none counts as done because of them.  So after a
  failure each block of the stretch is read or written alone, and only those whose own I/O succeeded are done.
  What it costs: a failing origin is asked once more for each block of a stretch.

*A promotion waits until its cache block is reusable before it locks the new block*, since nobody else can have that
cache block, and a commit takes a while.  It looks again when it has the lock.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.block import WRITERS_OUT, byte_runs
from fusecache.config import COPY_SIZE
from fusecache.errors import BusyError, FusecacheError, StoreError
from fusecache.migration.batches import Batch, Held
from fusecache.migration.copier import CacheReadError, Copier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusecache.migration.origin_slots import OriginSlots
    from fusecache.migration.read_ahead import ReadAhead
    from fusecache.migration.steps import Steps
    from fusecache.volume import Volume
    from policies import Work

log = structlog.get_logger(__name__)

_DIRTY_DEMOTIONS: Final = 8
"""Demotions that write back at a time: each holds a copy in memory."""
_MOST_RUNS: Final = 2
"""Runs of sectors of a partial block that are written as they are."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A copy of a block in memory.

    :ivar crc: the sum of it; None for a partial block.
    :ivar sectors: what there is of it.
    """

    crc: int | None
    sectors: int


class Migrations:
    """The migrations of one volume.  They tell their batch what goes wrong."""

    __slots__ = ("_copier", "_dirty_demotions", "_origin_slots", "_read_ahead", "_steps", "_volume")

    def __init__(
        self, volume: Volume, steps: Steps, copier: Copier, origin_slots: OriginSlots, read_ahead: ReadAhead
    ) -> None:
        self._volume = volume
        self._steps = steps
        self._copier = copier
        self._origin_slots = origin_slots
        self._dirty_demotions = trio.CapacityLimiter(_DIRTY_DEMOTIONS)
        self._read_ahead = read_ahead

    async def promote(self, batch: Batch) -> None:
        """Copy blocks from the origin to the cache, then map them, clean."""
        volume = self._volume
        reusable, locked = list[int](), list[int]()
        for number, work in enumerate(batch.works):
            with reporting(batch, work):
                await volume.durability.wait_reusable(work.cblock)
                reusable.append(number)
        with Held(volume) as held, self._copier.buffer() as buffer:
            for number in reusable:
                work = batch.works[number]
                with reporting(batch, work, held):
                    await held.take(work.oblock, WRITERS_OUT)
                    volume.require_work(work)
                    await volume.durability.wait_reusable(work.cblock)
                    locked.append(number)
            for stretch in _stretches(batch, locked):
                await self._promote_stretch(batch, stretch, held, buffer)

    async def _promote_stretch(self, batch: Batch, stretch: range, held: Held, buffer: memoryview) -> None:
        """Promote one stretch of a batch."""
        volume = self._volume
        size = volume.geometry.block_size
        start = batch.works[stretch.start].oblock * size
        fits = stretch.stop * size <= len(buffer)
        read_ahead = fits and self._read_ahead.copy(start, buffer[stretch.start * size : stretch.stop * size])
        together = read_ahead or len(stretch) > 1
        if together and not read_ahead:
            try:
                with volume.counters.at_origin():
                    await volume.origin.read(start, buffer[stretch.start * size : stretch.stop * size])
            except StoreError:
                together = False
        for number in stretch:
            work = batch.works[number]
            with reporting(batch, work, held):
                volume.counters.second_reads += not read_ahead
                if together:
                    content = buffer[number * size : (number + 1) * size]
                    crc = await self._copier.store(work.cblock * size, content)
                else:
                    crc = await self._copy_in(work, buffer)
                self._steps.map_copied(batch, work, crc)
                held.release(work.oblock)
        await self._steps.forget_at_origin(batch.works[stretch.start].oblock, len(stretch))

    async def _copy_in(self, work: Work, buffer: memoryview) -> int:
        """Copy one block from the origin to the cache; returns its sum."""
        volume = self._volume
        size = volume.geometry.block_size
        crc = 0
        for start in range(0, size, COPY_SIZE):
            content = buffer[: size - start]
            with volume.counters.at_origin():
                await volume.origin.read(work.oblock * size + start, content)
            crc = await self._copier.store(work.cblock * size + start, content, crc)
        return crc

    async def write_back(self, batch: Batch) -> None:
        """Copy dirty blocks to the origin; they stay mapped, and turn clean, or stay dirty if written meanwhile."""
        size = self._volume.geometry.block_size
        if size > COPY_SIZE:
            for work in batch.works:
                await self._write_back_large(batch, work)
            return
        copies: dict[int, _Copy] = {}
        with Held(self._volume) as held, self._copier.buffer() as buffer:
            try:
                with self._origin_slots.preparing():
                    for number, work in enumerate(batch.works):
                        with reporting(batch, work, held):
                            await held.take(work.oblock, WRITERS_OUT)
                            self._volume.require_work(work)
                            if self._volume.is_dirty(work.cblock):
                                content = buffer[number * size : (number + 1) * size]
                                copies[number] = await self._take_copy(work, content)
                            else:
                                batch.done(work)
                                held.release(work.oblock)
                for stretch in _stretches(batch, list(copies)):
                    await self._write_back_stretch(batch, stretch, held, buffer, copies)
            finally:
                for number in copies:
                    self._volume.mapping.writeback_ended(batch.works[number].cblock)

    async def _write_back_large(self, batch: Batch, work: Work) -> None:
        """Copy a block that is larger than a stretch may be; writers are kept out all the while."""
        with Held(self._volume) as held, reporting(batch, work, held):
            await held.take(work.oblock, WRITERS_OUT)
            self._volume.require_work(work)
            await self._steps.copy_back(work.oblock, work.cblock, batch.patience)
            batch.done(work)
        await self._steps.forget_at_origin(batch.works[0].oblock, 1)

    async def _take_copy(self, work: Work, content: memoryview) -> _Copy:
        """Copy a dirty block into memory while writers are kept out, then let them in."""
        volume = self._volume
        try:
            crc = await self._load(work, content)
        except CacheReadError:
            await self._copier.name_lost(work.oblock, work.cblock)
            raise
        self._steps.require_dirty(work.cblock)
        volume.mapping.writeback_begun(work.cblock)
        volume.locks.lower_level(work.oblock)
        valid = volume.mapping.valid.get(work.cblock)
        return _Copy(crc, volume.geometry.every_sector) if valid is None else _Copy(None, valid)

    async def _load(self, work: Work, content: memoryview) -> int:
        """Read a dirty block from the cache, as far as that has it; returns the sum of it, if that is all of it."""
        volume = self._volume
        valid = volume.mapping.valid.get(work.cblock)
        if valid is not None and sum(1 for _ in byte_runs(valid)) > _MOST_RUNS:
            try:
                await self._steps.complete(work.oblock, work.cblock, content, for_user=False)
                await self._steps.store_rest(work.cblock, content)
            except CacheReadError:
                raise
            except StoreError as exc:
                log.warning("partial block not made whole", oblock=work.oblock, error=str(exc))
        crc = 0
        for begin, end in byte_runs(volume.mapping.valid.get(work.cblock, volume.geometry.every_sector)):
            crc = await self._copier.load(work.cblock * len(content) + begin, content[begin:end], crc)
        return crc

    async def _write_back_stretch(
        self, batch: Batch, stretch: range, held: Held, buffer: memoryview, copies: dict[int, _Copy]
    ) -> None:
        """Write back one stretch of a batch; takes what has ended out of ``copies``."""
        volume = self._volume
        start = batch.works[stretch.start].oblock * volume.geometry.block_size
        error: StoreError | None = None
        try:
            for begin, end in self._runs(stretch, copies):
                content = buffer[begin:end]
                within = begin - stretch.start * volume.geometry.block_size
                await self._steps.write_origin(start + within, content, batch.patience)
        except StoreError as exc:
            error = exc
        if error is not None and len(stretch) > 1:
            for number in stretch:
                await self._write_back_stretch(batch, range(number, number + 1), held, buffer, copies)
            return
        for number in stretch:
            work = batch.works[number]
            crc = copies.pop(number).crc
            # A write that has not ended yet will make the block dirty; nobody may take it for clean until then.
            unchanged = volume.mapping.writeback_ended(work.cblock) and not volume.locks.is_writing(work.oblock)
            if error is not None:
                volume.health.writeback_failed(work.oblock, str(error))
                batch.failed(work, error)
            else:
                volume.health.written_back(work.oblock)
                if unchanged:
                    self._steps.note_written_back(work.oblock, work.cblock, crc)
                batch.done(work, not volume.is_dirty(work.cblock))
            held.release(work.oblock)
        await self._steps.forget_at_origin(batch.works[stretch.start].oblock, len(stretch))

    def _runs(self, stretch: range, copies: dict[int, _Copy]) -> Iterator[tuple[int, int]]:
        """Yield the ranges of the buffer that are to be written, neighbours joined."""
        size = self._volume.geometry.block_size
        begin = end = stretch.start * size
        for number in stretch:
            for run_begin, run_end in byte_runs(copies[number].sectors):
                if number * size + run_begin != end:
                    if begin < end:
                        yield begin, end
                    begin = number * size + run_begin
                end = number * size + run_end
        if begin < end:
            yield begin, end

    async def demote(self, batch: Batch) -> None:
        """Unmap a block, writing it back first if it is dirty; its cache block is free when that is durable.

        Dirty neighbours go to the origin with it: one write there costs as much as many.
        """
        volume = self._volume
        (work,) = batch.works
        if volume.is_dirty(work.cblock) and batch.rate_applied:
            async with self._dirty_demotions:
                await self.write_back(Batch(self._steps.written_with(work.oblock), None, patience=batch.patience))
        with Held(volume) as held, reporting(batch, work, held):
            await held.take(work.oblock, WRITERS_OUT)
            volume.require_work(work)
            if volume.is_dirty(work.cblock) and not batch.rate_applied:
                msg = f"oblock {work.oblock} has been written to since"
                raise BusyError(msg)
            await self._steps.copy_back(work.oblock, work.cblock, batch.patience)
            await volume.locks.raise_level(work.oblock)
            await self._steps.unmap([work.cblock])
            volume.counters.demotions += 1
            batch.done(work)


@contextmanager
def reporting(batch: Batch, work: Work, held: Held | None = None) -> Iterator[None]:
    """Tell the batch what goes wrong within this block, and release the item's lock then."""
    try:
        yield
    except FusecacheError as exc:
        batch.failed(work, exc)
        if held is not None:
            held.release(work.oblock)


def _stretches(batch: Batch, numbers: Iterable[int]) -> Iterator[range]:
    """Cut these items of a batch, given by number, into stretches of neighbours at the origin."""
    stretch = range(0)
    for number in numbers:
        if stretch and number == stretch.stop and batch.works[number].oblock == batch.works[number - 1].oblock + 1:
            stretch = range(stretch.start, number + 1)
        else:
            if stretch:
                yield stretch
            stretch = range(number, number + 1)
    if stretch:
        yield stretch
