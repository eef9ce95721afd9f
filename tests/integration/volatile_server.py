"""A FUSE server over :mod:`tests.integration.volatile_disk`, as a process; see :mod:`tests.integration.power`.

``python -m tests.integration.volatile_server MEDIUM MOUNTPOINT`` serves the directories in MEDIUM, with their files.
Nothing there is touched until a seed arrives on standard input: then MEDIUM gets what that power cut leaves, and the
process is gone, without a word to those who have files open.  It is gone as well, MEDIUM untouched, when the other end
of its standard input is.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, cast

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT, ReaddirToken, RequestContext

from tests.integration.volatile_disk import VolatileDirectory, VolatileFile

_FREE_BYTES = 1 << 40
_PAGE = 4096


class Medium:
    """Directories of files, read from a place on disk and left there again by a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = int(pyfuse3.ROOT_INODE)
        self.files: dict[int, VolatileFile] = {}
        self.directories: dict[int, VolatileDirectory] = {}
        self.roots: dict[bytes, int] = {}
        for place in sorted(path.iterdir()):
            names = {
                os.fsencode(file.name): self.add(VolatileFile(file.read_bytes(), mtime_ns=file.stat().st_mtime_ns))
                for file in sorted(place.iterdir())
            }
            inode = self.roots[os.fsencode(place.name)] = self._next_number()
            self.directories[inode] = VolatileDirectory(names)

    def add(self, file: VolatileFile) -> int:
        """Give a file an inode number."""
        number = self._next_number()
        self.files[number] = file
        return number

    def cut(self, seed: int) -> None:
        """Leave on the medium what a power cut leaves."""
        rng = random.Random(seed)
        left = {inode: file.after_cut(rng) for inode, file in self.files.items()}
        for name, inode in self.roots.items():
            place = self._path / os.fsdecode(name)
            for file in place.iterdir():
                file.unlink()
            for file_name, number in self.directories[inode].after_cut(rng).items():
                content, mtime_ns = left[number]
                file = place / os.fsdecode(file_name)
                file.write_bytes(content)
                os.utime(file, ns=(mtime_ns, mtime_ns))

    def _next_number(self) -> int:
        self._number += 1
        return self._number


class Operations(pyfuse3.Operations):
    """The medium as a file system: directories of files, no deeper, whose set is fixed."""

    supports_dot_lookup = False

    def __init__(self, medium: Medium) -> None:
        super().__init__()
        self._medium = medium

    # Files

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_TRUNC:
            self._medium.files[inode].truncate(0, now_ns=time.time_ns())
        return pyfuse3.FileInfo(fh=FileHandleT(inode))

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        inode = self._medium.add(VolatileFile(mtime_ns=time.time_ns()))
        self._directory(parent_inode).change(put={name: inode})
        return pyfuse3.FileInfo(fh=FileHandleT(inode)), self._attributes(inode)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return bytes(self._medium.files[fh].data[off : off + size])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        self._medium.files[fh].write(off, bytes(buf), now_ns=time.time_ns())
        return len(buf)

    async def flush(self, fh: FileHandleT) -> None:
        """Do nothing: to close a file makes nothing durable."""

    async def release(self, fh: FileHandleT) -> None:
        """Do nothing: files are kept, whoever has them open."""

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        self._medium.files[fh].sync(data_only=datasync)

    # Names

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        names = self._medium.roots if parent_inode == pyfuse3.ROOT_INODE else self._directory(parent_inode).names
        if name not in names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(names[name])

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self._directory(parent_inode)
        if name not in directory.names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        directory.change(remove=name)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if parent_inode_old != parent_inode_new or flags:
            raise pyfuse3.FUSEError(errno.EXDEV)
        directory = self._directory(parent_inode_old)
        directory.change(put={name_new: directory.names[name_old]}, remove=name_old)

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> pyfuse3.EntryAttributes:
        self._directory(new_parent_inode).change(put={new_name: inode})
        return self._attributes(inode)

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        names = self._medium.roots if fh == pyfuse3.ROOT_INODE else self._directory(fh).names
        for number, (name, inode) in enumerate(sorted(names.items()), 1):
            if number > start_id and not pyfuse3.readdir_reply(token, FileNameT(name), self._attributes(inode), number):
                break

    async def releasedir(self, fh: FileHandleT) -> None:
        """Do nothing: there is nothing to close."""

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        if fh != pyfuse3.ROOT_INODE:
            self._directory(fh).sync()

    # Attributes

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            self._medium.files[inode].truncate(attr.st_size, now_ns=time.time_ns())
        return self._attributes(inode)

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _PAGE
        data.f_blocks = data.f_bfree = data.f_bavail = _FREE_BYTES // _PAGE
        data.f_files = data.f_ffree = data.f_favail = 1 << 20
        data.f_namemax = 255
        return data

    def _directory(self, inode: int) -> VolatileDirectory:
        return self._medium.directories[inode]

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = InodeT(inode)
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_nlink = 1
        entry.st_blksize = _PAGE
        file = self._medium.files.get(inode)
        if file is None:
            entry.st_mode = ModeT(stat.S_IFDIR | 0o700)
        else:
            entry.st_mode = ModeT(stat.S_IFREG | 0o600)
            entry.st_size = len(file.data)
            entry.st_blocks = -(-entry.st_size // 512)
            entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = file.mtime_ns
        return entry


async def _die_when_told(medium: Medium) -> NoReturn:
    await trio.lowlevel.wait_readable(0)
    seed = os.read(0, 100)
    if seed:
        medium.cut(int(seed))
    os._exit(0)


async def _serve(medium: Medium) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_die_when_told, medium)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def main(arguments: Sequence[str]) -> None:
    """Serve until told to die."""
    source, mountpoint = arguments
    medium = Medium(Path(source))
    pyfuse3.init(Operations(medium), mountpoint, {*pyfuse3.default_options, "fsname=volatile", "subtype=volatile"})
    print("ready", flush=True)  # noqa: T201 - to whoever started us
    try:
        trio.run(_serve, medium)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(cast("Sequence[str]", sys.argv[1:]))
