"""A status to ask about, for the tests of what is made of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusecache.config import Mode, PageCache
from fusecache.control.facts import MountFacts
from fusecache.control.status import Status
from fusecache.volume.counters import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_facts(**changes: Any) -> MountFacts:
    """Return what a mount tells of itself, with ``changes`` in some of the fields."""
    facts = MountFacts(
        origin="/the/origin",
        cache="/c",
        metadata="/m",
        log="/m.log",
        mountpoint="/mnt",
        engine="threads",
        gate=lambda: True,
        page_cache=PageCache.STORES,
        table="/m /c /the/origin 8 1 writeback smq 0",
        suspects=0,
        pid=4242,
        version="0.1.0",
    )
    return replace(facts, **changes)


class FixedSize:
    """Metadata that never grows."""

    def size(self) -> int:
        return 3 * 4096

    def used_size(self) -> int:
        return 4097


def make_status(**changes: Any) -> Status:
    """Return the status of a busy mount, with ``changes`` in some of its fields."""
    counted: Mapping[str, int] = Counters(
        read_hits=11, read_misses=12, write_hits=13, write_misses=14, promotions=15, demotions=16, writebacks=17
    ).as_dict()
    status = Status(
        origin_bytes=10 * 1024**3 + 512,
        block_bytes=65536,
        cache_blocks=1000,
        used_blocks=700,
        dirty_blocks=30,
        partial_blocks=3,
        suspect_blocks=2,
        **counted,
        mode=Mode.WRITEBACK,
        page_cache=PageCache.STORES,
        engine="io_uring",
        gate=True,
        policy="mq",
        policy_values={"random_threshold": "4", "sequential_threshold": "512"},
        migration_threshold=2048 * 512,
        features=("metadata2",),
        needs_check=False,
        read_only=False,
        state="ok",
        health="ok",
        gone="",
        lost_bytes=0,
        copy_rate=0,
        dirty_age="30s,10000",
        dirty_limit="75%",
        read_ahead=0,
        scrub_rate=0,
        job="",
        flush_pending=0,
        flush_failed=0,
        outcomes={},
        decommissioned=False,
        metadata_used_bytes=4097,
        metadata_total_bytes=3 * 4096,
        origin="/data/disk.img",
        cache="/fast/disk.cache",
        metadata="/fast/disk.metadata",
        log="/fast/disk.metadata.log",
        mountpoint="/mnt/disk",
        holder=4321,
        unheld="",
        crashes=1,
        restarts=2,
        restart="done",
        pid=4242,
        version="0.1.0",
        uptime_s=3661.5,
    )
    return replace(status, **changes)
