"""Sectors of a block as the bits of a number: which of them the cache holds.

Bit *i* stands for bytes ``512 i`` to ``512 (i + 1)`` of the block.  512 bytes is what a disk promises to write as one,
and the smallest unit in which programs write to disks; with larger units, writes that are not multiples of them would
have to read from the origin first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR: Final = 512
"""Bytes."""


def all_sectors(block_size: int) -> int:
    """Return the sectors of a whole block of so many bytes."""
    return (1 << block_size // SECTOR) - 1


def sectors_of(within: int, length: int) -> int:
    """Return the sectors that a range of a block touches; ``length`` is at least 1."""
    first = within // SECTOR
    return (1 << (within + length - 1) // SECTOR + 1) - (1 << first)


def is_aligned(within: int, length: int) -> bool:
    """Tell whether a range of a block consists of whole sectors."""
    return not (within | length) % SECTOR


def byte_runs(sectors: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of neighbouring sectors as ranges of bytes ``(begin, end)``, in order."""
    offset = 0
    while sectors:
        skipped = (sectors & -sectors).bit_length() - 1
        sectors >>= skipped
        count = (~sectors & (sectors + 1)).bit_length() - 1
        sectors >>= count
        offset += skipped
        yield offset * SECTOR, (offset + count) * SECTOR
        offset += count
