"""What becomes of the cached blocks when a mount finds, or wants, other sizes than the last one had.

Theory of operation
-------------------
A block stays if its cache block and its origin block are both whole, and where they were.  So growing drops nothing:
more cache is more free blocks, more image is more of the origin; what was the partial tail was never cached.  Shrinking
drops what lies beyond the new end if it is clean, for then the origin has it durably, and is refused if it is dirty or,
after a crash, suspect (dm-cache 2.11, except that it takes every block for dirty after a crash).  Where the image ends
within a block, that block is tail from now on, and its copy goes like those beyond.

Wherever a crash falls, the old state or the new one is found:

1. The rows that go and the new sizes are one transaction.
2. The cache is extended, durably, before the record says that it is larger.
3. The cache is cut only after the record says that it is smaller.
4. If others have cut the cache, the rows of what was there go durably *before* it is extended again.  Otherwise a crash
   between the two would leave rows that name blocks of a file that is long enough, with nothing in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fusecache.block import Geometry
from fusecache.errors import RefusedError
from fusecache.metadata import Row, Suspects, Transaction, packed


class Space(Protocol):
    """The cache, as far as its length is concerned; in cache blocks."""

    def room(self) -> int:
        """Return how many blocks it has room for."""

    def extend(self, blocks: int) -> None:
        """Make room for so many, durably; raises StoreError, and then it is as before."""

    def cut(self, blocks: int) -> None:
        """Give up what lies beyond so many, where that can be done."""


class Ledger(Protocol):
    """The durable record before anything runs."""

    def apply(self, transaction: Transaction) -> None:
        """Make the changes durable together; raises MetadataError."""


@dataclass(frozen=True, slots=True)
class Resize:
    """What to do before a mount with other sizes begins; it may be interrupted anywhere, and done again."""

    transaction: Transaction
    """The rows and regions that go, and the sizes."""
    old_blocks: int
    new_blocks: int

    def carry_out(self, ledger: Ledger, space: Space) -> None:
        """Change record and cache; raises what stopped it."""
        if space.room() < self.new_blocks:
            lost = Transaction(unmapped=self.transaction.unmapped, closed=self.transaction.closed)
            if lost:
                ledger.apply(lost)
            space.extend(self.new_blocks)
        ledger.apply(self.transaction)
        if self.new_blocks < self.old_blocks:
            space.cut(self.new_blocks)


def plan_resize(
    rows: Iterable[Row],
    regions: set[int],
    *,
    region_blocks: int,
    old: Geometry,
    new: Geometry,
    room: int,
    stale: bool,
) -> Resize:
    """Find out what goes and what stays.

    :param regions: those that are open in the record.
    :param room: how many blocks are in the cache at present; fewer than ``old`` has if others have cut it.
    :param stale: whether the origin has changed, so that clean blocks say nothing of it any more.
    :raises RefusedError: something that goes is newer than what the origin has; with how much, and what to do.
    """
    kept = min(old.cache_blocks, new.cache_blocks, room)
    dropped = []
    lost, beyond_cache, beyond_image = _Newer(), _Newer(), _Newer()
    suspects = Suspects(regions, region_blocks)
    for row in rows:
        is_newer = suspects.count_as_dirty(row)
        if row.cblock < kept and row.oblock < new.origin_blocks and (is_newer or not stale):
            continue
        dropped.append(row.cblock)
        if is_newer:
            where = lost if row.cblock >= room else beyond_cache if row.cblock >= kept else beyond_image
            where.count(row)
    if lost:
        msg = (
            f"the cache has shrunk to {room} blocks, and of what is gone, {lost}: --format twice gives up the rest too"
        )
        raise RefusedError(msg)
    if beyond_cache:
        msg = (
            f"the cache cannot shrink from {old.cache_blocks} to {new.cache_blocks} blocks, for beyond that "
            f"{beyond_cache}: first run: fusecache writeback ORIGIN (or mount it without a size, and flush)"
        )
        raise RefusedError(msg)
    if beyond_image:
        msg = (
            f"the image cannot shrink from {old.image_bytes} to {new.image_bytes} bytes, for beyond that "
            f"{beyond_image}: first run: fusecache writeback ORIGIN (or mount it as long as it was, and flush)"
        )
        raise RefusedError(msg)
    values = packed(cache_blocks=new.cache_blocks, image_bytes=new.image_bytes)
    closed = sorted(region for region in regions if region * region_blocks >= kept)
    return Resize(Transaction(unmapped=dropped, closed=closed, values=values), old.cache_blocks, new.cache_blocks)


@dataclass(slots=True)
class _Newer:
    """Blocks that the origin does not have."""

    dirty: int = 0
    suspects: int = 0

    def count(self, row: Row) -> None:
        self.dirty += 1
        self.suspects += not row.dirty

    def __bool__(self) -> bool:
        return bool(self.dirty)

    def __str__(self) -> str:
        doubt = f" ({self.suspects} of them may have been written before a crash)" if self.suspects else ""
        return f"{self.dirty} blocks are dirty{doubt}"
