"""What a file or a device is, wherever it is: the signs by which it is known again.

See :mod:`fusecache.metadata.identity` for how they are compared.  Each is told only where it means something tomorrow:
no inode number of a file system that may number its files anew, no serial number that a device does not have.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from fusecache.linux import birth_ns, inode_generation, inode_is_stable, loop_backing

DEVICES: Final = Path("/sys/dev/block")
UDEV: Final = Path("/run/udev/data")
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_SECTORS_WRITTEN: Final = 6
_SECTORS_DISCARDED: Final = 13
"""Fields of a disk's file ``stat`` in sysfs."""
_OF_DISKS: Final = {
    "serial number": ("serial", "device/serial"),
    "WWID": ("wwid", "device/wwid"),
    "device mapper UUID": ("dm/uuid",),
    "RAID UUID": ("md/uuid",),
}
"""Files of sysfs, below a disk's directory."""
_OF_UDEV: Final = {"ID_SERIAL": "serial number of udev", "ID_WWN": "WWN", "ID_PART_ENTRY_UUID": "partition UUID"}
_MOST_CHARACTERS: Final = 200
_LONGEST_PATH: Final = 4096


def signs_of(fd: int) -> dict[str, str]:
    """Return the signs of an open file or block device."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return _signs_of_device(fd, status.st_rdev)
    if not inode_is_stable(fd):
        return {}
    generation, born = inode_generation(fd), birth_ns(fd)
    signs = {"inode": str(status.st_ino)}
    signs |= {} if generation is None else {"inode generation": str(generation)}
    return signs if born is None else signs | {"time of birth": str(born)}


def entry_of(device: int) -> Path:
    """Return the directory that sysfs has for a block device."""
    return (DEVICES / f"{os.major(device)}:{os.minor(device)}").resolve()


def written_of(device: int) -> str:
    """Return how many sectors of a block device were written or discarded, and since when; ``0`` if nothing tells."""
    entry = entry_of(device)
    disk = entry.parent if (entry / "partition").exists() else entry
    counts = _read(entry / "stat").split()
    if len(counts) <= _SECTORS_WRITTEN or not (started := _read(BOOT)):
        return "0"
    discarded = counts[_SECTORS_DISCARDED] if len(counts) > _SECTORS_DISCARDED else ""
    return f"{started} {_read(disk / 'diskseq')} {counts[_SECTORS_WRITTEN]}+{discarded}"


def _signs_of_device(fd: int, device: int) -> dict[str, str]:
    entry = entry_of(device)
    signs = {}
    if number := _read(entry / "partition"):
        signs["partition number"] = number
        entry = entry.parent
    for name, places in _OF_DISKS.items():
        if text := next(filter(None, (_read(entry / place) for place in places)), ""):
            signs[name] = text
    if backing := loop_backing(fd):
        signs |= _signs_of_loop(entry, *backing)
    is_certain = signs.keys() != {"partition number"}  # which says nothing of the disk that it is on
    return (signs if is_certain else {}) | _signs_of_udev(device)


def _signs_of_loop(entry: Path, inode: int, start: int) -> dict[str, str]:
    """Return those of the file behind a loop device; of the number alone every file system has one."""
    signs = {"backing file": f"inode {inode} from byte {start}"}
    try:
        fd = os.open(
            _read(entry / "loop" / "backing_file", most=_LONGEST_PATH), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return signs  # it has no name any more, or none here
    try:
        its = signs_of(fd) if os.fstat(fd).st_ino == inode else {}
    finally:
        os.close(fd)
    return signs | {f"backing file's {name}": sign for name, sign in its.items() if name != "inode"}


def _signs_of_udev(device: int) -> dict[str, str]:
    known = _read(UDEV / f"b{os.major(device)}:{os.minor(device)}", most=1 << 16)
    properties = dict(line[2:].partition("=")[::2] for line in known.splitlines() if line.startswith("E:"))
    return {name: properties[key] for key, name in _OF_UDEV.items() if properties.get(key)}


def _read(path: Path, most: int = _MOST_CHARACTERS) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")[:most]
    except OSError:
        return ""
