"""The dirty limit: beyond it, writes are absorbed no faster than the origin takes them off us.

Theory of operation
-------------------
A write that is absorbed costs the origin nothing now, and a write later.  If nothing held users back, the cache would
fill up with dirty blocks, and from one moment to the next every write would wait for the origin.  So beyond the limit
each absorbed block costs its writer some time, which grows with the excess: nothing at the limit, and as long as the
origin takes for a block of our writebacks when all of the cache is dirty.  Somewhere between the two, as much is
absorbed as is written back.

*The writer pays afterwards*, when the block is mapped and nobody is kept out of it any more.  So no reader, no hit and
no migration waits for him.  Blocks of several writers, or of one large write, are paid for one after the other, since
the origin takes them one after the other.

Until a writeback has shown how long the origin takes, nobody pays; and nobody pays more than a second at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from fusecache.config import DirtyLimit, Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.volume import Volume

_LONGEST_PAUSE: Final = 1.0
"""Seconds; a dead origin must not hold a write for long that does not need it."""
_WEIGHT: Final = 0.25
"""Of the last writeback in the mean of all."""


class Admission:
    """The dirty limit of one volume.

    :ivar most: blocks that may be dirty.
    :ivar on_excess: called when somebody has to pay.
    """

    __slots__ = ("_back_below", "_block_seconds", "_paid_until", "_volume", "most", "on_excess")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.on_excess: Callable[[], None] = lambda: None
        self._block_seconds = 0.0
        """How long the origin takes for a block of our writebacks; 0 while nobody knows."""
        self._paid_until = 0.0
        self._back_below = trio.Event()
        self.set_limit(DirtyLimit())

    def set_limit(self, limit: DirtyLimit) -> None:
        """Hold another limit from now on."""
        self.most = limit.blocks(self._volume.geometry.cache_blocks, self._volume.geometry.block_size)

    @property
    def is_exceeded(self) -> bool:
        """Whether more is dirty than may be."""
        return self._volume.mapping.dirty_count > self.most

    @property
    def pace(self) -> float:
        """Seconds that an absorbed block costs at present."""
        excess = self._volume.mapping.dirty_count - self.most
        room = self._volume.geometry.cache_blocks - self.most
        return self._block_seconds * min(1.0, excess / room) if excess > 0 else 0.0

    async def pay(self) -> None:
        """Wait, beyond the limit, for as long as a block costs that was just absorbed."""
        if self._volume.mode is not Mode.WRITEBACK or not self.is_exceeded:
            return
        self.on_excess()
        now = trio.current_time()
        self._paid_until = min(max(self._paid_until, now) + self.pace, now + _LONGEST_PAUSE)
        if self._paid_until > now:
            self._volume.counters.slowed += 1
            with trio.move_on_at(self._paid_until):
                await self._back_below.wait()

    def written_back(self, blocks: int, seconds: float) -> None:
        """Learn how long the origin has taken, and let go who waits if that has brought us below the limit."""
        last = seconds / blocks
        self._block_seconds += (last - self._block_seconds) * (_WEIGHT if self._block_seconds else 1.0)
        self.look()

    def look(self) -> None:
        """Let go who waits if we are not beyond the limit any more."""
        if not self.is_exceeded:
            self._paid_until = 0.0
            back_below, self._back_below = self._back_below, trio.Event()
            back_below.set()

    def check(self) -> None:
        """Assert that what is asked for can be."""
        assert 0 <= self.most <= self._volume.geometry.cache_blocks
        assert 0 <= self.pace <= self._block_seconds
