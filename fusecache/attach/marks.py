"""What the content of an origin says of itself: a sum of its marked places, and its label.

Theory of operation
-------------------
File systems, volume managers and partition tables write near to the beginning of a disk or of a partition whenever they
are used: a count of mounts, a time, a journal's state.  So the sum of these places shows what a device's own properties
do not: that others have used it.  It is held against the recorded one after a clean end only, since our own users write
there too.

The label is the name, with its UUID, by which the content is known.  It stays the same for as long as nobody makes a
new file system there.
"""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[int, int], bytes]
    """Reads a range, which is cut at the end."""

_HEAD: Final = 128 << 10
"""Bytes at the beginning of a disk or of a partition; btrfs has its superblock at 64 KiB."""
_MOST_PARTITIONS: Final = 16
_SECTOR: Final = 512
_TABLE_AT: Final = 446
_ENTRY: Final = 16
_GPT_ENTRIES_AT: Final = 2 * _SECTOR
_GPT_ENTRY: Final = 128
_PROTECTIVE: Final = 0xEE

_UUIDS: Final = (
    ("ext4", 0x438, b"\x53\xef", 0x468),
    ("xfs", 0, b"XFSB", 32),
    ("btrfs", 0x10040, b"_BHRfS_M", 0x10020),
    ("gpt", _SECTOR, b"EFI PART", _SECTOR + 56),
    ("swap", 4086, b"SWAPSPACE2", 0x40C),
)
"""Name, where its magic is, the magic, and where 16 bytes of UUID are (man pages and on-disk format documents)."""
_TEXTS: Final = (("luks", 0, b"LUKS\xba\xbe", 168, 40), ("lvm", _SECTOR, b"LABELONE", _SECTOR + 32, 32))
"""The same where the UUID is text, with its length."""


def marks_of(read: Read, size: int) -> str:
    """Return a sum of the places that what is on a disk is known by; nothing for one that is hardly longer."""
    if size < _HEAD:
        return ""  # it would change when the disk grows
    head = read(0, min(_HEAD, size))
    total = crc32c(head)
    for start in _partitions(head, size):
        total = crc32c(read(start, min(_HEAD, size - start)), total)
    return f"{total:08x}"


def label_of(read: Read, size: int) -> str:
    """Return what the content calls itself: one name or several, or nothing."""
    head = read(0, min(_HEAD, size))
    found = []
    for name, at, magic, where in _UUIDS:
        if head[at : at + len(magic)] == magic:
            found.append(f"{name} {uuid.UUID(bytes=head[where : where + 16].ljust(16, bytes(1)))}")
    for name, at, magic, where, length in _TEXTS:
        if head[at : at + len(magic)] == magic:
            text = head[where : where + length].split(b"\0")[0].decode("ascii", "replace")
            found.append(f"{name} {text}")
    if not found and head[510:512] == b"\x55\xaa":
        found.append(f"dos {head[440:444].hex()}")
    return ", ".join(found)


def _partitions(head: bytes, size: int) -> list[int]:
    """Return where the first partitions begin, by the tables in the head of a disk."""
    if head[510:512] != b"\x55\xaa":
        return []
    entries = [head[at : at + _ENTRY] for at in range(_TABLE_AT, _TABLE_AT + 4 * _ENTRY, _ENTRY)]
    if head[_SECTOR:].startswith(b"EFI PART") and any(entry[4] == _PROTECTIVE for entry in entries):
        table = head[_GPT_ENTRIES_AT : _GPT_ENTRIES_AT + _MOST_PARTITIONS * _GPT_ENTRY]
        slots = [table[at : at + _GPT_ENTRY] for at in range(0, len(table), _GPT_ENTRY)]
        sectors = [struct.unpack_from("<Q", slot, 32)[0] for slot in slots if slot[:16].strip(b"\0")]
    else:
        sectors = [struct.unpack_from("<I", entry, 8)[0] for entry in entries if entry[4]]
    return [sector * _SECTOR for sector in sectors if 0 < sector * _SECTOR < size]
