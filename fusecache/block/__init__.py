"""What is true of a block now: where it lies, in which state it is, who holds it, what is broken."""

from fusecache.block.geometry import Geometry
from fusecache.block.health import Health
from fusecache.block.locks import ALL_OUT, WRITERS_OUT, BlockLocks, Level
from fusecache.block.mapping import COVERED, DIRTY, RECORDED, SAVING, SUMMED, UNMAPPED, WRITABLE, Mapping

__all__ = [
    "ALL_OUT",
    "COVERED",
    "DIRTY",
    "RECORDED",
    "SAVING",
    "SUMMED",
    "UNMAPPED",
    "WRITABLE",
    "WRITERS_OUT",
    "BlockLocks",
    "Geometry",
    "Health",
    "Level",
    "Mapping",
]
