"""Filling blocks from one read of the origin, from which everybody is served who wants them meanwhile.

Theory of operation
-------------------
A *fill* is one read of the origin for cache blocks: for neighbours that were missed and that the policy admits, or for
what the cache lacks of a partial block.  Who missed waits for the read and no longer; what goes into the cache goes
there behind his back.  Until then, whoever wants to read the block finds the fill by its number (:meth:`Filler.find`)
and takes the bytes from memory.  What was read ahead is not read again (:mod:`fusecache.migration.read_ahead`).

What must hold: the memory shows what the block holds for as long as it can be found.  So a fill has its blocks
exclusively and keeps writers out, from before it reads until the block is mapped and the fill can be found no more.

A fill that fails costs only the fill: who waits for it reads what he wants himself.
"""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.block import PARTIAL, UNMAPPED, WRITERS_OUT
from fusecache.config import COPY_SIZE, MIB
from fusecache.errors import StoreError
from fusecache.migration.batches import Batch, Held
from fusecache.migration.migrations import reporting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusecache.migration.copier import Copier
    from fusecache.migration.read_ahead import ReadAhead
    from fusecache.migration.steps import Steps
    from fusecache.volume import Volume
    from policies import Work

log = structlog.get_logger(__name__)

MOST_MEMORY: Final = 32 * MIB
"""Bytes that the fills under way may hold when another request begins some; beyond that, blocks are promoted later."""


class Fill:
    """One read of the origin.

    :ivar begin: where it begins in the image; ``view``: what it reads, or has read.
    :ivar was_read: set when the bytes are there, or cannot be had.
    :ivar failed: whether they cannot.
    :ivar ended: set when what could be put into the cache is there.
    """

    __slots__ = ("begin", "ended", "failed", "view", "was_read")

    def __init__(self, begin: int, length: int) -> None:
        self.begin = begin
        self.view = memoryview(mmap(-1, length))  # begins at a page, as unbuffered stores need it
        self.was_read = trio.Event()
        self.failed = False
        self.ended = trio.Event()

    async def read(self, position: int, into: memoryview) -> bool:
        """Copy bytes of the image from it when they are there; returns whether they are."""
        await self.was_read.wait()
        if self.failed:
            return False
        start = position - self.begin
        into[:] = self.view[start : start + len(into)]
        return True


