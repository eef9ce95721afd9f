#!/usr/bin/env python3
"""Expose a file by the least that pyfuse3 can do: ``bare_server.py BACKING MOUNTPOINT`` serves it as MOUNTPOINT/image.

What every server written with pyfuse3 costs, and so the measure for fusecache: stock pyfuse3 with its default options
and number of workers, ``direct_io``, and nothing but one system call on the backing file for each request.

Runs in the foreground, prints ``ready`` once mounted, ends on SIGTERM, SIGINT or unmount.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from typing import Final

import pyfuse3
import trio

IMAGE_INODE: Final = pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1)
IMAGE_NAME: Final = b"image"


class BareServer(pyfuse3.Operations):
    """A directory with one file, ``image``; its inode is also its file handle."""

    def __init__(self, backing: int) -> None:
        super().__init__()
        self._backing = backing

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
        """Find ``image``."""
        if name != IMAGE_NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(IMAGE_INODE)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Describe the directory or the file."""
        return self._attributes(inode)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Change nothing."""
        return self._attributes(inode)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open the directory."""
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List the one file."""
        if start_id == 0:
            pyfuse3.readdir_reply(token, IMAGE_NAME, self._attributes(IMAGE_INODE), 1)

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
        if inode == IMAGE_INODE:
            attributes.st_mode = stat.S_IFREG | 0o600
            attributes.st_nlink = 1
            attributes.st_size = os.fstat(self._backing).st_size
            attributes.st_blksize = 4096
        else:
            attributes.st_mode = stat.S_IFDIR | 0o700
            attributes.st_nlink = 2
        return attributes


async def _serve() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_terminate_on_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _terminate_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            pyfuse3.terminate()


def main(arguments: list[str]) -> None:
    """Mount, serve and unmount."""
    if len(arguments) != 2:
        sys.exit("usage: bare_server.py BACKING MOUNTPOINT")
    backing, mountpoint = arguments
    try:
        operations = BareServer(os.open(backing, os.O_RDWR | os.O_CLOEXEC))
        pyfuse3.init(operations, mountpoint, {*pyfuse3.default_options, "fsname=bare_server"})
    except (OSError, RuntimeError) as exc:
        sys.exit(f"bare_server: {exc}")
    print("ready", flush=True)
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(sys.argv[1:])
