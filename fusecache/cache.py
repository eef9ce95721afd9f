"""The data path: every read and write of the image.

Theory of operation
-------------------
A request is cut at block boundaries into *bios*.  Each is referred to the policy once, which decides where it goes
(:class:`_Route`); neighbours that lie contiguously in one store become one I/O again.  Deciding never waits; then comes
the I/O.

A bio inside one block on which nobody holds a lock, whose data is in the page cache (read) or goes to a dirty,
covered block (write), is served right here: no lock, no task switch, no await.  Everything else takes its block shared
first.  A block that a migration keeps locked parks the bio, *before* the policy is asked, and it starts again when the
lock is gone (dm-cache 2.3).

======================  ==============  =======================================  ======================
mode                    read hit        write hit, clean                         write hit, dirty
======================  ==============  =======================================  ======================
writeback               cache           cache; turns dirty                       cache
writethrough            cache           origin and cache; stays clean            cache; stays dirty
passthrough             origin          mapping dropped durably, then origin     cannot be
======================  ==============  =======================================  ======================

A miss goes to the origin.  In writeback mode a write of a whole block may be promoted by its own data.  The tail of the
image, less than a block, goes to the origin without being counted.
"""

from __future__ import annotations

from contextlib import contextmanager
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from fusecache.config import Mode
from fusecache.errors import FusecacheError, ReadOnlyError, StoreError
from fusecache.gather import fail, gather
from fusecache.mapping import COVERED, DIRTY, SAVING, UNMAPPED, WRITABLE
from fusecache.runs import Run, extend
from fusecache.volume import now_ms
from policies import MISS_QUEUED, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from fusecache.migrations import Migrations
    from fusecache.stores.base import Store
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


