"""What metadata says of itself, read with suspicion: names and values, rows, regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fusecache.block import Geometry
from fusecache.errors import MetadataError
from fusecache.metadata import PARTIAL, SELECT_WHOLE, Row, allow_bitmaps, bitmap_bytes, select_rows, unpacked_bitmap

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from fusecache.metadata import Superblock

_MAX_WORD: Final = 2**32 - 1


class RawRow(NamedTuple):
    """A row of ``blocks``, and of ``partial`` if it says so, as SQLite gives it: a damaged one may hold anything."""

    cblock: object
    oblock: object
    dirty: object
    hint: object
    crc: object
    bitmap: object = None


def read_values(connection: sqlite3.Connection) -> dict[str, str]:
    """Read names and values; raises sqlite3.Error."""
    pairs = connection.execute("SELECT name, value FROM meta")
    return {str(name): value if isinstance(value, str) else repr(value) for name, value in pairs}


def geometry_of(superblock: Superblock) -> Geometry:
    """Return the sizes that rows are held against."""
    return Geometry(superblock.image_bytes, superblock.block_size, superblock.cache_blocks)


def raw_rows(connection: sqlite3.Connection, geometry: Geometry) -> Iterator[RawRow]:
    """Read all rows in cblock order; raises sqlite3.Error."""
    allow_bitmaps(connection, bitmap_bytes(geometry.block_size))
    for row in connection.execute(f"{select_rows(connection)} ORDER BY cblock"):
        yield RawRow(*row)


def read_regions(connection: sqlite3.Connection) -> set[int]:
    """Read the regions that may have been written; raises sqlite3.Error, or MetadataError for what is no region."""
    regions = set()
    for (region,) in connection.execute("SELECT region FROM regions"):
        if not isinstance(region, int) or region < 0:
            msg = f"region {region!r} cannot be"
            raise MetadataError(msg)
        regions.add(region)
    return regions


def judge(row: RawRow, geometry: Geometry) -> tuple[Row | None, str]:
    """Hold one row against the sizes.

    Returns the block and no complaint; or the block as far as it is certain, and what is wrong with it; or None, if
    where it lies, or what lies there, or which sectors of it count, is not certain.  Whether a block is dirty counts
    as yes where it is not certain.
    """
    cblock, oblock = row.cblock, row.oblock
    if not isinstance(cblock, int) or not isinstance(oblock, int):
        return None, f"cache block {cblock!r} holds block {oblock!r}, which is none"
    if complaint := _outside(cblock, oblock, geometry):
        return None, complaint
    hint, crc, valid = _word(row.hint), _word(row.crc), None
    is_partial = isinstance(row.crc, int) and row.crc == PARTIAL
    if is_partial:
        try:
            valid = _sectors(row.bitmap, geometry)
        except ValueError as exc:
            return None, f"cache block {cblock} is partial, and what counts of it is {exc}"
    is_dirty = row.dirty if isinstance(row.dirty, int) and row.dirty in {0, 1} else None
    block = Row(cblock, oblock, is_dirty != 0, hint, crc if is_dirty == 0 else None, valid)
    if is_dirty is None:
        return block, f"whether cache block {cblock} is dirty is {row.dirty!r}"
    if hint != row.hint or (crc != row.crc and not is_partial):
        return block, f"hint and sum of cache block {cblock} are {row.hint!r} and {row.crc!r}"
    return block, ""


def _outside(cblock: int, oblock: int, geometry: Geometry) -> str:
    if not 0 <= cblock < geometry.cache_blocks:
        return f"cache block {cblock} lies outside the cache's {geometry.cache_blocks} blocks"
    if not 0 <= oblock < geometry.origin_blocks:
        return f"cache block {cblock} holds block {oblock}, outside the image's {geometry.origin_blocks} blocks"
    return ""


def _word(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _MAX_WORD else None


def _sectors(bitmap: object, geometry: Geometry) -> int | None:
    """Return which sectors of a partial block count; raises ValueError with what is said instead."""
    if bitmap is None:
        msg = "not to be found"
        raise ValueError(msg)
    if not isinstance(bitmap, bytes):
        msg = f"a {type(bitmap).__name__}"
        raise ValueError(msg)  # noqa: TRY004 - it is a value of the file, not of the program
    return unpacked_bitmap(bitmap, geometry.block_size)


def contested(connection: sqlite3.Connection) -> Iterator[RawRow]:
    """Read the rows of blocks that are in the cache more than once, by origin block; raises sqlite3.Error."""
    twice = "SELECT oblock FROM blocks GROUP BY oblock HAVING COUNT(*) > 1"
    for row in connection.execute(f"{SELECT_WHOLE} WHERE oblock IN ({twice}) ORDER BY oblock, cblock"):
        yield RawRow(*row)
