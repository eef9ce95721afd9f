"""The write-intent record: in which runs of cache blocks clean blocks may be written before their rows say dirty.

Theory of operation
-------------------
A *region* is a run of cache blocks.  Before the first write to a clean block its region is opened, durably: after a
crash everything in it counts as dirty.  That is the only wait for the record that a write ever pays, and those that
come together share it.

A region that saw no new use for a while is closed again, by a round of :mod:`fusecache.durability.durability`, which
makes its rows exact.  New use is that a block of it was covered, or turned dirty: a region in which blocks are written,
and written back, all the time stays open, and writing there costs no commits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from fusecache.block import WRITE_INTENT
from fusecache.durability.rounds import Outcome
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
    :ivar open: those that the durable record has open, but for those that are just being closed.
    :ivar touched: those that saw new use since the last closing.
    """

    __slots__ = ("_asked", "_blocks_each", "_health", "_mapping", "_outcome", "_wanted", "_writer", "open", "touched")

    def __init__(
        self, mapping: Mapping, writer: RecordWriter, health: Health, *, blocks_each: int, open_regions: set[int]
    ) -> None:
        self._mapping = mapping
        self._writer = writer
        self._health = health
        self._blocks_each = blocks_each
        self._wanted: set[int] = set()
        self._asked = trio.Event()
        self._outcome = Outcome()
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
                flags[cblock] |= WRITE_INTENT
            else:
                self._wanted.add(cblock // self._blocks_each)
                self._asked.set()
                await self._outcome.wait()

    async def run(self) -> None:
        """Open wanted regions until cancelled, all that came together in one transaction."""
        while True:
            await self._asked.wait()
            async with self._writer.lock:
                self._asked = trio.Event()
                wanted, self._wanted = self._wanted, set()
                outcome, self._outcome = self._outcome, Outcome()
                error: FusecacheError | None = None
                try:
                    await self._writer.write(Transaction(opened=sorted(wanted)))
                    self.open |= wanted
                except FusecacheError as exc:
                    error = exc
                    log.error("opening regions failed", error=str(exc))
            outcome.finish(error)

    def take_idle(self, is_unsettled: Callable[[int], bool]) -> set[int]:
        """Pick the regions to close: without new use, and without a block that may differ; they are no longer open."""
        touched, self.touched = self.touched, set()
        idle = {region for region in self.open - touched if not any(map(is_unsettled, self.blocks_of(region)))}
        self.open -= idle
        return idle
