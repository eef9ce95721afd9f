"""The rows of the record: which of them are out of date, and what they should say.

The rules that a snapshot follows, and what the mapping's flags have to do with them, are told in
:mod:`fusecache.durability.durability`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from fusecache.block import DIRTY, RECORDED, SUMMED, UNMAPPED, WRITE_INTENT
from fusecache.metadata import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusecache.block import BlockLocks, Health, Mapping
    from fusecache.durability.flushes import Flushes
    from fusecache.durability.regions import Regions
    from fusecache.durability.slate import Slate


class Rows:
    """The rows of one mounted cache; those who change a block report it here.

    :ivar changed: cache blocks whose rows are out of date.
    :ivar leaving: cache blocks that were unmapped, and still have a durable row.
    :ivar origin_needed: whether a block was unmapped whose row may say dirty: the origin has to be flushed before the
        row goes.
    :ivar slate: where :meth:`lacking` blocks are noted for the process that goes on if this one dies; None for nowhere.
    """

    __slots__ = (
        "_behind",
        "_divergent",
        "_flushes",
        "_health",
        "_locks",
        "_mapping",
        "_recorded_parts",
        "_regions",
        "_rowless",
        "_taken",
        "changed",
        "leaving",
        "origin_needed",
        "slate",
    )

    def __init__(self, mapping: Mapping, locks: BlockLocks, regions: Regions, flushes: Flushes, health: Health) -> None:
        self._mapping = mapping
        self._locks = locks
        self._regions = regions
        self._flushes = flushes
        self._health = health
        self._divergent: set[int] = set()
        """Clean blocks whose copies in cache and origin may differ."""
        self._rowless: set[int] = set()
        """Mapped blocks that have no durable row."""
        self._recorded_parts = dict(mapping.valid)
        """The sectors that the durable rows of blocks name, where these are not all."""
        self._behind: set[int] = set()
        """Mapped blocks of which the cache has more sectors than their durable rows name."""
        self._taken: set[int] = set()
        """Blocks that the snapshot under way was asked for."""
        self.changed: set[int] = set()
        self.leaving: set[int] = set()
        self.origin_needed = False
        self.slate: Slate | None = None

    # What the others report

    def promoted(self, cblock: int) -> None:
        """Learn that a block was mapped just now; it has no durable row."""
        self._mapping.promoted(cblock)
        self._rowless.add(cblock)
        self._flushes.filled(cblock)
        self.changed.add(cblock)

    def removing(self, cblock: int) -> None:
        """Learn that a block is about to be unmapped; call before :meth:`fusecache.block.mapping.Mapping.remove`."""
        if self._mapping.flags[cblock] & WRITE_INTENT:
            self.origin_needed = True
        self._rowless.discard(cblock)
        self._behind.discard(cblock)
        self._note(cblock)
        self.changed.add(cblock)
        self.leaving.add(cblock)

    def dirtied(self, cblock: int) -> None:
        """Learn that a block has become dirty."""
        self._note(cblock)

    def kept(self, cblock: int) -> None:
        """Learn that a block was mapped again as it was, because its removal could not be committed.

        Nobody knows whether its row is still there; the next round writes one.
        """
        self.leaving.discard(cblock)
        self._divergent.discard(cblock)
        self._rowless.add(cblock)
        self.changed.add(cblock)

    def mark_divergent(self, cblock: int) -> None:
        """Learn that a write to a clean block with write intent failed: its two copies may differ.

        Call this while the block is still locked for writing, and drop the block then.  It stays suspect until it is
        durably gone.
        """
        self._divergent.add(cblock)

    def is_divergent(self, cblock: int) -> bool:
        """Tell whether the copies of a clean block may differ, and nobody has dropped it yet."""
        return cblock in self._divergent

    def cleaned(self, cblock: int) -> None:
        """Learn that a block was written back just now: its two copies are the same, whatever they were before."""
        self._divergent.discard(cblock)
        if cblock in self._rowless or cblock in self._behind:
            self._flushes.origin_written()
            self._note(cblock)
        if self._mapping.flags[cblock] & (RECORDED | SUMMED):
            self.changed.add(cblock)

    def extended(self, cblock: int, before: int) -> None:
        """Learn that the cache has more sectors of a block than these, which it had before."""
        self._behind.add(cblock)
        self._flushes.extended(cblock, before)
        self.changed.add(cblock)
        self._note(cblock)

    def rewriting(self, cblock: int) -> None:
        """Learn that somebody is about to write to a clean block with write intent, in the cache and the origin."""
        if self._mapping.rewriting(cblock):
            self.changed.add(cblock)

    def summed(self, cblock: int) -> None:
        """Learn that the sum of a clean block became known."""
        self.changed.add(cblock)

    # What a round needs

    def lacking(self) -> set[int]:
        """Return the blocks of which only the cache has something that no crash would find there."""
        flags = self._mapping.flags
        return {cblock for cblock in chain(self._rowless, self._behind) if flags[cblock] & DIRTY}

    def is_unsettled(self, cblock: int) -> bool:
        """Tell whether a block that counts as clean must not be recorded so: its copies differ, or may in a moment."""
        if self._locks.is_writing(self._mapping.oblock_of[cblock]):
            return True
        return cblock in self._divergent and not self._mapping.flags[cblock] & DIRTY

    def snapshot(self, cblocks: set[int], closing: Iterable[int]) -> Transaction:
        """Collect the rows of these blocks as they should be, and of those in closing regions that are not exact.

        Then call either :meth:`committed` or :meth:`not_committed`.
        """
        self._taken = cblocks
        self.changed = self.changed - cblocks
        transaction = Transaction()
        for cblock in cblocks:
            self._snapshot_block(cblock, transaction)
        for region in closing:
            self._snapshot_region(region, transaction)
        return transaction

    def committed(self, transaction: Transaction) -> None:
        """Note that the rows of a snapshot are durable."""
        self._taken = set()
        self.leaving.difference_update(transaction.unmapped)
        self._divergent.difference_update(transaction.unmapped)
        self._flushes.unmapped(transaction.unmapped)
        for cblock in transaction.unmapped:
            self._recorded_parts.pop(cblock, None)
        mapping = self._mapping
        for cblock, oblock, dirty, _, valid in transaction.mapped:
            if valid is None:
                self._recorded_parts.pop(cblock, None)
            else:
                self._recorded_parts[cblock] = valid
            if mapping.oblock_of[cblock] == oblock:
                self._rowless.discard(cblock)
                if mapping.valid.get(cblock) == valid:
                    self._behind.discard(cblock)
                self._note(cblock)
                (mapping.committed_dirty if dirty else mapping.committed_clean)(cblock)
                if dirty and not mapping.flags[cblock] & DIRTY:  # written back since the snapshot
                    self.changed.add(cblock)

    def not_committed(self) -> None:
        """Note that the rows of a snapshot are as out of date as they were."""
        self.changed |= self._taken
        self._taken = set()

    def shrunk(self, cblock: int) -> None:
        """Learn that a block has lost sectors, or all that was written to it."""
        if self.slate is not None:
            self.slate.wipe(cblock)  # of a note that counts, sectors only grow
        self._note(cblock)

    def _note(self, cblock: int) -> None:
        """Have the slate say what a crash of this process would forget of a block, if anything."""
        if (slate := self.slate) is None:
            return
        if self._mapping.flags[cblock] & DIRTY and (cblock in self._rowless or cblock in self._behind):
            slate.note(cblock, self._mapping.oblock_of[cblock], self._mapping.valid.get(cblock))
        else:
            slate.wipe(cblock)

    def _snapshot_block(self, cblock: int, transaction: Transaction) -> None:
        """Add one block's row, as it should be."""
        oblock = self._mapping.oblock_of[cblock]
        if oblock == UNMAPPED:
            transaction.unmapped.append(cblock)
            return
        if self._health.cache_lost:
            return  # its row goes when the block does; what it names may not be durable
        dirty = bool(self._mapping.flags[cblock] & DIRTY)
        if not dirty and self.is_unsettled(cblock):
            self.changed.add(cblock)
            return
        if not dirty and not self._regions.is_open(cblock):
            self._mapping.taken_as_clean(cblock)
        valid = self._mapping.valid.get(cblock)
        transaction.mapped.append((cblock, oblock, dirty, self._mapping.sum_of(cblock), valid))

    def _snapshot_region(self, region: int, transaction: Transaction) -> None:
        """Add the rows of a closing region that are not exact."""
        flags = self._mapping.flags
        for cblock in self._regions.blocks_of(region):
            if cblock in self._taken or self._mapping.oblock_of[cblock] == UNMAPPED:
                continue
            state = flags[cblock]
            if bool(state & DIRTY) != bool(state & RECORDED):
                self._snapshot_block(cblock, transaction)
            elif not state & DIRTY:
                self._mapping.taken_as_clean(cblock)

    def check(self) -> None:
        """Assert rules 4 and 5 as far as they can be seen from here, and that the slate has what they do not cover."""
        if self.slate is not None:
            self.slate.check()
            noted = {cblock: (oblock, valid) for cblock, oblock, valid in self.slate.notes()}
            assert noted == {
                cblock: (self._mapping.oblock_of[cblock], self._mapping.valid.get(cblock)) for cblock in self.lacking()
            }
        flags = self._mapping.flags
        for cblock, valid in self._recorded_parts.items():
            has = self._mapping.valid.get(cblock)
            expected = cblock in self._behind or cblock in self._rowless or cblock in self.leaving
            assert has == valid or expected or cblock in self._taken, (
                f"the row of cblock {cblock} names {valid:#x}, the cache has {has}"
            )
        for cblock, oblock in self._mapping.mapped():
            state = flags[cblock]
            if state & WRITE_INTENT:
                known = state & RECORDED or self._regions.is_open(cblock)
                known = known or cblock in self.changed or cblock in self._taken
                known = known or bool(self._health.cache_lost)  # nothing is written to it any more
                assert known or state & DIRTY, f"cblock {cblock} has write intent, and nothing says so"
            else:
                assert not state & DIRTY, f"cblock {cblock} (oblock {oblock}) is dirty and has no write intent"
