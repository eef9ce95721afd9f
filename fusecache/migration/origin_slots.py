"""When a writeback may write to the origin: after users, one at a time, and in the order of the origin.

Theory of operation
-------------------
*While users are there*, which is so until nothing of theirs has been under way for a moment, one write of ours is
under way at most.  The next one lets users go first, but only for so long: an origin that never rests would let the
cache fill up with dirty blocks.  So users' requests wait behind one write of at most one stretch of neighbours, a few
times a second.  A flush that a user asked for has less patience, and shares the origin with them.

*While no user is there*, writes go out side by side.

*Who is next.*  Writes that wait are admitted one by one, in the order of the origin, from where the last one was
(C-LOOK).  A write is admitted before it lets users go first, so only one at a time does that; when it begins, or is
cancelled, it admits the next one.  A write that finds nobody before it still waits for a moment if others are just
being read from the cache (:meth:`OriginSlots.preparing`): what begins together goes out sorted.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio
from sortedcontainers import SortedDict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fusecache.volume import Activity

PATIENCE: Final = 0.25
"""Seconds for which a write that is admitted lets users at the origin go first."""
SHORT_PATIENCE: Final = 0.01
"""The same for a write that a user waits for: about as long as the write takes."""
_LONGEST_WAIT: Final = 0.005
"""Seconds for which a write waits for others that may come before it."""


class OriginSlots:
    """The slots in which one volume's writebacks write to the origin."""

    __slots__ = (
        "_activity",
        "_all_prepared",
        "_last",
        "_preparing",
        "_someone_admitted",
        "_waiting",
        "_write_ended",
        "writing",
    )

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._waiting: SortedDict[int, trio.Event] = SortedDict()
        """Those who wait to be admitted, by where they will write."""
        self._someone_admitted = False
        """Whether somebody is admitted and has not begun to write, or is about to admit the first."""
        self._preparing = 0
        self._all_prepared = trio.Event()
        self._write_ended = trio.Event()
        self._last = 0
        """Where the last write was."""
        self.writing = 0
        """Writes to the origin that are under way."""

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Prepare a write within this block; whoever has done so calls :meth:`slot` next, or does not write at all."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1
            if not self._preparing:
                all_prepared, self._all_prepared = self._all_prepared, trio.Event()
                all_prepared.set()

    @asynccontextmanager
    async def slot(self, position: int, patience: float = PATIENCE) -> AsyncIterator[None]:
        """Write to the origin at ``position`` within this block, which begins when that may be done."""
        await self._wait_for_admission(position)
        try:
            while self.writing and not self._activity.is_calm(trio.current_time()):
                await self._write_ended.wait()
            await self._activity.give_way(patience)
        except BaseException:
            self._admit_next(self._last)
            raise
        self.writing += 1
        self._admit_next(position)
        try:
            yield
        finally:
            self.writing -= 1
            write_ended, self._write_ended = self._write_ended, trio.Event()
            write_ended.set()

    async def _wait_for_admission(self, position: int) -> None:
        """Wait until we are admitted; whoever comes while nobody is admits the first of those who wait by then."""
        assert position not in self._waiting, "two copies of one block"
        admits, self._someone_admitted = not self._someone_admitted, True
        admitted = self._waiting[position] = trio.Event()
        try:
            if admits:
                if self._preparing:
                    with trio.move_on_after(_LONGEST_WAIT):
                        await self._all_prepared.wait()
                admits = False
                self._admit_next(self._last)
            await admitted.wait()
        except BaseException:
            if self._waiting.pop(position, None) is None or admits:
                self._admit_next(self._last)
            raise

    def _admit_next(self, last: int) -> None:
        """Admit the next one who waits, seen from where the last write was."""
        self._last = last
        self._someone_admitted = bool(self._waiting)
        if self._waiting:
            index = self._waiting.bisect_left(last)
            _, admitted = self._waiting.popitem(index if index < len(self._waiting) else 0)
            admitted.set()

    def check(self) -> None:
        """Assert that nobody waits to be admitted by nobody."""
        assert self.writing >= 0
        assert self._preparing >= 0
        assert self._someone_admitted or not self._waiting
