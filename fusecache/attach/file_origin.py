"""An origin in a regular file or a block device.

It is known by its signs (:mod:`fusecache.attach.signs`), by its time of modification and its size, and by what its
content says of itself (:mod:`fusecache.attach.marks`).  The lease is a lock (:mod:`fusecache.attach.lease`), the claim
an extended attribute, where the file system has such.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from fusecache.attach.claim import Claim
from fusecache.attach.lease import lock
from fusecache.attach.marks import label_of, marks_of
from fusecache.attach.names import Name
from fusecache.attach.origin import OpenStore, Space, Strengths
from fusecache.attach.signs import entry_of, signs_of, written_of
from fusecache.config import PageCache
from fusecache.errors import StoreError
from fusecache.linux import size_of
from fusecache.metadata import Identity, ImageTimes
from fusecache.stores import Engine, is_read_ahead, open_file_store, open_to_read
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

_CLAIM: Final = "user.fusecache.claim"
_BLKROGET: Final = 0x125E


@final
@dataclass(frozen=True, slots=True)
class FileLocation:
    """See :class:`fusecache.attach.origin.Location`."""

    path: Path
    """Absolute, without links."""

    @classmethod
    def of(cls, address: str) -> FileLocation:
        """Take any path for an address; raises OSError or RuntimeError for links that lead nowhere."""
        return cls(Path(address).resolve())

    @property
    def address(self) -> str:
        """See :class:`fusecache.attach.origin.Location`."""
        return str(self.path)

    def exists(self) -> bool:
        """See :class:`fusecache.attach.origin.Location`."""
        return self.path.exists()

    def is_at(self, path: Path) -> bool:
        """See :class:`fusecache.attach.origin.Location`."""
        return self.path == path or (self.path.exists() and path.exists() and self.path.samefile(path))

    def signs(self) -> dict[str, str]:
        """See :class:`fusecache.attach.origin.Location`."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            return signs_of(fd)
        finally:
            os.close(fd)

    def open(self, resources: ExitStack, *, writable: bool = True) -> FileOrigin:
        """See :class:`fusecache.attach.origin.Location`."""
        fd = open_to_read(self.path)
        resources.callback(os.close, fd)
        lock(fd, self.path, resources)
        origin = FileOrigin(self.path, fd, resources)
        if writable and origin.unwritable:
            raise StoreError(origin.unwritable)
        return origin


