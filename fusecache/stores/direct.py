"""A store in a file or a block device, past the host's page cache (O_DIRECT).

Theory of operation
-------------------
The kernel moves whole *units* only (a logical block of the disk, usually 512 bytes), between the disk and memory that
is aligned.  Writes of whole units that lie aligned in memory go out from there, as those do that the gate has received
(:mod:`fusecache.frontends.fuse.gate`).  Everything else goes through buffers (:mod:`fusecache.stores.buffers`), and a
write that begins or ends within a unit reads that unit first.  Writes that share such a unit go one after the other
(:mod:`fusecache.stores.unit_locks`).  Reads need no lock: what surrounds a write is the same before and after it.

Where the store begins or ends within a page, its part of that page goes through the page cache: a whole unit there
would reach beyond the store, perhaps beyond the file.  The page cache works in pages, so the border is that of a page:
no page has data that goes both ways.  So at most two pages of a store are in the page cache.

Nothing is ever in memory, so nothing is done at once: ``read_nowait`` and ``write_nowait`` decline.  The ordinary
:class:`fusecache.stores.file.FileStore` over the same file does the rest: flushing (fdatasync is about the file,
whichever way it was written), discarding, and those two pages.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final, final

from fusecache.errors import RefusedError
from fusecache.linux import is_in_memory, pin, unit_of
from fusecache.stores.buffers import Buffers
from fusecache.stores.engine import ThreadEngine
from fusecache.stores.file import PAGE, FileStore
from fusecache.stores.sparse import write_zeros
from fusecache.stores.unit_locks import UnitLocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from fusecache.stores.base import Data, Store
    from fusecache.stores.engine import Engine

CHUNK: Final = 1024 * 1024
"""Bytes that go through one buffer at a time: as many as the largest request has."""


def open_past_page_cache(
    fd: int, *, name: str, size: int, start: int = 0, resources: ExitStack, engine: Engine | None = None
) -> Store:
    """Make a store over an open file, of which nothing stays in the host's page cache.

    A file system that is all memory holds a file only once anyway, so an ordinary store will do.

    :param fd: stays the caller's, and may have been used before; what the page cache has of it is dropped.
    :param resources: closes what is opened here.
    :param engine: does all of its I/O; threads of the store's own unless given.
    :raises RefusedError: its file system cannot do that.
    """
    file = FileStore(fd, name=name, size=size, start=start, engine=engine)
    if is_in_memory(fd):
        return file
    try:
        access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        direct = os.open(f"/proc/self/fd/{fd}", access | os.O_CLOEXEC | os.O_DIRECT)
        resources.callback(os.close, direct)
        unit = unit_of(direct)
        store = DirectStore(file, direct, start=start, unit=unit, engine=engine)
        store.probe()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as exc:
        msg = f"{name} cannot be used past the page cache ({exc.strerror}): mount it with --page-cache stores"
        raise RefusedError(msg) from exc
    return store


@final
class DirectStore:
    """The bytes of ``file``, but read and written past the page cache.

    :param fd: the same file, opened with O_DIRECT; stays the caller's.
    :param start: where the store begins in it.
    :param unit: bytes of which the kernel moves whole multiples; a power of two.
    """

    __slots__ = (
        "_begin",
        "_buffers",
        "_end",
        "_engine",
        "_fd",
        "_file",
        "_start",
        "_unit",
        "_unit_locks",
        "name",
        "size",
    )

    def __init__(self, file: FileStore, fd: int, *, start: int, unit: int, engine: Engine | None = None) -> None:
        self._file = file
        self._fd = fd
        self._start = start
        self._unit = unit
        self._engine = ThreadEngine() if engine is None else engine
        self._buffers = Buffers()
        self._unit_locks = UnitLocks()
        self.name = file.name
        self.size = file.size
        page = max(PAGE, unit)
        self._begin = -start % page
        self._end = max(self._begin, file.size - (start + file.size) % page)

    @property
    def unflushed(self) -> bool:
        """See :class:`fusecache.stores.base.Store`."""
        return self._file.unflushed

    @unflushed.setter
    def unflushed(self, value: bool) -> None:
        self._file.unflushed = value

    def probe(self) -> None:
        """Raise OSError if the file system opens files with O_DIRECT but cannot read them; a bad disk is no reason."""
        if self._begin < self._end:
            with self._buffers.lent(max(PAGE, self._unit)) as buffer:
                try:
                    os.preadv(self._fd, (buffer,), self._start + self._begin)
                except OSError as exc:
                    if exc.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
                        raise

    def read_nowait(self, offset: int, into: bytearray | memoryview) -> bool:
        """Decline."""
        del offset, into
        return False

    async def read(self, offset: int, into: bytearray | memoryview) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        with memoryview(into) as view:
            for begin, end in self._chunks(offset, offset + len(view)):
                part = view[begin - offset : end - offset]
                if self._begin <= begin < self._end:
                    await self._read(self._start + begin, part)
                else:
                    await self._file.read(begin, part)

    def write_nowait(self, offset: int, data: Data) -> bool:
        """Decline."""
        del offset, data
        return False

    async def write(self, offset: int, data: Data) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        self.unflushed = True
        try:
            view = memoryview(data).cast("B")
            for begin, end in self._chunks(offset, offset + len(view)):
                part = view[begin - offset : end - offset]
                if self._begin <= begin < self._end:
                    await self._write(self._start + begin, part)
                else:
                    await self._file.write(begin, part)
        finally:
            # A flush may have begun and ended meanwhile.
            self.unflushed = True

    async def holes(self, offset: int, length: int) -> list[tuple[int, int]]:
        """See :class:`fusecache.stores.base.Store`."""
        return await self._file.holes(offset, length)

    async def flush(self) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        await self._file.flush()

    async def discard(self, offset: int, length: int) -> None:
        """See :class:`fusecache.stores.base.Store`; the space of whole pages is given back, zeros go to the edges."""
        page = max(PAGE, self._unit)
        begin = offset + -(self._start + offset) % page
        end = offset + length - (self._start + offset + length) % page
        if begin >= end or not await self._punch(begin, end - begin):
            begin = end = offset
        await write_zeros(self, offset, begin - offset)
        await write_zeros(self, end, offset + length - end)

    async def _punch(self, offset: int, length: int) -> bool:
        begin = self._start + offset
        async with self._unit_locks.locked(*self._units(begin, begin + length)):
            return await self._file.punch(offset, length)

    async def forget(self, offset: int, length: int) -> None:
        """Do nothing: there is nothing in memory."""

    def check(self) -> None:
        """Assert the invariants of the parts, and that what goes past the page cache shares no page with the rest."""
        self._unit_locks.check()
        self._buffers.check()
        assert 0 <= self._begin <= self._end
        assert self._begin == self._end or self._end <= self.size
        assert all((self._start + border) % max(PAGE, self._unit) == 0 for border in (self._begin, self._end))

    def _chunks(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a range where it changes to or from the page cache, and into chunks that fit a buffer."""
        while offset < end:
            most = offset + CHUNK - (self._start + offset) % self._unit
            border = next((border for border in (self._begin, self._end) if offset < border), end)
            stop = min(most, border, end)
            yield offset, stop
            offset = stop

    def _units(self, begin: int, end: int) -> tuple[int, int, tuple[int, ...]]:
        """Return the units that a range of the file touches, the end excluded, and which of them it touches in part."""
        unit = self._unit
        first, last = begin // unit, (end - 1) // unit
        partial = {first} if begin % unit else set()
        if end % unit:
            partial.add(last)
        return first, last + 1, tuple(sorted(partial))

    def _is_aligned(self, data: memoryview) -> bool:
        """Tell whether the kernel takes data from where it lies; the address of read-only memory cannot be told."""
        return not data.readonly and pin(data)[1] % self._unit == 0

    async def _read(self, position: int, into: memoryview) -> None:
        first, after, _ = self._units(position, position + len(into))
        low = first * self._unit
        with self._buffers.lent(after * self._unit - low) as buffer, self._file.failing("read"):
            await self._engine.read(self._fd, buffer, low)
            into[:] = buffer[position - low : position - low + len(into)]

    async def _write(self, position: int, data: memoryview) -> None:
        unit = self._unit
        first, after, partial = self._units(position, position + len(data))
        low = first * unit
        async with self._unit_locks.locked(first, after, partial):
            if not partial and self._is_aligned(data):
                with self._file.failing("write"):
                    await self._engine.write(self._fd, data, position)
                return
            with self._buffers.lent(after * unit - low) as buffer, self._file.failing("write"):
                for number in partial:
                    await self._engine.read(self._fd, buffer[number * unit - low :][:unit], number * unit)
                buffer[position - low : position - low + len(data)] = data
                await self._engine.write(self._fd, buffer, low)
