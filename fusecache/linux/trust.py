"""Opening files of which nobody but us and root decides what is in them.

Theory of operation
-------------------
Who can write a cache, its metadata or SQLite's log beside it decides what comes into the origin.  So such a file is
*trusted* only if it belongs to us or to root, and neither its group nor others may write to it; and if nobody else can
put another one in its place: its directory belongs to us or to root as well, and is writable to others only if it is
sticky, as ``/tmp`` is.  Of a device its owner and *others* count; the group of a disk is root's business.

A file is looked at first, through a descriptor that cannot be read or written (O_PATH) and follows no link; then the
very thing that was looked at is opened, by way of ``/proc``.  So nothing changes in between, and neither a FIFO nor a
device of another kind is ever opened.  The directories above the last one are not looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusecache.errors import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_LINKS: Final = 40
_ROOT: Final = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found at a path, and is not open yet."""

    path: Path
    fd: int
    """Good for nothing but this."""
    status: os.stat_result

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.status.st_mode)

    @property
    def is_device(self) -> bool:
        """Whether it is a block device."""
        return stat.S_ISBLK(self.status.st_mode)

    def open(self, flags: int) -> int:
        """Open this and nothing else; raises OSError."""
        return os.open(f"/proc/self/fd/{self.fd}", flags | os.O_CLOEXEC)

    def require_trusted(self) -> None:
        """Raise UntrustedError if others decide what is in it."""
        _require_ours(self.path, self.status)
        require_trusted_directory(self.path.parent)


@contextmanager
def look_at(path: Path) -> Iterator[Seen]:
    """Look at what is at a path, a symbolic link included; raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield Seen(path, fd, os.fstat(fd))
    finally:
        os.close(fd)


def open_trusted(path: Path, flags: int) -> int:
    """Open an existing regular file that is trusted; raises UntrustedError for another one, OSError."""
    with look_at(path) as seen:
        if not seen.is_file:
            msg = f"{path} is not a file"
            raise UntrustedError(msg)
        seen.require_trusted()
        return seen.open(flags)


def create_trusted(path: Path, flags: int = os.O_RDWR) -> int:
    """Make a new file that only we can read and write, and open it.

    :raises UntrustedError: in this place others could change it, or put another one there.
    :raises FileExistsError: something is there, be it a link that leads nowhere.
    :raises OSError: it cannot be made.
    """
    require_trusted_directory(path.parent)
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _require_ours(path, os.fstat(fd))  # some file systems have owners and modes of their own
    except UntrustedError:
        os.close(fd)
        path.unlink()
        raise
    return fd


def open_or_create_trusted(path: Path, flags: int) -> int:
    """Open a file that is trusted, or make one; raises UntrustedError, OSError."""
    try:
        return create_trusted(path, flags)
    except FileExistsError:
        return open_trusted(path, flags)


def require_trusted(path: Path) -> None:
    """Raise UntrustedError if there is something at a path that others decide on, or that is no file; or OSError."""
    with suppress(FileNotFoundError), look_at(path) as seen:
        if not seen.is_file:
            msg = f"{path} is not a file"
            raise UntrustedError(msg)
        seen.require_trusted()


def require_trusted_directory(directory: Path) -> None:
    """Raise UntrustedError if others could put something else in the place of a file in it; or OSError."""
    status = directory.stat()
    if status.st_uid not in {_ROOT, os.geteuid()}:
        msg = f"directory {directory} belongs to user {status.st_uid}, who decides what is in it: use another one"
        raise UntrustedError(msg)
    if is_shared(status) and not status.st_mode & stat.S_ISVTX:
        msg = f"others may replace files in directory {directory}: `chmod go-w` it, or use another one"
        raise UntrustedError(msg)


def is_at(fd: int, path: Path) -> bool:
    """Tell whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def is_shared(status: os.stat_result) -> bool:
    """Tell whether group or others may write."""
    return bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def resolve_trusted(path: Path) -> Path:
    """Return a path without links; the last name may be a link only if it is trusted.

    :raises UntrustedError: others decide where it leads.
    :raises OSError: there is no directory, or a link leads to itself.
    """
    path = path.absolute()
    for _ in range(_MAX_LINKS):
        path = path.parent.resolve() / path.name if path.name not in {"", ".."} else path.resolve()
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return path
        if not stat.S_ISLNK(status.st_mode):
            return path
        require_trusted_directory(path.parent)
        if status.st_uid not in {_ROOT, os.geteuid()}:
            msg = f"symbolic link {path} belongs to user {status.st_uid}, who decides where it leads: remove it"
            raise UntrustedError(msg)
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _require_ours(path: Path, status: os.stat_result) -> None:
    owner, us = status.st_uid, os.geteuid()
    if stat.S_ISLNK(status.st_mode):
        msg = f"{path} is a symbolic link: name what it leads to"
        raise UntrustedError(msg)
    if owner not in {_ROOT, us}:
        msg = (
            f"{path} belongs to user {owner}, who decides what is in it, and not to user {us}: remove it, or, if you "
            f"know what is in it, `chown {us}` it"
        )
        raise UntrustedError(msg)
    shared = status.st_mode & stat.S_IWOTH if stat.S_ISBLK(status.st_mode) else is_shared(status)
    if shared:
        msg = (
            f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):04o}): remove it, or, if you know what is "
            "in it, `chmod go-w` it"
        )
        raise UntrustedError(msg)
