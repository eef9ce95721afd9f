"""What must be durable before what.

Theory of operation
-------------------
Three things survive a crash: the cache, the origin, and the record of what the cache holds.  Each loses, at a crash,
any part of what was written to it since its last flush.  These rules hold all the time:

1. A row is committed only after the data that it names is durable in the cache.
2. A cache block is written for another origin block only after the commit that unmaps the old one
   (:meth:`Durability.wait_reusable`).
3. A row that says *clean* is committed only after the origin has durably what the cache has.
4. Cache and origin differ in a block only if the durable record calls that block *suspect*.
5. A row names only sectors that the cache has, durably; of a block, others than those that its row names count at the
   origin (:mod:`fusecache.block.sectors`).

*Commits* come in rounds (:mod:`fusecache.durability.group_commit`).  A round takes a snapshot of the rows that are out
of date (:mod:`fusecache.durability.rows`), flushes the stores on which the snapshot depends, and commits the snapshot.

An *fsync* waits for less, and has rounds of its own.  A user's write that has returned is either in the origin, which
then has to be flushed; or in the cache, and then a flush of the cache makes it safe if the block has a row, for by
rule 4 recovery will find it.  A block has no row from its promotion to the end of the next round.  So an fsync flushes
the cache; it flushes the origin if a user has written there; and it has rows committed of the dirty blocks that have
none, or of which the cache has got more sectors since their row was written: by rule 5 a crash would not find these.
As a rule that is one flush of one store, and no commit.  An fsync need not flush what writebacks wrote to the
origin, since their blocks stay suspect until a round has flushed it.  A block without a row, or with sectors that its
row does not name, is the exception: when it is written back, the next fsync flushes the origin.

*Rule 4 and the mapping's flags.*  A block is suspect after a crash if its row says dirty (flag RECORDED), or if its
*region*, a range of cache blocks, is recorded as open.  WRITE_INTENT says: if the block has a durable row at a crash,
it is suspect.  So a write to such a block needs no commit.  The flag is

* set when a block is promoted: it has no row yet, and its first row will say what it is at that round's snapshot;
* set by :meth:`Durability.record_intent`, which opens the block's region durably;
* cleared in one place only: when a snapshot takes the block as clean and its region is not open.

A region that saw no new use for a while is *closed* (:mod:`fusecache.durability.regions`): the same transaction makes
the rows of its blocks exact.  A snapshot never takes a block as clean while somebody writes to it, and such a block
keeps its region open.

*Rule 5* needs no more than rule 1, since a block never has fewer sectors than before while it is mapped.  A write adds
sectors when the cache has taken it; until its row names them, a crash forgets them, and the origin shows what was there
before.  So does a failed flush of the cache.

*A discard* obeys the same rules, which leave it one order (:mod:`fusecache.migration.removal`).  The origin gets zeros,
and the record knows nothing of them.  By rule 4 it may differ from the cache only where a block is suspect: so a clean
block is durably unmapped before, and a dirty one stays mapped and dirty meanwhile.  By rule 3 a dirty block's row goes
only after the zeros are durable in the origin, or a crash would bring back what the origin had before the block was
written.  The row is gone when the discard returns.  Else an fsync would have to wait for that as well: what users write
to the block next goes past the cache, and a crash would show the cache's copy instead.

A row that says *clean* may have the sum of the block's content.  The same rules protect it: the content cannot change
before the block is suspect, and when a sum changes, the row is out of date.

Recovery (see :mod:`fusecache.attach.recovery`) takes suspects for dirty.  That keeps time from going back: the cache's
copy has every flushed value or a later one, users read that copy, and it is written back to the origin.

*When the cache cannot be flushed*, those who wanted what was written to be safe are told so.  Those who wanted only a
commit get another round without the cache.
"""

from __future__ import annotations

from contextlib import suppress
from enum import Flag, auto
from typing import TYPE_CHECKING

import structlog
import trio

from fusecache.block import Health
from fusecache.durability.flushes import Flushes
from fusecache.durability.group_commit import GroupCommit, PartError
from fusecache.durability.regions import Regions
from fusecache.durability.rows import Rows
from fusecache.durability.writer import RecordWriter
from fusecache.errors import FusecacheError, MetadataError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.block import BlockLocks, Mapping
    from fusecache.metadata import Record, Transaction
    from fusecache.stores import Store

