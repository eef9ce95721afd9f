"""What is counted while a trace is replayed, and the two figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fusecache.simulator.slow_disk import SlowDisk


@dataclass(slots=True)
class Counts:
    """What has happened so far; in block requests, blocks and bytes."""

    requests: int = 0
    hits: int = 0
    promotions: int = 0
    """All of them, those by writing included."""
    demotions: int = 0
    writebacks: int = 0
    """Blocks that were written back."""
    overwrite_promotions: int = 0
    """Promotions that the policy handed out together with the write that fills the block."""
    absorbed: int = 0
    """Promotions that it handed out together with a write of a part of the block."""
    fills: int = 0
    """Promotions of the block just missed, for which nothing was read besides; those by writing included."""
    written: int = 0
    """Bytes that were written to blocks in the cache, other than by promoting the whole block."""
    read_ahead: int = 0
    """Blocks that were read ahead."""
    read_ahead_used: int = 0
    """Those of them that a read wanted before they left the buffer."""
    disk: SlowDisk = field(default_factory=SlowDisk)
    """The origin."""

    def slow_ops(self) -> int:
        """Count the operations of the slow disk."""
        return self.disk.reads + self.disk.writes

    def cache_bytes_written(self, block_size: int) -> int:
        """Count the bytes that were written to the cache: whole blocks by promotions, and what requests wrote there."""
        return (self.promotions - self.absorbed) * block_size + self.written

    def check(self) -> None:
        """Assert that no part is more than its whole."""
        assert 0 <= self.hits <= self.requests
        assert min(self.overwrite_promotions, self.absorbed) >= 0
        assert self.overwrite_promotions + self.absorbed <= self.fills <= self.promotions
        assert self.fills <= self.requests - self.hits
        assert self.demotions >= 0
        assert self.writebacks >= 0
        assert self.written >= 0
        assert 0 <= self.read_ahead_used <= self.read_ahead
        self.disk.check()
