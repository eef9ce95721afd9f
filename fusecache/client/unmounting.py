"""Taking a mount out of the file tree, and seeing its daemon end."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusecache.client.holders import holders_elsewhere, holders_of
from fusecache.errors import BusyError, FusecacheError, RefusedError, UntrustedError
from fusecache.lines import complain
from fusecache.linux import mounted_at

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY_SECONDS: Final = 1.0
"""So long a mount may be busy before that is told: what has just ended, or looks at everything new, lets go soon."""
_PAUSE_SECONDS: Final = 0.1
_ELSEWHERE_SECONDS: Final = 3.0
"""So long a daemon may take to end before it is asked whether others have its mount, too."""


def unmount_command(mountpoint: Path) -> list[str]:
    """Spell the command that unmounts."""
    return [*(["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]), "--", str(mountpoint)]


def detach(mountpoint: Path) -> None:
    """Take the mount out of the file tree.

    :raises BusyError: it is in use, and stays; by whom, if that can be seen.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    command = unmount_command(mountpoint)
    while complaint := _complaint_of(command):
        if "busy" not in complaint:
            msg = f"{command[0]} could not unmount {mountpoint}: {complaint}"
            raise FusecacheError(msg)
        if time.monotonic() > deadline:
            raise BusyError(_who_is_it(mountpoint))
        time.sleep(_PAUSE_SECONDS)


def _complaint_of(command: list[str]) -> str:
    """Run a command; returns what it complains of, in one line."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands
            command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as exc:
        msg = f"cannot run {command[0]}: {exc.strerror}"
        raise FusecacheError(msg) from exc
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split()) or f"exit code {done.returncode}"


def _who_is_it(mountpoint: Path) -> str:
    if holders := holders_of(mountpoint.resolve()):
        return f"{mountpoint} is busy, so it stays mounted: in use by {holders}"
    return (
        f"{mountpoint} is busy, so it stays mounted: a VM, a loop device or a shell in it still uses it; "
        f"`{shlex.join(['fuser', '-vm', f'{mountpoint}'])}` or "
        f"`{shlex.join(['losetup', '-j', f'{mountpoint}/image'])}` names it"
    )


@contextmanager
def hold_process(pid: int, mountpoint: Path) -> Iterator[int]:
    """Yield a pidfd, so that no other process can be taken for this one; it must be of the user who mounted."""
    msg = f"the daemon of {mountpoint} (pid {pid}) cannot be seen from here: unmount where it was mounted"
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError) as exc:
        raise RefusedError(msg) from exc
    try:
        mounted = mounted_at(mountpoint)
        if mounted is not None and mounted.user != _user_of(pid):
            raise RefusedError(msg)
        yield pidfd
    finally:
        os.close(pidfd)


def _user_of(pid: int) -> int | None:
    """Return whose process it is; None if it has gone."""
    try:
        return Path("/proc", str(pid)).stat().st_uid
    except OSError:
        return None


def wait_for(pidfd: int, seconds: float | None = None) -> bool:
    """Wait for the end of a process, not longer than told; returns whether it has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def wait_for_daemon(pidfd: int, mountpoint: Path, device: str) -> None:
    """Wait for the end of a daemon whose mount was taken out of the file tree.

    Whoever has made a mount namespace of his own meanwhile (a container, a sandboxed service) may have the mount in it,
    and then the daemon serves on; that is told.

    :param device: of the mount.
    """
    if not wait_for(pidfd, _ELSEWHERE_SECONDS):
        if device and (holders := holders_elsewhere(device)):
            complain(f"{mountpoint} is unmounted here, but not in the mount namespace of {holders}: waiting for that")
        wait_for(pidfd)


def dirty_after_clean_end(metadata: Path) -> int | None:
    """Count the dirty blocks that a daemon left behind; None if it did not end cleanly."""
    from fusecache.metadata import Database  # noqa: PLC0415 - only this command needs it

    try:
        with Database.read_only(metadata) as database:
            return database.count(dirty_only=True) if database.superblock().clean_shutdown else None
    except UntrustedError as exc:
        command = shlex.join(["fusecache", "check", "--metadata", str(metadata)])
        msg = f"unmounted; whether the daemon ended cleanly, only its user can see: `{command}` says so"
        raise FusecacheError(msg) from exc
    except (FusecacheError, OSError):
        return None
