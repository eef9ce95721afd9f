"""Writes of the image (see :mod:`fusecache.datapath.disk` for the data path as a whole)."""

from __future__ import annotations

from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from fusecache.block import COVERED, DIRTY, SAVING, UNMAPPED, WRITABLE
from fusecache.config import Mode
from fusecache.datapath.extents import Run, extend
from fusecache.errors import ReadOnlyError, StoreError
from fusecache.tasks import fail, gather
from fusecache.volume import now_ms
from policies import MISS_QUEUED, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from fusecache.datapath.origin_io import OriginIO
    from fusecache.migration import Migrations
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)


class _Route(Enum):
    """Where a write goes."""

    ORIGIN = auto()
    CACHE = auto()
    TURN = auto()
    """To the cache; the block turns dirty by it, perhaps anew."""
    COVER = auto()
    """To the cache, once the record allows for the block's being dirty."""
    BOTH = auto()
    DROP = auto()
    """To the origin, once the cached copy is gone."""
    OVERWRITE = auto()
    """To the cache as a promotion."""


_IN_PLACE: Final = (_Route.CACHE, _Route.TURN)
"""To the cache, without any ado before."""


class Writer:
    """Serves writes of one volume."""

    __slots__ = ("_block_size", "_cells", "_migrations", "_origin", "_origin_blocks", "_volume")

    def __init__(self, volume: Volume, migrations: Migrations, origin: OriginIO) -> None:
        self._volume = volume
        self._migrations = migrations
        self._origin = origin
        self._block_size = volume.geometry.block_size
        self._origin_blocks = volume.geometry.origin_blocks
        self._cells = volume.locks.cells

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
        oblock, within = divmod(offset, self._block_size)
        if within + length > self._block_size or oblock >= self._origin_blocks or oblock in self._cells:
            await self._write_pieces(offset, memoryview(data))
            return length
        route, cblock, work = self._route(oblock, offset, length)
        try:
            if route in _IN_PLACE and volume.cache.write_nowait(cblock * self._block_size + within, data):
                if route is _Route.TURN:
                    volume.set_dirty(cblock)
                volume.served_hit()
                return length
        except StoreError:
            pass  # the waiting write will tell
        if work is None:
            volume.locks.try_write(oblock, alone=route is _Route.BOTH)
        await self._write_piece(route, cblock, work, oblock, within, memoryview(data))
        return length

    def _route(self, oblock: int, offset: int, length: int) -> tuple[_Route, int, Work | None]:
        """Refer a write to the policy and decide.

        A block that is to be overwritten is locked for that, beside whatever lock the caller has.
        """
        volume = self._volume
        policy = volume.policy
        if policy.observes_bios:
            policy.observe_bio(offset, length, False, now_ms())
        if length == self._block_size and volume.mode is Mode.WRITEBACK and self._migrations.accepting:
            cblock, work = policy.lookup_with_work(oblock, True, True)
            if work is not None:
                try:
                    volume.require_work(work)
                except BaseException:
                    policy.complete_background_work(work, False)
                    raise
                self._migrations.begin_overwrite(work)
                return _Route.OVERWRITE, work.cblock, work
        else:
            cblock = policy.lookup(oblock, True, False)
        if cblock < 0:
            volume.require_miss(oblock)
            volume.stats.write_misses += 1
            if cblock == MISS_QUEUED:
                self._migrations.wake()
            return _Route.ORIGIN, UNMAPPED, None
        volume.require_hit(oblock, cblock)
        volume.stats.write_hits += 1
        return self._route_hit(cblock), cblock, None

    def _route_hit(self, cblock: int) -> _Route:
        volume = self._volume
        if volume.mode is Mode.PASSTHROUGH or volume.health.cache_lost:
            return _Route.DROP
        flags = volume.mapping.flags[cblock]
        if flags & (WRITABLE | SAVING) == WRITABLE:
            return _Route.CACHE
        if flags & DIRTY:
            return _Route.TURN
        if volume.mode is Mode.WRITETHROUGH:
            return _Route.BOTH
        return _Route.TURN if flags & COVERED else _Route.COVER

    def _goes_to_both(self, oblock: int) -> bool:
        """Tell whether a write may go to both stores, for which it has to be alone."""
        volume = self._volume
        return volume.mode is Mode.WRITETHROUGH and volume.mapping.find(oblock) != UNMAPPED

    async def _write_pieces(self, offset: int, data: memoryview) -> None:
        """Write a range that crosses blocks, touches the tail, or meets a lock."""
        volume = self._volume
        runs: list[Run] = []
        jobs: list[Callable[[], Awaitable[None]]] = []
        end = 0
        for oblock, within, length in volume.geometry.pieces(offset, len(data)):
            start, end = end, end + length
            if oblock == self._origin_blocks:
                extend(runs, volume.origin, offset + start, start, length, None)
            elif oblock in self._cells and not volume.locks.may_write(oblock, alone=self._goes_to_both(oblock)):
                jobs.append(partial(self._write_parked, oblock, within, data[start:end]))
            else:
                try:
                    route, cblock, work = self._route(oblock, offset + start, length)
                except Exception as exc:  # noqa: BLE001 - the others are written before this is told
                    jobs.append(partial(fail, exc))
                    continue
                if route in _IN_PLACE:
                    extend(runs, volume.cache, cblock * self._block_size + within, start, length, oblock)
                elif route is _Route.ORIGIN:
                    extend(runs, volume.origin, offset + start, start, length, oblock)
                else:
                    if work is None:
                        volume.locks.try_write(oblock, alone=route is _Route.BOTH)
                    jobs.append(partial(self._write_piece, route, cblock, work, oblock, within, data[start:end]))
        for run in runs:
            if not self._write_now(run, data):
                for oblock in run.oblocks:
                    volume.locks.try_write(oblock)
                jobs.append(partial(self._write_run, run, data))
        await gather(jobs)

    async def _write_parked(self, oblock: int, within: int, data: memoryview) -> None:
        volume = self._volume
        while not volume.locks.try_write(oblock, alone=self._goes_to_both(oblock)):
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
        """Write inside one block, on which the caller has a write lock, or the lock of an overwrite; gives it back."""
        volume = self._volume
        if work is not None:
            await self._migrations.overwrite(work, data)
            return
        if route is _Route.DROP:
            volume.locks.end_write(oblock)
            await self._drop_and_write(oblock, within, data)
            return
        position = oblock * self._block_size + within
        cache_position = cblock * self._block_size + within
        try:
            if route is _Route.ORIGIN:
                await self._origin.write(position, data)
                return
            if route is _Route.BOTH or route is _Route.COVER:
                await volume.durability.cover(cblock)
            if route is _Route.BOTH:
                volume.durability.rewriting(cblock)
                failed = not await self._write_both(position, cache_position, data)
            else:
                failed = not await self._write_cache(cblock, cache_position, data)
            if failed and not volume.is_dirty(cblock):
                volume.durability.spoil(cblock)
        finally:
            volume.locks.end_write(oblock)
        if failed:
            # What goes to the origin last is what counts.
            await self._drop_and_write(oblock, within, data)

    async def _write_cache(self, cblock: int, position: int, data: memoryview) -> bool:
        """Write to a covered block, which turns dirty by it; returns whether that succeeded.

        Dirty only then: as long as nothing was written, the origin has everything, and can take this as well.
        """
        volume = self._volume
        try:
            if not volume.cache.write_nowait(position, data):
                await volume.cache.write(position, data)
            volume.require_cache()
        except StoreError as exc:
            volume.stats.cache_errors += 1
            volume.mapping.end_saving(cblock)  # parts of it may have been written
            log.warning("cache write failed", cblock=cblock, error=str(exc))
            return False
        volume.set_dirty(cblock)
        return True

    async def _drop_and_write(self, oblock: int, within: int, data: memoryview) -> None:
        """Write to the origin a block that was cached, once it is so no longer."""
        volume = self._volume
        while True:
            dropped = await self._migrations.invalidate(oblock)
            volume.stats.demotions += dropped
            while not volume.locks.try_write(oblock):
                await volume.locks.park(oblock)
            if volume.mapping.find(oblock) == UNMAPPED:
                break
            volume.locks.end_write(oblock)  # the mode was changed, and the block promoted, in between
        try:
            await self._origin.write(oblock * self._block_size + within, data)
        finally:
            volume.locks.end_write(oblock)

    async def _write_both(self, position: int, cache_position: int, data: memoryview) -> bool:
        """Write to the origin and the cache side by side; returns whether both succeeded."""
        volume = self._volume

        async def to_cache() -> None:
            try:
                await volume.cache.write(cache_position, data)
            except StoreError:
                volume.stats.cache_errors += 1
                raise

        try:
            await gather([partial(self._origin.write, position, data), to_cache])
        except StoreError as exc:
            log.warning("write to both failed", position=position, error=str(exc))
            return False
        return True

    def _write_now(self, run: Run, data: memoryview) -> bool:
        """Do one I/O, if it needs no waiting; returns whether it was done."""
        volume = self._volume
        if run.store is not volume.cache:
            return False
        try:
            if not volume.cache.write_nowait(run.position, data[run.start : run.start + run.length]):
                return False
        except StoreError:
            return False  # the waiting write will tell
        self._wrote(run)
        return True

    def _wrote(self, run: Run) -> None:
        """Note that the blocks of a run have been written in the cache."""
        first = run.position // self._block_size
        for cblock in range(first, first + len(run.oblocks)):
            self._volume.set_dirty(cblock)

    async def _write_run(self, run: Run, data: memoryview) -> None:
        """Do one I/O, then give its blocks back."""
        volume = self._volume
        part = data[run.start : run.start + run.length]
        if run.store is volume.origin:
            try:
                await self._origin.write(run.position, part)
            finally:
                for oblock in run.oblocks:
                    volume.locks.end_write(oblock)
            return
        try:
            await volume.cache.write(run.position, part)
            volume.require_cache()
        except StoreError:
            await gather(list(self._one_by_one(run, part)))
        else:
            self._wrote(run)
            for oblock in run.oblocks:
                volume.locks.end_write(oblock)

    def _one_by_one(self, run: Run, data: memoryview) -> Iterator[Callable[[], Awaitable[None]]]:
        """Cut a run into its blocks again."""
        position = run.position
        for oblock in run.oblocks:
            cblock, within = divmod(position, self._block_size)
            start = position - run.position
            piece = data[start : start + self._block_size - within]
            yield partial(self._write_piece, _Route.TURN, cblock, None, oblock, within, piece)
            position += len(piece)
