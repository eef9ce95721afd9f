"""What is done with one block: the steps of a migration, and what requests and jobs ask for beside the policy.

Theory of operation
-------------------
*The switch*, the moment at which lookups give another answer, is one synchronous step, so nobody sees it half done.
An unmapping has to wait for its commit in the middle of the switch, so its caller keeps everybody out until then.
Whatever fails before the switch leaves the old state, and nothing fails after it.

Some steps take the block themselves, and wait for it or refuse if somebody has it; the others say what their caller
has to hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from crc32c import crc32c

from fusecache.block import (
    ALL_OUT,
    DIRTY,
    PARTIAL,
    SECTOR,
    UNMAPPED,
    WRITERS_OUT,
    byte_runs,
    sectors_of,
)
from fusecache.config import COPY_SIZE, MIB, Mode
from fusecache.errors import FusecacheError, StoreError
from fusecache.migration.batches import Held
from fusecache.migration.copier import CacheReadError
from fusecache.migration.neighbours import dirty_around
from fusecache.migration.origin_slots import PATIENCE, SHORT_PATIENCE
from fusecache.stores import write_sparsely
from fusecache.tasks import gather
from fusecache.volume import OriginIO
from policies import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusecache.migration.batches import Batch
    from fusecache.migration.copier import Copier
    from fusecache.migration.copy_rate import CopyRate
    from fusecache.migration.origin_slots import OriginSlots
    from fusecache.migration.read_ahead import ReadAhead
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_PIECE: Final = 2 * MIB
"""Bytes that the kernel's page cache keeps in one piece, at most."""


