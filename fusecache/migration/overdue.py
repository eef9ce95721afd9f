"""Which blocks have been dirty for long.

Theory of operation
-------------------
No block has a stamp of its own.  Time goes by in *periods*, of so many seconds or so many block requests, whichever
are over first.  At the end of each, one byte a cache block says which are dirty; a block that is dirty then, and was so
when the period before ended, is *overdue*.  So a block becomes overdue when it has been dirty for one period at least,
and two at most.  One that was written back and written to again in between counts as well: it is seldom, and costs no
more than a writeback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.migration.origin_order import in_origin_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.config import DirtyAge
    from fusecache.volume import Volume


class Overdue:
    """The dirty age of one volume; times are seconds of any clock that never goes back."""

    __slots__ = ("_before", "_began", "_requests", "_volume", "age")

    def __init__(self, volume: Volume, age: DirtyAge) -> None:
        self._volume = volume
        self.age = age
        self._before = bytearray()
        """Which blocks were dirty when the last period ended, 1 for each that was; empty if none was."""
        self._began = 0.0
        self._requests = 0

    def set_age(self, age: DirtyAge, now: float) -> None:
        """Count from now on, and anew."""
        self.age = age
        self._before = bytearray()
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began = now
        self._requests = self._volume.counters.requests

    def is_over(self, now: float) -> bool:
        """Tell whether the period has lasted as long as it is to last."""
        seconds, requests = self.age.seconds, self.age.requests
        return bool(
            (seconds and now >= self._began + seconds)
            or (requests and self._volume.counters.requests >= self._requests + requests)
        )

    async def end(self, now: float) -> Iterator[int]:
        """End the period and begin the next one; returns the overdue cache blocks, in the order of the origin."""
        self._begin(now)
        if not self._volume.mapping.dirty_count:
            self._before = bytearray()
            return iter(())
        before, after = self._before, bytearray()

        def take_due(part: slice) -> bytearray:
            dirty = self._volume.mapping.dirty_map(part)
            after.extend(dirty)
            due = int.from_bytes(dirty) & int.from_bytes(before[part])
            return bytearray(due.to_bytes(len(dirty)))

        overdue = await in_origin_order(self._volume.mapping, take_due)
        if self._before is not before:  # another age was set
            return iter(())
        self._before = after
        return overdue

    def check(self) -> None:
        """Assert that there is a byte for each cache block, or none."""
        assert len(self._before) in (0, self._volume.mapping.cache_blocks)
