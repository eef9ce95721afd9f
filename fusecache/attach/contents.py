"""What a file or device holds that is to become a cache: nothing, or something that somebody may want to keep.

Theory of operation
-------------------
Empty is what reads as zeros.  Both ends are read, where file systems, RAIDs and partition tables have what they are
known by; what is known of these gives it a name.  But a disk may be empty at its ends, and have somebody's data behind
them.  So what lies between is read as well: all of it if that is little, else the first part and a number of pages
spread over the rest.  Holes of a file are skipped, so any data in a sparse file is seen unless it is zeros.  Data that
all of these pages miss is not noticed; on a disk that is a hundredth full they miss it less than once in a hundred.

Where things have their mark is from their public documentation, as for blkid(8).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from fusecache.config import KIB, MIB
from fusecache.errors import StoreError
from fusecache.linux import size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_END: Final = 2 * MIB
"""Bytes at each end that are read, and searched for marks."""
_PART: Final = MIB
_ALL: Final = 64 * MIB
"""So much of what lies between is read whole."""
_PAGES: Final = 512
_PAGE: Final = 4 * KIB
_SCATTER: Final = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: its multiples, modulo 2**64, are spread evenly and follow no pattern of a disk."""
_UNKNOWN: Final = "data that is not a fusecache cache"


class Mark(NamedTuple):
    """By which something is known."""

    what: str
    magic: bytes
    places: tuple[int, ...]
    """Where it may stand; a negative place counts from the end."""


_SWAP: Final = tuple(size - 10 for size in (4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB))
_ZFS: Final = tuple(range(128 * KIB, 256 * KIB, KIB))
_BCACHE: Final = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_BCACHEFS: Final = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
_MD: Final = bytes.fromhex("fc4e2ba9")

MARKS: Final = (
    Mark("an XFS file system", b"XFSB", (0,)),
    Mark("a Btrfs file system", b"_BHRfS_M", (64 * KIB + 0x40,)),
    Mark("an F2FS file system", bytes.fromhex("1020f5f2"), (KIB,)),
    Mark("an EROFS file system", bytes.fromhex("e2e1f5e0"), (KIB,)),
    Mark("a JFS file system", b"JFS1", (32 * KIB,)),
    Mark("a ReiserFS file system", b"ReIsEr", (64 * KIB + 0x34, 8 * KIB + 0x34)),
    Mark("a GFS2 file system", bytes.fromhex("01161970"), (64 * KIB,)),
    Mark("an OCFS2 file system", b"OCFSV2", (KIB, 2 * KIB, 4 * KIB, 8 * KIB)),
    Mark("a bcachefs file system", _BCACHEFS, (4 * KIB + 24,)),
    Mark("a bcache device", _BCACHE, (4 * KIB + 24,)),
    Mark("a member of a ZFS pool", bytes.fromhex("0cb1ba0000000000"), _ZFS),
    Mark("a member of a ZFS pool", bytes.fromhex("0000000000bab10c"), _ZFS),
    Mark("an NTFS file system", b"NTFS    ", (3,)),
    Mark("an exFAT file system", b"EXFAT   ", (3,)),
    Mark("a FAT file system", b"FAT32   ", (0x52,)),
    Mark("a FAT file system", b"FAT1", (0x36,)),
    Mark("an APFS container", b"NXSB", (32,)),
    Mark("a VMFS volume", bytes.fromhex("0dd001c0"), (MIB,)),
    Mark("an ISO 9660 file system", b"CD001", (32 * KIB + 1,)),
    Mark("a UDF file system", b"BEA01", (32 * KIB + 1,)),
    Mark("a SquashFS file system", b"hsqs", (0,)),
    Mark("an encrypted volume (LUKS)", b"LUKS\xba\xbe", (0,)),
    Mark("an encrypted volume (LUKS)", b"SKUL\xba\xbe", tuple(16 * KIB << step for step in range(7))),
    Mark("an encrypted volume (BitLocker)", b"-FVE-FS-", (3,)),
    Mark("a physical volume of LVM", b"LVM2 001", tuple(sector * 512 + 24 for sector in range(4))),
    Mark("a member of a software RAID", _MD, (0, 4 * KIB, -8 * KIB, -12 * KIB)),
    Mark("a member of a software RAID", _MD, tuple(-64 * KIB - page for page in range(0, 64 * KIB, _PAGE))),
    Mark("a member of an Intel RAID", b"Intel Raid ISM Cfg Sig. ", (-1024, -8 * KIB)),
    Mark("metadata of DRBD", bytes.fromhex("8374026b"), (-4 * KIB + 60,)),
    Mark("a Ceph OSD", b"bluestore block device", (0,)),
    Mark("metadata of dm-cache", bytes.fromhex("03c4180000000000"), (32,)),
    Mark("metadata of dm-thin", bytes.fromhex("ba529c0100000000"), (32,)),
    Mark("a dm-integrity device", b"integrt\0", (0,)),
    Mark("a VDO volume", b"dmvdo001", (0,)),
    Mark("swap space", b"SWAPSPACE2", _SWAP),
    Mark("swap space", b"SWAP-SPACE", _SWAP),
    Mark("a hibernated system", b"S1SUSPEND", _SWAP),
    Mark("a hibernated system", b"S2SUSPEND", _SWAP),
    Mark("a hibernated system", b"ULSUSPEND", _SWAP),
    Mark("an image of QEMU (qcow2)", b"QFI\xfb", (0,)),
    Mark("an image of VMware (VMDK)", b"KDMV", (0,)),
    Mark("an image of Hyper-V (VHDX)", b"vhdxfile", (0,)),
    Mark("an SQLite database", b"SQLite format 3\0", (0,)),
    Mark("a partition table (GPT)", b"EFI PART", (512, 4 * KIB, -512, -4 * KIB)),
    # Of two bytes only, so behind all others.
    Mark("an ext2, ext3 or ext4 file system", bytes.fromhex("53ef"), (KIB + 0x38,)),
    Mark("a NILFS2 file system", bytes.fromhex("3434"), (KIB + 6,)),
    Mark("an HFS+ file system", b"H+", (KIB,)),
    Mark("a partition table or boot sector", bytes.fromhex("55aa"), (510,)),
)


