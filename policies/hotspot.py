"""Which regions of the origin are missed often: SMQ's hotspot queue.

Theory of operation
-------------------
The origin is divided into regions of up to 16 blocks.  They stand in a queue of 64 levels.  A miss lifts its region by
one level, or by more while the queue predicts badly, but at most once between two ticks.  SMQ promotes the blocks of
regions whose level is high enough.  How well the queue predicts is measured: of the regions missed in the last second,
how many were known and stood in the upper quarter?  The queue has a fixed size: a new region takes the place and the
level of the oldest of the coldest ones.

After dm-cache's SMQ policy of Linux 5.10.
"""

from __future__ import annotations

from typing import Final

from policies.structures.blockindex import BlockIndex
from policies.structures.levels import LevelQueue
from policies.structures.runs import LEVELS, RunPool

_MIN_REGIONS: Final = 1024
_MAX_RATIO: Final = 16
_TOP_LEVELS: Final = 8
_HIT_LEVEL: Final = LEVELS * 3 // 4
_PERIOD_MS: Final = 1000
_FEW: Final = 256

_POOR_BELOW: Final = 16
_FAIR_BELOW: Final = 32
_WELL, _FAIR, _POOR = (1, 0), (2, 32), (4, 48)
"""Level jump and promote level of the three degrees of performance."""


class HotspotQueue:
    """Levels of regions, learnt from misses.

    :ivar promote_level: regions of this level or above deserve promotion; no region reaches it before the first tick.
    """

    def __init__(self, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int) -> None:
        """Start with no known region; sizes in blocks and bytes."""
        self._entries = max(cache_blocks // 4, _MIN_REGIONS)
        ratio = _MAX_RATIO
        while ratio > 1 and ratio * block_size * self._entries > origin_blocks * block_size:
            ratio //= 2
        self._ratio = ratio
        self._in_top = min(self._entries // LEVELS, cache_blocks // ratio)
        self._index = BlockIndex(self._entries, -(-origin_blocks // ratio))
        self._pool = RunPool(self._entries)
        self._queue = LevelQueue(self._pool)
        self._hit = bytearray(self._entries)
        self._hit_list: list[int] = []
        self._used = 0
        self._hits = 0
        self._misses = 0
        self._jump = 1
        self._due_ms = now_ms
        self.promote_level = LEVELS

    def miss(self, oblock: int) -> int:
        """Note that a block was missed; return the level of its region after that."""
        region = oblock // self._ratio
        entry = self._index.find(region)
        if entry < 0:
            self._misses += 1
            return self._enter(region)
        pool = self._pool
        if pool.level[pool.label[entry]] >= _HIT_LEVEL:
            self._hits += 1
        else:
            self._misses += 1
        if self._hit[entry]:
            self._queue.requeue(entry, 0)
        else:
            self._queue.requeue(entry, self._jump)
            self._hit[entry] = 1
            if len(self._hit_list) <= _FEW:
                self._hit_list.append(entry)
        return pool.level[pool.label[entry]]

    def _enter(self, region: int) -> int:
        if self._used < self._entries:
            entry = self._used
            level = 0
            self._used += 1
        else:
            entry = self._queue.peek()
            level = self._queue.remove(entry)
            self._index.remove(entry)
            self._hit[entry] = 0
        self._index.insert(entry, region)
        self._queue.push(entry, level)
        return level

    def tick(self, now_ms: int) -> None:
        """Let every region be hit anew, judge the performance, and once a second even out the levels."""
        if len(self._hit_list) > _FEW:
            self._hit = bytearray(self._entries)
        else:
            for entry in self._hit_list:
                self._hit[entry] = 0
        self._hit_list.clear()
        total = self._hits + self._misses
        confidence = self._hits * 256 // total if total else 0
        jump, self.promote_level = _POOR if confidence < _POOR_BELOW else _FAIR if confidence < _FAIR_BELOW else _WELL
        if now_ms > self._due_ms:
            self._due_ms = now_ms + _PERIOD_MS
            self._jump = jump
            self._queue.redistribute(self._in_top, _TOP_LEVELS)
            self._hits = self._misses = 0

    def check(self) -> None:
        """Assert that every region in use is in the queue and in the table."""
        self._pool.check()
        queued = sorted(entry for level in self._queue.check() for entry in level)
        assert queued == sorted(self._index.check().values()) == list(range(self._used))
        hit = {entry for entry in range(self._entries) if self._hit[entry]}
        assert hit <= set(self._hit_list) or len(self._hit_list) > _FEW
