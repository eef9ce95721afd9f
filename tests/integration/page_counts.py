"""How much of a file is in the host's page cache: cachestat(2), Linux 6.5 and later."""

from __future__ import annotations

import ctypes
import os

import pytest

_CACHESTAT = 451
_PAGE = os.sysconf("SC_PAGESIZE")


def cached_bytes(fd: int) -> int:
    """Count what an open file has in the page cache; skips the test where the kernel cannot tell.

    Nothing is mapped or read for it, and files that know no mmap can be asked, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    whole, answer = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if libc.syscall(_CACHESTAT, fd, whole, answer, 0):
        pytest.skip(f"cachestat: {os.strerror(ctypes.get_errno())}")
    return int(answer[0]) * _PAGE


def drop_cached(fd: int) -> None:
    """Have nothing of an open file in the page cache."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert cached_bytes(fd) == 0
