"""Moving blocks between cache and origin: promotion, demotion, writeback, each one straight-line coroutine.

Theory of operation
-------------------
A move locks its block at two levels (:mod:`fusecache.block.locks`): while it copies, only writers are kept out.  The
switch, the moment at which lookups give another answer, is one synchronous step, so nobody sees it half done; a
demotion, which has to wait for its commit in the middle of the switch, keeps everybody out until then.  Any failure
before the switch leaves the old state.

Promotions and writebacks come as *runs* of blocks that are neighbours at the origin, and read or write it once.

*Several blocks are locked by one coroutine.*
  What must hold: nobody waits in a circle.  So a run takes only what is free (those that somebody is migrating are left
  out), and while it holds blocks it waits for nobody but readers and writers of blocks that it has, who hold theirs
  without waiting for any other.
  What it costs: a run that loses a block in the middle becomes two I/Os.

*A writeback keeps writers out of one block at a time, and only while it takes its copy in memory.*
  What must hold: a block turns clean only if nobody has written to it since that copy was taken, and only after the
  write that it was part of.  The mapping's flag SAVING says the first, block by block; and the block stays closed to
  other migrations until then, so that no older content reaches the origin after a newer one.
  What it costs: the write is for nothing if somebody has written meanwhile.

*A write of a run may fail in part, or a read.*
  What must hold: a block is not worse off for its neighbours, and none counts as done because of them.  So after a
  failure each one of the run is written or read alone, and only those whose own I/O succeeded are done.
  What it costs: an origin that fails is asked once more for each block of a run.

*A cache block is vacated before its new block is locked*, since nobody else can have it, and a commit takes a while;
and looked at again when that is done.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
from crc32c import crc32c

from fusecache.block import ALL_OUT, UNMAPPED, WRITERS_OUT
from fusecache.config import COPY_SIZE, MIB
from fusecache.errors import BusyError, FusecacheError, StoreError
from fusecache.migration.batches import Batch, Held
from fusecache.migration.copier import CacheReadError, Copier
from fusecache.migration.traffic import ASKED_FOR, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusecache.migration.traffic import Traffic
    from fusecache.volume import Volume
    from policies import Work

log = structlog.get_logger(__name__)

_PIECE: Final = 2 * MIB
"""Bytes that the kernel's page cache keeps in one piece, at most."""


