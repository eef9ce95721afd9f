"""What a file system tells of an inode, so that another one with the same number is not taken for it."""

from __future__ import annotations

import ctypes
import fcntl
import struct
from typing import Final

_GET_GENERATION: Final = 0x80087601  # FS_IOC_GETVERSION
_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_BTIME_AT: Final = 80
_STATFS_WORDS: Final = 32  # more than struct statfs has
_WORD: Final = 2**32 - 1
_UNSTABLE: Final = {
    0x65735546: "FUSE",
    0x4D44: "FAT",
    0x2011BAB0: "exFAT",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB",
    0x01021997: "9p",
}
"""Magic numbers (statfs(2)) of file systems that may number a file anew each time that they are mounted."""

_libc = ctypes.CDLL(None, use_errno=True)


def file_system_of(fd: int) -> int | None:
    """Return the magic number of the file system that an open file is on (statfs(2)); None if it does not tell."""
    answer = (ctypes.c_long * _STATFS_WORDS)()  # f_type comes first
    return None if _libc.fstatfs(fd, answer) else int(answer[0]) & _WORD


def statx(fd: int, wanted: int) -> bytes | None:
    """Return struct statx of an open file; None where the kernel or the file system does not tell what is wanted."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    call = getattr(_libc, "statx", None)
    if call is None or call(fd, b"", _AT_EMPTY_PATH, wanted, answer):
        return None
    (known,) = struct.unpack_from("I", answer.raw)
    return answer.raw if known & wanted else None


def inode_is_stable(fd: int) -> bool:
    """Tell whether an open file will have the same inode number tomorrow."""
    kind = file_system_of(fd)
    return kind is not None and kind not in _UNSTABLE


def inode_generation(fd: int) -> int | None:
    """Return the number that tells an inode from later ones of its number; None where there is none."""
    try:
        answer: bytes = fcntl.ioctl(fd, _GET_GENERATION, bytes(8))
    except OSError:
        return None
    return int.from_bytes(answer[:4], "little") or None  # on all machines that we run on; 0 says nothing


def birth_ns(fd: int) -> int | None:
    """Return when an open file was made, in nanoseconds since 1970; None where that is not known."""
    answer = statx(fd, _STATX_BTIME)
    if answer is None:
        return None
    seconds, nanoseconds = struct.unpack_from("qI", answer, _BTIME_AT)
    return int(seconds) * 10**9 + int(nanoseconds)


def loop_backing(fd: int) -> tuple[int, int] | None:
    """Return the inode number of the file behind an open loop device, and where in it the device begins."""
    answer = bytearray(232)  # struct loop_info64
    try:
        fcntl.ioctl(fd, 0x4C05, answer)  # LOOP_GET_STATUS64
    except OSError:
        return None
    _, inode, _, offset = struct.unpack_from("QQQQ", answer)
    return inode, offset
