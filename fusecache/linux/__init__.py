"""What Linux has and Python has no function for; files that can be trusted, locks, mounts."""

from fusecache.linux.accounts import group_number, user_number
from fusecache.linux.devices import device_path
from fusecache.linux.directories import rename_to_new, sync_directory
from fusecache.linux.files import KEEP_SIZE, PUNCH_HOLE, is_in_memory, punch_hole, size_of, unit_of
from fusecache.linux.inodes import birth_ns, inode_generation, inode_is_stable, loop_backing
from fusecache.linux.locks import holder_of, is_for_writing, is_locked_by_writer, try_lock
from fusecache.linux.mounts import Mounted, mounted_at, take_away
from fusecache.linux.process import become_io_flusher
from fusecache.linux.syscalls import syscall
from fusecache.linux.trust import (
    create_trusted,
    is_at,
    is_shared,
    look_at,
    open_or_create_trusted,
    open_trusted,
    require_trusted,
    require_trusted_directory,
    resolve_trusted,
)
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
    "Mounted",
    "Ring",
    "become_io_flusher",
    "birth_ns",
    "create_trusted",
    "device_path",
    "group_number",
    "holder_of",
    "inode_generation",
    "inode_is_stable",
    "is_at",
    "is_for_writing",
    "is_in_memory",
    "is_locked_by_writer",
    "is_shared",
    "look_at",
    "loop_backing",
    "mounted_at",
    "open_or_create_trusted",
    "open_trusted",
    "pin",
    "punch_hole",
    "rename_to_new",
    "require_trusted",
    "require_trusted_directory",
    "resolve_trusted",
    "size_of",
    "sync_directory",
    "syscall",
    "take_away",
    "try_lock",
    "unit_of",
    "user_number",
]
