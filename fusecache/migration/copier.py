"""Getting a block's bytes out of the cache and into it, without holding up anybody who hits.

Theory of operation
-------------------
The cache's side of a copy is memory being copied in the event loop, where the hits are served.  So it is done in
*slices*, and one slice at a time, whoever's it is: between two of them the loop serves what has come in meanwhile.  A
slice that has to wait for the cache's disk waits as anybody else does.  The sum of a block is taken slice by slice as
well, while the bytes are in the processor's own memory.

The origin's side is one I/O for a whole run, which takes its time elsewhere.

Buffers are kept and used again: fresh memory has to be cleared by the kernel, page by page, and is paid for in the
loop.  They begin at a page, which unbuffered stores are glad of.
"""

from __future__ import annotations

from contextlib import contextmanager
from mmap import mmap
from typing import TYPE_CHECKING, Final

import trio
from crc32c import crc32c

from fusecache.config import COPY_SIZE, KIB
from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.volume import Volume

_SLICE: Final = 64 * KIB
_KEPT: Final = 4
"""Buffers that are kept when nobody needs them."""
_LEAST_READ: Final = 4 * KIB
"""Bytes in which what is lost of an unreadable block is told."""
_HOLD_GIL: Final = 0
"""A slice's sum takes less time than getting the interpreter back would."""


class CacheReadError(StoreError):
    """The cache could not give what it holds."""


class Copier:
    """The cache's side of the copies of one volume."""

    __slots__ = ("_buffers", "_in_loop", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._buffers: list[memoryview] = []
        self._in_loop = trio.Lock()

    @contextmanager
    def buffer(self) -> Iterator[memoryview]:
        """Have :data:`fusecache.config.COPY_SIZE` bytes within this block; what is in them at first is anything."""
        buffer = self._buffers.pop() if self._buffers else memoryview(mmap(-1, COPY_SIZE))
        try:
            yield buffer
        finally:
            if len(self._buffers) < _KEPT:
                self._buffers.append(buffer)

    async def load(self, position: int, into: memoryview, crc: int = 0) -> int:
        """Read from the cache; returns the CRC-32C of what ``crc`` is of, and of that.

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
        for start in range(0, len(data), _SLICE):
            part = data[start : start + _SLICE]
            async with self._in_loop:
                crc = crc32c(part, crc, _HOLD_GIL)
                done = cache.write_nowait(position + start, part)
            if not done:
                await cache.write(position + start, part)
        return crc

    async def name_lost(self, oblock: int, cblock: int) -> None:
        """Find out which parts of an unreadable block cannot be read."""
        volume = self._volume
        size = volume.geometry.block_size
        buffer = memoryview(bytearray(_LEAST_READ))
        for within in range(0, size, _LEAST_READ):
            part = buffer[: size - within]
            try:
                await volume.cache.read(cblock * size + within, part)
            except StoreError:
                volume.health.lost.add(oblock * size + within, oblock * size + within + len(part))
