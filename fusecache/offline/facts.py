"""What metadata says of itself, read with suspicion: names and values, rows, regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fusecache.block import Geometry
from fusecache.errors import MetadataError
from fusecache.metadata import Row

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from fusecache.metadata import Superblock

_MAX_WORD: Final = 2**32 - 1
SELECT: Final = "SELECT cblock, oblock, dirty, hint, crc FROM blocks"


class RawRow(NamedTuple):
    """A row of ``blocks`` as SQLite gives it: a damaged one may hold anything."""

    cblock: object
    oblock: object
    dirty: object
    hint: object
    crc: object


def read_values(connection: sqlite3.Connection) -> dict[str, str]:
    """Read names and values; raises sqlite3.Error."""
    pairs = connection.execute("SELECT name, value FROM meta")
    return {str(name): value if isinstance(value, str) else repr(value) for name, value in pairs}


def geometry_of(superblock: Superblock) -> Geometry:
    """Return the sizes that rows are held against."""
    return Geometry(superblock.image_bytes, superblock.block_size, superblock.cache_blocks)


def raw_rows(connection: sqlite3.Connection) -> Iterator[RawRow]:
    """Read all rows in cblock order; raises sqlite3.Error."""
    for row in connection.execute(f"{SELECT} ORDER BY cblock"):
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
    where it lies, or what lies there, is not certain.  Whether a block is dirty counts as yes where it is not certain.
    """
    cblock, oblock = row.cblock, row.oblock
    if not isinstance(cblock, int) or not isinstance(oblock, int):
        return None, f"cache block {cblock!r} holds block {oblock!r}, which is none"
    if not 0 <= cblock < geometry.cache_blocks:
        return None, f"cache block {cblock} lies outside the cache's {geometry.cache_blocks} blocks"
    if not 0 <= oblock < geometry.origin_blocks:
        return None, f"cache block {cblock} holds block {oblock}, outside the image's {geometry.origin_blocks} blocks"
    hint, crc = _word(row.hint), _word(row.crc)
    if row.dirty not in {0, 1} or not isinstance(row.dirty, int):
        return Row(cblock, oblock, True, hint, None), f"whether cache block {cblock} is dirty is {row.dirty!r}"
    block = Row(cblock, oblock, bool(row.dirty), hint, None if row.dirty else crc)
    if hint != row.hint or crc != row.crc:
        return block, f"hint and sum of cache block {cblock} are {row.hint!r} and {row.crc!r}"
    return block, ""


def _word(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= _MAX_WORD else None


def contested(connection: sqlite3.Connection) -> Iterator[RawRow]:
    """Read the rows of blocks that are in the cache more than once, by origin block; raises sqlite3.Error."""
    twice = "SELECT oblock FROM blocks GROUP BY oblock HAVING COUNT(*) > 1"
    for row in connection.execute(f"{SELECT} WHERE oblock IN ({twice}) ORDER BY oblock, cblock"):
        yield RawRow(*row)