@final
class FileOrigin:
    """See :class:`fusecache.attach.origin.Origin`."""

    __slots__ = ("_fd", "_path", "_resources")

    def __init__(self, path: Path, fd: int, resources: ExitStack) -> None:
        self._path = path
        self._fd = fd
        self._resources = resources

    @property
    def address(self) -> str:
        """See :class:`fusecache.attach.origin.Origin`."""
        return str(self._path)

    @property
    def size(self) -> int:
        """See :class:`fusecache.attach.origin.Origin`."""
        return size_of(self._fd)

    @property
    def unwritable(self) -> str:
        """See :class:`fusecache.attach.origin.Origin`; a device can be opened for writing and refuse every write."""
        if fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            return f"origin {self._path} cannot be written: it is not permitted, or its file system is read-only"
        if stat.S_ISBLK(os.fstat(self._fd).st_mode):
            (is_read_only,) = struct.unpack("i", fcntl.ioctl(self._fd, _BLKROGET, bytes(4)))
            if is_read_only:
                return f"origin {self._path} is a device that is set read-only"
        return ""

    def identity(self) -> Identity:
        """See :class:`fusecache.attach.origin.Origin`; of a device, changes show until the next start of the system."""
        status, size = os.fstat(self._fd), self.size
        is_device = stat.S_ISBLK(status.st_mode)
        return Identity(
            address=self.address,
            place=f"device {status.st_rdev}" if is_device else f"{status.st_dev}:{status.st_ino}",
            version=written_of(status.st_rdev) if is_device else str(status.st_mtime_ns),
            size=size,
            signs=signs_of(self._fd),
            marks=self._marks(marks_of, size),
            label=self._marks(label_of, size),
            touched=self.touched(),
        )

    def touched(self) -> str:
        """See :class:`fusecache.attach.origin.Origin`."""
        status = os.fstat(self._fd)
        return "" if stat.S_ISBLK(status.st_mode) else str(status.st_ctime_ns)

    def times(self) -> ImageTimes | None:
        """See :class:`fusecache.attach.origin.Origin`; a device's are those of a name in ``/dev``."""
        status = os.fstat(self._fd)
        return None if stat.S_ISBLK(status.st_mode) else ImageTimes(status.st_mtime_ns, status.st_ctime_ns)

    def allocated(self) -> int | None:
        """See :class:`fusecache.attach.origin.Origin`; a file system that says 0 of every file tells nothing."""
        status = os.fstat(self._fd)
        if stat.S_ISBLK(status.st_mode) or (not status.st_blocks and self._has_data()):
            return None
        return status.st_blocks * SECTOR

    def space(self) -> Space | None:
        """See :class:`fusecache.attach.origin.Origin`."""
        if stat.S_ISBLK(os.fstat(self._fd).st_mode):
            return None
        told = os.fstatvfs(self._fd)
        return Space(told.f_frsize, told.f_blocks, told.f_bfree, told.f_bavail, told.f_files, told.f_ffree)

    def _has_data(self) -> bool:
        """Tell whether it is anything but one hole, as far as its file system knows of holes."""
        try:
            os.lseek(self._fd, 0, os.SEEK_DATA)
        except OSError as exc:
            return exc.errno != errno.ENXIO
        return True

    def _marks(self, find: Callable[[Callable[[int, int], bytes], int], str], size: int) -> str:
        """Find something in the content; nothing where that cannot be read."""
        try:
            return find(self.read_now, size)
        except StoreError:
            return ""

    def read_now(self, offset: int, length: int) -> bytes:
        """See :class:`fusecache.attach.origin.Origin`."""
        parts = []
        try:
            while length and (part := os.pread(self._fd, length, offset)):
                parts.append(part)
                offset += len(part)
                length -= len(part)
        except OSError as exc:
            msg = f"cannot read origin {self._path}: {exc.strerror}"
            raise StoreError(msg) from exc
        return b"".join(parts)

    def claim(self) -> Claim | None:
        """See :class:`fusecache.attach.origin.Origin`."""
        try:
            return Claim.unpack(os.getxattr(self._fd, _CLAIM))
        except OSError:
            return None

    def write_claim(self, claim: Claim) -> bool:
        """See :class:`fusecache.attach.origin.Origin`."""
        try:
            os.setxattr(self._fd, _CLAIM, claim.pack())
            os.fsync(self._fd)
        except OSError:
            return False
        return True

    def remove_claim(self) -> None:
        """See :class:`fusecache.attach.origin.Origin`."""
        with suppress(OSError):
            os.removexattr(self._fd, _CLAIM)
            os.fsync(self._fd)

    def open_store(self, size: int, page_cache: PageCache) -> OpenStore:
        """See :class:`fusecache.attach.origin.Origin`."""
        store, engine = open_file_store(
            self._fd, name=f"origin {self._path}", size=size, page_cache=page_cache, resources=self._resources
        )
        return OpenStore(store, engine.name, strengths_of(self._fd, engine, page_cache))

    def is_in_place(self) -> bool:
        """See :class:`fusecache.attach.origin.Origin`."""
        return Name(self._path, os.fstat(self._fd)).is_in_place()

    def make_identity_durable(self) -> None:
        """See :class:`fusecache.attach.origin.Origin`."""
        try:
            os.fsync(self._fd)  # its time of modification: fdatasync leaves that out
        except OSError as exc:
            msg = f"flush of origin {self._path} failed: {exc.strerror}"
            raise StoreError(msg) from exc


def strengths_of(fd: int, engine: Engine, page_cache: PageCache = PageCache.STORES) -> Strengths:
    """Find out what an open file or device is good at: of a file its file system tells, of a device its queue."""
    status = os.fstat(fd)
    reads_ahead = is_read_ahead(fd, page_cache)
    if not stat.S_ISBLK(status.st_mode):
        return Strengths(status.st_blksize, engine.parallelism, reads_ahead=reads_ahead, can_discard=True)
    queue = _Queue.of(status.st_rdev)
    return Strengths(
        request_bytes=queue.limit("optimal_io_size") or queue.limit("minimum_io_size") or status.st_blksize,
        parallelism=min(engine.parallelism, queue.limit("nr_requests") or engine.parallelism),
        reads_ahead=reads_ahead,
        can_discard=queue.limit("write_zeroes_max_bytes") > 0,
    )


@dataclass(frozen=True, slots=True)
class _Queue:
    """What sysfs tells of a block device's queue."""

    directory: Path

    @classmethod
    def of(cls, device: int) -> _Queue:
        """Find that of a device, or of the disk that a partition is on."""
        entry = entry_of(device)
        own = entry / "queue"
        return cls(own if own.is_dir() else entry.parent / "queue")

    def limit(self, name: str) -> int:
        """Read a limit; 0 where the kernel does not tell."""
        try:
            return int((self.directory / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0
