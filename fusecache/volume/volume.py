"""One cached disk with all its parts: what the data path, the migrations and the controls share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import trio

from fusecache.block import DIRTY, PARTIAL, UNMAPPED
from fusecache.config import DEFAULT_MIGRATION_THRESHOLD, Mode
from fusecache.errors import BusyError, FusecacheError, RefusedError, StoreError
from fusecache.volume.activity import Activity
from fusecache.volume.counters import Counters
from fusecache.volume.guard import GuardedPolicy
from policies import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.block import BlockLocks, Geometry, Health, Mapping
    from fusecache.durability import Durability
    from fusecache.stores import Store
    from policies import Policy, Work

log = structlog.get_logger(__name__)


class PolicyFaultError(FusecacheError):
    """A policy's answer contradicts the mapping; the request is refused, since either could be wrong."""


@dataclass(slots=True, kw_only=True)
class Volume:
    """One cached disk.  Nothing here waits."""

    geometry: Geometry
    mapping: Mapping
    locks: BlockLocks
    policy: Policy
    cache: Store
    origin: Store
    durability: Durability
    mode: Mode = Mode.WRITEBACK
    migration_threshold: int = DEFAULT_MIGRATION_THRESHOLD
    """Bytes; takes part in deciding what is idle (dm-cache 1.4)."""
    counters: Counters = field(default_factory=Counters)
    activity: Activity = field(default_factory=Activity)
    health: Health = field(init=False)
    incoming: Policy | None = None
    """The policy that is to take over, while it learns the mapping (see :mod:`fusecache.jobs.switching`)."""
    handed_over: bytearray = field(default_factory=bytearray)
    """1 for each cblock that it knows."""
    discard_passdown: bool = True
    """Whether the origin gives the space back of what is discarded, or is written full of zeros."""
    content_changed: Callable[[], None] = lambda: None
    """Called when the image reads differently although nobody has written to it; must not wait."""
    written: bool = False
    """Whether the image has changed since somebody last asked, and set this back (:meth:`take_written`)."""

    def __post_init__(self) -> None:
        self.health = self.durability.health
        self.durability.flushes.on_lost_write = self.on_lost_write
        self.take_over(self.policy)

    def tick(self) -> None:
        """Tell the policy what time it is."""
        self.policy.tick(now_ms())
        self.activity.restart_hits()

    def served_hit(self) -> None:
        """Count a hit that was served at once; every so many of them, the policy gets a tick (dm-cache 2.9)."""
        self.activity.hits_until_tick -= 1
        if not self.activity.hits_until_tick:
            self.tick()

    def require_hit(self, oblock: int, cblock: int) -> None:
        """Check the policy's answer against the mapping; raises PolicyFaultError."""
        if self.mapping.oblock_of[cblock] != oblock:
            msg = f"policy {self.policy.name} takes cblock {cblock} for oblock {oblock}, which it does not hold"
            raise PolicyFaultError(msg)

    def require_miss(self, oblock: int) -> None:
        """Check the policy's answer against the mapping; raises PolicyFaultError."""
        if self.mapping.find(oblock) != UNMAPPED:
            msg = f"policy {self.policy.name} does not find oblock {oblock}, which is cached"
            raise PolicyFaultError(msg)

    def require_work(self, work: Work) -> None:
        """Check an item of work against the mapping, before anything is copied.

        :raises PolicyFaultError: it contradicts the mapping.
        :raises BusyError: it would write to an origin to which nothing is written.
        """
        held = self.mapping.oblock_of[work.cblock]
        if work.op is Op.PROMOTE:
            sane = held == UNMAPPED and self.mapping.find(work.oblock) == UNMAPPED
        else:
            sane = held == work.oblock
        if not sane:
            msg = f"policy {self.policy.name} asks for {work}, but cblock {work.cblock} holds oblock {held}"
            raise PolicyFaultError(msg)
        if self.health.origin_read_only and work.op is not Op.PROMOTE and self.is_dirty(work.cblock):
            raise BusyError(self.health.origin_read_only)

    def require_writebacks(self) -> None:
        """Raise RefusedError if what is dirty cannot be written back in this mount, whatever is done."""
        if self.health.origin_read_only and self.mapping.dirty_count:
            msg = (
                f"nothing is written to the origin ({self.health.origin_read_only}): "
                f"{self.mapping.dirty_count} dirty blocks stay in the cache"
            )
            raise RefusedError(msg)

    def require_cache(self) -> None:
        """Raise StoreError if the cache was given up meanwhile: a write that ends only now may not have reached it."""
        if self.health.cache_lost:
            raise StoreError(self.health.cache_lost)

    def is_dirty(self, cblock: int) -> bool:
        """Tell whether a cached block holds something that the origin may not have."""
        return bool(self.mapping.flags[cblock] & DIRTY)

    def set_dirty(self, cblock: int) -> None:
        """Mark a block with write intent dirty, here and in the policy."""
        if self.mapping.written(cblock):
            self.durability.regions.touch(cblock)
            self.durability.rows.dirtied(cblock)
            self.policy.set_dirty(cblock)
            if self.incoming is not None and self.handed_over[cblock]:
                self.incoming.set_dirty(cblock)

    def set_valid(self, cblock: int, sectors: int) -> None:
        """Note that the cache has these sectors of a mapped block, durable or not."""
        before = self.mapping.valid.get(cblock)
        if before is not None and self.mapping.validated(cblock, sectors, self.geometry.every_sector):
            self.durability.rows.extended(cblock, before)

    def is_valid(self, cblock: int, sectors: int) -> bool:
        """Tell whether the cache has all these sectors of a mapped block."""
        return not sectors & ~self.mapping.valid.get(cblock, self.geometry.every_sector)

    def set_clean(self, cblock: int, crc: int | None) -> None:
        """Mark a block clean that was written back just now, here and in the policy.

        :param crc: the sum of it; None if the cache holds only a part.
        """
        mapping = self.mapping
        if crc is None or mapping.flags[cblock] & PARTIAL:  # it may have lost sectors while it was written back
            was_dirty = mapping.cleaned_in_part(cblock)
        else:
            was_dirty = mapping.cleaned(cblock, crc)
        if was_dirty:
            self._tell_clean(cblock)
            self.durability.rows.cleaned(cblock)

    def discarded(self, cblock: int) -> None:
        """Note that the origin has zeros in place of a dirty block; it is divergent until it is unmapped."""
        self.mapping.discarded(cblock)
        self.durability.rows.mark_divergent(cblock)
        self._tell_clean(cblock)

    def on_lost_write(self, cblock: int, durable: int) -> None:
        """Give up what was written to a block, which is lost; from now on the origin's older content counts.

        :param durable: sectors that are not lost; if there are any, the block stays dirty with them.
        """
        if not self.is_dirty(cblock):
            return  # and is read from the origin from now on
        begin = self.mapping.oblock_of[cblock] * self.geometry.block_size
        log.error("writes since the last fsync are lost", begin=begin, end=begin + self.geometry.block_size)
        if durable:
            self.mapping.holds_part(cblock, durable)
        else:
            self.mapping.write_lost(cblock)
            self._tell_clean(cblock)
        self.durability.rows.shrunk(cblock)
        self.reads_differently()

    def reads_differently(self) -> None:
        """Note that the image reads differently now, although nobody has written to it."""
        self.written = True
        self.content_changed()

    def take_written(self) -> bool:
        """Tell whether the image has changed since this was last asked."""
        written, self.written = self.written, False
        return written

    def _tell_clean(self, cblock: int) -> None:
        self.policy.clear_dirty(cblock)
        if self.incoming is not None and self.handed_over[cblock]:
            self.incoming.clear_dirty(cblock)

    def forget(self, cblock: int) -> None:
        """Let the policy forget a block that was unmapped; raises PolicyError while it has work outstanding."""
        self.policy.invalidate_mapping(cblock)

    def take_over(self, policy: Policy) -> None:
        """Let another policy decide from here on, which knows everything that is cached."""
        self.health.policy_failed = ""
        if isinstance(policy, GuardedPolicy):
            policy.serve(self.mapping, self.health)
        self.policy = policy

    def begin_handover(self, new: Policy) -> None:
        """Tell a policy that is to take over of every change to the blocks that it knows."""
        self.incoming = new
        self.handed_over = bytearray(self.mapping.cache_blocks)

    def check(self) -> None:
        """Assert the invariants of every part, and that the policy knows every mapped block."""
        self.mapping.check()
        self.locks.check()
        self.durability.check()
        self.activity.check()
        self.health.lost.check()
        self.policy.check()
        assert self.policy.residency() >= self.mapping.mapped_count


def now_ms() -> int:
    """Return trio's clock in whole milliseconds, as policies want it."""
    return int(trio.current_time() * 1000)
