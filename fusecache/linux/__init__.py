"""System calls that Python has no function for."""

from fusecache.linux.directories import sync_directory
from fusecache.linux.files import KEEP_SIZE, PUNCH_HOLE, is_in_memory, punch_hole, size_of, unit_of
from fusecache.linux.inodes import birth_ns, inode_generation, inode_is_stable, loop_backing
from fusecache.linux.process import become_io_flusher
from fusecache.linux.syscalls import syscall
from fusecache.linux.uring import ASYNC, FALLOCATE, FDATASYNC, FSYNC, READ, WRITE, Ring, pin

__all__ = [
    "ASYNC",
    "FALLOCATE",
    "FDATASYNC",
    "FSYNC",
    "KEEP_SIZE",
    "PUNCH_HOLE",
    "READ",
    "WRITE",
    "Ring",
    "become_io_flusher",
    "birth_ns",
    "inode_generation",
    "inode_is_stable",
    "is_in_memory",
    "loop_backing",
    "pin",
    "punch_hole",
    "size_of",
    "sync_directory",
    "syscall",
    "unit_of",
]
