"""What is counted, and what a status query answers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final

from fusecache.config import Mode, PageCache

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTOR: Final = 512

PERSISTENT: Final = ("read_hits", "read_misses", "write_hits", "write_misses")
"""The counters that go on over restarts, as in dm-cache; all others begin at 0 with each mount."""


@dataclass(slots=True)
class Stats:
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
    """Blocks unmapped to make room; in passthrough mode, those that a write made worthless."""
    writebacks: int = 0
    """Dirty blocks copied to the origin that turned clean."""
    origin_reads: int = 0
    """Reads of the origin for users' requests; migrations are not counted."""
    origin_read_bytes: int = 0
    """Bytes of those."""
    origin_writes: int = 0
    """Writes to the origin for users' requests; migrations are not counted."""
    origin_write_bytes: int = 0
    """Bytes of those."""
    cache_errors: int = 0
    """Reads and writes of the cache that failed."""
    origin_errors: int = 0
    """Reads and writes of the origin for users' requests that failed."""
    scrubbed: int = 0
    """Blocks that the scrub has read."""
    healed: int = 0
    """Blocks found rotten, and rewritten from the origin."""

    def as_dict(self) -> dict[str, int]:
        """List all counters by name."""
        return asdict(self)

    def persistent(self) -> dict[str, int]:
        """List the counters that are to be kept for the next mount (:data:`PERSISTENT`)."""
        return {name: getattr(self, name) for name in PERSISTENT}

    def restore(self, kept: Mapping[str, int]) -> None:
        """Go on from what an earlier mount's :meth:`persistent` gave; names that are not kept change nothing."""
        for name in PERSISTENT:
            setattr(self, name, kept.get(name, getattr(self, name)))

    def check(self) -> None:
        """Assert that nothing was counted backwards, and that bytes were moved by requests only."""
        for name, count in self.as_dict().items():
            assert count >= 0, (name, self)
        assert self.origin_reads or not self.origin_read_bytes, self
        assert self.origin_writes or not self.origin_write_bytes, self


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that a status query reports, at one moment."""

    origin_bytes: int
    """Size of the image."""
    block_bytes: int
    """Size of a cache block."""
    cache_blocks: int
    """Cache blocks there are."""
    used_blocks: int
    """Cache blocks allocated, those reserved for promotions under way included."""
    dirty_blocks: int
    """Cache blocks that hold what the origin does not."""
    suspect_blocks: int
    """Dirty blocks that are so because a crash left it open whether they are."""
    read_hits: int
    read_misses: int
    write_hits: int
    write_misses: int
    promotions: int
    demotions: int
    writebacks: int
    origin_reads: int
    origin_read_bytes: int
    origin_writes: int
    origin_write_bytes: int
    cache_errors: int
    origin_errors: int
    scrubbed: int
    healed: int
    """The counters, as in :class:`Stats`."""
    mode: Mode
    """What happens to writes."""
    page_cache: PageCache
    """What the host's page cache holds."""
    engine: str
    """What does the I/O that waits: ``io_uring`` or ``threads``."""
    policy: str
    """Real name of the replacement policy."""
    policy_values: dict[str, str]
    """Its tunables, in the order in which the status line shows them."""
    migration_threshold: int
    """Bytes that migrations may have in flight while the cache counts as idle; in sectors outside of this class."""
    features: tuple[str, ...] = ()
    """``metadata2``, ``no_discard_passdown``: what a table asked for besides the mode, in that order."""
    needs_check: bool
    """The metadata failed once; no mount until it was checked and repaired."""
    read_only: bool
    """The metadata can no longer be written."""
    state: str
    """``ok``, ``degraded``, ``failing`` or ``read-only``."""
    health: str
    """``ok``, or one line that says what is wrong, and what to do."""
    lost_bytes: int
    """Bytes of the image that only the cache has, and cannot be read."""
    copy_rate: int
    """Bytes a second that may be copied between cache and origin; 0 for no limit."""
    scrub_rate: int
    """Bytes a second that the scrub reads; 0 for no scrub."""
    flush_pending: int
    """Blocks that a running flush still has to write back."""
    flush_failed: int
    """Blocks that the last flush could not write back."""
    decommissioned: bool
    """The origin alone is complete, and nothing is cached any more."""
    metadata_used_bytes: int
    """Size of the metadata's used part."""
    metadata_total_bytes: int
    """Size of the metadata."""
    origin: str
    """Absolute path of the origin."""
    cache: str
    """Absolute path of the cache."""
    metadata: str
    """Absolute path of the metadata."""
    mountpoint: str
    """Absolute path of the directory that the image is in."""
    pid: int
    """The process that serves the image."""
    version: str
    """Its release of fusecache."""
    uptime_s: float
    """Seconds since the image became ready."""

    def as_json(self) -> str:
        """Write one flat JSON object, in one line.

        The names are those of the fields; tunables are ``policy.<key>``, ``migration_threshold`` is in sectors (as in
        dm-cache), ``features`` one string of words.
        """
        flat: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        flat["mode"] = self.mode.value
        flat["page_cache"] = self.page_cache.value
        flat["migration_threshold"] = self.migration_threshold // SECTOR
        flat["features"] = " ".join(self.features)
        del flat["policy_values"]
        flat.update({f"policy.{key}": value for key, value in self.policy_values.items()})
        return json.dumps(flat)
