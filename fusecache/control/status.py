"""What a status query answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Final

from fusecache.config import Mode, PageCache
from fusecache.units import SECTOR

METADATA_BLOCK: Final = 4096
"""Bytes that the status line counts the metadata in."""


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
    partial_blocks: int
    """Cache blocks that hold some sectors of a block only."""
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
    fills: int
    second_reads: int
    absorbed: int
    slowed: int
    completions: int
    edge_reads: int
    read_aheads: int
    read_ahead_blocks: int
    read_ahead_used: int
    read_ahead_wasted: int
    discards: int
    discarded_bytes: int
    cache_errors: int
    origin_errors: int
    scrubbed: int
    healed: int
    """The counters, as in :class:`fusecache.volume.Counters`."""
    mode: Mode
    """What happens to writes."""
    page_cache: PageCache
    """What the host's page cache holds."""
    engine: str
    """What does the I/O that waits: ``io_uring`` or ``threads``."""
    gate: bool
    """Whether fusecache itself reads the kernel's requests, and not pyfuse3."""
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
    gone: str
    """Which files were removed or replaced: some of ``cache``, ``metadata``, ``metadata-log`` and ``origin``."""
    lost_bytes: int
    """Bytes of the image that only the cache has, and cannot be read."""
    copy_rate: int
    """Bytes a second that may be copied between cache and origin; 0 for no limit."""
    dirty_age: str
    """How long a block may be dirty: seconds, block requests or both; ``0`` for any time."""
    dirty_limit: str
    """How much of the cache may be dirty: a share, or bytes."""
    read_ahead: int
    """Bytes of memory for what is read ahead of misses in order; 0 for none."""
    scrub_rate: int
    """Bytes a second that the scrub reads; 0 for no scrub."""
    job: str
    """The long work that is under way, and how far it is; empty if there is none."""
    flush_pending: int
    """Blocks that flushes under way still have to write back."""
    flush_failed: int
    """Blocks that the last flush could not write back."""
    outcomes: dict[str, str]
    """What became of the last job of each kind: ``done``, or ``failed: `` and why."""
    decommissioned: bool
    """The origin alone is complete, and nothing is cached any more."""
    metadata_used_bytes: int
    """Size of the metadata's used part."""
    metadata_total_bytes: int
    """Size of the metadata."""
    origin: str
    """Address of the origin: an absolute path, or a URL."""
    cache: str
    """Absolute path of the cache."""
    metadata: str
    """Absolute path of the metadata."""
    log: str
    """Absolute path of the log; empty if it is no file, as in the foreground."""
    mountpoint: str
    """Absolute path of the directory that the image is in."""
    pid: int
    """The process that serves the image."""
    holder: int
    """The process that starts the next one when that dies; 0 if nobody does."""
    unheld: str
    """Why nobody does."""
    crashes: int
    """How often the process that serves has died, and another one has gone on."""
    restarts: int
    """How often it has left to another one."""
    restart: str
    """What became of the last restart: ``under way``, ``done``, or ``failed: `` and why."""
    version: str
    """Its release of fusecache."""
    uptime_s: float
    """Seconds since the image became ready."""

    def as_json(self) -> str:
        """Write one flat JSON object, in one line.

        The names are those of the fields; tunables are ``policy.<key>``, outcomes of jobs ``outcome.<job>``,
        ``migration_threshold`` is in sectors (as in dm-cache), ``features`` one string of words.
        """
        flat: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        flat["mode"] = self.mode.value
        flat["page_cache"] = self.page_cache.value
        flat["migration_threshold"] = self.migration_threshold // SECTOR
        flat["features"] = " ".join(self.features)
        del flat["policy_values"], flat["outcomes"]
        flat.update({f"policy.{key}": value for key, value in self.policy_values.items()})
        flat.update({f"outcome.{name}": value for name, value in self.outcomes.items()})
        return json.dumps(flat)


def status_line(status: Status) -> str:
    """Write dm-cache's status line, field for field."""
    features = list(status.features)
    features.insert(features.count("metadata2"), status.mode.value)
    values = [word for pair in status.policy_values.items() for word in pair]
    words = [
        METADATA_BLOCK // SECTOR,
        f"{_blocks(status.metadata_used_bytes)}/{_blocks(status.metadata_total_bytes)}",
        status.block_bytes // SECTOR,
        f"{status.used_blocks}/{status.cache_blocks}",
        status.read_hits,
        status.read_misses,
        status.write_hits,
        status.write_misses,
        status.demotions,
        status.promotions,
        status.dirty_blocks,
        len(features),
        *features,
        2,
        "migration_threshold",
        status.migration_threshold // SECTOR,
        status.policy,
        len(values),
        *values,
        "ro" if status.read_only else "rw",
        "needs_check" if status.needs_check else "-",
    ]
    return " ".join(map(str, words))


def _blocks(size: int) -> int:
    """Count the metadata blocks that ``size`` bytes touch."""
    return -(-size // METADATA_BLOCK)
