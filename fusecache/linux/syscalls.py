"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: object) -> int:
    """Make a system call, by its number on x86-64 or for all machines (424 and above); raises OSError."""
    result = _syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
