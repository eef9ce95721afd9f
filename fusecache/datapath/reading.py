"""Reads of the image (see :mod:`fusecache.datapath.disk` for the data path as a whole)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from fusecache.config import MIB, Mode
from fusecache.datapath.extents import Extent, append_bio
from fusecache.errors import StoreError
from fusecache.tasks import fail, gather
from fusecache.volume import now_ms
from policies import MISS_QUEUED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fusecache.datapath.origin_io import OriginIO
    from fusecache.migration import MigrationWorker
    from fusecache.stores import Data, Store
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_LARGEST_REQUEST: Final = 1 * MIB
"""The largest request that FUSE sends by default.  Larger ones are served as well, from memory of their own."""


class Reader:
    """Serves reads of one volume."""

    __slots__ = ("_block_size", "_held", "_origin", "_origin_blocks", "_page", "_volume", "_worker")

    def __init__(self, volume: Volume, worker: MigrationWorker, origin: OriginIO) -> None:
        self._volume = volume
        self._worker = worker
        self._origin = origin
        self._block_size = volume.geometry.block_size
        self._origin_blocks = volume.geometry.origin_blocks
        self._held = volume.locks.held
        self._page = memoryview(bytearray(_LARGEST_REQUEST))

    async def read(self, offset: int, length: int) -> Data:
        """Return up to ``length`` bytes from ``offset``: fewer only at the end of the image.

        The caller may use the answer only until it waits for anything: all hits are served from one piece of memory,
        so that none has to be allocated and cleared for each.

        :raises StoreError: neither cache nor origin has them.
        """
        volume = self._volume
        oblock, within = divmod(offset, self._block_size)
        if (
            oblock >= self._origin_blocks
            or within + length > self._block_size
            or oblock in self._held
            or length > _LARGEST_REQUEST
        ):
            return await self._read_pieces(offset, volume.geometry.clip(offset, length))
        store, start = self._route(oblock, offset, length)
        if store is volume.cache and store.read_nowait(start + within, into := self._page[:length]):
            volume.served_hit()
            return into
        buffer = bytearray(length)
        volume.locks.try_read(oblock)
        await self._read_extent(Extent(store, start + within, 0, length, [oblock]), memoryview(buffer))
        return buffer

    def _route(self, oblock: int, offset: int, length: int) -> tuple[Store, int]:
        """Refer a read to the policy; returns the store and where the block begins in it."""
        volume = self._volume
        policy = volume.policy
        if policy.observes_bios:
            policy.observe_bio(offset, length, False, now_ms())
        cblock = policy.lookup(oblock, False, False)
        if cblock >= 0:
            volume.require_hit(oblock, cblock)
            volume.counters.read_hits += 1
            if volume.mode is Mode.PASSTHROUGH or (volume.health.cache_lost and not volume.is_dirty(cblock)):
                return volume.origin, oblock * self._block_size
            return volume.cache, cblock * self._block_size
        volume.require_miss(oblock)
        volume.counters.read_misses += 1
        if cblock == MISS_QUEUED:
            self._worker.wake()
        return volume.origin, oblock * self._block_size

    async def _read_pieces(self, offset: int, length: int) -> Data:
        """Read a range that crosses blocks, touches the tail, or meets a lock."""
        volume = self._volume
        into = self._page[:length] if length <= _LARGEST_REQUEST else memoryview(bytearray(length))
        extents: list[Extent] = []
        parked: list[tuple[int, int, int, int]] = []
        jobs: list[Callable[[], Awaitable[None]]] = []
        end = 0
        for oblock, within, size in volume.geometry.pieces(offset, length):
            start, end = end, end + size
            if oblock == self._origin_blocks:
                append_bio(extents, volume.origin, offset + start, start, size, None)
            elif oblock in self._held and not volume.locks.may_read(oblock):
                parked.append((oblock, within, start, end))
            else:
                try:
                    store, position = self._route(oblock, offset + start, size)
                except Exception as exc:  # noqa: BLE001 - the others are read before this is told
                    jobs.append(partial(fail, exc))
                else:
                    append_bio(extents, store, position + within, start, size, oblock)
        waiting = [extent for extent in extents if not self._read_now(extent, into)]
        if not (waiting or parked or jobs):
            return into
        buffer = bytearray(into)
        view = memoryview(buffer)
        for extent in waiting:
            for oblock in extent.oblocks:
                volume.locks.try_read(oblock)
            jobs.append(partial(self._read_extent, extent, view))
        jobs.extend(partial(self._read_parked, oblock, within, view[a:b]) for oblock, within, a, b in parked)
        await gather(jobs)
        return buffer

    async def _read_parked(self, oblock: int, within: int, view: memoryview) -> None:
        volume = self._volume
        while not volume.locks.try_read(oblock):
            await volume.locks.park(oblock)
        try:
            store, position = self._route(oblock, oblock * self._block_size + within, len(view))
        except BaseException:
            volume.locks.end_read(oblock)
            raise
        await self._read_extent(Extent(store, position + within, 0, len(view), [oblock]), view)

    def _read_now(self, extent: Extent, view: memoryview) -> bool:
        """Read one extent if that needs no waiting; returns whether it was done."""
        return extent.store is self._volume.cache and extent.store.read_nowait(
            extent.position, view[extent.start : extent.start + extent.length]
        )

    async def _read_extent(self, extent: Extent, view: memoryview) -> None:
        """Read one extent, then end the holds on its blocks."""
        volume = self._volume
        into = view[extent.start : extent.start + extent.length]
        try:
            if extent.store is volume.origin:
                await self._origin.read(extent.position, into)
            elif not self._read_now(extent, view):
                await self._read_cache(extent, into)
        finally:
            for oblock in extent.oblocks:
                volume.locks.end_read(oblock)

    async def _read_cache(self, extent: Extent, into: memoryview) -> None:
        volume = self._volume
        try:
            await volume.cache.read(extent.position, into)
        except StoreError as exc:
            log.warning("cache read failed", oblocks=extent.oblocks, error=str(exc))
            await self._reread(extent, into)
        else:
            if volume.health.cache_lost:  # since we began, perhaps
                await self._reread(extent, into)

    async def _reread(self, extent: Extent, into: memoryview) -> None:
        """Read block by block what the cache could not give.  Clean blocks come from the origin and are dropped."""
        volume = self._volume
        done = 0
        for oblock in extent.oblocks:
            cblock = volume.mapping.find(oblock)
            within = (extent.position + done) % self._block_size
            part = into[done : done + self._block_size - within]
            offset = oblock * self._block_size + within
            done += len(part)
            if volume.health.cache_lost and not volume.is_dirty(cblock):
                await self._origin.read(offset, part)
                continue
            try:
                await volume.cache.read(extent.position + done - len(part), part)
            except StoreError as exc:
                volume.counters.cache_errors += 1
                if volume.is_dirty(cblock):
                    volume.health.lost.add(offset, offset + len(part))
                    msg = f"bytes {offset} to {offset + len(part)} of the image cannot be read: {exc}"
                    raise StoreError(msg) from exc
                await self._origin.read(offset, part)
                self._worker.drop_unreadable(oblock)
