"""Which blocks count as dirty after a crash: those whose row says so, and all in a region that was open.

Before a clean block is written its region is opened in the record, and its row says dirty only later.  So of a block
in an open region nobody knows whether the cache has newer data than the origin, and dirty is never guessed.  After a
clean end no region is open, and the rows are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fusecache.metadata.record import Row


@final
class Suspects:
    """The rule, for the regions that one record has open."""

    __slots__ = ("_blocks_each", "_open")

    def __init__(self, open_regions: Collection[int], region_blocks: int) -> None:
        self._open = open_regions
        self._blocks_each = region_blocks

    def in_open_region(self, cblock: int) -> bool:
        """Tell whether a block may have been written although its row says clean."""
        return cblock // self._blocks_each in self._open

    def count_as_dirty(self, row: Row) -> bool:
        """Tell whether a block counts as dirty."""
        return row.dirty or row.cblock // self._blocks_each in self._open

    def all_that_count(self, cblocks: Iterable[int], recorded: Iterable[bool]) -> list[bool]:
        """Do the same for many: by ``cblocks``, and what their rows say."""
        if not self._open:
            return list(recorded)
        each, is_open = self._blocks_each, self._open
        return [dirty or cblock // each in is_open for cblock, dirty in zip(cblocks, recorded, strict=True)]

    def marked(self, row: Row) -> Row:
        """Return a row in which a suspect is dirty; no sum goes with that."""
        return row._replace(dirty=True, crc=None) if self.in_open_region(row.cblock) else row
