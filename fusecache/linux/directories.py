"""Names in a directory: giving one to a file without taking it from another, and making them durable."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_UNKNOWN: Final = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK, errno.EXDEV}
"""What file systems answer that cannot do it."""

_libc = ctypes.CDLL(None, use_errno=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename_to_new(source: Path, target: Path) -> None:
    """Rename a file to a name that nothing has, in the same directory.

    Not every file system can be asked for that in one step, nor has each one hard links.  Where neither goes, an empty
    file takes the name first; a crash may leave that.

    :raises FileExistsError: something has that name; both stay as they are.
    :raises OSError: it cannot be done.
    """
    if _did(_rename_noreplace, source, target):
        return
    if _did(os.link, source, target):
        source.unlink()
        return
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    source.replace(target)


def _did(way: Callable[[Path, Path], None], source: Path, target: Path) -> bool:
    try:
        way(source, target)
    except OSError as exc:
        if exc.errno not in _UNKNOWN:
            raise
        return False
    return True


def _rename_noreplace(source: Path, target: Path) -> None:
    rename = getattr(_libc, "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))
