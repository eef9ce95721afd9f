"""What metadata says of itself, read with suspicion: names and values, rows, regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from fusecache.attach import NUMBER, NUMBERS
from fusecache.block import Geometry
from fusecache.config import check_block_size
from fusecache.errors import MetadataError, UsageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

FLAGS: Final = ("clean_shutdown", "needs_check")
IDENTITY: Final = ("uuid", "origin_path", "origin_inode", "origin_mtime_ns")
_MAX_CACHE_BLOCKS: Final = 2**32 - 1
"""dm-cache counts them in 32 bits."""
_MAX_WORD: Final = 2**32 - 1
SELECT: Final = "SELECT cblock, oblock, dirty, hint, crc FROM blocks"


class RawRow(NamedTuple):
    """A row of ``blocks`` as SQLite gives it: a damaged one may hold anything."""

    cblock: object
    oblock: object
    dirty: object
    hint: object
    crc: object


class Block(NamedTuple):
    """A cached block."""

    cblock: int
    oblock: int
    dirty: bool
    hint: int | None
    crc: int | None
    """Of the content of a clean block, where it is known."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The values of sound metadata."""

    values: Mapping[str, str]
    geometry: Geometry
    region_blocks: int

    @property
    def was_clean(self) -> bool:
        """Whether the last mount ended cleanly."""
        return self.values["clean_shutdown"] == "1"

    @property
    def needs_check(self) -> bool:
        """Whether a mount found that something was wrong."""
        return self.values["needs_check"] == "1"

    @property
    def uuid(self) -> str:
        """By which metadata and cache know each other."""
        return self.values["uuid"]

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Facts:
        """Take the values for sound; raises MetadataError with the first thing that is wrong."""
        if faults := value_faults(values):
            raise MetadataError(faults[0])
        image_bytes, block_size, cache_blocks = (
            int(values[name]) for name in ("image_bytes", "block_size", "cache_blocks")
        )
        return cls(values, Geometry(image_bytes, block_size, cache_blocks), int(values["region_blocks"]))


def read_values(connection: sqlite3.Connection) -> dict[str, str]:
    """Read names and values; raises sqlite3.Error."""
    pairs = connection.execute("SELECT name, value FROM meta")
    return {str(name): value if isinstance(value, str) else repr(value) for name, value in pairs}


def value_faults(values: Mapping[str, str]) -> list[str]:
    """Say what is missing among the values that every mount needs, or cannot be."""
    faults = [f"it does not say {name}" for name in (*NUMBERS, *FLAGS, *IDENTITY) if name not in values]
    faults += [
        f"{name} is {values[name]!r}, which is no number that can be"
        for name in NUMBERS
        if name in values and not NUMBER.fullmatch(values[name])
    ]
    faults += [
        f"{name} is {values[name]!r}, not 0 or 1" for name in FLAGS if name in values and values[name] not in {"0", "1"}
    ]
    if not faults:
        try:
            check_block_size(int(values["block_size"]))
        except UsageError as exc:
            faults.append(str(exc))
        if int(values["cache_blocks"]) > _MAX_CACHE_BLOCKS:
            faults.append(f"cache_blocks is {values['cache_blocks']}, more than there can be")
    return faults


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


def judge(row: RawRow, geometry: Geometry) -> tuple[Block | None, str]:
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
        return Block(cblock, oblock, True, hint, None), f"whether cache block {cblock} is dirty is {row.dirty!r}"
    block = Block(cblock, oblock, bool(row.dirty), hint, None if row.dirty else crc)
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


def sound_blocks(connection: sqlite3.Connection, facts: Facts) -> Iterator[Block]:
    """Read all blocks of metadata that must be sound; suspects count as dirty (see :mod:`fusecache.attach.recovery`).

    :raises MetadataError: it is not; callers say what to do then.
    :raises sqlite3.Error: SQLite says that it is not.
    """
    for row in contested(connection):
        msg = f"block {row.oblock!r} of the image is in the cache more than once"
        raise MetadataError(msg)
    regions = read_regions(connection)
    for row in raw_rows(connection):
        block, complaint = judge(row, facts.geometry)
        if block is None or complaint:
            raise MetadataError(complaint)
        suspect = block.cblock // facts.region_blocks in regions
        yield as_dirty(block) if suspect else block


def as_dirty(block: Block) -> Block:
    """Let a block count as dirty, which no sum goes with."""
    return block._replace(dirty=True, crc=None)
