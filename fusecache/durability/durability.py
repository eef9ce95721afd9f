"""What must be durable before what.

Theory of operation
-------------------
Three things survive a crash: the cache, the origin, and the record of what the cache holds.  Each loses, at a
crash, any part of what was written to it since its last flush.  What holds all the time:

1. A row is committed only after the data that it names is durable in the cache.
2. A cache block is written for another origin block only after the commit that unmaps the old one
   (:meth:`Durability.wait_reusable`).
3. A row that says *clean* is committed only after the origin has durably what the cache has.
4. Nothing differs between cache and origin unless the durable record would call the block *suspect*.

All of it is done in *rounds*, one at a time, each serving everybody who asked before it began: take a snapshot of
the blocks whose rows are out of date; flush the stores that the snapshot depends on; commit the snapshot.

What an fsync waits for is less, and has rounds of its own (:meth:`Durability.fsync`).  Each write of a user's that has
returned is either in the origin, and then the origin *owes* a flush; or in the cache, and then it is safe as soon as
the cache is flushed, for by rule 4 the record will have it found, if only the block has a row.  A block has none from
its promotion to the end of the next round.  So an fsync flushes the cache; the origin, if that owes; and has rows
committed of the dirty blocks that have none.  As a rule that is one flush of one store, and no commit.  What migrations
write to the origin is nothing to an fsync, since what is written back stays suspect until a round has flushed that; but
for blocks without a row: writing those back makes the origin owe.

Rule 4 and the mapping's flags.  A block is suspect after a crash if its row says dirty (flag RECORDED), or if its
*region*, a run of cache blocks, is recorded as open.  A block with COVERED is, or will be, suspect whatever row is
durable at the crash: so writing to it needs no commit.  The flag is

* set when a block is promoted, for it has no row yet, and its first row will tell its state at that round's snapshot;
* set by :meth:`Durability.record_intent`, which opens the block's region durably;
* cleared in one place only: when a snapshot takes the block as clean and its region is not open.

A region that saw no new use for a while is *closed* (:mod:`fusecache.durability.regions`): its blocks' rows are made
exact in the same transaction.  Blocks with a write under way are left out of any snapshot as clean, and keep their
region open.

A row that says *clean* may have the sum of the block's content.  It follows the same rules: the content cannot change
without the block's becoming suspect first, and the row of a block whose sum has changed is out of date.

Recovery (see :mod:`fusecache.attach.recovery`) takes suspects for dirty.  That keeps time from going back: the cache's
copy has every flushed value or a later one, it is what is read, and it is what goes to the origin.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Flag, auto
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import structlog
import trio

from fusecache.block import DIRTY, RECORDED, SUMMED, UNMAPPED, WRITE_INTENT, Health
from fusecache.durability.flushes import Flushes
from fusecache.durability.regions import Regions
from fusecache.durability.rounds import Outcome, Rounds
from fusecache.durability.writer import RecordWriter
from fusecache.errors import FusecacheError, MetadataError, StoreError
from fusecache.metadata import Transaction

if TYPE_CHECKING:
    from fusecache.block import BlockLocks, Mapping
    from fusecache.metadata import Record
    from fusecache.stores import Store

log = structlog.get_logger(__name__)


class _Want(Flag):
    """What a round is to do."""

    NOTHING = 0
    ROWS = auto()
    """Commit the rows of the dirty blocks that have none."""
    RECORD = auto()
    """Commit whatever is out of date, those rows included."""
    CACHE = auto()
    """Flush the cache."""
    ORIGIN = auto()
    """Flush the origin."""


@dataclass(slots=True)
class _Waiter(Outcome):
    """Somebody who waits for a round."""

    want: _Want = _Want.NOTHING


def _part(waiters: list[_Waiter], error: FusecacheError) -> list[_Waiter]:
    """Let those who want what was written to be safe know that it is not; returns the others."""
    for waiter in waiters:
        if waiter.want & _Want.CACHE:
            waiter.finish(error)
    return [waiter for waiter in waiters if not waiter.want & _Want.CACHE]


class Durability:
    """The order in which the stores and the record of one mounted cache become durable.

    :param region_blocks: cache blocks per write-intent region.
    :param open_regions: regions that the durable record has open already.
    :ivar changed: blocks whose rows are out of date.
    :ivar rounds: how many have ended well.

    :meth:`run` must be running for anything here to happen.
    """

    __slots__ = (
        "_background",
        "_close_regions",
        "_divergent",
        "_failure",
        "_fsyncs",
        "_leaving",
        "_locks",
        "_mapping",
        "_origin_needed",
        "_round_asked",
        "_rowless",
        "_taken",
        "_waiters",
        "_writer",
        "changed",
        "flushes",
        "health",
        "regions",
        "rounds",
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
        self._locks = locks
        self.flushes = Flushes(cache, origin, self.health)
        self._writer = RecordWriter(record, self.health)
        self.regions = Regions(mapping, self._writer, self.health, blocks_each=region_blocks, open_regions=open_regions)
        self._fsyncs = Rounds(self._serve_fsyncs)
        self._waiters: list[_Waiter] = []
        self._round_asked = trio.Event()
        self._background = _Want.NOTHING
        self._close_regions = False
        self._failure = ""
        self._leaving: set[int] = set()
        self._divergent: set[int] = set()
        self._taken: set[int] = set()
        self._rowless: set[int] = set()
        self._origin_needed = False
        self.changed: set[int] = set()
        self.rounds = 0

    # What the others report

    def promoted(self, cblock: int) -> None:
        """Learn that a block was mapped just now; it has no durable row."""
        self._mapping.flags[cblock] |= WRITE_INTENT
        self._rowless.add(cblock)
        self.flushes.promoted(cblock)
        self.changed.add(cblock)

    def removing(self, cblock: int) -> None:
        """Learn that a block is about to be unmapped; call before :meth:`fusecache.block.mapping.Mapping.remove`."""
        if self._mapping.flags[cblock] & WRITE_INTENT:
            # The row may say dirty: once it is gone, the origin has to have everything durably.
            self._origin_needed = True
        self._rowless.discard(cblock)
        self.changed.add(cblock)
        self._leaving.add(cblock)

    def kept(self, cblock: int) -> None:
        """Learn that a block was mapped again as it was, because its removal could not be committed.

        Whether its row is still there is not known; the next round writes one.
        """
        self._leaving.discard(cblock)
        self._divergent.discard(cblock)
        self._mapping.flags[cblock] &= ~RECORDED
        self._rowless.add(cblock)
        self.changed.add(cblock)

    def mark_divergent(self, cblock: int) -> None:
        """Learn that a write to both stores failed: the copies of a covered, clean block may differ.

        Call while the block is still locked for writing, and drop it then; until that is durable it stays suspect.
        """
        self._divergent.add(cblock)

    def is_divergent(self, cblock: int) -> bool:
        """Tell whether a block was spoiled and is not dropped yet."""
        return cblock in self._divergent

    def cleaned(self, cblock: int) -> None:
        """Learn that a block was written back just now: whatever has spoiled it, its copies are the same now."""
        self._divergent.discard(cblock)
        if cblock in self._rowless:
            self.flushes.origin_written()
        if self._mapping.flags[cblock] & (RECORDED | SUMMED):
            self.changed.add(cblock)

    def rewriting(self, cblock: int) -> None:
        """Learn that a clean block, covered, is about to be written in the cache and the origin alike."""
        if self._mapping.clear_sum(cblock):
            self.changed.add(cblock)

    def summed(self, cblock: int) -> None:
        """Learn that the sum of a clean block became known."""
        self.changed.add(cblock)

    # What the others wait for

    async def record_intent(self, cblock: int) -> None:
        """Make it safe to write to a mapped block on which the caller holds a write lock.

        :raises FusecacheError: the record cannot be written; the block must not be either.
        """
        await self.regions.record_intent(cblock)

    async def wait_reusable(self, cblock: int) -> None:
        """Wait until no durable row names a free cache block any more, so that it may be written for another."""
        while cblock in self._leaving:
            await self.commit()

    async def fsync(self) -> None:
        """Wait until every write of a user's that has returned would survive a crash; raises what went wrong."""
        await self._fsyncs.join()

    async def commit(self) -> None:
        """Wait until the record says what is true now; raises what went wrong."""
        await self._join_round(_Want.RECORD)

    async def flush(self) -> None:
        """Wait until whatever was written to either store, and the record of it, is durable; raises what went wrong."""
        await self._join_round(_Want.RECORD | _Want.CACHE | _Want.ORIGIN)

    def commit_later(self, *, close_regions: bool = False) -> None:
        """Ask for a round without waiting for it, if there is anything to do, and it can be done."""
        if self.health.read_only:
            return
        self._close_regions = self._close_regions or (close_regions and bool(self.regions.open))
        if self.changed or self._close_regions:
            self._background = _Want.RECORD
            self._round_asked.set()

    async def run(self) -> None:
        """Serve the others until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.regions.run)
            while True:
                await self._round_asked.wait()
                self._round_asked = trio.Event()
                await self._serve_round()

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
        await self._round(_Want.RECORD | _Want.CACHE | _Want.ORIGIN)
        self.health.report()

    # What an fsync waits for

    async def _serve_fsyncs(self) -> None:
        if (refusal := self._refusal()) is not None:
            raise refusal
        if self._lacking() or self.health.cache_lost:
            await self._join_round(_Want.ROWS | _Want.CACHE)
        else:
            await self.flushes.flush(cache=True, origin=self.flushes.origin_unflushed)

    def _lacking(self) -> set[int]:
        """Find the blocks that only the cache has, and that no crash would find there."""
        flags = self._mapping.flags
        return {cblock for cblock in self._rowless if flags[cblock] & DIRTY}

    # Rounds

    async def _join_round(self, want: _Want) -> None:
        waiter = _Waiter(want=want)
        self._waiters.append(waiter)
        self._round_asked.set()
        await waiter.wait()

    async def _serve_round(self) -> None:
        waiters, self._waiters = self._waiters, []
        background, self._background = self._background, _Want.NOTHING
        if (refusal := self._refusal()) is not None:
            waiters = _part(waiters, refusal)
        had_cache = not self.health.cache_lost
        error = await self._attempt(waiters, background)
        if error is not None and had_cache and self.health.cache_lost:
            # Writes may be lost, but what is to be unmapped, or nothing but that, needs no cache.
            waiters = _part(waiters, error)
            error = await self._attempt(waiters, background)
        for waiter in waiters:
            waiter.finish(error)

    async def _attempt(self, waiters: list[_Waiter], background: _Want) -> FusecacheError | None:
        try:
            await self._round(reduce(or_, (waiter.want for waiter in waiters), background))
        except FusecacheError as exc:
            if str(exc) != self._failure:  # some failures are for good, and every round meets them again
                log.error("commit failed", error=str(exc), waiters=len(waiters))
            self._failure = str(exc)
            return exc
        self._failure = ""
        return None

    def _refusal(self) -> StoreError | None:
        """Say why no flush can succeed at present, if so."""
        if not (self.health.cache_lost and self._mapping.mapped_count):
            return None
        msg = f"{self.health.cache_lost}: {self._mapping.mapped_count} blocks have still to be brought to safety"
        return StoreError(msg)

    async def _round(self, want: _Want) -> None:
        """Snapshot, flush, commit; on failure everything counts as changed again."""
        if want & _Want.CACHE and self.health.cache_lost:
            # What was there is at the origin now; rows that still name the cache would have it believed after a crash.
            want |= _Want.RECORD | _Want.ORIGIN
        if want & _Want.RECORD:
            closing, taken = self._regions_to_close(), self.changed
            if self._origin_needed or closing:
                want |= _Want.ORIGIN
            self._origin_needed = False
        else:
            closing, taken = set(), self._lacking() if want & _Want.ROWS else set()
        if want & _Want.ROWS and self.flushes.origin_unflushed:
            # Now, not when it was asked for: a block without a row may have been written back since.
            want |= _Want.ORIGIN
        self._taken = taken
        self.changed = self.changed - taken
        transaction = Transaction()
        try:
            for cblock in taken:
                self._snapshot(cblock, transaction)
            for region in closing:
                self._snapshot_region(region, transaction)
            if transaction.mapped or closing:
                want |= _Want.CACHE
            if not all(dirty for _, _, dirty, _ in transaction.mapped):
                want |= _Want.ORIGIN
            await self.flushes.flush(cache=bool(want & _Want.CACHE), origin=bool(want & _Want.ORIGIN))
            await self._commit(transaction, closing)
        except BaseException:
            self.changed |= taken
            self._origin_needed = self._origin_needed or bool(want & _Want.ORIGIN)
            self.regions.open |= closing
            raise
        finally:
            self._taken = set()
        self._committed(transaction)

    def _committed(self, transaction: Transaction) -> None:
        """Note what the durable rows say now."""
        self.rounds += 1
        self._leaving.difference_update(transaction.unmapped)
        self._divergent.difference_update(transaction.unmapped)
        self.flushes.unmapped(transaction.unmapped)
        flags = self._mapping.flags
        for cblock, oblock, dirty, _ in transaction.mapped:
            if self._mapping.oblock_of[cblock] == oblock:
                self._rowless.discard(cblock)
                flags[cblock] = flags[cblock] & ~RECORDED | (RECORDED if dirty else 0)
                if dirty and not flags[cblock] & DIRTY:  # written back since the snapshot
                    self.changed.add(cblock)

    def _snapshot(self, cblock: int, transaction: Transaction) -> None:
        """Put one block's row as it should be into the batch."""
        oblock = self._mapping.oblock_of[cblock]
        if oblock == UNMAPPED:
            transaction.unmapped.append(cblock)
            return
        if self.health.cache_lost:
            return  # its row goes when the block does; what it names may not be durable
        dirty = bool(self._mapping.flags[cblock] & DIRTY)
        if not dirty and self._is_unsettled(cblock):
            self.changed.add(cblock)
            return
        if not dirty and not self.regions.is_open(cblock):
            self._mapping.flags[cblock] &= ~WRITE_INTENT
        transaction.mapped.append((cblock, oblock, dirty, self._mapping.sum_of(cblock)))

    def _is_unsettled(self, cblock: int) -> bool:
        """Tell whether a block's copies may come to differ just now, or do so although it is clean."""
        if self._locks.is_writing(self._mapping.oblock_of[cblock]):
            return True
        return cblock in self._divergent and not self._mapping.flags[cblock] & DIRTY

    def _regions_to_close(self) -> set[int]:
        """Pick the open regions that saw no new use since the last time; they are no longer open from here on."""
        kept_open = self.health.read_only or (self.health.cache_lost and self._mapping.mapped_count)
        if not self._close_regions or kept_open:
            return set()
        self._close_regions = False
        return self.regions.take_idle(self._is_unsettled)

    def _snapshot_region(self, region: int, transaction: Transaction) -> None:
        """Put the rows of a closing region into the batch, where they are not exact."""
        flags = self._mapping.flags
        for cblock in self.regions.blocks_of(region):
            if cblock in self._taken or self._mapping.oblock_of[cblock] == UNMAPPED:
                continue
            state = flags[cblock]
            if bool(state & DIRTY) != bool(state & RECORDED):
                self._snapshot(cblock, transaction)
            elif not state & DIRTY:
                flags[cblock] = state & ~WRITE_INTENT

    async def _commit(self, transaction: Transaction, closing: set[int]) -> None:
        async with self._writer.lock:
            # A region that was opened again while the stores were being flushed stays open.
            transaction.closed.extend(region for region in closing if region not in self.regions.open)
            await self._writer.write(transaction)

    def check(self) -> None:
        """Assert rule 4 as far as it can be seen from here."""
        flags = self._mapping.flags
        for cblock, oblock in self._mapping.mapped():
            state = flags[cblock]
            if state & WRITE_INTENT:
                known = state & RECORDED or self.regions.is_open(cblock)
                known = known or cblock in self.changed or cblock in self._taken
                known = known or bool(self.health.cache_lost)  # nothing is written to it any more
                assert known or state & DIRTY, f"cblock {cblock} is covered by nothing"
            else:
                assert not state & DIRTY, f"cblock {cblock} (oblock {oblock}) is dirty and not covered"