class Cache:
    """Serves the image of one volume."""

    __slots__ = ("_block_size", "_cells", "_migrations", "_origin_blocks", "_volume")

    def __init__(self, volume: Volume, migrations: Migrations) -> None:
        self._volume = volume
        self._migrations = migrations
        self._block_size = volume.geometry.block_size
        self._origin_blocks = volume.geometry.origin_blocks
        self._cells = volume.locks.cells

    # The three things a disk does

    async def read(self, offset: int, length: int) -> bytearray:
        """Return up to ``length`` bytes from ``offset``: fewer only at the end of the image.

        :raises StoreError: neither cache nor origin has them.
        """
        volume = self._volume
        buffer = bytearray(volume.geometry.clip(offset, length))
        length = len(buffer)
        oblock, within = divmod(offset, self._block_size)
        if within + length > self._block_size or oblock >= self._origin_blocks or oblock in self._cells:
            if length:
                await self._read_pieces(offset, buffer)
            return buffer
        store, start = self._route_read(oblock, offset, length)
        if store is volume.cache and store.read_nowait(start + within, buffer):
            self._served_hit()
            return buffer
        volume.locks.try_read(oblock)
        await self._read_run(Run(store, start + within, 0, length, [oblock]), memoryview(buffer))
        return buffer

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
        route, cblock, work = self._route_write(oblock, offset, length)
        try:
            if route is _Route.CACHE and volume.cache.write_nowait(cblock * self._block_size + within, data):
                self._served_hit()
                return length
        except StoreError:
            pass  # the waiting write will tell
        if work is None:
            volume.locks.try_write(oblock, alone=route is _Route.BOTH)
        await self._write_piece(route, cblock, work, oblock, within, memoryview(data))
        return length

    async def flush(self) -> None:
        """Make everything durable that was written before; raises FusecacheError if it is not."""
        health = self._volume.health
        try:
            await self._volume.durability.flush()
        except FusecacheError:
            health.untold = ""
            raise
        health.tell()

    # Reading

    def _route_read(self, oblock: int, offset: int, length: int) -> tuple[Store, int]:
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

    async def _read_pieces(self, offset: int, buffer: bytearray) -> None:
        """Read a range that crosses blocks, touches the tail, or meets a lock."""
        volume = self._volume
        view = memoryview(buffer)
        runs: list[Run] = []
        jobs: list[Callable[[], Awaitable[None]]] = []
        end = 0
        for oblock, within, length in volume.geometry.pieces(offset, len(buffer)):
            start, end = end, end + length
            if oblock == self._origin_blocks:
                extend(runs, volume.origin, offset + start, start, length, None)
            elif not volume.locks.try_read(oblock):
                jobs.append(partial(self._read_parked, oblock, within, view[start:end]))
            else:
                try:
                    store, position = self._route_read(oblock, offset + start, length)
                except Exception as exc:  # noqa: BLE001 - the other pieces hold locks and have to be carried out
                    volume.locks.end_read(oblock)
                    jobs.append(partial(fail, exc))
                else:
                    extend(runs, store, position + within, start, length, oblock)
        jobs.extend(partial(self._read_run, run, view) for run in runs if not self._read_now(run, view))
        await gather(jobs)

    async def _read_parked(self, oblock: int, within: int, view: memoryview) -> None:
        volume = self._volume
        while not volume.locks.try_read(oblock):
            await volume.locks.park(oblock)
        try:
            store, position = self._route_read(oblock, oblock * self._block_size + within, len(view))
        except BaseException:
            volume.locks.end_read(oblock)
            raise
        run = Run(store, position + within, 0, len(view), [oblock])
        if not self._read_now(run, view):
            await self._read_run(run, view)

    def _read_now(self, run: Run, view: memoryview) -> bool:
        """Do one I/O and give its blocks back, if it needs no waiting; returns whether it was done."""
        volume = self._volume
        into = view[run.start : run.start + run.length]
        if run.store is not volume.cache or not volume.cache.read_nowait(run.position, into):
            return False
        for oblock in run.oblocks:
            volume.locks.end_read(oblock)
        return True

    async def _read_run(self, run: Run, view: memoryview) -> None:
        """Do one I/O, then give its blocks back."""
        volume = self._volume
        into = view[run.start : run.start + run.length]
        try:
            if run.store is volume.origin:
                await self._read_origin(run.position, into)
            else:
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

    async def _reread(self, run: Run, into: memoryview) -> None:
        """Read block by block what the cache could not give; clean blocks from the origin, and drop them."""
        volume = self._volume
        done = 0
        for oblock in run.oblocks:
            cblock = volume.mapping.find(oblock)
            within = (run.position + done) % self._block_size
            part = into[done : done + self._block_size - within]
            offset = oblock * self._block_size + within
            try:
                await volume.cache.read(run.position + done, part)
            except StoreError as exc:
                volume.stats.cache_errors += 1
                if volume.is_dirty(cblock):
                    volume.health.lost.add(offset, offset + len(part))
                    msg = f"bytes {offset} to {offset + len(part)} of the image cannot be read: {exc}"
                    raise StoreError(msg) from exc
                await self._read_origin(offset, part)
                self._migrations.distrust(oblock)
            done += len(part)

    # Writing

    def _route_write(self, oblock: int, offset: int, length: int) -> tuple[_Route, int, Work | None]:
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
        return self._route_write_hit(cblock), cblock, None

    def _route_write_hit(self, cblock: int) -> _Route:
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

    def _try_write_lock(self, oblock: int) -> bool:
        """Take a block for writing; alone if the write will go to both stores."""
        volume = self._volume
        both = volume.mode is Mode.WRITETHROUGH and volume.mapping.find(oblock) != UNMAPPED
        return volume.locks.try_write(oblock, alone=both)

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
            elif not self._try_write_lock(oblock):
                jobs.append(partial(self._write_parked, oblock, within, data[start:end]))
            else:
                try:
                    route, cblock, work = self._route_write(oblock, offset + start, length)
                except Exception as exc:  # noqa: BLE001 - the other pieces hold locks and have to be carried out
                    volume.locks.end_write(oblock)
                    jobs.append(partial(fail, exc))
                    continue
                if route is _Route.CACHE or route is _Route.TURN:
                    extend(runs, volume.cache, cblock * self._block_size + within, start, length, oblock)
                elif route is _Route.ORIGIN:
                    extend(runs, volume.origin, offset + start, start, length, oblock)
                else:
                    if work is not None:
                        volume.locks.end_write(oblock)
                    jobs.append(partial(self._write_piece, route, cblock, work, oblock, within, data[start:end]))
        jobs.extend(partial(self._write_run, run, data) for run in runs if not self._write_now(run, data))
        await gather(jobs)

    async def _write_parked(self, oblock: int, within: int, data: memoryview) -> None:
        volume = self._volume
        while not self._try_write_lock(oblock):
            await volume.locks.park(oblock)
        try:
            route, cblock, work = self._route_write(oblock, oblock * self._block_size + within, len(data))
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
                await self._write_origin(position, data)
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
            await self._write_origin(oblock * self._block_size + within, data)
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
            await gather([partial(self._write_origin, position, data), to_cache])
        except StoreError as exc:
            log.warning("write to both failed", position=position, error=str(exc))
            return False
        return True

    def _write_now(self, run: Run, data: memoryview) -> bool:
        """Do one I/O and give its blocks back, if it needs no waiting; returns whether it was done."""
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
        """Note that the blocks of a run have been written in the cache, and give them back."""
        volume = self._volume
        for cblock, oblock in enumerate(run.oblocks, run.position // self._block_size):
            volume.set_dirty(cblock)
            volume.locks.end_write(oblock)

    async def _write_run(self, run: Run, data: memoryview) -> None:
        """Do one I/O, then give its blocks back."""
        volume = self._volume
        part = data[run.start : run.start + run.length]
        if run.store is volume.origin:
            try:
                await self._write_origin(run.position, part)
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

    def _one_by_one(self, run: Run, data: memoryview) -> Iterator[Callable[[], Awaitable[None]]]:
        """Cut a run into its blocks again."""
        position = run.position
        for oblock in run.oblocks:
            cblock, within = divmod(position, self._block_size)
            start = position - run.position
            piece = data[start : start + self._block_size - within]
            yield partial(self._write_piece, _Route.TURN, cblock, None, oblock, within, piece)
            position += len(piece)

    # What both have in common

    async def _read_origin(self, position: int, into: memoryview) -> None:
        volume = self._volume
        volume.stats.origin_reads += 1
        volume.stats.origin_read_bytes += len(into)
        with self._at_origin():
            if not volume.origin.read_nowait(position, into):
                await volume.origin.read(position, into)

    async def _write_origin(self, position: int, data: memoryview) -> None:
        volume = self._volume
        volume.stats.origin_writes += 1
        volume.stats.origin_write_bytes += len(data)
        with self._at_origin():
            await volume.origin.write(position, data)

    @contextmanager
    def _at_origin(self) -> Iterator[None]:
        """Account user I/O at the origin, for idleness and ticks."""
        volume = self._volume
        mark = volume.activity.begin()
        try:
            yield
        except StoreError:
            volume.stats.origin_errors += 1
            raise
        finally:
            volume.activity.end(trio.current_time(), mark=mark)
            if mark:
                volume.tick()

    def _served_hit(self) -> None:
        activity = self._volume.activity
        activity.hits_until_tick -= 1
        if not activity.hits_until_tick:
            self._volume.tick()
