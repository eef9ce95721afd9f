"""Copies between cache and origin: how many bytes a second, and when a write may go to the origin.

Theory of operation
-------------------
*The rate.*  Whoever copies on the cache's own account waits for its bytes first (:meth:`Traffic.allowed`), in the order
of arrival, and *before* it locks any block: a limit makes copies come seldom, it never keeps writers waiting.  A run of
neighbours, or a block that is larger, is granted at once.  A limit holds for all of them: promotions, writebacks,
demotions of dirty blocks, healing, and also for a flush or a decommission that a user asked for.  It is a promise to
others on the same network or disk, and who wants the flush to end sooner can raise it while it runs.  Two things are
exempt: what a user's request waits for, and bringing data to safety from a cache that is failing.

*Turns at the origin.*  While users are there, which is so until nothing of theirs has been under way for a moment, one
write of ours is under way at most, and the next one gives way first, but for so long only: an origin that never
rests would let the cache fill up with dirty blocks.  So users' requests wait behind one write of at most a run, a few
times a second; a flush that a user asked for has less patience, and shares the origin with them.  While nobody is
there, writes go out side by side.  Those who wait for their turn get it in the order of the origin, from where the
last write was (C-LOOK), and for a moment those wait who could go, if others are just being read from the cache: what
begins together goes out sorted.  Whose turn it is was chosen before it gives way, so there is one at a time who
does, and who is cancelled hands the turn on.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio
from sortedcontainers import SortedDict

from fusecache.migration.bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fusecache.volume import Activity

PATIENCE: Final = 0.25
"""Seconds for which a write whose turn it is lets users at the origin go first."""
ASKED_FOR: Final = 0.01
"""The same for a write that a user waits for: about as long as it takes."""
_LONGEST_WAIT: Final = 0.005
"""Seconds for which a write waits for others that may come before it."""


class Traffic:
    """The copies of one volume.

    :param burst: bytes of the largest copy that is granted at once.
    """

    __slots__ = (
        "_activity",
        "_admitting",
        "_all_here",
        "_bucket",
        "_changed",
        "_coming",
        "_ended",
        "_last",
        "_queue",
        "_waiting",
        "writing",
    )

    def __init__(self, activity: Activity, *, burst: int) -> None:
        self._activity = activity
        self._bucket = TokenBucket(0, burst)
        self._queue = trio.Lock()
        self._changed = trio.Event()
        self._waiting: SortedDict[int, trio.Event] = SortedDict()
        self._admitting = False
        self._coming = 0
        self._all_here = trio.Event()
        self._ended = trio.Event()
        self._last = 0
        self.writing = 0
        """Writes to the origin that are under way."""

    @property
    def rate(self) -> int:
        """Bytes a second; 0 for no limit."""
        return self._bucket.rate

    def set_rate(self, rate: int) -> None:
        """Let another rate hold from now on, for those who wait already as well."""
        self._bucket.set_rate(rate, trio.current_time())
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def allowed(self, amount: int) -> None:
        """Wait until so many bytes may be copied."""
        if not (amount and self._bucket.rate):
            return
        async with self._queue:
            while pause := self._bucket.take(amount, trio.current_time()):
                with trio.move_on_after(pause):
                    await self._changed.wait()

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Make ready for a write within this block, at the end of which comes :meth:`turn`, or nothing."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            if not self._coming:
                all_here, self._all_here = self._all_here, trio.Event()
                all_here.set()

    @asynccontextmanager
    async def slot(self, position: int, patience: float = PATIENCE) -> AsyncIterator[None]:
        """Write to the origin at ``position`` within this block; it begins when it is our turn."""
        await self._queue_up(position)
        try:
            while self.writing and not self._activity.is_calm(trio.current_time()):
                await self._ended.wait()
            await self._activity.give_way(patience)
        except BaseException:
            self._hand_on(self._last)
            raise
        self.writing += 1
        self._hand_on(position)
        try:
            yield
        finally:
            self.writing -= 1
            ended, self._ended = self._ended, trio.Event()
            ended.set()

    async def _queue_up(self, position: int) -> None:
        """Wait until the turn is handed on to us; whoever comes when nobody has it hands it on to the first."""
        assert position not in self._waiting, "two copies of one block"
        has_it, self._admitting = not self._admitting, True
        handed_on = self._waiting[position] = trio.Event()
        try:
            if has_it:
                if self._coming:
                    with trio.move_on_after(_LONGEST_WAIT):
                        await self._all_here.wait()
                has_it = False
                self._hand_on(self._last)
            await handed_on.wait()
        except BaseException:
            if self._waiting.pop(position, None) is None or has_it:
                self._hand_on(self._last)
            raise

    def _hand_on(self, last: int) -> None:
        """Let the next one have the turn, seen from where the last write was."""
        self._last = last
        self._admitting = bool(self._waiting)
        if self._waiting:
            index = self._waiting.bisect_left(last)
            _, handed_on = self._waiting.popitem(index if index < len(self._waiting) else 0)
            handed_on.set()

    def check(self) -> None:
        """Assert that nobody waits for a turn that nobody has."""
        self._bucket.check()
        assert self.writing >= 0
        assert self._admitting or not self._waiting
