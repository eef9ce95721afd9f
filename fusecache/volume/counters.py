"""The counters of one mount."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PERSISTENT: Final = ("read_hits", "read_misses", "write_hits", "write_misses")
"""The counters that go on over restarts, as in dm-cache; all others begin at 0 with each mount."""


@dataclass(slots=True)
class Counters:
    """Counters of one mount; whoever does the work adds to them directly (``stats.read_hits += 1``)."""

    read_hits: int = 0
    """Reading bios of cached blocks, in all modes."""
    read_misses: int = 0
    """Reading bios of blocks that are not cached."""
    write_hits: int = 0
    """Writing bios of cached blocks, in all modes."""
    write_misses: int = 0
    """Writing bios of blocks that are not cached; one that promotes its block by itself is neither hit nor miss."""
    promotions: int = 0
    """Blocks copied into the cache and mapped."""
    demotions: int = 0
    """Blocks unmapped to make room; in passthrough mode, blocks unmapped because somebody writes to them."""
    writebacks: int = 0
    """Dirty blocks that were copied to the origin and turned clean."""
    origin_reads: int = 0
    """Reads of the origin for users' requests; migrations are not counted."""
    origin_read_bytes: int = 0
    """Bytes of those."""
    origin_writes: int = 0
    """Writes to the origin for users' requests; migrations are not counted."""
    origin_write_bytes: int = 0
    """Bytes of those."""
    fills: int = 0
    """Promotions of a block from the read that missed it: nothing was read twice."""
    second_reads: int = 0
    """Promotions for which the origin had to be read by itself."""
    absorbed: int = 0
    """Promotions of a block by a write to it, for which nothing was read."""
    slowed: int = 0
    """Those whose writer had to wait, because more was dirty than may be."""
    completions: int = 0
    """Partial blocks that were made whole by a read of the origin."""
    edge_reads: int = 0
    """Reads of the origin for sectors of which a write covers a part only."""
    read_aheads: int = 0
    """Reads of the origin ahead of misses in order; they are not among ``origin_reads``."""
    read_ahead_blocks: int = 0
    """Blocks of those."""
    read_ahead_used: int = 0
    """Blocks of those that somebody wanted while they were in memory."""
    read_ahead_wasted: int = 0
    """Blocks of those that were dropped before anybody wanted them."""
    discards: int = 0
    """Requests by which users say that they need a range no more, or want zeros there."""
    discarded_bytes: int = 0
    """Bytes of those."""
    cache_errors: int = 0
    """Reads and writes of the cache that failed, for users and for migrations."""
    origin_errors: int = 0
    """Reads and writes of the origin that failed, for users and for migrations."""
    scrubbed: int = 0
    """Blocks that the scrub has read."""
    healed: int = 0
    """Blocks found rotten, and rewritten from the origin."""

    @contextmanager
    def at_origin(self) -> Iterator[None]:
        """Count a failure of the origin within this block."""
        try:
            yield
        except StoreError:
            self.origin_errors += 1
            raise

    @contextmanager
    def at_cache(self) -> Iterator[None]:
        """Count a failure of the cache within this block."""
        try:
            yield
        except StoreError:
            self.cache_errors += 1
            raise

    @property
    def requests(self) -> int:
        """Requests of users, cut into blocks."""
        return self.read_hits + self.read_misses + self.write_hits + self.write_misses

    def as_dict(self) -> dict[str, int]:
        """List all counters by name."""
        return asdict(self)

    def persistent(self) -> dict[str, int]:
        """List the counters that go on at the next mount (:data:`PERSISTENT`)."""
        return {name: getattr(self, name) for name in PERSISTENT}

    def restore(self, kept: Mapping[str, int]) -> None:
        """Go on from what :meth:`persistent` gave in an earlier mount; a name that is missing there changes nothing."""
        for name in PERSISTENT:
            setattr(self, name, kept.get(name, getattr(self, name)))

    def check(self) -> None:
        """Assert that no counter is negative, and that there are no bytes and no blocks without a request."""
        for name, count in self.as_dict().items():
            assert count >= 0, (name, self)
        assert self.read_aheads <= self.read_ahead_blocks, self
        assert self.read_aheads or not self.read_ahead_blocks, self
        assert self.discards or not self.discarded_bytes, self
        assert self.origin_reads or not self.origin_read_bytes, self
        assert self.origin_writes or not self.origin_write_bytes, self
