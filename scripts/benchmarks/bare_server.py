"""Expose a file by the least that pyfuse3 can do, which is what every server written with it costs at least.

``python -m scripts.benchmarks.bare_server BACKING MOUNTPOINT`` serves BACKING as MOUNTPOINT/image: stock pyfuse3 with
its default options and number of workers, ``direct_io``, and nothing but one system call on the backing file for each
request.  Runs in the foreground, ends on SIGTERM, SIGINT or unmount.  Other servers of one file are made from this one.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import pyfuse3
import trio

INODE: Final = pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1)
"""The file's, and its handle too."""


class BareServer(pyfuse3.Operations):
    """A directory with one file, as large as the open file ``backing``, and one system call for each request."""

    def __init__(self, backing: int, name: bytes = b"image") -> None:
        super().__init__()
        self._name = name
        self._backing = backing
        self._size = os.fstat(backing).st_size

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read."""
        return os.pread(self._backing, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write."""
        return os.pwrite(self._backing, buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Make durable."""
        os.fdatasync(self._backing)

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Find the file."""
        if name != self._name:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(INODE)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Describe the directory or the file."""
        return self._attributes(inode)

    async def setattr(self, inode: int, *_: object) -> pyfuse3.EntryAttributes:
        """Change nothing: a disk has no owner and keeps its size."""
        return self._attributes(inode)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open the directory."""
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List the one file."""
        if start_id == 0:
            pyfuse3.readdir_reply(token, self._name, self._attributes(INODE), 1)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open the file, past the page cache."""
        return pyfuse3.FileInfo(fh=inode, direct_io=True)

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Have none: left out, it would be ENOSYS, and the kernel would ask no more."""
        raise pyfuse3.FUSEError(errno.ENODATA)

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_uid = os.getuid()
        attributes.st_gid = os.getgid()
        attributes.entry_timeout = attributes.attr_timeout = 3600
        if inode == INODE:
            attributes.st_mode = stat.S_IFREG | 0o600
            attributes.st_nlink = 1
            attributes.st_size = self._size
            attributes.st_blocks = self._size // 512
            attributes.st_blksize = 4096
        else:
            attributes.st_mode = stat.S_IFDIR | 0o700
            attributes.st_nlink = 2
        return attributes


def serve(make: Callable[[int], BareServer], backing: str, mountpoint: str, *, options: AbstractSet[str]) -> None:
    """Mount, print ``ready``, serve until SIGTERM, SIGINT or unmount; ``make`` is given the open ``backing``."""
    program = Path(sys.argv[0]).stem
    try:
        pyfuse3.init(make(os.open(backing, os.O_RDWR | os.O_CLOEXEC)), mountpoint, {*options, f"fsname={program}"})
    except (OSError, RuntimeError) as exc:
        sys.exit(f"{program}: {exc}")
    print("ready", flush=True)
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close()


async def _serve() -> None:
    async def terminate_on_signal() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                pyfuse3.terminate()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(terminate_on_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    serve(BareServer, *sys.argv[1:], options=pyfuse3.default_options)
