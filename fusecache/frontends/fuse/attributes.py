"""What stat(2) and statfs(2) say of the image and of its directory.

Theory of operation
-------------------
The image is as long as it is, and belongs to whom the mount was told (:mod:`fusecache.frontends.fuse.ownership`).  It
has times of its own (:mod:`fusecache.frontends.fuse.times`).

*It takes the room that the origin takes, and that of what waits in the cache.*
  What must hold: no part that holds something looks like a hole, or whoever copies files without their holes copies
  nothing.  So it is rather too much than too little: a block that waits may lie where the origin has something already.

*Where the kernel keeps pages of the image, it hears of a new time once nobody has written for three seconds.*
  What it spares: the kernel drops all pages when it hears of one, and it asks at the next read after each write.
  What it costs: whoever asks while others write hears the time of before.

*Its file system is as full as the origin's.*
  A file system of one file would be full always, which alarms those who look after disks.  One without any size, which
  ``df`` leaves out, stands for origins that lie on none.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final, Protocol

import pyfuse3

from fusecache.config import Ownership
from fusecache.frontends.fuse.ownership import is_permitted_mode, modes
from fusecache.frontends.fuse.patience import Patience
from fusecache.frontends.fuse.times import Times
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from fusecache.attach import Space
    from fusecache.metadata import ImageTimes

ROOT_INODE: Final = pyfuse3.ROOT_INODE
IMAGE_INODE: Final = pyfuse3.InodeT(ROOT_INODE + 1)
_VALID_S: Final = 300
_QUIET_NS: Final = 3_000_000_000
_FRAGMENT: Final = 4096
_LONGEST_NAME: Final = 255


class Backing(Protocol):
    """What the attributes tell of an origin and its cache."""

    @property
    def image_times(self) -> ImageTimes:
        """Those with which the image begins."""

    def allocated(self) -> int | None:
        """Return how many bytes of room the origin takes; None where nothing tells.  May wait; raises OSError."""

    def space(self) -> Space | None:
        """Return how full its file system is; None if it lies on none.  May wait; raises OSError."""

    def waiting(self) -> int:
        """Return how many bytes of the cache the origin lacks, or may lack."""

    def take_written(self) -> bool:
        """Tell whether the image has changed since this was last asked."""


class Attributes:
    """The attributes of one image and its directory.

    :param image_bytes: its size, which never changes while mounted.
    :ivar keeps_pages: whether the kernel keeps pages of the image, and drops them all when it hears of a new time.
    """

    def __init__(self, backing: Backing, *, image_bytes: int, ownership: Ownership, keeps_pages: bool = False) -> None:
        self._times = Times(backing.image_times, backing.take_written)
        self._shown = backing.image_times
        self._directory_times = Times(backing.image_times)
        image, directory = modes(ownership)
        self._image = _entry(IMAGE_INODE, stat.S_IFREG | image, ownership, image_bytes)
        self._directory = _entry(ROOT_INODE, stat.S_IFDIR | directory, ownership, 0)
        self._backing = backing
        self._allocated = Patience(backing.allocated, None)
        self._space = Patience(backing.space, None)
        self._has_holes = True
        self.keeps_pages = keeps_pages

    def image_times(self) -> ImageTimes:
        """Return the times of the image as they are now; to be asked once a second."""
        return self._times.at(time.time_ns())

    async def of(self, inode: pyfuse3.InodeT) -> pyfuse3.EntryAttributes:
        """Describe the image or the directory as it is now."""
        entry, times = self._find(inode)
        if entry is self._image and self._has_holes:
            entry.st_blocks = await self._blocks()
        now_ns = time.time_ns()
        told = times.at(now_ns)
        if entry is self._image and self.keeps_pages:
            told = self._held_back(told, now_ns)
        entry.st_mtime_ns, entry.st_ctime_ns, entry.st_atime_ns = told.modified_ns, told.changed_ns, times.accessed_ns
        return entry

    def set(self, inode: pyfuse3.InodeT, wanted: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> bool:
        """Set some attributes, for as long as it is mounted; returns whether it may have them.

        The kernel has found out already whether this user may.
        """
        entry, times = self._find(inode)
        if fields.update_size and wanted.st_size != entry.st_size:
            return False
        if fields.update_mode and not is_permitted_mode(wanted.st_mode):
            return False
        if fields.update_mode:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFMT(entry.st_mode) | stat.S_IMODE(wanted.st_mode))
        if fields.update_uid:
            entry.st_uid = wanted.st_uid
        if fields.update_gid:
            entry.st_gid = wanted.st_gid
        times.set(
            time.time_ns(),
            modified_ns=wanted.st_mtime_ns if fields.update_mtime else None,
            accessed_ns=wanted.st_atime_ns if fields.update_atime else None,
        )
        self._shown = self._times.at(time.time_ns())  # what is set is told at once, and drops nothing
        return True

    async def file_system(self) -> pyfuse3.StatvfsData:
        """Describe the file system."""
        space = await self._space.answer()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = space.block_bytes if space else _FRAGMENT
        data.f_blocks = space.blocks if space else 0
        data.f_bfree = space.free if space else 0
        data.f_bavail = space.available if space else 0
        data.f_files = space.files if space else 0
        data.f_ffree = data.f_favail = space.files_free if space else 0
        data.f_namemax = _LONGEST_NAME
        return data

    def _held_back(self, times: ImageTimes, now_ns: int) -> ImageTimes:
        """Choose the times to tell a kernel that keeps pages: new ones once nobody has written for a moment."""
        is_fresh = 0 <= now_ns - times.modified_ns < _QUIET_NS
        if not is_fresh:
            self._shown = times
        self._image.attr_timeout = _QUIET_NS / 1e9 if is_fresh else _VALID_S
        return self._shown

    async def _blocks(self) -> int:
        """Return how much room the image takes, in units of 512 bytes."""
        size = self._image.st_size
        waiting = self._backing.waiting()  # before the origin is asked: then nothing of it is missed that arrives now
        allocated = await self._allocated.answer()
        if allocated is not None and allocated >= size:
            self._has_holes = False  # nor will it ever have any
        taken = size if allocated is None else min(allocated + waiting, max(size, allocated))
        return -(-taken // SECTOR)

    def _find(self, inode: pyfuse3.InodeT) -> tuple[pyfuse3.EntryAttributes, Times]:
        if inode == IMAGE_INODE:
            return self._image, self._times
        return self._directory, self._directory_times


def _entry(inode: pyfuse3.InodeT, mode: int, ownership: Ownership, size: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = pyfuse3.ModeT(mode)
    entry.st_nlink = 1
    entry.st_uid = os.getuid() if ownership.uid is None else ownership.uid
    entry.st_gid = os.getgid() if ownership.gid is None else ownership.gid
    entry.st_size = size
    entry.st_blksize = _FRAGMENT
    entry.entry_timeout = entry.attr_timeout = _VALID_S
    return entry
