"""The write-intent record: in which ranges of cache blocks a clean block may be written before its row says dirty.

Theory of operation
-------------------
A *region* is a range of cache blocks.  Before the first write to a clean block its region is opened, durably: after a
crash every block in it counts as dirty.  A write never waits for the record but for this, and writes that come
together share one commit (:mod:`fusecache.durability.group_commit`).

A round of :mod:`fusecache.durability.durability` closes a region that saw no new use for a while, and makes its rows
exact.  It is new use when a block of the region gets its write intent, or turns dirty.  So a region in which blocks
are written, and written back, all the time stays open, and writing there costs no commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from fusecache.block import WRITE_INTENT
from fusecache.durability.group_commit import GroupCommit
from fusecache.errors import FusecacheError, ReadOnlyError
from fusecache.metadata import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.block import Health, Mapping
    from fusecache.durability.writer import RecordWriter

log = structlog.get_logger(__name__)


class Regions:
    """The regions of one mounted cache.

    :param blocks_each: cache blocks per region.
    :ivar open: those that the durable record has open, but for those that a round is closing just now.
    :ivar touched: those that saw new use since the last closing.
    """

    __slots__ = ("_blocks_each", "_health", "_mapping", "_openings", "_writer", "open", "touched")

    def __init__(
        self, mapping: Mapping, writer: RecordWriter, health: Health, *, blocks_each: int, open_regions: set[int]
    ) -> None:
        self._mapping = mapping
        self._writer = writer
        self._health = health
        self._blocks_each = blocks_each
        self._openings = GroupCommit(self._do_openings)
        self.open = open_regions
        self.touched = set(open_regions)

    def is_open(self, cblock: int) -> bool:
        """Tell whether a block's region is open."""
        return cblock // self._blocks_each in self.open

    def touch(self, cblock: int) -> None:
        """Learn of new use of a block's region."""
        self.touched.add(cblock // self._blocks_each)

    def blocks_of(self, region: int) -> range:
        """Return the cblocks of a region."""
        start = region * self._blocks_each
        return range(start, min(start + self._blocks_each, self._mapping.cache_blocks))

    async def record_intent(self, cblock: int) -> None:
        """Make it safe to write to a mapped block on which the caller holds a write lock.

        :raises FusecacheError: the record cannot be written; the block must not be either.
        """
        flags = self._mapping.flags
        while not flags[cblock] & WRITE_INTENT:
            if self._health.read_only:
                raise ReadOnlyError(str(self._health))
            self.touch(cblock)
            if self.is_open(cblock):
                self._mapping.intent_recorded(cblock)
            else:
                await self._openings.join(frozenset((cblock // self._blocks_each,)))

    async def _do_openings(self, begin: Callable[[], frozenset[int]]) -> None:
        """Open what is wanted by the time when nobody else commits, in one transaction."""
        async with self._writer.lock:
            wanted = begin()
            try:
                await self._writer.write(Transaction(opened=sorted(wanted)))
            except FusecacheError as exc:
                log.error("opening regions failed", error=str(exc))
                raise
            self.open |= wanted

    def take_idle(self, is_unsettled: Callable[[int], bool]) -> set[int]:
        """Pick the regions to close: those without new use and without an unsettled block; they are no longer open."""
        touched, self.touched = self.touched, set()
        idle = {region for region in self.open - touched if not any(map(is_unsettled, self.blocks_of(region)))}
        self.open -= idle
        return idle

    def check(self) -> None:
        """Assert that nobody waits in vain."""
        self._openings.check()