class Steps:
    """The steps of one volume."""

    __slots__ = ("_copier", "_copy_rate", "_origin", "_origin_slots", "_read_ahead", "_volume")

    def __init__(
        self, volume: Volume, copier: Copier, copy_rate: CopyRate, origin_slots: OriginSlots, read_ahead: ReadAhead
    ) -> None:
        self._volume = volume
        self._copier = copier
        self._copy_rate = copy_rate
        self._origin_slots = origin_slots
        self._read_ahead = read_ahead
        self._origin = OriginIO(volume)
        """For what a user waits for."""

    # What requests and jobs ask for

    async def overwrite(self, batch: Batch, data: memoryview) -> None:
        """Promote a block by the write that covers all of it: nothing is copied, and the block is dirty.

        The caller has the block exclusively.  If the cache refuses the data, the origin gets it.
        """
        volume = self._volume
        (work,) = batch.works
        start = work.cblock * volume.geometry.block_size
        self._read_ahead.forget(work.oblock)
        try:
            await volume.locks.drain(work.oblock)
            await volume.durability.wait_reusable(work.cblock)
            with volume.counters.at_cache():
                if not volume.cache.write_nowait(start, data):
                    await volume.cache.write(start, data)
            volume.require_cache()
        except FusecacheError as exc:
            log.warning("overwrite failed", oblock=work.oblock, cblock=work.cblock, error=str(exc))
            volume.health.promotion_failed(str(exc))
            batch.failed(work, exc)
            try:
                with volume.counters.at_origin():
                    await volume.origin.write(work.oblock * volume.geometry.block_size, data)
            finally:
                volume.durability.flushes.origin_written()
            return
        self.map_promoted(batch, work)
        volume.counters.absorbed += 1
        volume.mapping.written(work.cblock)
        volume.durability.rows.dirtied(work.cblock)
        volume.policy.set_dirty(work.cblock)

    async def absorb(self, batch: Batch, within: int, data: memoryview) -> None:
        """Promote a block by a write to a part of it, which is then all that the cache has of the block.

        The caller keeps writers out.  In other modes than writeback the origin gets the data as well, and the block is
        clean.  If the cache refuses the data, the origin gets them alone.

        :raises StoreError: the origin, which had to be written, could not be; or read, for the edges.
        """
        volume = self._volume
        (work,) = batch.works
        through = volume.mode is not Mode.WRITEBACK  # it may have been changed since the write was routed
        refusals: list[FusecacheError] = []

        async def write_cache() -> None:
            try:
                await volume.durability.wait_reusable(work.cblock)
                with volume.counters.at_cache():
                    position = work.cblock * volume.geometry.block_size + start
                    if not volume.cache.write_nowait(position, content):
                        await volume.cache.write(position, content)
                volume.require_cache()
            except FusecacheError as exc:
                refusals.append(exc)

        async def write_origin() -> None:
            await self._origin.write(work.oblock * volume.geometry.block_size + within, data)

        self._read_ahead.forget(work.oblock)
        await volume.locks.drain(work.oblock)
        start, content = await self.widened(work.oblock, within, data, 0)
        sectors = sectors_of(start, len(content))
        await gather([write_cache, write_origin] if through else [write_cache])
        if refusals:
            log.warning("write not absorbed", oblock=work.oblock, cblock=work.cblock, error=str(refusals[0]))
            volume.health.promotion_failed(str(refusals[0]))
            batch.failed(work, refusals[0])
            if not through:
                await write_origin()
            return
        self.map_promoted(batch, work)
        volume.counters.absorbed += 1
        if sectors != volume.geometry.every_sector:
            volume.mapping.holds_part(work.cblock, sectors)
        if through:
            volume.policy.clear_dirty(work.cblock)
        else:
            volume.mapping.written(work.cblock)
            volume.durability.rows.dirtied(work.cblock)
            volume.policy.set_dirty(work.cblock)

    async def widened(self, oblock: int, within: int, data: memoryview, valid: int) -> tuple[int, memoryview]:
        """Make a write longer, so that it covers those sectors at its edges wholly that the cache does not have.

        The caller keeps all other writers out.

        :param valid: sectors that the cache has.
        :return: where the write begins within the block now, and its data.
        :raises StoreError: the origin cannot be read.
        """
        begin, end = within, within + len(data)
        if begin % SECTOR and not valid >> begin // SECTOR & 1:
            begin -= begin % SECTOR
        if end % SECTOR and not valid >> end // SECTOR & 1:
            end += -end % SECTOR
        if (begin, end) == (within, within + len(data)):
            return within, data
        content = memoryview(bytearray(end - begin))
        if end - begin <= 2 * SECTOR:
            edges = [(begin, end)]
        else:
            edges = [(begin, begin + SECTOR)] if begin < within else []
            edges += [(end - SECTOR, end)] if end > within + len(data) else []
        for edge_begin, edge_end in edges:
            position = oblock * self._volume.geometry.block_size + edge_begin
            await self._origin.read(position, content[edge_begin - begin : edge_end - begin])
            self._volume.counters.edge_reads += 1
        content[within - begin : within - begin + len(data)] = data
        return begin, content

    async def complete(self, oblock: int, cblock: int, view: memoryview, *, for_user: bool) -> None:
        """Make a partial block whole: read what the cache lacks of it.

        The caller keeps writers out.  Afterwards ``view`` has all of the block; :meth:`store_rest` puts it into the
        cache.

        :param for_user: whether a user waits for it; writebacks give way to his reads, and must not to their own.
        :raises StoreError: the cache or the origin cannot be read.
        """
        volume = self._volume
        size = volume.geometry.block_size
        valid = volume.mapping.valid[cblock]
        missing = list(byte_runs(volume.geometry.every_sector & ~valid))
        begin, end = missing[0][0], missing[-1][1]
        if for_user:
            await self._origin.read(oblock * size + begin, view[begin:end])
        else:
            with volume.counters.at_origin():
                await volume.origin.read(oblock * size + begin, view[begin:end])
        for run_begin, run_end in byte_runs(valid):
            await self._copier.load(cblock * size + run_begin, view[run_begin:run_end])
        volume.require_cache()  # what was loaded after it was given up may be anything

    async def store_rest(self, cblock: int, view: memoryview) -> None:
        """Write into the cache what it lacks of a block, all of which is in ``view``; then the block is whole.

        :raises StoreError: the cache cannot be written; the block is as it was.
        """
        volume = self._volume
        size = volume.geometry.block_size
        for begin, end in byte_runs(volume.geometry.every_sector & ~volume.mapping.valid[cblock]):
            await self._copier.store(cblock * size + begin, view[begin:end])
        volume.require_cache()
        volume.set_valid(cblock, volume.geometry.every_sector)
        volume.counters.completions += 1
        if not volume.is_dirty(cblock):
            volume.mapping.sum_known(cblock, crc32c(view))

    async def clean(self, oblock: int) -> None:
        """Write a block back if it is cached and dirty; writers are kept out, and the policy is not asked."""
        volume = self._volume
        await self._copy_rate.wait_for(volume.geometry.block_size)
        with Held(volume) as held:
            await held.take_when_free(oblock, WRITERS_OUT)
            cblock = volume.mapping.find(oblock)
            if cblock != UNMAPPED:
                await self.copy_back(oblock, cblock, SHORT_PATIENCE)

    async def heal(self, oblock: int, cblock: int) -> bool:
        """Repair a clean block's copy in the cache from the origin, and take its sum; returns whether it was rotten.

        :raises BusyError: the block is being migrated.
        :raises StoreError: the origin cannot be read or the cache not written; the copy may be anything now.
        """
        volume = self._volume
        size = volume.geometry.block_size
        await self._copy_rate.wait_for(size)
        with Held(volume) as held:
            await held.take(oblock, ALL_OUT)
            if volume.mapping.find(oblock) != cblock or volume.mapping.flags[cblock] & (DIRTY | PARTIAL):
                return False
            mine, right = bytearray(size), bytearray(size)
            with volume.counters.at_cache():
                await volume.cache.read(cblock * size, mine)
            with volume.counters.at_origin():
                await volume.origin.read(oblock * size, right)
            rotten = mine != right
            if rotten and not await volume.durability.flushes.origin_has_all():
                return False
            if rotten:
                with volume.counters.at_origin():
                    await volume.origin.read(oblock * size, right)
                volume.counters.healed += 1
                with volume.counters.at_cache():
                    await volume.cache.write(cblock * size, right)
                volume.reads_differently()
            volume.mapping.sum_known(cblock, crc32c(right))
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

    # What migrations are made of

    async def copy_back(self, oblock: int, cblock: int, patience: float = PATIENCE) -> None:
        """Copy a block to the origin, if it is dirty, and make it clean; the caller keeps writers out."""
        volume = self._volume
        if not volume.is_dirty(cblock):
            return
        size, every = volume.geometry.block_size, volume.geometry.every_sector
        valid = volume.mapping.valid.get(cblock, every)
        crc = 0
        with self._copier.buffer() as buffer:
            for begin, end in byte_runs(valid):
                for start in range(begin, end, COPY_SIZE):
                    content = buffer[: end - start]
                    try:
                        crc = await self._copier.load(cblock * size + start, content, crc)
                    except CacheReadError:
                        await self._copier.name_lost(oblock, cblock)
                        raise
                    self.require_dirty(cblock, valid)
                    try:
                        await self.write_origin(oblock * size + start, content, patience)
                    except StoreError as exc:
                        volume.health.writeback_failed(oblock, str(exc))
                        raise
        self.note_written_back(oblock, cblock, crc if valid == every else None)

    async def write_origin(self, position: int, content: memoryview, patience: float) -> None:
        """Write to the origin when that may be done, without filling its holes with zeros; raises StoreError."""
        volume = self._volume
        if volume.health.cache_lost:  # to bring data to safety needs no slot
            await volume.activity.give_way(patience)
            with volume.counters.at_origin():
                await write_sparsely(volume.origin, position, content)
        else:
            async with self._origin_slots.slot(position, patience):
                with volume.counters.at_origin():
                    await write_sparsely(volume.origin, position, content)

    def note_written_back(self, oblock: int, cblock: int, crc: int | None) -> None:
        """Note that the origin has what the cache has; ``crc`` is None if that is a part of the block."""
        volume = self._volume
        volume.set_clean(cblock, crc)
        volume.counters.writebacks += 1
        volume.health.settled(oblock, volume.geometry.block_size)

    def require_dirty(self, cblock: int, sectors: int = 0) -> None:
        """Raise StoreError if a block that was dirty when we began to read it, or some sectors of it, was lost."""
        if not (self._volume.is_dirty(cblock) and self._volume.is_valid(cblock, sectors)):
            raise StoreError(self._volume.health.cache_lost)

    def written_with(self, oblock: int) -> list[Work]:
        """List a block, for which the copy rate has been asked, and the dirty neighbours that are written back with it.

        There are no neighbours if the copy rate does not allow them now.
        """
        works = dirty_around(self._volume, oblock)
        more = (len(works) - 1) * self._volume.geometry.block_size
        return works if self._copy_rate.takes(more) else [work for work in works if work.oblock == oblock]

    async def forget_at_origin(self, begin: int, count: int) -> None:
        """Let the origin forget in memory blocks that the cache has by now: they would be there twice.

        Neighbours that the cache has go along, since the kernel keeps or drops a piece of the origin as a whole.
        """
        size, find = self._volume.geometry.block_size, self._volume.mapping.find
        first, last = max(0, begin - _PIECE // size), begin + count + _PIECE // size
        end = begin + count
        while begin > first and find(begin - 1) != UNMAPPED:
            begin -= 1
        while end < last and find(end) != UNMAPPED:
            end += 1
        await self._volume.origin.forget(begin * size, (end - begin) * size)

    def map_promoted(self, batch: Batch, work: Work) -> None:
        """Switch: from here on the block is in the cache, and its item is done."""
        volume = self._volume
        self._read_ahead.forget(work.oblock)
        volume.mapping.insert(work.oblock, work.cblock)
        volume.durability.rows.promoted(work.cblock)
        volume.counters.promotions += 1
        volume.health.promoted()
        batch.done(work)

    def map_copied(self, batch: Batch, work: Work, crc: int) -> None:
        """Switch, for a block that was copied from the origin: it is clean, and this is its sum."""
        self.map_promoted(batch, work)
        self._volume.mapping.sum_known(work.cblock, crc)
        self._volume.policy.clear_dirty(work.cblock)

    async def unmap(self, cblocks: Sequence[int]) -> None:
        """Switch: from here on clean blocks are not in the cache, durably; on failure everything is as it was.

        The caller keeps everybody out of them.
        """
        mapping, rows = self._volume.mapping, self._volume.durability.rows
        removed: list[tuple[int, int, int, int | None, bool]] = []
        for cblock in cblocks:
            rows.removing(cblock)
            state, valid, divergent = mapping.flags[cblock], mapping.valid.get(cblock), rows.is_divergent(cblock)
            removed.append((mapping.remove(cblock), cblock, state, valid, divergent))
        try:
            await self._volume.durability.commit()
        except BaseException:
            for before in removed:
                self._put_back(*before)
            raise

    def _put_back(self, oblock: int, cblock: int, state: int, valid: int | None, divergent: bool) -> None:
        """Have a block in the cache again that could not be unmapped durably."""
        mapping, durability = self._volume.mapping, self._volume.durability
        mapping.put_back(oblock, cblock, state, valid)
        durability.rows.kept(cblock)
        left = durability.flushes.what_is_left(cblock)
        if divergent and left != 0:
            if left is not None:
                mapping.holds_part(cblock, left)
            self._volume.set_dirty(cblock)  # one of its two copies has to be the right one
