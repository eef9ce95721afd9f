"""How much of a file is in the host's page cache: cachestat(2), Linux 6.5 and later."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_CACHESTAT: Final = 451
_PAGE: Final = os.sysconf("SC_PAGESIZE")


def cached_bytes(fd: int) -> int:
    """Count what an open file has in the page cache; raises OSError where the kernel cannot tell.

    Nothing is mapped or read for it, so files that know no mmap can be asked, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    whole, answer = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if libc.syscall(_CACHESTAT, fd, whole, answer, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"cachestat: {os.strerror(code)}")
    return int(answer[0]) * _PAGE


def drop_cached(fd: int) -> None:
    """Have nothing of an open file in the page cache, as far as the kernel lets go of it."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
