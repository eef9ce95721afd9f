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

from typing import TYPE_CHECKING

import structlog
from crc32c import crc32c

from fusecache.block import ALL_OUT, UNMAPPED, WRITERS_OUT
from fusecache.config import COPY_SIZE
from fusecache.errors import FusecacheError, StoreError
from fusecache.migration.batches import Held
from fusecache.migration.copier import CacheReadError
from fusecache.migration.origin_slots import PATIENCE, SHORT_PATIENCE
from fusecache.stores import write_sparsely

if TYPE_CHECKING:
    from fusecache.migration.batches import Batch
    from fusecache.migration.copier import Copier
    from fusecache.migration.copy_rate import CopyRate
    from fusecache.migration.origin_slots import OriginSlots
    from fusecache.volume import Volume
    from policies import Work

log = structlog.get_logger(__name__)


class Steps:
    """The steps of one volume."""

    __slots__ = ("_copier", "_copy_rate", "_origin_slots", "_volume")

    def __init__(self, volume: Volume, copier: Copier, copy_rate: CopyRate, origin_slots: OriginSlots) -> None:
        self._volume = volume
        self._copier = copier
        self._copy_rate = copy_rate
        self._origin_slots = origin_slots

    # What requests and jobs ask for

    async def overwrite(self, batch: Batch, data: memoryview) -> None:
        """Promote a block by the write that covers all of it: nothing is copied, and the block is dirty.

        The caller has the block exclusively.  If the cache refuses the data, the origin gets it.
        """
        volume = self._volume
        (work,) = batch.works
        start = work.cblock * volume.geometry.block_size
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
        volume.mapping.written(work.cblock)
        volume.policy.set_dirty(work.cblock)

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
            if volume.mapping.find(oblock) != cblock or volume.is_dirty(cblock):
                return False
            mine, right = bytearray(size), bytearray(size)
            with volume.counters.at_cache():
                await volume.cache.read(cblock * size, mine)
            with volume.counters.at_origin():
                await volume.origin.read(oblock * size, right)
            rotten = mine != right
            if rotten:
                volume.counters.healed += 1
                with volume.counters.at_cache():
                    await volume.cache.write(cblock * size, right)
                volume.content_changed()
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
                self.require_dirty(cblock)
                try:
                    await self.write_origin(oblock * size + start, content, patience)
                except StoreError as exc:
                    volume.health.writeback_failed(oblock, str(exc))
                    raise
        self.note_written_back(oblock, cblock, crc)

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

    def note_written_back(self, oblock: int, cblock: int, crc: int) -> None:
        """Note that the origin has what the cache has."""
        volume = self._volume
        size = volume.geometry.block_size
        volume.set_clean(cblock, crc)
        volume.counters.writebacks += 1
        volume.health.written_back(oblock)
        if volume.health.lost:
            volume.health.lost.discard(oblock * size, (oblock + 1) * size)

    def require_dirty(self, cblock: int) -> None:
        """Raise StoreError if a block that was dirty when we began to read it counts as clean by now: it was lost."""
        if not self._volume.is_dirty(cblock):
            raise StoreError(self._volume.health.cache_lost)

    def map_promoted(self, batch: Batch, work: Work) -> None:
        """Switch: from here on the block is in the cache, and its item is done."""
        volume = self._volume
        volume.mapping.insert(work.oblock, work.cblock)
        volume.durability.rows.promoted(work.cblock)
        volume.counters.promotions += 1
        volume.health.promoted()
        batch.done(work)

    async def unmap(self, cblock: int) -> None:
        """Switch: from here on a clean block is not in the cache, durably; on failure everything is as it was."""
        mapping, durability = self._volume.mapping, self._volume.durability
        durability.rows.removing(cblock)
        state = mapping.flags[cblock]
        divergent = durability.rows.is_divergent(cblock)
        oblock = mapping.remove(cblock)
        try:
            await durability.commit()
        except BaseException:
            mapping.put_back(oblock, cblock, state)
            durability.rows.kept(cblock)
            if divergent and not durability.flushes.has_lost_writes(cblock):
                self._volume.set_dirty(cblock)  # one of its two copies has to be the right one
            raise
