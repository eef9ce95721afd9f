"""Reads of the image (see :mod:`fusecache.datapath.disk` for the data path as a whole)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from fusecache.config import MIB, Mode
from fusecache.datapath.extents import Run, extend
from fusecache.errors import StoreError
from fusecache.tasks import fail, gather
from fusecache.volume import now_ms
from policies import MISS_QUEUED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fusecache.datapath.origin_io import OriginIO
    from fusecache.migration import Migrations
    from fusecache.stores import Data, Store
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_LARGEST_REQUEST: Final = 1 * MIB
"""What FUSE asks for at once, unless the system's administrator raised it; larger ones are served as well."""


class Reader:
    """Serves reads of one volume."""

    __slots__ = ("_block_size", "_cells", "_migrations", "_origin", "_origin_blocks", "_page", "_volume")

    def __init__(self, volume: Volume, migrations: Migrations, origin: OriginIO) -> None:
        self._volume = volume
        self._migrations = migrations
        self._origin = origin
        self._block_size = volume.geometry.block_size
        self._origin_blocks = volume.geometry.origin_blocks
        self._cells = volume.locks.cells
        self._page = memoryview(bytearray(_LARGEST_REQUEST))

    async def read(self, offset: int, length: int) -> Data:
        """Return up to ``length`` bytes from ``offset``: fewer only at the end of the image.

        What is returned is the caller's only until it waits for anything: hits are all served from one piece of
        memory, which costs neither its allocation nor its clearing.

        :raises StoreError: neither cache nor origin has them.
        """
        volume = self._volume
        oblock, within = divmod(offset, self._block_size)
        if (
            oblock >= self._origin_blocks
            or within + length > self._block_size
            or oblock in self._cells
            or length > _LARGEST_REQUEST
        ):
            return await self._read_pieces(offset, volume.geometry.clip(offset, length))
        store, start = self._route(oblock, offset, length)
        if store is volume.cache and store.read_nowait(start + within, into := self._page[:length]):
            volume.served_hit()
            return into
        buffer = bytearray(length)
        volume.locks.try_read(oblock)
        await self._read_run(Run(store, start + within, 0, length, [oblock]), memoryview(buffer))
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
            volume.stats.read_hits += 1
            if volume.mode is Mode.PASSTHROUGH or (volume.health.cache_lost and not volume.is_dirty(cblock)):
                return volume.origin, oblock * self._block_size
            return volume.cache, cblock * self._block_size
        volume.require_miss(oblock)
        volume.stats.read_misses += 1
        if cblock == MISS_QUEUED:
            self._migrations.wake()
        return volume.origin, oblock * self._block_size

    async def _read_pieces(self, offset: int, length: int) -> Data:
        """Read a range that crosses blocks, touches the tail, or meets a lock."""
        volume = self._volume
        into = self._page[:length] if length <= _LARGEST_REQUEST else memoryview(bytearray(length))
        runs: list[Run] = []
        parked: list[tuple[int, int, int, int]] = []
        jobs: list[Callable[[], Awaitable[None]]] = []
        end = 0
        for oblock, within, size in volume.geometry.pieces(offset, length):
            start, end = end, end + size
            if oblock == self._origin_blocks:
                extend(runs, volume.origin, offset + start, start, size, None)
            elif oblock in self._cells and not volume.locks.may_read(oblock):
                parked.append((oblock, within, start, end))
            else:
                try:
                    store, position = self._route(oblock, offset + start, size)
                except Exception as exc:  # noqa: BLE001 - the others are read before this is told
                    jobs.append(partial(fail, exc))
                else:
                    extend(runs, store, position + within, start, size, oblock)
        waiting = [run for run in runs if not self._read_now(run, into)]
        if not (waiting or parked or jobs):
            return into
        buffer = bytearray(into)
        view = memoryview(buffer)
        for run in waiting:
            for oblock in run.oblocks:
                volume.locks.try_read(oblock)
            jobs.append(partial(self._read_run, run, view))
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
        await self._read_run(Run(store, position + within, 0, len(view), [oblock]), view)

    def _read_now(self, run: Run, view: memoryview) -> bool:
        """Do one I/O, if it needs no waiting; returns whether it was done."""
        return run.store is self._volume.cache and run.store.read_nowait(
            run.position, view[run.start : run.start + run.length]
        )

    async def _read_run(self, run: Run, view: memoryview) -> None:
        """Do one I/O, then give its blocks back."""
        volume = self._volume
        into = view[run.start : run.start + run.length]
        try:
            if run.store is volume.origin:
                await self._origin.read(run.position, into)
            elif not self._read_now(run, view):
                await self._read_cache(run, into)
        finally:
            for oblock in run.oblocks:
                volume.locks.end_read(oblock)

    async def _read_cache(self, run: Run, into: memoryview) -> None:
        volume = self._volume
        try:
            await volume.cache.read(run.position, into)
        except StoreError as exc:
            log.warning("cache read failed", oblocks=run.oblocks, error=str(exc))
            await self._reread(run, into)
        else:
            if volume.health.cache_lost:  # since we began, perhaps
                await self._reread(run, into)

    async def _reread(self, run: Run, into: memoryview) -> None:
        """Read block by block what the cache could not give; clean blocks from the origin, and drop them."""
        volume = self._volume
        done = 0
        for oblock in run.oblocks:
            cblock = volume.mapping.find(oblock)
            within = (run.position + done) % self._block_size
            part = into[done : done + self._block_size - within]
            offset = oblock * self._block_size + within
            done += len(part)
            if volume.health.cache_lost and not volume.is_dirty(cblock):
                await self._origin.read(offset, part)
                continue
            try:
                await volume.cache.read(run.position + done - len(part), part)
            except StoreError as exc:
                volume.stats.cache_errors += 1
                if volume.is_dirty(cblock):
                    volume.health.lost.add(offset, offset + len(part))
                    msg = f"bytes {offset} to {offset + len(part)} of the image cannot be read: {exc}"
                    raise StoreError(msg) from exc
                await self._origin.read(offset, part)
                self._migrations.distrust(oblock)
