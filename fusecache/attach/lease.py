"""Locks on open files, so that no two mounts use the same one.

Theory of operation
-------------------
Origin, cache and metadata are locked by who can write them (:mod:`fusecache.linux.locks`).  Whoever can only read an
origin can have a lock for reading there, which keeps locks for writing out.  Such a one is no reason to refuse a mount:
then the mount locks the file for reading, too, and besides a file of its own, which other users cannot open.  So does
whoever can only read it himself.  Thus mounts of one user are always kept apart, and those of several as long as no
reader is in the way.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from fusecache.errors import BusyError, StoreError, UntrustedError, UsageError
from fusecache.linux import holder_of, is_at, is_for_writing, is_locked_by_writer, open_or_create_trusted, try_lock
from fusecache.paths import own_directory

if TYPE_CHECKING:
    from pathlib import Path

_LAST_IO_SECONDS: Final = 1.0


def lock(fd: int, path: Path, resources: ExitStack) -> None:
    """Lock an open file for this mount alone, until it and the resources are closed; raises BusyError.

    Of a process that was killed the last I/O may go on, and the lock with it, when the process is gone already; so that
    much time is given.
    """
    writes = is_for_writing(fd)
    try:
        if not _has_locked(fd, for_writing=writes):
            _lock_beside_readers(fd, path, resources)
            return
    except OSError as exc:
        msg = f"cannot lock {path}: {exc.strerror}"
        raise StoreError(msg) from exc
    if not writes:
        with suppress(OSError, UsageError, UntrustedError):  # who writes nothing anywhere must do without
            _lock_own_file(fd, path, resources)


def is_locked(path: Path) -> bool:
    """Tell whether a mount or an offline tool has a file; waits for nobody.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return is_locked_by_writer(fd)
    finally:
        os.close(fd)


def hold(path: Path, resources: ExitStack) -> int:
    """Make a file of our own, or take one that was left there, and lock it; it goes with the resources unless renamed.

    :raises BusyError: somebody has it.
    :raises UntrustedError: it is not ours, or others could put something in its place.
    :raises OSError: it cannot be made.
    """
    while True:
        with ExitStack() as opened:
            fd = open_or_create_trusted(path, os.O_RDWR)
            opened.callback(os.close, fd)
            if not _has_locked(fd, for_writing=True):
                raise in_use(path, holder_of(fd))
            if is_at(fd, path):  # and not one that its holder has removed or renamed meanwhile
                opened.callback(_remove, fd, path)
                resources.push(opened.pop_all())
                return fd


def in_use(path: Path, holder: str = "") -> BusyError:
    """Return the error that says so, and by whom if that is known."""
    error = BusyError(f"{path} is in use by another mount{holder and f' ({holder})'}")
    error.holder = holder
    return error


def _lock_beside_readers(fd: int, path: Path, resources: ExitStack) -> None:
    if is_locked_by_writer(fd) or not try_lock(fd, for_writing=False):
        raise in_use(path, holder_of(fd))
    try:
        _lock_own_file(fd, path, resources)
    except (OSError, UsageError) as exc:
        msg = f"{path} is locked by who can only read it ({holder_of(fd) or 'unknown'}), and beside that: {exc}"
        raise BusyError(msg) from exc


def _lock_own_file(fd: int, path: Path, resources: ExitStack) -> None:
    """Lock a file that stands for another one; raises BusyError, OSError, UsageError if there is no place for it."""
    directory = own_directory(environ=os.environ, is_root=os.geteuid() == 0) / "locks"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.fstat(fd)
    is_device = stat.S_ISBLK(status.st_mode)
    name = f"device-{status.st_rdev}" if is_device else f"file-{status.st_dev}-{status.st_ino}"
    try:
        hold(directory / name, resources)
    except BusyError as exc:
        raise in_use(path, exc.holder) from exc


def _has_locked(fd: int, *, for_writing: bool) -> bool:
    """Lock a file, and have patience; tells whether that worked."""
    deadline = monotonic() + _LAST_IO_SECONDS
    while not try_lock(fd, for_writing=for_writing):
        if monotonic() > deadline:
            return False
        sleep(_LAST_IO_SECONDS / 100)
    return True


def _remove(fd: int, path: Path) -> None:
    if is_at(fd, path):
        path.unlink()
