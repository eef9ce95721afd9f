"""What the kernel says of open files and devices, and Python has no function for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import Final

from fusecache.linux.inodes import file_system_of, statx

KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
"""Flags of fallocate(2)."""
_UNIT: Final = 4096
"""The unit where the kernel cannot say it; a disk with larger blocks would say so."""
_BLKGETSIZE64: Final = 0x80081272
_BLKSSZGET: Final = 0x1268
_STATX_DIOALIGN: Final = 0x2000
_STATX_OFFSET_ALIGN: Final = 156
_MEMORY_FILE_SYSTEMS: Final = {0x01021994, 0x858458F6}  # tmpfs, ramfs

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


def size_of(fd: int) -> int:
    """Return the size in bytes of an open file or block device."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        answer: bytes = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
        (size,) = struct.unpack("Q", answer)
        return int(size)
    return status.st_size


def is_in_memory(fd: int) -> bool:
    """Tell whether a file lies on a file system that is all memory (statfs(2))."""
    return file_system_of(fd) in _MEMORY_FILE_SYSTEMS


def unit_of(fd: int) -> int:
    """Return the size and alignment that I/O past the page cache needs; raises OSError if such I/O is impossible."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        (size,) = struct.unpack("I", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))
        return int(size)
    answer = statx(fd, _STATX_DIOALIGN)
    if answer is None:  # before Linux 6.1, and of some file systems
        return _UNIT
    (align,) = struct.unpack_from("I", answer, _STATX_OFFSET_ALIGN)
    if not align:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return int(align)


def punch_hole(fd: int, position: int, length: int) -> None:
    """Give the space of a range back, which reads as zeroes then; raises OSError."""
    if _libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, position, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
