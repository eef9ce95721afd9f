"""How bytes get to and from an open file while the event loop goes on.

An engine knows descriptors and positions; stores know what a range means.  Every failure is an OSError.  Each operation
works on all of its range or fails: the engine itself continues a short read or write.

A coroutine that is cancelled still ends only after its operation: the kernel must never read or write memory that may
have another use by then.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, Protocol, final

import trio

from fusecache.linux import punch_hole

if TYPE_CHECKING:
    from fusecache.stores.base import Data

_THREADS: Final = 64


class Engine(Protocol):
    """Does I/O that may take long on any open file or device."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def parallelism(self) -> int:
        """How many operations it has under way at a time; more of them wait."""

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        """Fill ``into`` from ``position`` (bytes); an end of the file before that is EIO."""

    async def write(self, fd: int, data: Data, position: int) -> None:
        """Write all of ``data`` at ``position``."""

    async def fdatasync(self, fd: int) -> None:
        """Make what was written durable (fdatasync(2))."""

    async def discard(self, fd: int, position: int, length: int) -> None:
        """Give the space of a range back, which reads as zeros then; EOPNOTSUPP where that cannot be done."""

    def close(self) -> None:
        """Give back what it holds; nothing may be under way."""


@final
class ThreadEngine:
    """Each operation in a thread of its own, up to 64 at a time."""

    __slots__ = ("_limiter",)

    name = "threads"
    parallelism = _THREADS

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_THREADS)

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        """See :class:`Engine`."""
        await trio.to_thread.run_sync(_read_all, fd, into, position, limiter=self._limiter)

    async def write(self, fd: int, data: Data, position: int) -> None:
        """See :class:`Engine`."""
        await trio.to_thread.run_sync(_write_all, fd, data, position, limiter=self._limiter)

    async def fdatasync(self, fd: int) -> None:
        """See :class:`Engine`."""
        await trio.to_thread.run_sync(os.fdatasync, fd, limiter=self._limiter)

    async def discard(self, fd: int, position: int, length: int) -> None:
        """See :class:`Engine`."""
        await trio.to_thread.run_sync(punch_hole, fd, position, length, limiter=self._limiter)

    def close(self) -> None:
        """See :class:`Engine`; idle threads end by themselves."""


def _read_all(fd: int, into: bytearray | memoryview, position: int) -> None:
    view = memoryview(into)
    while view:
        count = os.preadv(fd, (view,), position)
        if count == 0:
            raise OSError(errno.EIO, f"the file ends at {position}, too early")
        view = view[count:]
        position += count


def _write_all(fd: int, data: Data, position: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        count = os.pwrite(fd, view, position)
        view = view[count:]
        position += count
