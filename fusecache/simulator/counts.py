"""What is counted while a trace is replayed, and the two figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What has happened so far; in block requests, blocks and bytes."""

    requests: int = 0
    hits: int = 0
    promotions: int = 0
    """All of them, those by overwriting included."""
    demotions: int = 0
    writebacks: int = 0
    overwrite_promotions: int = 0
    """Promotions that the policy handed out together with the write that fills the block."""
    fills: int = 0
    """Promotions of the block just missed by a request that covers all of it, so that nothing needs to be read for
    them; those by overwriting included."""
    written: int = 0
    """Bytes that requests wrote to blocks in the cache, overwriting promotions not included."""

    def slow_ops(self) -> int:
        """Count the operations of the slow disk.

        One for each miss, one for each promotion that has to read the block by itself, and one for each writeback.
        """
        return self.requests - self.hits + self.promotions - self.fills + self.writebacks

    def cache_bytes_written(self, block_size: int) -> int:
        """Count the bytes that were written to the cache: whole blocks by promotions, and what requests wrote there."""
        return self.promotions * block_size + self.written

    def check(self) -> None:
        """Assert that no part is more than its whole."""
        assert 0 <= self.hits <= self.requests
        assert 0 <= self.overwrite_promotions <= self.fills <= self.promotions
        assert self.demotions >= 0
        assert self.writebacks >= 0
        assert self.written >= 0
