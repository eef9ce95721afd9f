"""Who keeps a mount busy, as far as that can be seen from here.

Only links and lists of the kernel are read (proc(5), sysfs), which name files by their paths; the mount itself is asked
nothing.  Whoever is not root sees his own processes, and all loop devices.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PROCESSES: Final = Path("/proc")
DEVICES: Final = Path("/sys/block")
_MOST: Final = 4


def holders_of(mountpoint: Path) -> str:
    """Name those that use what is mounted there; an empty string if none can be seen."""
    return _some([*_devices(mountpoint), *_mounts(mountpoint), *_processes(mountpoint)])


def holders_elsewhere(device: str) -> str:
    """Name processes in whose mount namespace a file system is mounted; an empty string if none can be seen.

    :param device: its number, as in :class:`fusecache.linux.Mounted`.
    """
    return _some([_named(directory) for directory in _all_processes() if _has_mounted(directory, device)])


def _some(found: list[str]) -> str:
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(found[:_MOST]) + more


def _devices(mountpoint: Path) -> Iterator[str]:
    """Yield the loop devices that have the image attached."""
    for entry in sorted(DEVICES.glob("loop*/loop/backing_file")):
        with suppress(OSError):
            if _is_below(entry.read_bytes().rstrip(b"\n"), mountpoint):
                yield f"/dev/{entry.parts[-3]}"


def _mounts(mountpoint: Path) -> Iterator[str]:
    """Yield what is mounted inside of it."""
    with suppress(OSError):
        for line in (PROCESSES / "self/mountinfo").read_bytes().splitlines():
            path = line.split(b" ")[4].decode("unicode_escape").encode("latin-1")
            if path != os.fsencode(mountpoint) and _is_below(path, mountpoint):
                yield f"a mount on {os.fsdecode(path)}"


def _processes(mountpoint: Path) -> Iterator[str]:
    for directory in _all_processes():
        if int(directory.name) != os.getpid() and _uses(directory, mountpoint):
            yield _named(directory)


def _all_processes() -> list[Path]:
    return sorted(PROCESSES.glob("[0-9]*"), key=lambda path: int(path.name))


def _named(directory: Path) -> str:
    try:
        name = (directory / "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        name = "it has just ended"
    return f"pid {directory.name} ({''.join(letter if letter.isprintable() else '?' for letter in name)})"


def _has_mounted(directory: Path, device: str) -> bool:
    try:
        lines = (directory / "mountinfo").read_bytes().splitlines()
    except OSError:  # it has ended, or is another user's
        return False
    return any(line.split(b" ", 3)[2] == device.encode() for line in lines)


def _uses(directory: Path, mountpoint: Path) -> bool:
    """Tell whether a process has something there open, mapped, or is in it."""
    links = [directory / name for name in ("cwd", "root", "exe")]
    with suppress(OSError):
        links += (directory / "fd").iterdir()
    for link in links:
        with suppress(OSError):
            if _is_below(os.fsencode(link.readlink()), mountpoint):
                return True
    with suppress(OSError):
        lines = (directory / "maps").read_bytes().splitlines()
        return any(_is_below(line[line.find(b"/") :], mountpoint) for line in lines if b"/" in line)
    return False


def _is_below(path: bytes, mountpoint: Path) -> bool:
    """Tell whether a path is that of the mount, or of something in it."""
    top = os.fsencode(mountpoint)
    return path == top or path.startswith(top + b"/")
