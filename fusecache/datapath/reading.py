"""Reads of the image (see :mod:`fusecache.datapath.disk` for the data path as a whole).

Theory of operation
-------------------
If the policy wants a block that is missed at once, the read becomes a *fill*: the origin is read once, for the whole
block, and who missed gets his bytes from that (:mod:`fusecache.migration.filling`).  Pieces of one request that miss
side by side are one read of the origin, whether they fill their blocks or not.  What was read ahead of misses in order
is not read again (:mod:`fusecache.migration.read_ahead`).

Of a *partial* block the cache has some sectors only.  A read of these is a hit like any other.  A read of others makes
the block whole, by a fill as well; if that cannot be done now, it takes from each store what that has.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from fusecache.block import PARTIAL, UNMAPPED, byte_runs, sectors_of
from fusecache.config import MIB, Mode
from fusecache.datapath.extents import Extent, append_bio
from fusecache.errors import StoreError
from fusecache.tasks import fail, gather
from fusecache.volume import now_ms
from policies import MISS_QUEUED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from fusecache.migration import Fill, MigrationWorker
    from fusecache.stores import Data, Store
    from fusecache.volume import OriginIO, Volume
    from policies import Work

log = structlog.get_logger(__name__)

_LARGEST_REQUEST: Final = 1 * MIB
"""The largest request that FUSE sends by default.  Larger ones are served as well, from memory of their own."""


class _Miss(NamedTuple):
    """A piece of a request that is to be read from the origin."""

    oblock: int
    within: int
    start: int
    """Where it begins in the request."""
    length: int
    work: Work | None
    """The promotion of its block, if the policy wants it at once."""


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
        store, start, work = self._route(oblock, offset, length)
        if store is volume.cache and store.read_nowait(start + within, into := self._page[:length]):
            volume.served_hit()
            return into
        if (
            store is volume.origin
            and work is None
            and self._worker.read_ahead.read_now(start + within, into := self._page[:length])
        ):
            return into
        buffer = bytearray(length)
        view = memoryview(buffer)
        if work is not None:
            await self._begin_misses([_Miss(oblock, within, 0, length, work)])(view)
        elif store is None:
            await self._read_part(oblock, within, 0, length, view)
        else:
            volume.locks.try_read(oblock)
            await self._read_extent(Extent(store, start + within, 0, length, [oblock]), view)
        return buffer

    def _route(self, oblock: int, offset: int, length: int) -> tuple[Store | None, int, Work | None]:
        """Refer a read to the policy; returns the store, where the block begins in it, and the promotion to do.

        There is no store where the cache has some of the sectors, but not all of them.  With a promotion, the caller
        has the block, and has to fill it.
        """
        volume = self._volume
        policy = volume.policy
        if policy.observes_bios:
            policy.observe_bio(offset, length, False, now_ms())
        cblock = policy.lookup(oblock, False, False)
        if cblock >= 0:
            volume.require_hit(oblock, cblock)
            volume.counters.read_hits += 1
            if volume.mode is Mode.PASSTHROUGH or (volume.health.cache_lost and not volume.is_dirty(cblock)):
                return volume.origin, oblock * self._block_size, None
            if volume.mapping.flags[cblock] & PARTIAL:
                sectors = sectors_of(offset - oblock * self._block_size, length)
                if not volume.is_valid(cblock, sectors):
                    return None, 0, None
            return volume.cache, cblock * self._block_size, None
        volume.require_miss(oblock)
        volume.counters.read_misses += 1
        work = None
        if cblock == MISS_QUEUED:
            work = self._worker.take_promotion(oblock, copies=True)
        return volume.origin, oblock * self._block_size, work

    async def _read_pieces(self, offset: int, length: int) -> Data:
        """Read a range that crosses blocks, touches the tail, or meets a lock."""
        volume = self._volume
        into = self._page[:length] if length <= _LARGEST_REQUEST else memoryview(bytearray(length))
        extents: list[Extent] = []
        missed: list[_Miss] = []
        reads: list[Callable[[memoryview], Awaitable[None]]] = []
        errors: list[Exception] = []
        end = 0
        for oblock, within, size in volume.geometry.pieces(offset, length):
            start, end = end, end + size
            if oblock == self._origin_blocks:
                missed.append(_Miss(oblock, within, start, size, None))
                continue
            if oblock in self._held and not volume.locks.may_read(oblock):
                reads.append(partial(self._read_parked, oblock, within, start, end))
                continue
            try:
                store, position, work = self._route(oblock, offset + start, size)
            except Exception as exc:  # noqa: BLE001 - the others are read before this is told
                errors.append(exc)
                continue
            if store is volume.cache:
                append_bio(extents, store, position + within, start, size, oblock)
            elif work is None and (fill := self._worker.filler.find(oblock)) is not None:
                reads.append(partial(self._read_fill, fill, oblock, within, start, end))
            elif store is None:
                reads.append(partial(self._read_part, oblock, within, start, end))
            else:
                missed.append(_Miss(oblock, within, start, size, work))
        left = (neighbours for neighbours in _neighbours(missed) if not self._take_read_ahead(neighbours, into))
        reads.extend(map(self._begin_misses, left))
        waiting = [extent for extent in extents if not self._read_now(extent, into)]
        if not (waiting or reads or errors):
            return into
        buffer = bytearray(into)
        view = memoryview(buffer)
        for extent in waiting:
            for oblock in extent.oblocks:
                volume.locks.try_read(oblock)
        jobs: list[Callable[[], Awaitable[None]]] = [partial(fail, error) for error in errors]
        jobs.extend(partial(self._read_extent, extent, view) for extent in waiting)
        jobs.extend(partial(read, view) for read in reads)
        await gather(jobs)
        return buffer

    async def _read_parked(self, oblock: int, within: int, start: int, end: int, view: memoryview) -> None:
        """Read a piece of a block from which readers are kept out at present."""
        volume = self._volume
        while not volume.locks.may_read(oblock):
            await volume.locks.park(oblock)
        store, position, work = self._route(oblock, oblock * self._block_size + within, end - start)
        if work is not None:
            await self._begin_misses([_Miss(oblock, within, start, end - start, work)])(view)
        elif store is not volume.cache and (fill := self._worker.filler.find(oblock)) is not None:
            await self._read_fill(fill, oblock, within, start, end, view)
        elif store is None:
            await self._read_part(oblock, within, start, end, view)
        else:
            volume.locks.try_read(oblock)
            await self._read_extent(Extent(store, position + within, start, end - start, [oblock]), view)

    # Misses

    def _take_read_ahead(self, misses: list[_Miss], into: memoryview) -> bool:
        """Serve pieces that are neighbours from what was read ahead, if it has them all and the policy wants none."""
        first, last = misses[0], misses[-1]
        if any(miss.work is not None for miss in misses):
            return False
        position = first.oblock * self._block_size + first.within
        return self._worker.read_ahead.read_now(position, into[first.start : last.start + last.length])

    def _begin_misses(self, misses: list[_Miss]) -> Callable[[memoryview], Awaitable[None]]:
        """Begin to read pieces that are neighbours from the origin; returns how to go on, without which they stay held.

        Blocks that the policy wants are read as a whole.  The others are held for reading.
        """
        first, last = misses[0], misses[-1]
        size = self._block_size
        begin = first.oblock * size + (0 if first.work else first.within)
        end = last.oblock * size + (size if last.work else last.within + last.length)
        held = [miss.oblock for miss in misses if miss.work is None and miss.oblock != self._origin_blocks]
        for oblock in held:
            self._volume.locks.try_read(oblock)
        works = [miss.work for miss in misses if miss.work is not None]
        if not works:
            extent = Extent(self._volume.origin, begin, first.start, end - begin, held)
            return partial(self._read_extent, extent)
        return partial(self._read_missed, self._worker.filler.fill(works, begin, end), misses, held)

    async def _read_missed(self, fill: Fill, misses: list[_Miss], held: list[int], view: memoryview) -> None:
        """Read pieces that are neighbours from a fill, then end the holds on those blocks that it does not fill."""
        first, last = misses[0], misses[-1]
        into = view[first.start : last.start + last.length]
        position = first.oblock * self._block_size + first.within
        try:
            if not await fill.read(position, into):
                await self._origin.read(position, into)  # where it was when we began
        finally:
            for oblock in held:
                self._volume.locks.end_read(oblock)

    async def _read_fill(self, fill: Fill, oblock: int, within: int, start: int, end: int, view: memoryview) -> None:
        """Read a piece from a fill that somebody else has begun."""
        if not await fill.read(oblock * self._block_size + within, view[start:end]):
            await self._read_here(oblock, within, view[start:end])

    # Partial blocks

    async def _read_part(self, oblock: int, within: int, start: int, end: int, view: memoryview) -> None:
        """Read a piece of which the cache has not all sectors, and make its block whole if that can be done now."""
        fill = self._worker.filler.fill_rest(oblock)
        if fill is None:
            await self._read_here(oblock, within, view[start:end])
        else:
            await self._read_fill(fill, oblock, within, start, end, view)

    async def _read_here(self, oblock: int, within: int, into: memoryview) -> None:
        """Read a piece from where it is now; the policy has been asked before, and is not asked again."""
        volume = self._volume
        while not volume.locks.try_read(oblock):
            await volume.locks.park(oblock)
        try:
            cblock = volume.mapping.find(oblock)
            if cblock == UNMAPPED or (volume.health.cache_lost and not volume.is_dirty(cblock)):
                await self._origin.read(oblock * self._block_size + within, into)
                return
            await self._read_sectors(oblock, cblock, within, into)
        finally:
            volume.locks.end_read(oblock)

    async def _read_sectors(self, oblock: int, cblock: int, within: int, into: memoryview) -> None:
        """Read a piece of a cached block: the sectors that the cache has from there, the others from the origin."""
        volume = self._volume
        if not volume.is_valid(cblock, sectors_of(within, len(into))):
            await self._origin.read(oblock * self._block_size + within, into)
        # What somebody has written meanwhile is valid by now.
        valid = volume.mapping.valid.get(cblock, volume.geometry.every_sector)
        for run_begin, run_end in byte_runs(valid & sectors_of(within, len(into))):
            begin, end = max(run_begin, within), min(run_end, within + len(into))
            extent = Extent(volume.cache, cblock * self._block_size + begin, 0, end - begin, [oblock])
            await self._read_cache(extent, into[begin - within : end - within])

    # Extents

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
                await self._worker.read_ahead.read(extent.position, into)
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
            if not volume.is_valid(cblock, sectors_of(within, len(part))):  # some of it was lost
                await self._read_sectors(oblock, cblock, within, part)
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


def _neighbours(misses: list[_Miss]) -> Iterator[list[_Miss]]:
    """Cut the missed pieces of a request, in order, into runs of neighbours."""
    run: list[_Miss] = []
    for miss in misses:
        if run and run[-1].start + run[-1].length != miss.start:
            yield run
            run = []
        run.append(miss)
    if run:
        yield run
