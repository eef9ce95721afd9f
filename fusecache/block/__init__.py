"""What is true of a block now: where it lies, in which state it is, who holds it, what is broken."""

from fusecache.block.geometry import Geometry
from fusecache.block.health import Health
from fusecache.block.locks import ALL_OUT, WRITERS_OUT, BlockLocks, Level
from fusecache.block.mapping import (
    DIRTY,
    RECORDED,
    SUMMED,
    UNMAPPED,
    WRITABLE,
    WRITE_INTENT,
    WRITEBACK_IN_FLIGHT,
    Mapping,
)

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
