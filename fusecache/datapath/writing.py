"""Writes of the image (see :mod:`fusecache.datapath.disk` for the data path as a whole).

Theory of operation
-------------------
A write to a block that is not cached may be *absorbed*: if the policy wants the block at once, it goes into a free
cache block, and nothing is read from the origin.  The cache then has some sectors of the block only.  Later writes add
theirs.  Where a write covers a part of a sector that the cache does not have, that sector is read from the origin
first.

A write to such a partial block is alone there: two of them may meet in one sector, each with a part of it.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from fusecache.block import (
    DIRTY,
    PARTIAL,
    UNMAPPED,
    WRITABLE,
    WRITE_INTENT,
    WRITEBACK_IN_FLIGHT,
    is_aligned,
    sectors_of,
)
from fusecache.config import COPY_SIZE, Mode
from fusecache.datapath.extents import Extent, append_bio
from fusecache.errors import ReadOnlyError, StoreError
from fusecache.tasks import fail, gather
from fusecache.volume import now_ms
from policies import MISS_QUEUED, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from fusecache.migration import MigrationWorker
    from fusecache.stores import Data
    from fusecache.volume import OriginIO, Volume

log = structlog.get_logger(__name__)


class _Route(Enum):
    """Where a write goes."""

    ORIGIN = auto()
    CACHE = auto()
    DIRTY = auto()
    """To the cache; the block is dirty afterwards, or dirty again while a writeback is in flight."""
    PART = auto()
    """To the cache, which has, or will have, some sectors of the block only."""
    INTENT = auto()
    """To the cache, once the write intent is durable."""
    BOTH = auto()
    DROP = auto()
    """To the origin, once the cached copy is durably gone."""
    OVERWRITE = auto()
    """To the cache, as a promotion by the write itself, which covers the block."""
    ABSORB = auto()
    """To the cache, as a promotion by the write itself."""


_IN_PLACE: Final = (_Route.CACHE, _Route.DIRTY)
"""To the cache, with nothing to do first."""
_ALONE: Final = (_Route.BOTH, _Route.PART)
"""Such writes keep others out of the block."""


class Writer:
    """Serves writes of one volume."""

    __slots__ = ("_absorbs", "_block_size", "_held", "_origin", "_origin_blocks", "_volume", "_worker")

    def __init__(self, volume: Volume, worker: MigrationWorker, origin: OriginIO) -> None:
        self._volume = volume
        self._worker = worker
        self._origin = origin
        self._block_size = volume.geometry.block_size
        self._origin_blocks = volume.geometry.origin_blocks
        self._held = volume.locks.held
        self._absorbs = self._block_size <= COPY_SIZE
        """Whether blocks are small enough to be kept in part."""

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write all of ``data`` at ``offset``; returns its length.

        :raises OutOfRangeError: it would pass the end; nothing was written.
        :raises FusecacheError: it could not be written; parts of it may have been.
        """
        volume = self._volume
        length = len(data)
        if not length:
            return 0
        volume.geometry.require(offset, length)
        if volume.health.read_only:
            raise ReadOnlyError(str(volume.health))
        try:
            oblock, within = divmod(offset, self._block_size)
            if within + length > self._block_size or oblock >= self._origin_blocks or oblock in self._held:
                await self._write_pieces(offset, memoryview(data))
                return length
            route, cblock, work = self._route(oblock, offset, length)
            try:
                if route in _IN_PLACE and volume.cache.write_nowait(cblock * self._block_size + within, data):
                    if route is _Route.DIRTY:
                        volume.set_dirty(cblock)
                    volume.served_hit()
                    return length
                if route is _Route.PART and self._add_now(cblock, within, data):
                    volume.served_hit()
                    return length
            except StoreError:
                pass  # the waiting write will tell
            if work is None:
                volume.locks.try_write(oblock, alone=route in _ALONE)
            await self._write_piece(route, cblock, work, oblock, within, memoryview(data))
            return length
        finally:  # what failed may be there in part
            volume.written = True

    def _route(self, oblock: int, offset: int, length: int) -> tuple[_Route, int, Work | None]:
        """Refer a write to the policy and decide.

        For an overwrite or an absorbed write the block is locked exclusively; a hold of the caller's stays.
        """
        volume = self._volume
        policy = volume.policy
        if policy.observes_bios:
            policy.observe_bio(offset, length, False, now_ms())
        may_absorb = policy.absorbs and self._absorbs and volume.mode is not Mode.PASSTHROUGH
        may_absorb = may_absorb and self._worker.accepting
        if length == self._block_size and volume.mode is Mode.WRITEBACK and self._worker.accepting and not may_absorb:
            cblock, work = policy.lookup_with_work(oblock, True, True)
            if work is not None:
                try:
                    volume.require_work(work)
                except BaseException:
                    policy.complete_background_work(work, False)
                    raise
                self._worker.begin_overwrite(work)
                return _Route.OVERWRITE, work.cblock, work
        else:
            cblock = policy.lookup(oblock, True, may_absorb)
        if cblock < 0:
            volume.require_miss(oblock)
            volume.counters.write_misses += 1
            if cblock == MISS_QUEUED:
                if not may_absorb:
                    self._worker.wake()
                elif (work := self._worker.take_promotion(oblock, copies=False)) is not None:
                    return _Route.ABSORB, work.cblock, work
            return _Route.ORIGIN, UNMAPPED, None
        volume.require_hit(oblock, cblock)
        volume.counters.write_hits += 1
        return self._route_hit(cblock), cblock, None

    def _route_hit(self, cblock: int) -> _Route:
        volume = self._volume
        if volume.mode is Mode.PASSTHROUGH or volume.health.cache_lost:
            return _Route.DROP
        flags = volume.mapping.flags[cblock]
        if flags & (WRITABLE | WRITEBACK_IN_FLIGHT | PARTIAL) == WRITABLE:
            return _Route.CACHE
        if flags & PARTIAL:
            return _Route.PART if flags & DIRTY or volume.mode is Mode.WRITEBACK else _Route.BOTH
        if flags & DIRTY:
            return _Route.DIRTY
        if volume.mode is Mode.WRITETHROUGH:
            return _Route.BOTH
        return _Route.DIRTY if flags & WRITE_INTENT else _Route.INTENT

    async def zero(self, oblock: int, within: int, zeros: memoryview) -> None:
        """Put zeros into a part of a block, without the policy; raises FusecacheError.  A hole, if it is not cached."""
        volume = self._volume
        while not volume.locks.try_write(oblock, alone=self._must_be_alone(oblock)):
            await volume.locks.park(oblock)
        cblock = volume.mapping.find(oblock)
        if cblock != UNMAPPED:
            await self._write_piece(self._route_hit(cblock), cblock, None, oblock, within, zeros)
            return
        try:
            await self._origin.discard(oblock * self._block_size + within, len(zeros))
        finally:
            volume.locks.end_write(oblock)

    def _must_be_alone(self, oblock: int) -> bool:
        """Tell whether a write may go to both stores, or to a partial block: then no other may write to the block."""
        volume = self._volume
        cblock = volume.mapping.find(oblock)
        return cblock != UNMAPPED and (volume.mode is Mode.WRITETHROUGH or bool(volume.mapping.flags[cblock] & PARTIAL))

    def _add_now(self, cblock: int, within: int, data: Data) -> bool:
        """Write to a partial block if that needs no waiting; returns whether it was done."""
        volume = self._volume
        if not (volume.mapping.flags[cblock] & WRITE_INTENT and is_aligned(within, len(data))):
            return False
        if not volume.cache.write_nowait(cblock * self._block_size + within, data):
            return False
        volume.set_dirty(cblock)
        volume.set_valid(cblock, sectors_of(within, len(data)))
        return True

    async def _write_pieces(self, offset: int, data: memoryview) -> None:
        """Write a range that crosses blocks, touches the tail, or meets a lock."""
        volume = self._volume
        extents: list[Extent] = []
        jobs: list[Callable[[], Awaitable[None]]] = []
        end = 0
        for oblock, within, length in volume.geometry.pieces(offset, len(data)):
            start, end = end, end + length
            if oblock == self._origin_blocks:
                append_bio(extents, volume.origin, offset + start, start, length, None)
            elif oblock in self._held and not volume.locks.may_write(oblock, alone=self._must_be_alone(oblock)):
                jobs.append(partial(self._write_parked, oblock, within, data[start:end]))
            else:
                try:
                    route, cblock, work = self._route(oblock, offset + start, length)
                except Exception as exc:  # noqa: BLE001 - the others are written before this is told
                    jobs.append(partial(fail, exc))
                    continue
                if route in _IN_PLACE:
                    append_bio(extents, volume.cache, cblock * self._block_size + within, start, length, oblock)
                elif route is _Route.ORIGIN:
                    append_bio(extents, volume.origin, offset + start, start, length, oblock)
                else:
                    if work is None:
                        volume.locks.try_write(oblock, alone=route in _ALONE)
                    jobs.append(partial(self._write_piece, route, cblock, work, oblock, within, data[start:end]))
        for extent in extents:
            if not self._write_now(extent, data):
                for oblock in extent.oblocks:
                    volume.locks.try_write(oblock)
                jobs.append(partial(self._write_extent, extent, data))
        await gather(jobs)

    async def _write_parked(self, oblock: int, within: int, data: memoryview) -> None:
        volume = self._volume
        while not volume.locks.try_write(oblock, alone=self._must_be_alone(oblock)):
            await volume.locks.park(oblock)
        try:
            route, cblock, work = self._route(oblock, oblock * self._block_size + within, len(data))
        except BaseException:
            volume.locks.end_write(oblock)
            raise
        if work is not None:
            volume.locks.end_write(oblock)
        await self._write_piece(route, cblock, work, oblock, within, data)

    async def _write_piece(
        self, route: _Route, cblock: int, work: Work | None, oblock: int, within: int, data: memoryview
    ) -> None:
        """Write inside one block, which the caller holds for writing (exclusively for an overwrite); end that hold."""
        volume = self._volume
        if work is not None:
            await self._promote(route, work, within, data)
            return
        if route is _Route.DROP:
            volume.locks.end_write(oblock)
            await self._drop_and_write(oblock, within, data)
            return
        position = oblock * self._block_size + within
        try:
            if route is _Route.ORIGIN:
                await self._origin.write(position, data)
                return
            if route is not _Route.DIRTY:
                await volume.durability.record_intent(cblock)
            start, content = await self._worker.steps.widened(
                oblock, within, data, volume.mapping.valid.get(cblock, volume.geometry.every_sector)
            )
            cache_position = cblock * self._block_size + start
            if route is _Route.BOTH:
                volume.durability.rows.rewriting(cblock)
                failed = not await self._write_both(position, data, cache_position, content)
            else:
                failed = not await self._write_cache(cblock, cache_position, content)
            if not failed:
                volume.set_valid(cblock, sectors_of(start, len(content)))
            elif not volume.is_dirty(cblock):
                volume.durability.rows.mark_divergent(cblock)
        finally:
            volume.locks.end_write(oblock)
        if failed:
            # What goes to the origin last is what counts.
            await self._drop_and_write(oblock, within, data)

    async def _promote(self, route: _Route, work: Work, within: int, data: memoryview) -> None:
        """Promote a block by a write, and pay for that beyond the dirty limit."""
        worker = self._worker
        if route is _Route.OVERWRITE:
            await worker.overwrite(work, data)
        else:
            await worker.absorb(work, within, data)
        if worker.admission.is_exceeded:
            await worker.admission.pay()

    async def _write_cache(self, cblock: int, position: int, data: memoryview) -> bool:
        """Write to a block with write intent and mark it dirty; returns whether that succeeded.

        It is marked only after the write: until then the origin has everything, and can take this write as well.
        """
        volume = self._volume
        try:
            if not volume.cache.write_nowait(position, data):
                await volume.cache.write(position, data)
            volume.require_cache()
        except StoreError as exc:
            volume.counters.cache_errors += 1
            volume.mapping.write_failed(cblock)
            log.warning("cache write failed", cblock=cblock, error=str(exc))
            return False
        volume.set_dirty(cblock)
        return True

    async def _drop_and_write(self, oblock: int, within: int, data: memoryview) -> None:
        """Drop a block from the cache, then write to the origin."""
        volume = self._volume
        while True:
            dropped = await self._worker.invalidate(oblock)
            volume.counters.demotions += dropped
            while not volume.locks.try_write(oblock):
                await volume.locks.park(oblock)
            if volume.mapping.find(oblock) == UNMAPPED:
                break
            volume.locks.end_write(oblock)  # the mode was changed, and the block promoted, in between
        try:
            await self._origin.write(oblock * self._block_size + within, data)
        finally:
            volume.locks.end_write(oblock)

    async def _write_both(self, position: int, data: memoryview, cache_position: int, content: memoryview) -> bool:
        """Write to the origin, and to the cache what it is to have, side by side; returns whether both succeeded."""
        volume = self._volume

        async def to_cache() -> None:
            with volume.counters.at_cache():
                await volume.cache.write(cache_position, content)

        try:
            await gather([partial(self._origin.write, position, data), to_cache])
        except StoreError as exc:
            log.warning("write to both failed", position=position, error=str(exc))
            return False
        return True

    def _write_now(self, extent: Extent, data: memoryview) -> bool:
        """Write one extent to the cache if that needs no waiting; returns whether it was done."""
        volume = self._volume
        if extent.store is not volume.cache:
            return False
        try:
            if not volume.cache.write_nowait(extent.position, data[extent.start : extent.start + extent.length]):
                return False
        except StoreError:
            return False  # the waiting write will tell
        self._wrote(extent)
        return True

    def _wrote(self, extent: Extent) -> None:
        """Mark the blocks of an extent dirty: the cache has been written."""
        first = extent.position // self._block_size
        for cblock in range(first, first + len(extent.oblocks)):
            self._volume.set_dirty(cblock)

    async def _write_extent(self, extent: Extent, data: memoryview) -> None:
        """Write one extent, then end the holds on its blocks."""
        volume = self._volume
        part = data[extent.start : extent.start + extent.length]
        if extent.store is volume.origin:
            try:
                await self._origin.write(extent.position, part)
            finally:
                for oblock in extent.oblocks:
                    volume.locks.end_write(oblock)
            return
        try:
            await volume.cache.write(extent.position, part)
            volume.require_cache()
        except StoreError:
            await gather(list(self._one_by_one(extent, part)))
        else:
            self._wrote(extent)
            for oblock in extent.oblocks:
                volume.locks.end_write(oblock)

    def _one_by_one(self, extent: Extent, data: memoryview) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yield a write for each block of an extent."""
        position = extent.position
        for oblock in extent.oblocks:
            cblock, within = divmod(position, self._block_size)
            start = position - extent.position
            piece = data[start : start + self._block_size - within]
            yield partial(self._write_piece, _Route.DIRTY, cblock, None, oblock, within, piece)
            position += len(piece)