def found_on(fd: int) -> str:
    """Say what an open file or device holds, as words that follow "holds"; nothing if it is empty.

    :raises StoreError: it cannot be read.
    """
    size = size_of(fd)
    try:
        start = _read(fd, 0, min(_END, size))
        end = _read(fd, max(0, size - _END), min(_END, size))
        if not (_is_zero(start) and _is_zero(end)):
            return _name(start, end)
        for position, length in _between(fd, _END, size - _END):
            if not _is_zero(_read(fd, position, length)):
                return f"data in its middle (near byte {position})"
    except OSError as exc:
        msg = f"what is to become the cache cannot be read: {exc.strerror}"
        raise StoreError(msg) from exc
    return ""


def _name(start: bytes, end: bytes) -> str:
    for mark in MARKS:
        for place in mark.places:
            side, position = (start, place) if place >= 0 else (end, len(end) + place)
            if position >= 0 and side.startswith(mark.magic, position):
                return mark.what
    return _UNKNOWN


def _between(fd: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges that are to be read of a longer range: its first data, then pages spread over the rest."""
    position, room = begin, _ALL
    while room > 0 and (position := _next_data(fd, position, end)) < end:
        length = min(_PART, end - position)
        yield position, length
        position += length
        room -= length
    rest = end - position
    for number in range(_PAGES if rest > 0 else 0):
        within = (number << 64) + number * _SCATTER % (1 << 64)  # anywhere in part number of _PAGES
        page = (position + (rest * within // _PAGES >> 64)) // _PAGE * _PAGE
        if (page := _next_data(fd, page, end)) < end:
            yield page, min(_PAGE, end - page)


def _next_data(fd: int, position: int, end: int) -> int:
    """Return where data begins at or behind a position: there, for a device, or where a file system cannot tell."""
    if position >= end:
        return end
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as exc:
        return end if exc.errno == errno.ENXIO else position


def _read(fd: int, position: int, length: int) -> bytes:
    return os.pread(fd, length, position)


def _is_zero(data: bytes) -> bool:
    return not data.strip(b"\0")
