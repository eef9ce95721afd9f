"""What is true of a block now: where it lies, in which state it is, who holds it, what is broken."""

from fusecache.block.geometry import Geometry
from fusecache.block.health import Health
from fusecache.block.locks import ALL_OUT, WRITERS_OUT, BlockLocks, Level
from fusecache.block.mapping import UNMAPPED, Mapping
from fusecache.block.sectors import SECTOR, all_sectors, byte_runs, is_aligned, sectors_of
from fusecache.block.states import DIRTY, PARTIAL, RECORDED, SUMMED, WRITABLE, WRITE_INTENT, WRITEBACK_IN_FLIGHT

__all__ = [
    "ALL_OUT",
    "DIRTY",
    "PARTIAL",
    "RECORDED",
    "SECTOR",
    "SUMMED",
    "UNMAPPED",
    "WRITABLE",
    "WRITEBACK_IN_FLIGHT",
    "WRITERS_OUT",
    "WRITE_INTENT",
    "BlockLocks",
    "Geometry",
    "Health",
    "Level",
    "Mapping",
    "all_sectors",
    "byte_runs",
    "is_aligned",
    "sectors_of",
]
