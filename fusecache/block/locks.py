"""The locks of the blocks: users share a block, a migration keeps some or all of them out.

Theory of operation
-------------------
Locks are kept by origin block, since a block has one whether it is cached or not.  A :class:`_Lock` exists only while
somebody holds the block or waits for it.  A block without one is free, so the data path only looks whether there is
one.

*Shared holders* are reads and writes of users, for as long as their I/O is under way.  A hit that waits for nothing
takes no lock: nothing else runs before it is done.  A write that goes to both stores takes its block *alone*, with no
other writer beside it: two such writes could arrive in one order at the cache and in the other at the origin.

*The exclusive holder* is a migration, one at a time.  Its :class:`Level` says whom it keeps out (dm-cache 2.7, 2.8):

* ``WRITERS_OUT`` while it copies, so that reads go on;
* ``ALL_OUT`` while it unmaps, so that nobody sees the switch half done;
* ``MIGRATIONS_OUT`` when a writeback has taken its copy: users go on, only other migrations wait.

The exclusive holder gets its level at once, even if users hold the block, and from then on no new user comes in whom it
keeps out.  Then it waits for those who are inside (:meth:`BlockLocks.drain`).  Readers can therefore not starve it.

*Those who cannot come in* park: they wait in the block's own queue, and all of them try again when the lock changes.

Nobody deadlocks.  Users wait for a block only while they hold none.  A migration that holds blocks takes others only if
they are free (``try_exclusive``), and waits only for users of blocks that it holds.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Level(IntEnum):
    """Whom the exclusive holder of a block keeps out; each level includes those below."""

    NOBODY_OUT = 0
    MIGRATIONS_OUT = 1
    WRITERS_OUT = 2
    ALL_OUT = 3


MIGRATIONS_OUT: Final = Level.MIGRATIONS_OUT
WRITERS_OUT: Final = Level.WRITERS_OUT
ALL_OUT: Final = Level.ALL_OUT


class _Lock:
    __slots__ = ("alone", "drained", "level", "parked", "readers", "writers")

    def __init__(self) -> None:
        self.readers = 0
        self.writers = 0
        self.alone = False
        self.level = Level.NOBODY_OUT
        self.parked: deque[trio.Event] = deque()
        self.drained: trio.Event | None = None

    def excluded_holders(self) -> int:
        """Count the users inside whom the exclusive holder keeps out."""
        if self.level is Level.ALL_OUT:
            return self.readers + self.writers
        return self.writers if self.level is Level.WRITERS_OUT else 0

    def is_unused(self) -> bool:
        return not (self.readers or self.writers or self.level or self.parked)


class BlockLocks:
    """The locks of all blocks of one image.

    :ivar held: the lock of each origin block that somebody holds or waits for; the data path reads it.
    :ivar on_write: called with each block that somebody takes for writing, before he can write; must not wait.
    """

    __slots__ = ("held", "on_write")

    def __init__(self) -> None:
        self.held: dict[int, _Lock] = {}
        self.on_write: Callable[[int], object] = _nothing

    def may_read(self, oblock: int) -> bool:
        """Tell whether nobody keeps readers out."""
        lock = self.held.get(oblock)
        return lock is None or lock.level is not ALL_OUT

    def may_write(self, oblock: int, *, alone: bool = False) -> bool:
        """Tell whether nobody keeps writers out; if we want to be alone, whether nobody else writes either."""
        lock = self.held.get(oblock)
        return lock is None or not (lock.level >= WRITERS_OUT or lock.alone or (alone and lock.writers))

    def try_read(self, oblock: int) -> bool:
        """Take a block shared for reading, if nobody keeps readers out."""
        if not self.may_read(oblock):
            return False
        self._lock_of(oblock).readers += 1
        return True

    def try_write(self, oblock: int, *, alone: bool = False) -> bool:
        """Take a block shared for writing, if nobody keeps writers out; ``alone`` keeps other writers out."""
        if not self.may_write(oblock, alone=alone):
            return False
        lock = self._lock_of(oblock)
        lock.writers += 1
        lock.alone = alone
        self.on_write(oblock)
        return True

    def end_read(self, oblock: int) -> None:
        """End a hold that :meth:`try_read` gave."""
        lock = self.held[oblock]
        lock.readers -= 1
        self._after_release(oblock, lock)

    def end_write(self, oblock: int) -> None:
        """End a hold that :meth:`try_write` gave."""
        lock = self.held[oblock]
        lock.writers -= 1
        lock.alone = False
        if not lock.writers and lock.level < WRITERS_OUT:
            self._unpark(lock)
        self._after_release(oblock, lock)

    def is_writing(self, oblock: int) -> bool:
        """Tell whether somebody holds this block for writing."""
        lock = self.held.get(oblock)
        return lock is not None and lock.writers > 0

    async def drain_writers(self) -> None:
        """Wait until every write that is under way now has ended; later ones may have begun by then."""
        for oblock in [oblock for oblock, lock in self.held.items() if lock.writers]:
            await self.take_exclusive(oblock, Level.WRITERS_OUT)
            try:
                await self.drain(oblock)
            finally:
                self.end_exclusive(oblock)

    def may_migrate(self, oblock: int) -> bool:
        """Tell whether nobody has a block exclusively."""
        lock = self.held.get(oblock)
        return lock is None or not lock.level

    def try_exclusive(self, oblock: int, level: Level) -> bool:
        """Take a block exclusively, if nobody else has it exclusively; call :meth:`drain` next."""
        lock = self._lock_of(oblock)
        if lock.level:
            return False
        lock.level = level
        return True

    async def take_exclusive(self, oblock: int, level: Level) -> None:
        """Wait until nobody has a block exclusively, and take it; call :meth:`drain` next."""
        while not self.try_exclusive(oblock, level):
            await self.park(oblock)

    async def drain(self, oblock: int) -> None:
        """Wait until no user is inside whom our exclusive level keeps out."""
        lock = self.held[oblock]
        while lock.excluded_holders():
            lock.drained = trio.Event()
            await lock.drained.wait()

    async def raise_level(self, oblock: int) -> None:
        """Go from WRITERS_OUT to ALL_OUT, and wait for the readers to leave."""
        self.held[oblock].level = Level.ALL_OUT
        await self.drain(oblock)

    def lower_level(self, oblock: int) -> None:
        """Go from WRITERS_OUT to MIGRATIONS_OUT; those who parked try again."""
        lock = self.held[oblock]
        lock.level = Level.MIGRATIONS_OUT
        self._unpark(lock)

    def end_exclusive(self, oblock: int) -> None:
        """End our exclusive hold; those who parked try again."""
        lock = self.held[oblock]
        lock.level = Level.NOBODY_OUT
        self._unpark(lock)
        self._after_release(oblock, lock)

    def _lock_of(self, oblock: int) -> _Lock:
        lock = self.held.get(oblock)
        if lock is None:
            lock = self.held[oblock] = _Lock()
        return lock

    async def park(self, oblock: int) -> None:
        """Wait until the lock of a block changes, so that it is worthwhile to try again."""
        released = trio.Event()
        self._lock_of(oblock).parked.append(released)
        await released.wait()

    @staticmethod
    def _unpark(lock: _Lock) -> None:
        while lock.parked:
            lock.parked.popleft().set()

    def _after_release(self, oblock: int, lock: _Lock) -> None:
        """Wake the exclusive holder if it has drained the block, and forget the lock if nobody needs it any more."""
        if lock.drained is not None and not lock.excluded_holders():
            lock.drained.set()
            lock.drained = None
        if lock.is_unused() and self.held.get(oblock) is lock:
            del self.held[oblock]

    def check(self) -> None:
        """Assert that every lock is in use and consistent."""
        for oblock, lock in self.held.items():
            assert not lock.is_unused(), f"unused lock of oblock {oblock}"
            assert lock.readers >= 0, oblock
            assert lock.writers >= 0, oblock
            assert not lock.alone or lock.writers == 1, oblock
            assert not lock.parked or lock.level or lock.alone or lock.writers, f"oblock {oblock} parks for nothing"


def _nothing(oblock: int) -> None:
    del oblock
