"""The outcome of one replay, as programs get it."""

from __future__ import annotations

from dataclasses import dataclass

from fusecache.simulator.counts import Counts
from fusecache.simulator.requests import count_unique
from fusecache.simulator.rules import DataPath
from fusecache.simulator.slow_disk import Disk
from fusecache.simulator.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of one replay."""

    trace: str
    """Its name, by which it is told from the others."""
    file: str
    """Where it was read from."""
    format: str
    notes: str
    """What users should know of how it was read."""
    policy: str
    data_path: str
    """What was played: ``copy``, ``fill`` or ``absorb``."""
    block_size: int
    """Bytes."""
    cache_blocks: int
    requests: int
    """Block requests: requests cut at block boundaries."""
    hits: int
    hit_ratio: float
    promotions: int
    """All of them, those by writing included."""
    demotions: int
    writebacks: int
    """Blocks that were written back."""
    overwrite_promotions: int
    """Promotions by a write of the whole block, which the policy handed out together with that write."""
    absorbed_writes: int
    """Promotions by a write of a part of the block, likewise; the rest of the block stayed at the origin."""
    cache_bytes_written: int
    """Whole blocks by promotions, and what was written to blocks in the cache."""
    origin_reads: int
    """Operations that read from the slow disk."""
    origin_writes: int
    """Operations that wrote to it."""
    slow_ops: int
    """Operations of the slow disk: all of these."""
    slow_ops_per_1000: float
    """The same for 1000 block requests."""
    read_ahead: int
    """Blocks that were read ahead."""
    read_ahead_used: int
    """Those of them that a read wanted in time."""
    hdd_seconds: float
    """How long the operations would take a hard disk."""
    net_seconds: float
    """How long they would take a distant disk that serves many at a time."""
    disk: str
    """``hdd`` or ``net``: the one that was asked for."""
    modelled_seconds: float
    """The seconds of that one."""
    seconds: float
    """How long the replay took."""
    unique_blocks: int
    """Different blocks that the trace touches."""

    @classmethod
    def of(
        cls,
        counts: Counts,
        *,
        trace: Trace,
        policy: str,
        data_path: DataPath,
        block_size: int,
        cache_blocks: int,
        disk: Disk,
        seconds: float,
    ) -> Result:
        """Make a result of what was counted."""
        slow_ops = counts.slow_ops()
        modelled = {kind: counts.disk.seconds(kind) for kind in Disk}
        return cls(
            trace=trace.name,
            file=trace.file,
            format=trace.format,
            notes="; ".join(trace.notes),
            policy=policy,
            data_path=data_path.value,
            block_size=block_size,
            cache_blocks=cache_blocks,
            requests=counts.requests,
            hits=counts.hits,
            hit_ratio=counts.hits / counts.requests,
            promotions=counts.promotions,
            demotions=counts.demotions,
            writebacks=counts.writebacks,
            overwrite_promotions=counts.overwrite_promotions,
            absorbed_writes=counts.absorbed,
            cache_bytes_written=counts.cache_bytes_written(block_size),
            origin_reads=counts.disk.reads,
            origin_writes=counts.disk.writes,
            slow_ops=slow_ops,
            slow_ops_per_1000=1000 * slow_ops / counts.requests,
            read_ahead=counts.read_ahead,
            read_ahead_used=counts.read_ahead_used,
            hdd_seconds=modelled[Disk.HDD],
            net_seconds=modelled[Disk.NET],
            disk=disk.value,
            modelled_seconds=modelled[disk],
            seconds=seconds,
            unique_blocks=count_unique(trace, block_size),
        )
