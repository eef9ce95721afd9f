"""System calls that Python has no function for."""

from fusecache.linux.directories import sync_directory
from fusecache.linux.syscalls import syscall
from fusecache.linux.uring import ASYNC, FALLOCATE, FDATASYNC, FSYNC, READ, WRITE, Ring

__all__ = [
    "ASYNC",
    "FALLOCATE",
    "FDATASYNC",
    "FSYNC",
    "READ",
    "WRITE",
    "Ring",
    "sync_directory",
    "syscall",
]
