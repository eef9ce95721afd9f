"""What pyfuse3 calls: two inodes.

Thin on purpose: requests go to :class:`fusecache.datapath.disk.Disk`, names to
:class:`fusecache.control.control.Control`, and what stat(2) says comes from
:class:`fusecache.frontends.fuse.attributes.Attributes`.  It raises nothing but FUSEError: any other exception would end
pyfuse3's main loop.  It never answers a call for extended attributes with ENOSYS: the kernel would stop asking, and the
controls would be gone.  Reads, writes and fsyncs come here only where there is no gate
(:mod:`fusecache.frontends.fuse.gate`).

*Controls are no data.*
  What must hold: who copies the image with all its attributes, and copies it back, sets nothing.  So none is listed,
  neither of the image nor of the directory; each is read and set by its name.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import pyfuse3
import structlog
import trio

from fusecache.errors import UnknownKeyError
from fusecache.frontends.fuse.attributes import IMAGE_INODE, ROOT_INODE, Attributes
from fusecache.frontends.fuse.errnos import errno_for
from fusecache.frontends.fuse.ownership import may_control

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

log = structlog.get_logger(__name__)

IMAGE_NAME: Final = b"image"
_HANDLE: Final = pyfuse3.FileHandleT(1)
SYNC_HANDLE: Final = pyfuse3.FileHandleT(2)
"""For those who open the image with O_DSYNC or O_SYNC: the kernel leaves it to us to make their writes durable."""
_PREFIX: Final = "user.fusecache."
_CLAIM: Final = "user.fusecache.claim"
"""What an origin is marked with: who copies one to the image, with all its attributes, means no control."""
_MOMENT_SECONDS: Final = 0.05
"""How long a setter waits for what it began: a change that takes no longer is done, or refused, when it returns."""


def _fuse_error(error: Exception, request: str) -> pyfuse3.FUSEError:
    """Turn the error of a request into what pyfuse3 tells the kernel."""
    return pyfuse3.FUSEError(errno_for(error, request))


class Operations(pyfuse3.Operations):
    """One directory with one file in it, the image.

    :ivar attributes: what stat(2) says.
    :param read_only: whether the image can only be read.  We refuse what would write, as the kernel does on a file
        system that it has mounted read-only; there it would refuse to set extended attributes, and so every control.
    :param page_cache: whether the kernel is to keep what was read and written of the image.  That stays right while
        it is mounted, as long as nobody else changes the image (see :mod:`fusecache.frontends.fuse.kernel_pages`).
        A write comes here before it returns.  A write through mmap comes when the kernel likes, but before an fsync.
    """

    supports_dot_lookup = False

    def __init__(
        self,
        disk: Disk,
        control: Control,
        attributes: Attributes,
        *,
        page_cache: bool = False,
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self._disk = disk
        self._control = control
        self.attributes = attributes
        self._page_cache = page_cache
        self._read_only = read_only
        self._daemon = os.geteuid()

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
        Whoever may write to the image gets here; only root and who runs this process may set anything.
        """
        key = _control_name(inode, name)
        if key is None:
            raise pyfuse3.FUSEError(errno.EOPNOTSUPP)
        if not may_control(ctx.uid, daemon=self._daemon):
            log.warning("control refused", name=key, uid=ctx.uid)
            raise pyfuse3.FUSEError(errno.EPERM)
        try:
            job = self._control.begin(key, _text(value))
            if job is not None:
                with trio.move_on_after(_MOMENT_SECONDS):
                    await job.wait()
        except Exception as exc:
            raise _fuse_error(exc, "setxattr") from exc

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """List nothing: what is listed is copied, and set where the copy is copied back."""
        del inode, ctx
        return ()

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """Refuse: controls stay."""
        del ctx
        raise pyfuse3.FUSEError(errno.ENODATA if _control_name(inode, name) is None else errno.EPERM)

    # The tree

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        """Find the image."""
        del ctx
        if parent_inode == ROOT_INODE and name == IMAGE_NAME:
            return await self.attributes.of(IMAGE_INODE)
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        """Describe the directory or the image."""
        del ctx
        return await self.attributes.of(inode)

    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Accept other times, another mode and owner; a disk keeps its size."""
        del fh, ctx
        if self._read_only:
            raise pyfuse3.FUSEError(errno.EROFS)
        if not self.attributes.set(inode, attr, fields):
            raise pyfuse3.FUSEError(errno.EPERM)
        return await self.attributes.of(inode)

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
            pyfuse3.readdir_reply(token, pyfuse3.FileNameT(IMAGE_NAME), await self.attributes.of(IMAGE_INODE), 1)

    async def releasedir(self, fh: FileHandleT) -> None:
        """Do nothing: there is nothing to close."""

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """Let the kernel's own checks decide."""
        del inode, mode, ctx
        return True

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        """Describe the file system that the origin lies on."""
        del ctx
        return await self.attributes.file_system()

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
    if inode != IMAGE_INODE or not text.startswith(_PREFIX) or text == _CLAIM:
        return None
    return text.removeprefix(_PREFIX)


def _text(value: bytes) -> str:
    """Decode what was set; some tools send a final NUL or newline."""
    return os.fsdecode(value.rstrip(b"\0\n"))
