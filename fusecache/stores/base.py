"""What the cache asks of a place where bytes live.

A store is a fixed number of bytes, addressed from 0.  Everything that may take time is a coroutine; two methods never
wait and may decline (``*_nowait``), so that a hit waits for no other task.  Nothing above this interface knows of file
descriptors: a store may as well be a simulation, or a service across a network.

A write is *unflushed* until a later :meth:`Store.flush` has returned: until then it may be lost at a crash, wholly, in
part, or in any order with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Data = bytes | bytearray | memoryview
"""What can be written."""


class Store(Protocol):
    """A fixed number of bytes that can be read, written and made durable.

    All ranges lie inside ``0..size``, and every failure is a :class:`fusecache.errors.StoreError`.
    """

    size: int
    """In bytes."""

    unflushed: bool
    """Whether anything may have been written that no flush has made durable; True on opening, since a process that
    was killed may have left writes behind."""

    def read_nowait(self, offset: int, into: bytearray | memoryview) -> bool:
        """Fill ``into`` from ``offset`` if that needs no waiting; returns whether it did."""

    async def read(self, offset: int, into: bytearray | memoryview) -> None:
        """Fill ``into`` from ``offset``."""

    def write_nowait(self, offset: int, data: Data) -> bool:
        """Write ``data`` at ``offset`` if that needs no waiting; returns whether it did."""

    async def write(self, offset: int, data: Data) -> None:
        """Write ``data`` at ``offset``."""

    async def holes(self, offset: int, length: int) -> Sequence[tuple[int, int]]:
        """Tell which parts of a range, as ``(begin, end)`` in order, may take no space and read as zeros: a hint."""

    async def flush(self) -> None:
        """Make every write that has returned durable."""

    async def discard(self, offset: int, length: int) -> None:
        """Have a range read as zeros from now on, and give its space back where that can be done; a write like any."""

    async def forget(self, offset: int, length: int) -> None:
        """Say that a range is not going to be read soon, so that it need not stay in memory; no data is lost."""
