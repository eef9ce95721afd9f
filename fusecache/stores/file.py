"""A store in a file or a block device, through the host's page cache.

Theory of operation
-------------------
Reads ask the page cache first (``preadv2`` with RWF_NOWAIT) and decline where the answer is not in memory; the caller
then awaits :meth:`FileStore.read`, which runs in a thread.  A file system that is all memory knows no RWF_NOWAIT, and
needs none.  Writes of whole pages into the page cache are done at once; one that touches a page in part may have to
read it from the disk first, so it goes to a thread.  Because of the page cache every offset and length will do:
read-modify-write of partial sectors is the kernel's there.

Threads come from a limiter of the store's own, so that a slow store never makes another one wait.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final, final

import trio

from fusecache.errors import BusyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusecache.stores.base import Data

PAGE: Final = os.sysconf("SC_PAGESIZE")
_THREADS: Final = 64
_BLKGETSIZE64: Final = 0x80081272
_MEMORY_FILE_SYSTEMS: Final = {0x01021994, 0x858458F6}  # tmpfs, ramfs
_STATFS_WORDS: Final = 32  # more than struct statfs has
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2


def open_for_store(path: Path) -> int:
    """Open an existing file or block device for reading and writing; returns the descriptor.

    A block device is opened exclusively, which the kernel refuses while it is mounted or otherwise claimed.

    :raises BusyError: the device is in use.
    :raises StoreError: it is missing, not permitted, or neither a file nor a block device.
    """
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            msg = f"{path} is neither a file nor a block device"
            raise StoreError(msg)
        exclusive = os.O_EXCL if stat.S_ISBLK(kind) else 0
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | exclusive)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            msg = f"{path} is in use (mounted, or claimed by something else)"
            raise BusyError(msg) from exc
        msg = f"cannot open {path}: {exc.strerror}"
        raise StoreError(msg) from exc


def size_of(fd: int) -> int:
    """Return the size in bytes of an open file or block device."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        answer: bytes = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
        (size,) = struct.unpack("Q", answer)
        return int(size)
    return status.st_size


def _is_in_memory(fd: int) -> bool:
    """Tell whether a file lies on a file system that is all memory (statfs(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    answer = (ctypes.c_long * _STATFS_WORDS)()  # f_type comes first
    return libc.fstatfs(fd, answer) == 0 and answer[0] in _MEMORY_FILE_SYSTEMS


@final
class FileStore:
    """``size`` bytes of an open file or device, from ``start`` on; the descriptor stays the caller's.

    :param name: what messages call it, such as its path.
    """

    __slots__ = (
        "_fd",
        "_flushing",
        "_limiter",
        "_lost",
        "_nowait",
        "_read_flags",
        "_start",
        "name",
        "size",
        "unflushed",
    )

    def __init__(self, fd: int, *, name: str, size: int, start: int = 0) -> None:
        self._fd = fd
        self._start = start
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._flushing = trio.Lock()
        self._lost: StoreError | None = None
        self._nowait = True
        self._read_flags = 0 if _is_in_memory(fd) else os.RWF_NOWAIT
        self.name = name
        self.size = size
        self.unflushed = True

    def read_nowait(self, offset: int, into: bytearray | memoryview) -> bool:
        """See :class:`fusecache.stores.base.Store`; declines for good where the file system has no RWF_NOWAIT."""
        if not self._nowait:
            return False
        try:
            return os.preadv(self._fd, (into,), self._start + offset, self._read_flags) == len(into)
        except OSError as exc:
            # A real read error shows again in the waiting read, which reports it.
            self._nowait = exc.errno != errno.EOPNOTSUPP
            return False

    async def read(self, offset: int, into: bytearray | memoryview) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        await self._in_thread("read", self._read_all, offset, into)

    def write_nowait(self, offset: int, data: Data) -> bool:
        """See :class:`fusecache.stores.base.Store`; takes whole pages only."""
        length = memoryview(data).nbytes
        position = self._start + offset
        if position % PAGE or length % PAGE:
            return False
        self.unflushed = True
        try:
            return os.pwrite(self._fd, data, position) == length
        except OSError as exc:
            msg = f"write of {length} bytes at {offset} of {self.name} failed: {exc.strerror}"
            raise StoreError(msg) from exc

    async def write(self, offset: int, data: Data) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        self.unflushed = True
        try:
            await self._in_thread("write", self._write_all, offset, data)
        finally:
            # A flush may have begun and ended while the thread was still writing.
            self.unflushed = True

    async def flush(self) -> None:
        """See :class:`fusecache.stores.base.Store`; does nothing if nothing was written since the last one.

        Once it has failed it fails for good: the kernel forgets what it could not write, and would call the next
        attempt a success (fsync(2)).
        """
        async with self._flushing:
            if self._lost is not None:
                raise self._lost
            if not self.unflushed:
                return
            self.unflushed = False
            try:
                await self._in_thread("flush", os.fdatasync, self._fd)
            except BaseException as exc:
                self.unflushed = True
                if isinstance(exc, StoreError):
                    self._lost = StoreError(f"{exc}; what was written since the last flush may be lost: mount again")
                raise

    async def discard(self, offset: int, length: int) -> None:
        """See :class:`fusecache.stores.base.Store`; gives the space back where the file system can."""
        self.unflushed = True
        await self._in_thread("discard", self._punch, offset, length)

    async def _in_thread(self, what: str, function: Callable[..., object], *args: object) -> None:
        try:
            await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
        except OSError as exc:
            msg = f"{what} of {self.name} failed: {exc.strerror}"
            raise StoreError(msg) from exc

    def _read_all(self, offset: int, into: bytearray | memoryview) -> None:
        view = memoryview(into)
        position = self._start + offset
        while view:
            count = os.preadv(self._fd, (view,), position)
            if count == 0:
                raise OSError(errno.EIO, f"the file ends at {position}, too early")
            view = view[count:]
            position += count

    def _write_all(self, offset: int, data: Data) -> None:
        view = memoryview(data).cast("B")
        position = self._start + offset
        while view:
            count = os.pwrite(self._fd, view, position)
            view = view[count:]
            position += count

    def _punch(self, offset: int, length: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
        if libc.fallocate(self._fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, self._start + offset, length):
            code = ctypes.get_errno()
            if code != errno.EOPNOTSUPP:
                raise OSError(code, os.strerror(code))