log = structlog.get_logger(__name__)


class Want(Flag):
    """What a round is to do."""

    ROWS = auto()
    """Commit the rows of the dirty blocks that have none, or that lack sectors."""
    RECORD = auto()
    """Commit whatever is out of date, those rows included."""
    CACHE = auto()
    """Flush the cache."""
    ORIGIN = auto()
    """Flush the origin."""


class Durability:
    """The order in which the stores and the record of one mounted cache become durable.

    :param region_blocks: cache blocks per write-intent region.
    :param open_regions: regions that the durable record has open already.
    :ivar rows: which rows of the record are out of date; those who change a block report it there.
    :ivar rounds: how many rounds of commits have ended well.
    """

    __slots__ = (
        "_close_regions",
        "_commit_asked",
        "_commits",
        "_failure",
        "_fsyncs",
        "_mapping",
        "_writer",
        "flushes",
        "health",
        "regions",
        "rounds",
        "rows",
    )

    def __init__(
        self,
        mapping: Mapping,
        locks: BlockLocks,
        *,
        cache: Store,
        origin: Store,
        record: Record,
        region_blocks: int,
        open_regions: set[int],
    ) -> None:
        self.health = Health()
        self._mapping = mapping
        self.flushes = Flushes(mapping, cache, origin, self.health)
        self._writer = RecordWriter(record, self.health)
        self.regions = Regions(mapping, self._writer, self.health, blocks_each=region_blocks, open_regions=open_regions)
        self.rows = Rows(mapping, locks, self.regions, self.flushes, self.health)
        self._fsyncs = GroupCommit(self._do_fsyncs)
        self._commits = GroupCommit(self._do_commits)
        self._commit_asked = trio.Event()
        self._close_regions = False
        self._failure = ""
        self.rounds = 0

    # What the others wait for

    async def record_intent(self, cblock: int) -> None:
        """Make it safe to write to a mapped block on which the caller holds a write lock.

        :raises FusecacheError: the record cannot be written; the block must not be either.
        """
        await self.regions.record_intent(cblock)

    async def wait_reusable(self, cblock: int) -> None:
        """Wait until no durable row names a free cache block any more, so that it may be written for another."""
        while cblock in self.rows.leaving:
            await self.commit()

    async def fsync(self) -> None:
        """Wait until every write of a user's that has returned would survive a crash; raises what went wrong."""
        await self._fsyncs.join(Want.CACHE)

    async def commit(self) -> None:
        """Wait until the record says what is true now; raises what went wrong."""
        await self._commits.join(Want.RECORD)

    async def flush(self) -> None:
        """Wait until whatever was written to either store, and the record of it, is durable; raises what went wrong."""
        await self._commits.join(Want.RECORD | Want.CACHE | Want.ORIGIN)

    def commit_later(self, *, close_regions: bool = False) -> None:
        """Have :meth:`run` commit, if there is anything to commit, and it can be done; returns at once."""
        if self.health.read_only:
            return
        self._close_regions = self._close_regions or (close_regions and bool(self.regions.open))
        if self.rows.changed or self._close_regions:
            self._commit_asked.set()

    async def run(self) -> None:
        """Make the commits that :meth:`commit_later` asks for, until cancelled."""
        while True:
            await self._commit_asked.wait()
            self._commit_asked = trio.Event()
            with suppress(FusecacheError):  # it is in the log, and what is out of date stays so
                await self.commit()

    async def secure(self) -> None:
        """After a crash: make durable what recovery found, before anybody reads it.

        What a killed process had written may still be in memory only, and once read it must not be lost by a power cut.
        """
        with suppress(StoreError):  # health has it; what cannot be made durable can still be read
            await self.flushes.flush(cache=True, origin=True)

    async def settle(self) -> None:
        """Make the record exact for a clean end: every region closed, every row right.

        For the time when nothing else runs any more, :meth:`run` included; raises FusecacheError if it is no clean end.
        """
        if self.health.read_only:
            await self._writer.write_needs_check()
            raise MetadataError(self.health.read_only)
        if (refusal := self._refusal()) is not None:
            raise refusal
        self.regions.touched.clear()
        self._close_regions = True
        await self._round(Want.RECORD | Want.CACHE | Want.ORIGIN)
        self.health.report()

    # What an fsync waits for

    async def _do_fsyncs(self, begin: Callable[[], Want]) -> None:
        begin()
        if (refusal := self._refusal()) is not None:
            raise refusal
        if self.health.cache_lost or self.rows.lacking():
            await self._commits.join(Want.ROWS | Want.CACHE)
        else:
            await self.flushes.flush(cache=True, origin=self.flushes.origin_unflushed)

    def _refusal(self) -> StoreError | None:
        """Say why no flush can succeed at present, if so."""
        if not (self.health.cache_lost and self._mapping.mapped_count):
            return None
        msg = f"{self.health.cache_lost}: {self._mapping.mapped_count} blocks have still to be brought to safety"
        return StoreError(msg)

    # Rounds of commits

    async def _do_commits(self, begin: Callable[[], Want]) -> None:
        await trio.lowlevel.checkpoint()  # who is about to ask as well shares the commit
        want = begin()
        if want & Want.CACHE and (refusal := self._refusal()) is not None:
            raise PartError(Want.CACHE, refusal)
        had_cache = not self.health.cache_lost
        try:
            await self._round(want)
        except FusecacheError as exc:
            if str(exc) != self._failure:  # some failures are for good, and every round meets them again
                log.error("commit failed", error=str(exc))
            self._failure = str(exc)
            if had_cache and self.health.cache_lost:
                # Writes may be lost; but to commit what was unmapped needs no cache.
                raise PartError(Want.CACHE, exc) from exc
            raise
        self._failure = ""

    async def _round(self, want: Want) -> None:
        """Take a snapshot, flush, commit; on failure everything counts as changed again."""
        rows, closing = self.rows, set[int]()
        if want & Want.CACHE and self.health.cache_lost:
            # What was there is at the origin now; rows that still name the cache would have it believed after a crash.
            want |= Want.RECORD | Want.ORIGIN
        if want & Want.RECORD:
            closing, taken = self._regions_to_close(), rows.changed
            if rows.origin_needed or closing:
                want |= Want.ORIGIN
            rows.origin_needed = False
        else:
            taken = rows.lacking() if want & Want.ROWS else set()
        if want & Want.ROWS and self.flushes.origin_unflushed:
            # Now, not when it was asked for: a block whose row lacks something may have been written back since.
            want |= Want.ORIGIN
        try:
            transaction = rows.snapshot(taken, closing)
            if transaction.mapped or closing:
                want |= Want.CACHE
            if not all(dirty for _, _, dirty, *_ in transaction.mapped):
                want |= Want.ORIGIN
            await self.flushes.flush(cache=bool(want & Want.CACHE), origin=bool(want & Want.ORIGIN))
            await self._commit(transaction, closing)
        except BaseException:
            rows.not_committed()
            rows.origin_needed = rows.origin_needed or bool(want & Want.ORIGIN)
            self.regions.open |= closing
            raise
        rows.committed(transaction)
        self.rounds += 1

    def _regions_to_close(self) -> set[int]:
        """Pick the open regions that saw no new use since the last time; they are no longer open from here on."""
        kept_open = self.health.read_only or (self.health.cache_lost and self._mapping.mapped_count)
        if not self._close_regions or kept_open:
            return set()
        self._close_regions = False
        return self.regions.take_idle(self.rows.is_unsettled)

    async def _commit(self, transaction: Transaction, closing: set[int]) -> None:
        async with self._writer.lock:
            # A region that was opened again while the stores were being flushed stays open.
            transaction.closed.extend(region for region in closing if region not in self.regions.open)
            await self._writer.write(transaction)

    def check(self) -> None:
        """Assert that nobody waits in vain, and rule 4 as far as it can be seen."""
        for group in (self._fsyncs, self._commits):
            group.check()
        self.regions.check()
        self.rows.check()
