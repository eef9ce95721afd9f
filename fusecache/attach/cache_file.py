"""The cache's file or device: how long it is, what is in it, and making one.

It begins with a stamp (:mod:`fusecache.attach.stamp`), and holds the blocks behind it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusecache.attach.stamp import DATA_START
from fusecache.errors import StoreError
from fusecache.linux import size_of
from fusecache.units import format_size

if TYPE_CHECKING:
    from pathlib import Path


def is_device(fd: int) -> bool:
    """Tell whether it is a block device, whose size is given."""
    return stat.S_ISBLK(os.fstat(fd).st_mode)


def changed_at(fd: int) -> str:
    """Return a text that is another one after each write to a file; ``0`` for a device, where that does not show."""
    return "0" if is_device(fd) else str(os.fstat(fd).st_mtime_ns)


@dataclass(frozen=True, slots=True)
class CacheSpace:
    """The length of an open cache; see :class:`fusecache.attach.resizing.Space`."""

    fd: int
    path: Path
    block_size: int

    def room(self) -> int:
        """Return how many blocks it has room for behind the stamp."""
        return max(0, size_of(self.fd) - DATA_START) // self.block_size

    def extend(self, blocks: int) -> None:
        """Make it long enough for so many blocks, the space its own, durably; raises StoreError, soon if it can."""
        before = size_of(self.fd)
        size = DATA_START + blocks * self.block_size
        try:
            _require_space(self.fd, size - before)
            os.posix_fallocate(self.fd, before, size - before)
            os.fsync(self.fd)
        except OSError as exc:
            with suppress(OSError):
                os.ftruncate(self.fd, before)
            msg = f"no space for a cache of {format_size(size)} at {self.path}: {exc.strerror}"
            raise StoreError(msg) from exc

    def cut(self, blocks: int) -> None:
        """Give the space of a file back; a device keeps it."""
        if stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.ftruncate(self.fd, DATA_START + blocks * self.block_size)


def _require_space(fd: int, size: int) -> None:
    """Raise OSError where there is not enough by far, instead of filling the file system before that shows."""
    free = os.fstatvfs(fd)
    if size > free.f_bavail * free.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
