"""Locks on open files, so that no two mounts use the same one."""

from __future__ import annotations

import errno
import fcntl
import os
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from fusecache.errors import BusyError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

_LAST_IO_SECONDS: Final = 1.0


def lock(fd: int, path: Path) -> None:
    """Lock an open file for this mount alone (``flock``), until it is closed; raises BusyError.

    Of a process that was killed the last I/O may go on, and the lock with it, when the process is gone already; so that
    much time is given.
    """
    deadline = monotonic() + _LAST_IO_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno != errno.EWOULDBLOCK:
                msg = f"cannot lock {path}: {exc.strerror}"
                raise StoreError(msg) from exc
            if monotonic() > deadline:
                raise in_use(path) from exc
            sleep(_LAST_IO_SECONDS / 100)
        else:
            return


def is_locked(path: Path) -> bool:
    """Tell whether a mount or an offline tool has a file; waits for nobody.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def in_use(path: Path) -> BusyError:
    """Return the error that says so."""
    return BusyError(f"{path} is in use by another mount")
