"""Where the image has data, and where holes (lseek(2) with SEEK_DATA and SEEK_HOLE).

Theory of operation
-------------------
What is cached counts as data, sector by sector; the rest has its holes where the origin has them.  So a program that
copies the image without its holes copies all that anybody has written.  What must hold: data never counts as a hole.

* *The mapping is looked at before the origin is asked.*  A block that is not cached then has its data at the origin
  already.  The other way round, a block could be written back and demoted in between, and be missed at both places.
* *The origin is flushed before it is asked*, if it has anything to flush: file systems have been wrong about data on
  its way to the disk.  If it cannot be flushed, everything counts as data.

The search goes on from stretch to stretch, and others run in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from fusecache.block import UNMAPPED, byte_runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fusecache.volume import Volume

    Range = tuple[int, int]
    """Begin and end, the end excluded."""

_BLOCKS: Final = 1024
"""Blocks of a stretch."""


class Seeker:
    """Finds data and holes of one volume."""

    __slots__ = ("_volume",)

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    async def seek(self, offset: int, *, hole: bool) -> int | None:
        """Return where data, or a hole, is next: ``offset``, or where it begins behind that.

        The end of the image is a hole.  None if ``offset`` is not within the image, or no data follows.
        """
        size = self._volume.geometry.image_bytes
        stretch = _BLOCKS * self._volume.geometry.block_size
        if not 0 <= offset < size:
            return None
        while offset < size:
            end = min(size, (offset // stretch + 1) * stretch)
            for begin, stop in await self._holes(offset, end):
                if hole:
                    return begin
                if offset < begin:
                    return offset
                offset = stop
            if offset < end and not hole:
                return offset
            offset = end
            await trio.lowlevel.checkpoint()
        return size if hole else None

    async def _holes(self, begin: int, end: int) -> list[Range]:
        """Return the holes of a range, in order and apart."""
        volume = self._volume
        cached = list(self._cached(begin, end))
        if volume.origin.unflushed and not await volume.durability.flushes.origin_has_all():
            return []
        return list(_without(await volume.origin.holes(begin, end - begin), cached))

    def _cached(self, begin: int, end: int) -> Iterator[Range]:
        """Yield the ranges of these bytes, and perhaps a few more, that the cache has, in order."""
        geometry, mapping = self._volume.geometry, self._volume.mapping
        size = geometry.block_size
        for oblock in range(begin // size, min(-(-end // size), geometry.origin_blocks)):
            if (cblock := mapping.find(oblock)) != UNMAPPED:
                for run_begin, run_end in byte_runs(mapping.valid.get(cblock, geometry.every_sector)):
                    yield oblock * size + run_begin, oblock * size + run_end


def _without(ranges: Iterable[Range], others: Sequence[Range]) -> Iterator[Range]:
    """Yield what is in some ranges and in none of the others; both are in order, and apart."""
    first = 0
    for begin, end in ranges:
        while first < len(others) and others[first][1] <= begin:
            first += 1
        at, place = first, begin
        while at < len(others) and others[at][0] < end:
            if place < others[at][0]:
                yield place, others[at][0]
            place = others[at][1]
            at += 1
        if place < end:
            yield place, end
