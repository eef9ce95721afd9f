"""Users' I/O at the origin.  It is counted, because migrations give way to it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from fusecache.errors import StoreError
from fusecache.stores import write_zeros

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.stores import Data
    from fusecache.volume.volume import Volume


class OriginIO:
    """User I/O at the origin of one volume."""

    __slots__ = ("_volume",)

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    async def read(self, position: int, into: memoryview) -> None:
        """Fill ``into`` from a position of the image; raises StoreError."""
        volume = self._volume
        volume.counters.origin_reads += 1
        volume.counters.origin_read_bytes += len(into)
        with self._under_way():
            if not volume.origin.read_nowait(position, into):
                await volume.origin.read(position, into)

    async def read_ahead(self, position: int, into: memoryview) -> None:
        """Fill ``into`` with what users are likely to ask for next; raises StoreError."""
        with self._under_way():
            await self._volume.origin.read(position, into)

    async def write(self, position: int, data: Data) -> None:
        """Write at a position of the image, for the next fsync to make durable; raises StoreError."""
        volume = self._volume
        volume.counters.origin_writes += 1
        volume.counters.origin_write_bytes += len(data)
        with self._under_way():
            try:
                await volume.origin.write(position, data)
            finally:
                volume.durability.flushes.origin_written()  # one that failed may show as well, in part

    async def discard(self, position: int, length: int) -> None:
        """Have a range of the image read as zeros, durably from the next fsync on; raises StoreError."""
        volume = self._volume
        with self._under_way():
            try:
                if volume.discard_passdown:
                    await volume.origin.discard(position, length)
                else:
                    await write_zeros(volume.origin, position, length)
            finally:
                volume.durability.flushes.origin_written()  # one that failed may show as well, in part

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """Count one request while it is under way, for idleness and ticks."""
        volume = self._volume
        mark = volume.activity.begin()
        try:
            yield
        except StoreError:
            volume.counters.origin_errors += 1
            raise
        finally:
            volume.activity.end(trio.current_time(), mark=mark)
            if mark:
                volume.tick()
