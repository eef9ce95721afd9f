"""Sectors of a block, as bitmaps: bit *i* stands for bytes 512 *i* to 512 *i* + 511 of the block."""

from __future__ import annotations

from collections.abc import Iterator

from fusecache.units import SECTOR


def sectors_touched(start: int, end: int) -> int:
    """Return the sectors that the bytes from ``start`` to ``end``, at least one, touch in part or whole."""
    return (1 << (end - 1) // SECTOR + 1) - (1 << start // SECTOR)


def sectors_cut(start: int, end: int) -> int:
    """Return those of them that are touched in part: none, one or two."""
    cut = 0
    if start % SECTOR:
        cut = 1 << start // SECTOR
    if end % SECTOR:
        cut |= 1 << end // SECTOR
    return cut


def hull(bitmap: int) -> tuple[int, int]:
    """Return the byte at which the first sector of a bitmap begins, and that at which its last one ends."""
    return ((bitmap & -bitmap).bit_length() - 1) * SECTOR, bitmap.bit_length() * SECTOR


def count_runs(bitmap: int) -> int:
    """Count the runs of neighbouring sectors in a bitmap."""
    return (bitmap & ~(bitmap << 1)).bit_count()


def runs(bitmap: int) -> Iterator[tuple[int, int]]:
    """Tell for each run of neighbouring sectors, from the first one on, at which bytes it begins and ends."""
    begins = bitmap & ~(bitmap << 1)
    lasts = bitmap & ~(bitmap >> 1)
    while begins:
        yield ((begins & -begins).bit_length() - 1) * SECTOR, (lasts & -lasts).bit_length() * SECTOR
        begins &= begins - 1
        lasts &= lasts - 1
