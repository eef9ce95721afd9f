"""Memory at page boundaries, as O_DIRECT wants it."""

from __future__ import annotations

import mmap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT: Final = 8 * 1024 * 1024


@final
class Buffers:
    """Lends memory, and keeps what comes back for the next borrower, up to ``limit`` bytes.

    Sizes are powers of two, so that there are few kinds.  Nobody waits for memory: what is lent at one time is bounded
    by what is asked for at one time.
    """

    __slots__ = ("_free", "_kept", "_limit")

    def __init__(self, limit: int = _KEPT) -> None:
        self._limit = limit
        self._kept = 0
        self._free: dict[int, list[mmap.mmap]] = {}

    @contextmanager
    def lent(self, length: int) -> Iterator[memoryview]:
        """Lend ``length`` bytes of any content, beginning at a page boundary."""
        size = max(mmap.PAGESIZE, 1 << (length - 1).bit_length())
        free = self._free.setdefault(size, [])
        if free:
            memory = free.pop()
            self._kept -= size
        else:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            yield memoryview(memory)[:length]
        finally:
            if self._kept + size <= self._limit:
                free.append(memory)
                self._kept += size

    def check(self) -> None:
        """Assert that what is kept is counted, and within the limit."""
        assert self._kept == sum(size * len(free) for size, free in self._free.items())
        assert self._kept <= self._limit
        assert all(len(memory) == size for size, free in self._free.items() for memory in free)
