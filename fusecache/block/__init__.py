"""What is true of a block now: where it lies, in which state it is, who holds it, what is broken."""

from fusecache.block.geometry import Geometry
from fusecache.block.health import Health
from fusecache.block.locks import ALL_OUT, WRITERS_OUT, BlockLocks, Level
from fusecache.block.mapping import UNMAPPED, Mapping
from fusecache.block.states import DIRTY, RECORDED, SUMMED, WRITABLE, WRITE_INTENT, WRITEBACK_IN_FLIGHT

__all__ = [
    "ALL_OUT",
    "DIRTY",
    "RECORDED",
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
]
