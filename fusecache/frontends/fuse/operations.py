"""What pyfuse3 calls: two inodes.

Thin on purpose: requests go to :class:`fusecache.datapath.disk.Disk`, names to
:class:`fusecache.control.control.Control`.  It raises nothing but FUSEError: any other exception would end pyfuse3's
main loop.  It never answers a call for extended attributes with ENOSYS: the kernel would stop asking, and the controls
would be gone.  Reads, writes and fsyncs come here only where there is no gate (:mod:`fusecache.frontends.fuse.gate`).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from fusecache.errors import UnknownKeyError
from fusecache.frontends.fuse.errnos import errno_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyfuse3 import (
        FileHandleT,
        FileNameT,
        FlagT,
        InodeT,
        ModeT,
        ReaddirToken,
        RequestContext,
        XAttrNameT,
    )

    from fusecache.control import Control
    from fusecache.datapath import Disk

IMAGE_NAME: Final = b"image"
_ROOT: Final = pyfuse3.ROOT_INODE
IMAGE_INODE: Final = pyfuse3.InodeT(_ROOT + 1)
_HANDLE: Final = pyfuse3.FileHandleT(1)
SYNC_HANDLE: Final = pyfuse3.FileHandleT(2)
"""For those who open the image with O_DSYNC or O_SYNC: the kernel leaves it to us to make their writes durable."""
_PREFIX: Final = "user.fusecache."
_ATTRIBUTES_VALID_S: Final = 300
_FRAGMENT: Final = 4096
_MOMENT_SECONDS: Final = 0.05
"""How long a setter waits for what it began: a change that takes no longer is done, or refused, when it returns."""


def _fuse_error(error: Exception, request: str) -> pyfuse3.FUSEError:
    """Turn the error of a request into what pyfuse3 tells the kernel."""
    return pyfuse3.FUSEError(errno_for(error, request))


class Operations(pyfuse3.Operations):
    """One directory with one file in it, the image.

    :param image_bytes: its size, which never changes while mounted.
    :param read_only: whether the image can only be read.  We refuse what would write, as the kernel does on a file
        system that it has mounted read-only; there it would refuse to set extended attributes, and so every control.
    :param page_cache: whether the kernel is to keep what was read and written of the image.  That stays right while
        it is mounted, as long as nobody else changes the image (see :mod:`fusecache.frontends.fuse.kernel_pages`).
        A write comes here before it returns.  A write through mmap comes when the kernel likes, but before an fsync.
    """

    supports_dot_lookup = False

    def __init__(
        self, disk: Disk, control: Control, *, image_bytes: int, page_cache: bool = False, read_only: bool = False
    ) -> None:
        super().__init__()
        self._disk = disk
        self._control = control
        self._page_cache = page_cache
        self._read_only = read_only
        self._root = _attributes(_ROOT, stat.S_IFDIR | 0o755, 0)
        self._image = _attributes(IMAGE_INODE, stat.S_IFREG | 0o600, image_bytes)

    # The image's data

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Serve a read; short at the end of the image."""
        del fh
        try:
            return await self._disk.read(off, size)  # type: ignore[return-value]  # pyfuse3 takes any buffer
        except Exception as exc:
            raise _fuse_error(exc, "read") from exc

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Serve a write; a synchronous one is durable when it returns."""
        try:
            written = await self._disk.write(off, buf)
            if fh == SYNC_HANDLE:
                await self._disk.flush()
        except Exception as exc:
            raise _fuse_error(exc, "write") from exc
        return written

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Make everything durable that was written before."""
        del fh, datasync
        try:
            await self._disk.flush()
        except Exception as exc:
            raise _fuse_error(exc, "fsync") from exc

    async def flush(self, fh: FileHandleT) -> None:
        """Do nothing: to close a disk makes nothing durable."""

    async def release(self, fh: FileHandleT) -> None:
        """Do nothing: there is nothing to close."""

    # The image's attributes and controls

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """Read a control; anything else does not exist."""
        del ctx
        key = _control_name(inode, name)
        if key is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        try:
            return os.fsencode(self._control.get(key))
        except UnknownKeyError as exc:
            raise pyfuse3.FUSEError(errno.ENODATA) from exc
        except Exception as exc:
            raise _fuse_error(exc, "getxattr") from exc

    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """Set a control, or send a message; what takes longer than a moment goes on when this has returned.

        The kernel keeps the inode locked until this returns, and so every write and fsync of the image waiting.
        """
        del ctx
        key = _control_name(inode, name)
        if key is None:
            raise pyfuse3.FUSEError(errno.EINVAL)
        try:
            job = self._control.begin(key, _text(value))
            if job is not None:
                with trio.move_on_after(_MOMENT_SECONDS):
                    await job.wait()
        except Exception as exc:
            raise _fuse_error(exc, "setxattr") from exc

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """List the controls that can be read."""
        del ctx
        if inode != IMAGE_INODE:
            return ()
        try:
            return [pyfuse3.XAttrNameT(f"{_PREFIX}{name}".encode()) for name in self._control.names()]
        except Exception as exc:
            raise _fuse_error(exc, "listxattr") from exc

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """Refuse: controls stay."""
        del ctx
        raise pyfuse3.FUSEError(errno.ENODATA if _control_name(inode, name) is None else errno.EPERM)

    # The tree

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        """Find the image."""
        del ctx
        if parent_inode == _ROOT and name == IMAGE_NAME:
            return self._image
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        """Describe the directory or the image."""
        del ctx
        return self._image if inode == IMAGE_INODE else self._root

    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Accept new times; a disk keeps its size, mode and owner."""
        del fh, ctx
        if self._read_only:
            raise pyfuse3.FUSEError(errno.EROFS)
        entry = await self.getattr(inode, None)  # type: ignore[arg-type]  # our own, which does not look at it
        if fields.update_size and attr.st_size != entry.st_size:
            raise pyfuse3.FUSEError(errno.EPERM)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        if fields.update_mtime:
            entry.st_mtime_ns = attr.st_mtime_ns
        if fields.update_atime:
            entry.st_atime_ns = attr.st_atime_ns
        return entry

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        """Open the image, past the page cache unless that is to hold it.  A disk cannot be truncated."""
        del inode, ctx
        if self._read_only and flags & (os.O_ACCMODE | os.O_TRUNC):
            raise pyfuse3.FUSEError(errno.EROFS)
        if flags & os.O_TRUNC:
            raise pyfuse3.FUSEError(errno.EPERM)
        handle = SYNC_HANDLE if flags & os.O_DSYNC else _HANDLE  # O_SYNC has that bit too
        return pyfuse3.FileInfo(fh=handle, direct_io=not self._page_cache, keep_cache=self._page_cache)

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """Open the directory."""
        del inode, ctx
        return _HANDLE

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """List the image."""
        del fh
        if start_id == 0:
            pyfuse3.readdir_reply(token, pyfuse3.FileNameT(IMAGE_NAME), self._image, 1)

    async def releasedir(self, fh: FileHandleT) -> None:
        """Do nothing: there is nothing to close."""

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """Let the kernel's own checks decide."""
        del inode, mode, ctx
        return True

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """Describe a full file system of one file."""
        del ctx
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _FRAGMENT
        data.f_blocks = -(-self._image.st_size // _FRAGMENT)
        data.f_bfree = data.f_bavail = 0
        data.f_files = 1
        data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Refuse: there is one file, and it exists."""
        del parent_inode, name, mode, flags, ctx
        raise pyfuse3.FUSEError(errno.EPERM)

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Refuse: the image stays."""
        del parent_inode, name, ctx
        raise pyfuse3.FUSEError(errno.EPERM)


def _control_name(inode: InodeT, name: XAttrNameT) -> str | None:
    """Return a control's name without its prefix; None for any other attribute."""
    text = name.decode("utf-8", "surrogateescape")
    if inode != IMAGE_INODE or not text.startswith(_PREFIX):
        return None
    return text.removeprefix(_PREFIX)


def _text(value: bytes) -> str:
    """Decode what was set; some tools send a final NUL or newline."""
    return os.fsdecode(value.rstrip(b"\0\n"))


def _attributes(inode: InodeT, mode: int, size: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = pyfuse3.ModeT(mode)
    entry.st_nlink = 1
    entry.st_uid = os.getuid()
    entry.st_gid = os.getgid()
    entry.st_size = size
    entry.st_blksize = _FRAGMENT
    entry.st_blocks = -(-size // 512)
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time.time_ns()
    entry.entry_timeout = entry.attr_timeout = _ATTRIBUTES_VALID_S
    return entry
