"""What metadata says, told one thing after the other to a *visitor*, who makes something of it.

Three tell: sound metadata (:func:`visit`), dm-cache's XML (:func:`fusecache.offline.interchange.read_xml`), and what
can be salvaged of damaged metadata (:mod:`fusecache.offline.repairing`).  Three hear: the writer of XML, a draft of new
metadata (:mod:`fusecache.offline.drafting`), and whoever verifies the content of the blocks
(:mod:`fusecache.offline.verifying`).  So a dump is metadata told as XML, a restore is XML told to a draft, and a repair
is what was salvaged told to a draft.  Millions of blocks go by one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.errors import MetadataError
from fusecache.metadata import Superblock, Suspects, strays
from fusecache.offline.facts import contested, geometry_of, judge, raw_rows, read_regions, read_values

if TYPE_CHECKING:
    import sqlite3

    from fusecache.metadata import Row


class Visitor:
    """Hears first the superblock, then rows and hints, then that this was all; raises FusecacheError to stop it."""

    def superblock(self, superblock: Superblock) -> None:
        """Hear of the cache as a whole."""

    def row(self, row: Row) -> None:
        """Hear of a cached block, with its hint if that is known already."""

    def hint(self, cblock: int, hint: int) -> None:
        """Hear what the policy noted of a block that was told before."""

    def end(self) -> None:
        """Hear that this was all."""


def visit(connection: sqlite3.Connection, visitor: Visitor) -> None:
    """Tell a visitor what metadata says, which must be sound; the rows of suspects say dirty.

    :raises MetadataError: it is not sound; callers say what to do then.
    :raises sqlite3.Error: SQLite says that it is not.
    """
    superblock = Superblock.unpack(read_values(connection))
    visitor.superblock(superblock)
    for twice in contested(connection):
        msg = f"block {twice.oblock!r} of the image is in the cache more than once"
        raise MetadataError(msg)
    for cblock, _ in strays(connection):
        msg = f"it names sectors of cache block {cblock!r}, which is no partial block"
        raise MetadataError(msg)
    suspects, geometry = Suspects(read_regions(connection), superblock.region_blocks), geometry_of(superblock)
    for raw in raw_rows(connection, geometry):
        row, complaint = judge(raw, geometry)
        if row is None or complaint:
            raise MetadataError(complaint)
        visitor.row(suspects.marked(row))
    visitor.end()