class Migrations:
    """The moves of one volume; none of them fails after its switch."""

    __slots__ = ("_copier", "_traffic", "_volume")

    def __init__(self, volume: Volume, traffic: Traffic) -> None:
        self._volume = volume
        self._traffic = traffic
        self._copier = Copier(volume)

    # The three migrations.  What goes wrong is told to the order.

    async def promote(self, batch: Batch) -> None:
        """Copy blocks from the origin to the cache, then map them, clean."""
        volume = self._volume
        vacated, locked = list[int](), list[int]()
        for number, work in enumerate(batch.works):
            with _reporting(batch, work):
                await volume.durability.wait_reusable(work.cblock)
                vacated.append(number)
        with Held(volume) as held, self._copier.buffer() as buffer:
            for number in vacated:
                work = batch.works[number]
                with _reporting(batch, work, held):
                    await held.take(work.oblock, WRITERS_OUT)
                    volume.require_work(work)
                    await volume.durability.wait_reusable(work.cblock)
                    locked.append(number)
            for stretch in _stretches(batch, locked):
                await self._fetch(batch, stretch, held, buffer)

    async def _fetch(self, batch: Batch, stretch: range, held: Held, buffer: memoryview) -> None:
        """Promote those of a run that are a stretch of the origin."""
        volume = self._volume
        size = volume.geometry.block_size
        together = len(stretch) > 1
        if together:
            start = batch.works[stretch.start].oblock * size
            try:
                await volume.origin.read(start, buffer[stretch.start * size : stretch.stop * size])
            except StoreError:
                together = False
        for number in stretch:
            work = batch.works[number]
            with _reporting(batch, work, held):
                if together:
                    content = buffer[number * size : (number + 1) * size]
                    crc = await self._copier.store(work.cblock * size, content)
                else:
                    crc = await self._copy_in(work, buffer)
                self._map(batch, work)
                volume.mapping.set_sum(work.cblock, crc)
                volume.policy.clear_dirty(work.cblock)
                held.release(work.oblock)
        await self._forget_at_origin(batch, stretch)

    async def write_back(self, batch: Batch) -> None:
        """Copy dirty blocks to the origin; they stay mapped, and turn clean, or stay dirty if written meanwhile."""
        size = self._volume.geometry.block_size
        if size > COPY_SIZE:
            for work in batch.works:
                await self._write_back_large(batch, work)
            return
        crcs: dict[int, int] = {}
        with Held(self._volume) as held, self._copier.buffer() as buffer:
            try:
                with self._traffic.coming():
                    for number, work in enumerate(batch.works):
                        with _reporting(batch, work, held):
                            await held.take(work.oblock, WRITERS_OUT)
                            self._volume.require_work(work)
                            if self._volume.is_dirty(work.cblock):
                                content = buffer[number * size : (number + 1) * size]
                                crcs[number] = await self._snapshot_dirty(work, content)
                            else:
                                batch.done(work)
                                held.release(work.oblock)
                for stretch in _stretches(batch, list(crcs)):
                    await self._write_stretch(batch, stretch, held, buffer, crcs)
            finally:
                for number in crcs:
                    self._volume.mapping.end_writeback(batch.works[number].cblock)

    async def _write_back_large(self, batch: Batch, work: Work) -> None:
        """Copy a block that is more than a run; writers are kept out all the while."""
        with Held(self._volume) as held, _reporting(batch, work, held):
            await held.take(work.oblock, WRITERS_OUT)
            self._volume.require_work(work)
            await self.copy_back(work.oblock, work.cblock, batch.patience)
            batch.done(work)
        await self._forget_at_origin(batch, range(1))

    async def _forget_at_origin(self, batch: Batch, stretch: range) -> None:
        """Let what the cache has by now leave the memory of the origin: it would be there twice.

        Neighbours that the cache has go along, as the kernel drops only as a whole what it keeps in one piece.
        """
        size, find = self._volume.geometry.block_size, self._volume.mapping.find
        begin = batch.works[stretch.start].oblock
        end = begin + len(stretch)
        first, last = max(0, begin - _PIECE // size), end + _PIECE // size
        while begin > first and find(begin - 1) != UNMAPPED:
            begin -= 1
        while end < last and find(end) != UNMAPPED:
            end += 1
        await self._volume.origin.forget(begin * size, (end - begin) * size)

    async def _snapshot_dirty(self, work: Work, content: memoryview) -> int:
        """Take a copy of a dirty block from which writers are kept out, and let them in; returns its sum."""
        volume = self._volume
        try:
            crc = await self._copier.load(work.cblock * len(content), content)
        except CacheReadError:
            await self._copier.name_lost(work.oblock, work.cblock)
            raise
        self._require_dirty(work.cblock)
        volume.mapping.begin_writeback(work.cblock)
        volume.locks.lower_level(work.oblock)
        return crc

    async def _write_stretch(
        self, batch: Batch, stretch: range, held: Held, buffer: memoryview, crcs: dict[int, int]
    ) -> None:
        """Write back those of a run that are a stretch of the origin; takes what has ended out of ``crcs``."""
        volume = self._volume
        size = volume.geometry.block_size
        start = batch.works[stretch.start].oblock * size
        error: StoreError | None = None
        try:
            await self._write_origin(start, buffer[stretch.start * size : stretch.stop * size], batch.patience)
        except StoreError as exc:
            error = exc
        if error is not None and len(stretch) > 1:
            for number in stretch:
                await self._write_stretch(batch, range(number, number + 1), held, buffer, crcs)
            return
        for number in stretch:
            work = batch.works[number]
            crc = crcs.pop(number)
            # A write that has not ended yet would make a block dirty that others have counted as clean meanwhile.
            unchanged = volume.mapping.end_writeback(work.cblock) and not volume.locks.is_writing(work.oblock)
            if error is not None:
                batch.failed(work, error)
            else:
                if unchanged:
                    self._written_back(work.oblock, work.cblock, crc)
                batch.done(work, not volume.is_dirty(work.cblock))
            held.release(work.oblock)
        await self._forget_at_origin(batch, stretch)

    async def demote(self, batch: Batch) -> None:
        """Unmap a block, writing it back first if it has become dirty; its cache block is free when that is durable."""
        volume = self._volume
        (work,) = batch.works
        with Held(volume) as held, _reporting(batch, work, held):
            await held.take(work.oblock, WRITERS_OUT)
            volume.require_work(work)
            if volume.is_dirty(work.cblock) and not batch.rate_applied:
                msg = f"oblock {work.oblock} has been written to since"
                raise BusyError(msg)
            await self.copy_back(work.oblock, work.cblock, batch.patience)
            await volume.locks.raise_level(work.oblock)
            await self.unmap(work.cblock)
            volume.counters.demotions += 1
            batch.done(work)

    # Moves that others ask for

    async def overwrite(self, batch: Batch, data: memoryview) -> None:
        """Promote a block by the write that covers all of it: no copy, and the block is dirty.

        The caller has it exclusively.  If the cache refuses the data, the origin gets it.
        """
        volume = self._volume
        (work,) = batch.works
        start = work.cblock * volume.geometry.block_size
        try:
            await volume.locks.drained(work.oblock)
            await volume.durability.wait_reusable(work.cblock)
            if not volume.cache.write_nowait(start, data):
                await volume.cache.write(start, data)
            volume.require_cache()
        except FusecacheError as exc:
            log.warning("overwrite failed", oblock=work.oblock, cblock=work.cblock, error=str(exc))
            batch.failed(work, exc)
            try:
                await volume.origin.write(work.oblock * volume.geometry.block_size, data)
            finally:
                volume.durability.flushes.origin_written()
            return
        self._map(batch, work)
        volume.mapping.set_dirty(work.cblock)
        volume.policy.set_dirty(work.cblock)

    async def clean(self, oblock: int) -> None:
        """Write a block back if it is cached and dirty, whatever the policy thinks of it, and whoever writes to it."""
        volume = self._volume
        await self._traffic.allowed(volume.geometry.block_size)
        with Held(volume) as held:
            await held.take_when_free(oblock, WRITERS_OUT)
            cblock = volume.mapping.find(oblock)
            if cblock != UNMAPPED:
                await self.copy_back(oblock, cblock, ASKED_FOR)

    async def heal(self, oblock: int, cblock: int) -> bool:
        """Make a clean block's copy in the cache the origin's again, and take its sum; returns whether it was not.

        :raises BusyError: the block is being migrated.
        :raises StoreError: the origin cannot be read or the cache not written; the copy may be anything now.
        """
        volume = self._volume
        size = volume.geometry.block_size
        await self._traffic.allowed(size)
        with Held(volume) as held:
            await held.take(oblock, ALL_OUT)
            if volume.mapping.find(oblock) != cblock or volume.is_dirty(cblock):
                return False
            mine, right = bytearray(size), bytearray(size)
            await volume.cache.read(cblock * size, mine)
            await volume.origin.read(oblock * size, right)
            rotten = mine != right
            if rotten:
                volume.counters.healed += 1
                await volume.cache.write(cblock * size, right)
                volume.content_changed()
            volume.mapping.set_sum(cblock, crc32c(right))
            volume.durability.rows.summed(cblock)
        return rotten

    async def name_lost(self, oblock: int, cblock: int) -> None:
        """Find out which parts of an unreadable block cannot be read, if it is dirty still.

        :raises BusyError: the block is being migrated.
        """
        with Held(self._volume) as held:
            await held.take(oblock, WRITERS_OUT)
            if self._volume.mapping.find(oblock) == cblock and self._volume.is_dirty(cblock):
                await self._copier.name_lost(oblock, cblock)

    # Steps they share

    async def copy_back(self, oblock: int, cblock: int, patience: float = PATIENCE) -> None:
        """Make a block clean by copying it to the origin, if it is dirty; the caller keeps writers out."""
        volume = self._volume
        if not volume.is_dirty(cblock):
            return
        size = volume.geometry.block_size
        crc = 0
        with self._copier.buffer() as buffer:
            for start in range(0, size, COPY_SIZE):
                content = buffer[: size - start]
                try:
                    crc = await self._copier.load(cblock * size + start, content, crc)
                except CacheReadError:
                    await self._copier.name_lost(oblock, cblock)
                    raise
                self._require_dirty(cblock)
                await self._write_origin(oblock * size + start, content, patience)
        self._written_back(oblock, cblock, crc)

    def _require_dirty(self, cblock: int) -> None:
        """Raise StoreError if a block that was dirty when we began to read it has been forsaken meanwhile."""
        if not self._volume.is_dirty(cblock):
            raise StoreError(self._volume.health.cache_lost)

    async def unmap(self, cblock: int) -> None:
        """Switch: from here on a clean block is not in the cache, durably; on failure everything is as it was."""
        mapping, durability = self._volume.mapping, self._volume.durability
        durability.rows.removing(cblock)
        flags = mapping.flags[cblock]
        divergent = durability.rows.is_divergent(cblock)
        oblock = mapping.remove(cblock)
        try:
            await durability.commit()
        except BaseException:
            mapping.insert(oblock, cblock)
            mapping.flags[cblock] = flags
            durability.rows.kept(cblock)
            if divergent and not durability.flushes.has_lost_writes(cblock):
                self._volume.set_dirty(cblock)  # one of its two copies has to be the right one
            raise

    async def _copy_in(self, work: Work, buffer: memoryview) -> int:
        """Copy one block from the origin to the cache; returns its sum."""
        volume = self._volume
        size = volume.geometry.block_size
        crc = 0
        for start in range(0, size, COPY_SIZE):
            content = buffer[: size - start]
            await volume.origin.read(work.oblock * size + start, content)
            crc = await self._copier.store(work.cblock * size + start, content, crc)
        return crc

    async def _write_origin(self, position: int, content: memoryview, patience: float) -> None:
        volume = self._volume
        if volume.health.cache_lost:  # what is brought to safety does not queue up
            await volume.activity.give_way(patience)
            await volume.origin.write(position, content)
        else:
            async with self._traffic.slot(position, patience):
                await volume.origin.write(position, content)

    def _map(self, batch: Batch, work: Work) -> None:
        """Switch: from here on the block is in the cache."""
        volume = self._volume
        volume.mapping.insert(work.oblock, work.cblock)
        volume.durability.rows.promoted(work.cblock)
        volume.counters.promotions += 1
        batch.done(work)

    def _written_back(self, oblock: int, cblock: int, crc: int) -> None:
        """Note that the origin has what the cache has."""
        volume = self._volume
        size = volume.geometry.block_size
        volume.set_clean(cblock, crc)
        volume.counters.writebacks += 1
        if volume.health.lost:
            volume.health.lost.discard(oblock * size, (oblock + 1) * size)


@contextmanager
def _reporting(batch: Batch, work: Work, held: Held | None = None) -> Iterator[None]:
    """Tell the order what goes wrong within this block, and give the item's block back then."""
    try:
        yield
    except FusecacheError as exc:
        batch.failed(work, exc)
        if held is not None:
            held.release(work.oblock)


def _stretches(batch: Batch, numbers: Iterable[int]) -> Iterator[range]:
    """Cut the items with these numbers, ascending, where one is missing or two are not neighbours at the origin."""
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
