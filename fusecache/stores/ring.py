"""An engine on the kernel's io_uring.

Theory of operation
-------------------
A task that wants I/O submits it and sleeps.  The *reaper*, one system task of trio, waits until the ring is readable,
takes all operations that are complete, and wakes their tasks.  So one turn of the reaper serves many operations, and
only the kernel has threads.

A submission does not wait for others to join it: a system call costs less than the pass of the scheduler that would
collect them.

A task that is cancelled sleeps on until its I/O is complete; meanwhile the engine keeps the memory alive that the
kernel reads or writes.  So no task ends before its I/O, and no event loop before its tasks.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, final

import trio

from fusecache.linux import ASYNC, FALLOCATE, FDATASYNC, FSYNC, KEEP_SIZE, PUNCH_HOLE, READ, WRITE, Ring, pin

if TYPE_CHECKING:
    from fusecache.stores.base import Data

_ENTRIES: Final = 256
_NOT_BEGUN: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOMEM})
"""Errors of a kernel that is short of memory for a moment; it has not begun the operation."""
_NOT_DONE: Final = frozenset({errno.EAGAIN, errno.EINTR})
_TRIES: Final = 1000
_RETRY_SECONDS: Final = 0.001


class _NotNowError(OSError):
    """Nothing was done; the next try may succeed."""


@final
class _Flight:
    """One operation under way."""

    __slots__ = ("memory", "result", "task")

    def __init__(self, task: trio.lowlevel.Task, memory: object) -> None:
        self.task = task
        self.memory = memory
        self.result = 0

    def land(self, result: int) -> None:
        self.result = result
        trio.lowlevel.reschedule(self.task)


@final
class RingEngine:
    """Up to 256 operations at a time on a ring of its own; see :class:`fusecache.stores.engine.Engine`.

    :raises OSError: io_uring cannot be used here.
    """

    __slots__ = ("_flights", "_number", "_reaper", "_ring", "_room")

    name = "io_uring"
    parallelism = _ENTRIES

    def __init__(self) -> None:
        self._ring = Ring(_ENTRIES)
        self._flights: dict[int, _Flight] = {}
        self._number = 0
        self._room = trio.lowlevel.ParkingLot()
        self._reaper: trio.lowlevel.Task | None = None

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        view = memoryview(into)
        while view:
            memory, address = pin(view)
            count = await self._do(READ, fd, memory, address, len(view), position)
            if count == 0:
                raise OSError(errno.EIO, f"the file ends at {position}, too early")
            view = view[count:]
            position += count

    async def write(self, fd: int, data: Data, position: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        view = memoryview(data).cast("B")
        if view.readonly:
            # No cheap way tells the address of read-only memory, and a copy is cheap beside a write that waits.
            view = memoryview(bytearray(view))
        while view:
            memory, address = pin(view)
            count = await self._do(WRITE, fd, memory, address, len(view), position)
            view = view[count:]
            position += count

    async def fdatasync(self, fd: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        await self._do(FSYNC, fd, None, 0, 0, 0, FDATASYNC)

    async def discard(self, fd: int, position: int, length: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        await self._do(FALLOCATE, fd, None, length, KEEP_SIZE | PUNCH_HOLE, position)

    def close(self) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        if self._reaper is not None:
            trio.lowlevel.notify_closing(self._ring.fd)
        self._ring.close()

    def check(self) -> None:
        """Assert that there is room for every completion, and a reaper to see it."""
        assert len(self._flights) <= _ENTRIES
        assert not self._flights or self._reaper is not None

    async def _do(
        self, opcode: int, fd: int, memory: object, address: int, length: int, position: int, flags: int = 0
    ) -> int:
        """Carry out one operation; return its result, which is not negative; keep ``memory`` alive meanwhile."""
        how = 0
        tries = _TRIES
        while True:
            while len(self._flights) >= _ENTRIES:
                await self._room.park()
            try:
                return await self._fly(opcode, fd, memory, address, length, position, flags, how)
            except _NotNowError:
                tries -= 1
                if not tries:
                    raise
            await trio.sleep(_RETRY_SECONDS)
            how = ASYNC

    async def _fly(
        self, opcode: int, fd: int, memory: object, address: int, length: int, position: int, flags: int, how: int
    ) -> int:
        if self._reaper is None:
            self._reaper = trio.lowlevel.spawn_system_task(self._reap)
        self._number = number = self._number + 1
        try:
            self._ring.begin(number, opcode, fd, address, length, position, flags, how)
        except OSError as exc:
            if exc.errno in _NOT_BEGUN:
                raise _NotNowError(*exc.args) from exc
            raise
        flight = self._flights[number] = _Flight(trio.lowlevel.current_task(), memory)
        await trio.lowlevel.wait_task_rescheduled(_refuse)
        if flight.result >= 0:
            return flight.result
        code = -flight.result
        # A flush that failed is never tried again: the kernel tells only once what became of the writes before it.
        again = opcode != FSYNC and code in _NOT_DONE
        raise (_NotNowError if again else OSError)(code, os.strerror(code))

    async def _reap(self) -> None:
        """Wake the tasks whose I/O is complete, until the event loop or the engine ends."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._ring.fd)
                for number, result in self._ring.completed():
                    self._flights.pop(number).land(result)
                self._room.unpark_all()
        except trio.ClosedResourceError:
            pass
        finally:
            self._reaper = None


def _refuse(_: object) -> trio.lowlevel.Abort:
    """Let a cancelled task wait: the kernel may still use its memory."""
    return trio.lowlevel.Abort.FAILED