class Filler:
    """The fills of one volume.

    :param may_complete: asked before a partial block is made whole; it counts that as under way if it says yes.
    :param ended: called when a fill has ended, with its batch, or None if it made a partial block whole.
    :ivar nursery: where they run; None if there can be none.
    """

    __slots__ = (
        "_copier",
        "_ended",
        "_fills",
        "_may_complete",
        "_memory",
        "_read_ahead",
        "_steps",
        "_volume",
        "nursery",
    )

    def __init__(
        self,
        volume: Volume,
        steps: Steps,
        copier: Copier,
        read_ahead: ReadAhead,
        may_complete: Callable[[], bool],
        ended: Callable[[Batch | None], None],
    ) -> None:
        self._volume = volume
        self._steps = steps
        self._copier = copier
        self._may_complete = may_complete
        self._ended = ended
        self._read_ahead = read_ahead
        self._fills: dict[int, Fill] = {}
        self._memory = 0
        """Bytes that the fills under way hold."""
        self.nursery: trio.Nursery | None = None

    def find(self, oblock: int) -> Fill | None:
        """Return the fill from which a block can be read, if there is one."""
        fill = self._fills.get(oblock)
        if fill is not None and self._volume.health.cache_lost and self._volume.mapping.find(oblock) != UNMAPPED:
            return None  # what it has from the cache may be lost
        return fill

    @property
    def may_begin(self) -> bool:
        """Whether another fill may begin now; blocks that are too large for one are promoted otherwise."""
        fits = self._volume.geometry.block_size <= COPY_SIZE
        return fits and self.nursery is not None and self._memory < MOST_MEMORY

    def fill(self, works: Sequence[Work], begin: int, end: int) -> Fill:
        """Begin to fill neighbours from one read of bytes ``begin`` to ``end`` of the image; returns at once.

        The items are promotions of blocks that the caller has taken.
        """
        assert self.nursery is not None
        fill = self._begin([work.oblock for work in works], begin, end)
        self.nursery.start_soon(self._promote_all, fill, Batch(works, self._volume.policy))
        return fill

    def fill_rest(self, oblock: int, *, for_user: bool = True) -> Fill | None:
        """Begin to make a partial block whole, or find out that it is being done; returns None if it cannot be now."""
        if (fill := self.find(oblock)) is not None:
            return fill
        if not self.may_begin or not self._volume.locks.may_migrate(oblock) or not self._may_complete():
            return None
        assert self.nursery is not None
        self._volume.locks.try_exclusive(oblock, WRITERS_OUT)
        size = self._volume.geometry.block_size
        fill = self._begin((oblock,), oblock * size, (oblock + 1) * size)
        self.nursery.start_soon(self._complete, fill, oblock, for_user)
        return fill

    def _begin(self, oblocks: Sequence[int], begin: int, end: int) -> Fill:
        """Let a fill of these blocks be found from now on."""
        fill = Fill(begin, end - begin)
        self._fills.update(dict.fromkeys(oblocks, fill))
        self._memory += len(fill.view)
        return fill

    async def _promote_all(self, fill: Fill, batch: Batch) -> None:
        """Fill blocks that were missed and are taken."""
        volume = self._volume
        with Held(volume) as held:
            held.adopt(work.oblock for work in batch.works)
            try:
                for work in batch.works:
                    await volume.locks.drain(work.oblock)
                await self._read(fill)
                if fill.failed:
                    return
                for work in batch.works:
                    with reporting(batch, work, held):
                        try:
                            await self._promote(fill, batch, work)
                        finally:
                            del self._fills[work.oblock]
                    held.release(work.oblock)
                await self._steps.forget_at_origin(batch.works[0].oblock, len(batch.works))
            finally:
                self._forget(fill, [work.oblock for work in batch.works])
                batch.close()
                self._ended(batch)

    async def _read(self, fill: Fill) -> None:
        try:
            await self._read_ahead.read(fill.begin, fill.view)
        except StoreError as exc:
            self._volume.health.promotion_failed(str(exc))
            fill.failed = True
        finally:
            fill.was_read.set()

    async def _promote(self, fill: Fill, batch: Batch, work: Work) -> None:
        """Put one block of a fill into the cache, and map it."""
        volume = self._volume
        size = volume.geometry.block_size
        start = work.oblock * size - fill.begin
        volume.require_work(work)
        await volume.durability.wait_reusable(work.cblock)
        crc = await self._copier.store(work.cblock * size, fill.view[start : start + size])
        self._steps.map_copied(batch, work, crc)
        volume.counters.fills += 1

    async def _complete(self, fill: Fill, oblock: int, for_user: bool) -> None:
        """Make a partial block whole, which is taken."""
        volume = self._volume
        with Held(volume) as held:
            held.adopt((oblock,))
            try:
                await volume.locks.drain(oblock)
                cblock = volume.mapping.find(oblock)
                if cblock == UNMAPPED or not volume.mapping.flags[cblock] & PARTIAL:
                    return
                await self._steps.complete(oblock, cblock, fill.view, for_user=for_user)
                fill.was_read.set()
                await self._steps.store_rest(cblock, fill.view)
            except StoreError as exc:
                log.warning("partial block not made whole", oblock=oblock, error=str(exc))
            finally:
                self._forget(fill, (oblock,))
                self._ended(None)

    def _forget(self, fill: Fill, oblocks: Sequence[int]) -> None:
        """Let a fill be found no more, and nobody wait for it."""
        if not fill.was_read.is_set():
            fill.failed = True
            fill.was_read.set()
        for oblock in oblocks:
            if self._fills.get(oblock) is fill:
                del self._fills[oblock]
        self._memory -= len(fill.view)
        fill.ended.set()

    def check(self) -> None:
        """Assert that every fill that can be found is under way, and that what was read ahead is sound."""
        self._read_ahead.check()
        assert sum(len(fill.view) for fill in set(self._fills.values())) <= self._memory
        for oblock in self._fills:
            assert oblock in self._volume.locks.held
