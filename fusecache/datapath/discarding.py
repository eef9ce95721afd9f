"""Discards of the image (see :mod:`fusecache.datapath.disk` for the data path as a whole).

Theory of operation
-------------------
A discarded range reads as zeros.  It is a write of zeros, but for two things: the policy is not asked, since nobody is
going to use these blocks; and where it can be, nothing is written and space is given back.

*Whole blocks* leave the cache, and the origin gets a hole (:mod:`fusecache.migration.removal`).  *A part of a block*
that is cached is written with zeros there, as by any write; of one that is not cached, the origin gets a hole.  So what
a crash may leave is what it may leave of a write: until the next fsync, each sector is zero or what it was.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fusecache.config import COPY_SIZE
from fusecache.errors import ReadOnlyError
from fusecache.stores import ZEROS
from fusecache.tasks import gather

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fusecache.datapath.writing import Writer
    from fusecache.migration import MigrationWorker
    from fusecache.volume import OriginIO, Volume


class Discarder:
    """Serves discards of one volume."""

    __slots__ = ("_origin", "_volume", "_worker", "_writer")

    def __init__(self, volume: Volume, worker: MigrationWorker, origin: OriginIO, writer: Writer) -> None:
        self._volume = volume
        self._worker = worker
        self._origin = origin
        self._writer = writer

    async def discard(self, offset: int, length: int) -> None:
        """Have ``length`` bytes from ``offset`` read as zeros, durably from the next fsync on.

        :raises OutOfRangeError: it would pass the end; nothing was done.
        :raises FusecacheError: it could not be done; sectors of the range may be zero, or as they were.
        """
        volume = self._volume
        volume.geometry.require(offset, length)
        if volume.health.read_only:
            raise ReadOnlyError(str(volume.health))
        volume.counters.discards += 1
        volume.counters.discarded_bytes += length
        size = volume.geometry.block_size
        end = offset + length
        whole = range(-(-offset // size), min(end // size, volume.geometry.origin_blocks))
        try:
            if whole:
                before = partial(self._discard_parts, offset, whole.start * size)
                after = partial(self._discard_parts, whole.stop * size, end)
                await gather([before, partial(self._worker.removal.discard, whole), after])
            else:
                await self._discard_parts(offset, end)
        finally:
            volume.written = True  # what failed may be there in part
            self._worker.admission.look()

    async def _discard_parts(self, begin: int, end: int) -> None:
        """Discard parts of a block or two."""
        pieces = self._volume.geometry.pieces(begin, end - begin)
        jobs: list[Callable[[], Awaitable[None]]] = [partial(self._discard_part, *piece) for piece in pieces]
        await gather(jobs)

    async def _discard_part(self, oblock: int, within: int, length: int) -> None:
        """Discard a part of a block, or of the tail; in steps, since a block may be large."""
        if oblock == self._volume.geometry.origin_blocks:
            await self._origin.discard(self._volume.geometry.tail_start + within, length)
            return
        for begin in range(within, within + length, COPY_SIZE):
            await self._writer.zero(oblock, begin, ZEROS[: within + length - begin])
