"""Who may touch a block now: shared holders, and migrations that keep writers, or all, out.

Theory of operation
-------------------
One :class:`_Hold` exists per origin block that somebody holds or waits for; a block without a hold is free, and
the hit path only looks whether there is one.  Reads and writes hold a block *shared* while their I/O is under way;
a hit that is served without waiting for anything never takes a lock at all, since nothing can come between.

A migration holds a block *exclusively*, at one of two levels (dm-cache 2.7, 2.8): :data:`WRITERS_OUT` while it
copies, so that reads go on, and :data:`ALL_OUT` for a switch that must not be seen half done.  A writeback that has
taken its copy keeps out other migrations only (:data:`MIGRATIONS_OUT`).  It is granted at once
and then waits until the holders that it excludes have left; newcomers that it excludes park in the hold and are
released together when it ends, to try again.  Readers do not count against :data:`WRITERS_OUT`, so they cannot starve
it.

A write that goes to two stores takes its block *alone*: two of them crossing could leave the stores different.
Nobody waits for a second block while holding one, hence no deadlock.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final

import trio


class Level(IntEnum):
    """How much an exclusive holder keeps out."""

    NOBODY_OUT = 0
    MIGRATIONS_OUT = 1
    WRITERS_OUT = 2
    ALL_OUT = 3


MIGRATIONS_OUT: Final = Level.MIGRATIONS_OUT
WRITERS_OUT: Final = Level.WRITERS_OUT
ALL_OUT: Final = Level.ALL_OUT


class _Hold:
    __slots__ = ("alone", "drained", "level", "parked", "readers", "writers")

    def __init__(self) -> None:
        self.readers = 0
        self.writers = 0
        self.alone = False
        self.level = Level.NOBODY_OUT
        self.parked: deque[trio.Event] = deque()
        self.drained: trio.Event | None = None

    def excluded_holders(self) -> int:
        if self.level is Level.ALL_OUT:
            return self.readers + self.writers
        return self.writers if self.level is Level.WRITERS_OUT else 0

    def unused(self) -> bool:
        return not (self.readers or self.writers or self.level or self.parked)


class BlockLocks:
    """The locks of all blocks of one image, keyed by oblock."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: dict[int, _Hold] = {}

    def may_read(self, oblock: int) -> bool:
        """Tell whether nobody keeps readers out."""
        hold = self.held.get(oblock)
        return hold is None or hold.level is not ALL_OUT

    def may_write(self, oblock: int, *, alone: bool = False) -> bool:
        """Tell whether nobody keeps writers out; ``alone``: and nobody else writes."""
        hold = self.held.get(oblock)
        return hold is None or not (hold.level >= WRITERS_OUT or hold.alone or (alone and hold.writers))

    def try_read(self, oblock: int) -> bool:
        """Take a block shared for reading, if nobody keeps readers out."""
        if not self.may_read(oblock):
            return False
        self._hold(oblock).readers += 1
        return True

    def try_write(self, oblock: int, *, alone: bool = False) -> bool:
        """Take a block shared for writing, if nobody keeps writers out; ``alone``: and nobody else writes."""
        if not self.may_write(oblock, alone=alone):
            return False
        hold = self._hold(oblock)
        hold.writers += 1
        hold.alone = alone
        return True

    def end_read(self, oblock: int) -> None:
        """Give back what :meth:`try_read` took."""
        hold = self.held[oblock]
        hold.readers -= 1
        self._left(oblock, hold)

    def end_write(self, oblock: int) -> None:
        """Give back what :meth:`try_write` took."""
        hold = self.held[oblock]
        hold.writers -= 1
        hold.alone = False
        if not hold.writers and hold.level < WRITERS_OUT:
            self._unpark(hold)
        self._left(oblock, hold)

    def is_writing(self, oblock: int) -> bool:
        """Tell whether a write to this block is under way."""
        hold = self.held.get(oblock)
        return hold is not None and hold.writers > 0

    async def writers_gone(self) -> None:
        """Wait until every write that is under way now has ended."""
        for oblock in [oblock for oblock, hold in self.held.items() if hold.writers]:
            await self.take_exclusive(oblock, Level.WRITERS_OUT)
            try:
                await self.drained(oblock)
            finally:
                self.end_exclusive(oblock)

    def try_exclusive(self, oblock: int, level: Level) -> bool:
        """Take a block exclusively unless somebody else has it so; follow with :meth:`drained`."""
        hold = self._hold(oblock)
        if hold.level:
            return False
        hold.level = level
        return True

    async def take_exclusive(self, oblock: int, level: Level) -> None:
        """Take a block exclusively, parking as long as it must; follow with :meth:`drained`."""
        while not self.try_exclusive(oblock, level):
            await self.park(oblock)

    async def drained(self, oblock: int) -> None:
        """Wait until the holders that our exclusive level keeps out have left."""
        hold = self.held[oblock]
        while hold.excluded_holders():
            hold.drained = trio.Event()
            await hold.drained.wait()

    async def raise_level(self, oblock: int) -> None:
        """Go from WRITERS_OUT to ALL_OUT, and wait for the readers to leave."""
        self.held[oblock].level = Level.ALL_OUT
        await self.drained(oblock)

    def lower_level(self, oblock: int) -> None:
        """Go from WRITERS_OUT to MIGRATIONS_OUT; writers who parked try again."""
        hold = self.held[oblock]
        hold.level = Level.MIGRATIONS_OUT
        self._unpark(hold)

    def end_exclusive(self, oblock: int) -> None:
        """Let everybody in again; those who parked try again."""
        hold = self.held[oblock]
        hold.level = Level.NOBODY_OUT
        self._unpark(hold)
        self._left(oblock, hold)

    def _hold(self, oblock: int) -> _Hold:
        hold = self.held.get(oblock)
        if hold is None:
            hold = self.held[oblock] = _Hold()
        return hold

    async def park(self, oblock: int) -> None:
        """Wait until it is worth while to try again."""
        released = trio.Event()
        self._hold(oblock).parked.append(released)
        await released.wait()

    @staticmethod
    def _unpark(hold: _Hold) -> None:
        while hold.parked:
            hold.parked.popleft().set()

    def _left(self, oblock: int, hold: _Hold) -> None:
        if hold.drained is not None and not hold.excluded_holders():
            hold.drained.set()
            hold.drained = None
        if hold.unused() and self.held.get(oblock) is hold:
            del self.held[oblock]

    def check(self) -> None:
        """Assert that every hold is in use and consistent."""
        for oblock, hold in self.held.items():
            assert not hold.unused(), f"idle hold of oblock {oblock}"
            assert hold.readers >= 0, oblock
            assert hold.writers >= 0, oblock
            assert not hold.alone or hold.writers == 1, oblock
            assert not hold.parked or hold.level or hold.alone or hold.writers, f"oblock {oblock} parks for nothing"
