"""A store in a file or a block device, through the host's page cache.

Theory of operation
-------------------
Reads ask the page cache first (``preadv2`` with RWF_NOWAIT) and decline if the answer is not in memory; the caller
then awaits :meth:`FileStore.read`, which leaves it to an engine (:mod:`fusecache.stores.engine`).  A file system that
is all memory knows no RWF_NOWAIT, and needs none.  Writes of whole pages into the page cache are done at once.  One
that touches a page in part may have to read it from the disk first, so the engine does it.  The page cache takes any
offset and length: the kernel itself reads and rewrites partial sectors.

A write into the page cache may wait, too: where more has been written than the disk takes, the kernel makes writers
sleep, and it cannot be asked before.  So after a write that took long, the store watches the writes that follow.  If
one of them takes long because it slept, and not because others had the processor, the store declines writes for a
multiple of that time: the event loop loses a twentieth of its time at most.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from resource import RUSAGE_THREAD, getrusage
from time import monotonic
from typing import TYPE_CHECKING, Final, NoReturn, final

import trio

from fusecache.errors import BusyError, StoreError
from fusecache.linux import is_in_memory, look_at
from fusecache.stores.engine import ThreadEngine
from fusecache.stores.sparse import write_zeros
from fusecache.tasks import QuickLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fusecache.stores.base import Data
    from fusecache.stores.engine import Engine

PAGE: Final = os.sysconf("SC_PAGESIZE")
_WITHIN_PAGE: Final = PAGE - 1
_STAT_UNIT: Final = 512
"""Bytes that st_blocks counts in."""
_LONG: Final = 0.005
"""A write takes long if it takes more seconds than this."""
_DECLINE: Final = 20
"""After a long write that slept, writes are declined for this many times as long as it took."""
_LOOK: Final = 50
"""After any long write, writes are watched for this many times as long as it took."""
_UNWANTED: Final = 1024
"""At most so many ranges wait for a flush; then they are dropped without one."""
_NOT_PUNCHED: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL}
"""Neither this file system nor this device can do it, or not with a range that begins and ends there."""
_NOT_TO_BE_WRITTEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY}


def open_for_store(path: Path, access: int = os.O_RDWR, *, trusted: bool = False) -> int:
    """Open an existing file or block device, for reading and writing unless said otherwise; returns the descriptor.

    A block device is opened exclusively, which the kernel refuses while it is mounted or otherwise claimed.

    :param path: without a link at its end.
    :param trusted: refuse one that others may have made, or may change (:mod:`fusecache.linux.trust`).
    :raises BusyError: the device is in use.
    :raises StoreError: it is missing, not permitted, or neither a file nor a block device.
    :raises UntrustedError: see above.
    """
    try:
        with look_at(path) as seen:
            if not (seen.is_file or seen.is_device):
                msg = f"{path} is neither a file nor a block device"
                raise StoreError(msg)
            if trusted:
                seen.require_trusted()
            return seen.open(access | (os.O_EXCL if seen.is_device else 0))
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            msg = f"{path} is in use (mounted, or claimed by something else)"
            raise BusyError(msg) from exc
        msg = f"cannot open {path}: {exc.strerror}"
        raise StoreError(msg) from exc


def _is_sparse(fd: int) -> bool:
    """Tell whether a file takes less space than it is long."""
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and status.st_blocks * _STAT_UNIT < status.st_size


def _find_holes(fd: int, begin: int, end: int) -> list[tuple[int, int]]:
    """Find the holes in a range; those up to a place where the file system cannot tell."""
    holes = []
    position = begin
    with suppress(OSError):
        while (hole := os.lseek(fd, position, os.SEEK_HOLE)) < end:
            try:
                position = min(end, os.lseek(fd, hole, os.SEEK_DATA))
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                position = end
            holes.append((hole, position))
            if position == end:
                break
    return holes


def open_to_read(path: Path, *, trusted: bool = False) -> int:
    """Open a file or device of which nothing will be written, in a way that it can be locked against who writes.

    That takes a descriptor that could write (:mod:`fusecache.linux.locks`); where there is none to be had, another one
    has to do.  Parameters and errors are those of :func:`open_for_store`.
    """
    try:
        return open_for_store(path, trusted=trusted)
    except BusyError:
        raise
    except StoreError as exc:
        if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _NOT_TO_BE_WRITTEN:
            return open_for_store(path, os.O_RDONLY, trusted=trusted)
        raise


def _drop(fd: int, ranges: list[tuple[int, int]]) -> None:
    """Drop ranges from the page cache, except what is not on the disk yet."""
    for position, length in ranges:
        with suppress(OSError):  # it was mere advice
            os.posix_fadvise(fd, position, length, os.POSIX_FADV_DONTNEED)


@final
class FileStore:
    """``size`` bytes of an open file or device, from ``start`` on; the descriptor stays the caller's.

    :param name: what messages call it, such as its path.
    :param engine: does what may take long; threads of the store's own unless given, so that a slow store never makes
        another one wait.
    """

    __slots__ = (
        "_declining_until",
        "_engine",
        "_fd",
        "_flushing",
        "_is_file",
        "_looking_until",
        "_lost",
        "_nowait",
        "_read_flags",
        "_sparse",
        "_start",
        "_unwanted",
        "_written",
        "name",
        "size",
        "unflushed",
    )

    def __init__(self, fd: int, *, name: str, size: int, start: int = 0, engine: Engine | None = None) -> None:
        self._fd = fd
        self._start = start
        self._engine = ThreadEngine() if engine is None else engine
        self._flushing = QuickLock()
        self._lost: StoreError | None = None
        self._nowait = True
        self._declining_until = 0.0
        self._looking_until = 0.0
        self._unwanted: list[tuple[int, int]] = []
        self._written = False
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._sparse = _is_sparse(fd)  # later it may have fewer holes, and no more than we have punched
        self._read_flags = 0 if is_in_memory(fd) else os.RWF_NOWAIT
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
        with self.failing("read"):
            await self._engine.read(self._fd, into, self._start + offset)

    def write_nowait(self, offset: int, data: Data) -> bool:
        """See :class:`fusecache.stores.base.Store`; takes whole pages only, and declines while writes take long."""
        length = len(data)
        position = self._start + offset
        if (position | length) & _WITHIN_PAGE:
            return False
        began = monotonic()
        if began < self._looking_until:
            return began >= self._declining_until and self._write_watched(began, position, data)
        self.unflushed = self._written = True
        try:
            written = os.pwrite(self._fd, data, position)
        except OSError as exc:
            self._fail("write", exc)
        took = monotonic() - began
        if took > _LONG:
            self._looking_until = began + took * _LOOK
        return written == length

    def _write_watched(self, began: float, position: int, data: Data) -> bool:
        """Write at once, and find out whether we slept meanwhile (ru_nvcsw) or only had to share the processor."""
        self.unflushed = self._written = True
        sleeps = getrusage(RUSAGE_THREAD).ru_nvcsw
        with self.failing("write"):
            written = os.pwrite(self._fd, data, position)
        took = monotonic() - began
        if took > _LONG and getrusage(RUSAGE_THREAD).ru_nvcsw != sleeps:
            self._declining_until = began + took * _DECLINE
            self._looking_until = max(self._looking_until, began + took * _LOOK)
        return written == len(data)

    async def write(self, offset: int, data: Data) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        self.unflushed = self._written = True
        try:
            with self.failing("write"):
                await self._engine.write(self._fd, data, self._start + offset)
        finally:
            # A flush may have begun and ended while the engine was still writing.
            self.unflushed = self._written = True

    async def holes(self, offset: int, length: int) -> list[tuple[int, int]]:
        """See :class:`fusecache.stores.base.Store`; of a file that was sparse when it was opened, or is now."""
        if not self._sparse:
            return []
        begin = self._start + offset
        try:
            found = await trio.to_thread.run_sync(_find_holes, self._fd, begin, begin + length)
        except RuntimeError:  # the system gives no thread
            return []
        return [(hole - self._start, end - self._start) for hole, end in found]

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
            self.unflushed = self._written = False
            try:
                with self.failing("flush"):
                    await self._engine.fdatasync(self._fd)
            except BaseException as exc:
                self.unflushed = True
                if isinstance(exc, StoreError):
                    self._lost = StoreError(f"{exc}; what was written since the last flush may be lost: mount again")
                raise
            await self._drop_unwanted()

    async def discard(self, offset: int, length: int) -> None:
        """See :class:`fusecache.stores.base.Store`; zeros are written where the file system gives no space back."""
        if not await self.punch(offset, length):
            await write_zeros(self, offset, length)

    async def punch(self, offset: int, length: int) -> bool:
        """Give the space of a range back, which reads as zeros then; returns whether that can be done here."""
        self.unflushed = self._written = True
        try:
            with self.failing("discard"):
                await self._engine.discard(self._fd, self._start + offset, length)
        except StoreError as exc:
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _NOT_PUNCHED:
                return False
            raise
        finally:
            self.unflushed = self._written = True
        self._sparse = self._is_file
        return True

    async def forget(self, offset: int, length: int) -> None:
        """See :class:`fusecache.stores.base.Store`; what may not be on the disk yet leaves memory at the next flush."""
        self._unwanted.append((self._start + offset, length))
        if not self._written or len(self._unwanted) >= _UNWANTED:
            await self._drop_unwanted()

    async def _drop_unwanted(self) -> None:
        unwanted, self._unwanted = self._unwanted, []
        if unwanted:
            with suppress(RuntimeError):  # the system gives no thread: they stay in memory
                await trio.to_thread.run_sync(_drop, self._fd, unwanted)

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Turn an OSError into a StoreError, which says what failed and names this store; so for want of a thread."""
        try:
            yield
        except OSError as exc:
            self._fail(what, exc)
        except RuntimeError as exc:
            if "start new thread" not in str(exc):
                raise
            self._fail(what, exc)

    def _fail(self, what: str, exc: OSError | RuntimeError) -> NoReturn:
        msg = f"{what} of {self.name} failed: {getattr(exc, 'strerror', exc)}"
        raise StoreError(msg) from exc
