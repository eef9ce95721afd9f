"""How many requests the kernel sends us at a time.

Theory of operation
-------------------
FUSE has at most 12 requests of asynchronous I/O (io_uring, native AIO, a loop device with direct I/O) under way.  That
is too few for an origin that is far away and parallel.  The limit is a file of the control file system, fusectl, in a
directory named after the minor number of the mount's device.  The file belongs to the owner of the mount, so no
privilege is needed where fusectl is mounted.

Usually systemd mounts it.  Where it is not mounted, we mount nothing behind the user's back: as root we use a mount
that is attached nowhere, is seen by nobody else, and ends with its descriptor (fsopen(2), Linux 5.2); anybody else is
told the command.

We ourselves would have to answer a stat(2) of the mountpoint, so we look its device up in /proc/self/mountinfo, which
asks no file system.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from fusecache.linux import syscall

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger(__name__)

CONTROL: Final = Path("/sys/fs/fuse/connections")
MOUNTS: Final = Path("/proc/self/mountinfo")
LIMITS: Final = {"max_background": 64, "congestion_threshold": 48}
"""In the order in which they are written.  Beyond the second the kernel calls us congested, and reads ahead less."""
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_CLOEXEC: Final = 1
_CMD_CREATE: Final = 6


def raise_request_limit(mountpoint: Path) -> list[str]:
    """Have the kernel send up to 64 requests at a time.

    :param mountpoint: without symbolic links; what was mounted there last is meant.
    :return: lines that the user should see.
    """
    name = _name_of(mountpoint)
    if name is None:
        return []
    try:
        with _control() as directory:
            for limit, value in LIMITS.items():
                fd = os.open(f"{name}/{limit}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
                try:
                    os.write(fd, str(value).encode())
                finally:
                    os.close(fd)
    except OSError as exc:
        log.info("the kernel sends 12 requests at a time", reason=exc.strerror)
        mount = "" if _is_attached() else f"mount -t fusectl fusectl {CONTROL}; "
        return [
            f"optional, for more than 12 requests at a time, as root: {mount}echo 64 >{CONTROL}/{name}/max_background"
        ]
    return []


def _name_of(mountpoint: Path) -> str | None:
    """Return the minor number of a mount's device (proc_pid_mountinfo(5)); None if there is no such mount."""
    name = None
    for line in MOUNTS.read_bytes().splitlines():
        words = line.split(b" ")
        if words[4].decode("unicode_escape").encode("latin-1") == os.fsencode(mountpoint):
            name = words[2].partition(b":")[2].decode()
    return name


def _is_attached() -> bool:
    return CONTROL.is_dir() and any(CONTROL.iterdir())


@contextmanager
def _control() -> Iterator[int]:
    """Open the directory of all connections."""
    fd = os.open(CONTROL, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if _is_attached() else _mount_nowhere()
    try:
        yield fd
    finally:
        os.close(fd)


def _mount_nowhere() -> int:
    context = syscall(_FSOPEN, b"fusectl", _CLOEXEC)
    try:
        syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
        return syscall(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
