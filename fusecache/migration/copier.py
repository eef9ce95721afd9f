"""Reading a block's bytes from the cache and writing them to it, without making hits wait.

Theory of operation
-------------------
At the cache, a copy moves memory in the event loop, which also serves the hits.  So it is done in *slices*, and only
one slice of all copies at a time: between two of them the loop serves what has come in meanwhile.  A slice that has to
wait for the cache's disk waits as any request does.  The sum of a block is taken slice by slice as well, while the
bytes are in the processor's cache.

At the origin, a copy is one I/O for a whole stretch of neighbours, which does not occupy the loop.

Buffers are kept and used again, since the kernel has to clear fresh memory page by page, and the loop would pay for
that.  They begin at a page, as unbuffered stores need it.
"""

from __future__ import annotations

from contextlib import contextmanager
from mmap import mmap
from typing import TYPE_CHECKING, Final

import trio
from crc32c import crc32c

from fusecache.block import byte_runs
from fusecache.config import COPY_SIZE, KIB
from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.volume import Volume

_SLICE: Final = 64 * KIB
_KEPT: Final = 4
"""Buffers that are kept while nobody needs them."""
_LEAST_READ: Final = 4 * KIB
"""Bytes of the pieces in which an unreadable block is looked through."""
_HOLD_GIL: Final = 0
"""The sum of a slice takes less time than to get the interpreter's lock back would."""


class CacheReadError(StoreError):
    """The cache cannot be read."""


class Copier:
    """The cache's side of the copies of one volume."""

    __slots__ = ("_buffers", "_in_loop", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._buffers: list[memoryview] = []
        self._in_loop = trio.Lock()

    @contextmanager
    def buffer(self) -> Iterator[memoryview]:
        """Lend :data:`fusecache.config.COPY_SIZE` bytes of memory within this block; they may contain anything."""
        buffer = self._buffers.pop() if self._buffers else memoryview(mmap(-1, COPY_SIZE))
        try:
            yield buffer
        finally:
            if len(self._buffers) < _KEPT:
                self._buffers.append(buffer)

    async def load(self, position: int, into: memoryview, crc: int = 0) -> int:
        """Read from the cache; returns the CRC-32C of these bytes, continued from ``crc``.

        :raises CacheReadError: the cache cannot be read.
        """
        cache = self._volume.cache
        for start in range(0, len(into), _SLICE):
            part = into[start : start + _SLICE]
            async with self._in_loop:
                here = cache.read_nowait(position + start, part)
                if here:
                    crc = crc32c(part, crc, _HOLD_GIL)
            if not here:
                try:
                    await cache.read(position + start, part)
                except StoreError as exc:
                    self._volume.counters.cache_errors += 1
                    raise CacheReadError(str(exc)) from exc
                crc = crc32c(part, crc, _HOLD_GIL)
        return crc

    async def store(self, position: int, data: memoryview, crc: int = 0) -> int:
        """Write to the cache; returns the sum as :meth:`load` does.

        :raises StoreError: the cache cannot be written; parts of it may have been.
        """
        cache = self._volume.cache
        with self._volume.counters.at_cache():
            for start in range(0, len(data), _SLICE):
                part = data[start : start + _SLICE]
                async with self._in_loop:
                    crc = crc32c(part, crc, _HOLD_GIL)
                    done = cache.write_nowait(position + start, part)
                if not done:
                    await cache.write(position + start, part)
        return crc

    async def name_lost(self, oblock: int, cblock: int) -> None:
        """Find out which parts of an unreadable block cannot be read, of those that the cache has."""
        volume = self._volume
        size = volume.geometry.block_size
        buffer = memoryview(bytearray(_LEAST_READ))
        for begin, end in byte_runs(volume.mapping.valid.get(cblock, volume.geometry.every_sector)):
            for within in range(begin, end, _LEAST_READ):
                part = buffer[: end - within]
                try:
                    await volume.cache.read(cblock * size + within, part)
                except StoreError:
                    volume.health.lost.add(oblock * size + within, oblock * size + within + len(part))
