"""One piece of long work: what it does, how far it has come, how fast, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusecache.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

RATE_SECONDS: Final = 5.0
"""The rate is that of the last 5 to 10 seconds."""


class Job:
    """Long work over cache blocks; whoever does the work reports to it, others look at it or cancel it.

    :param name: the kind of work, in one word.
    :param detail: what this one is after, such as the mode to switch to.
    :param total: blocks that it has to look at, as far as is known; 0 for work that does not count blocks.
    :param clock: gives the time in seconds.
    """

    __slots__ = (
        "_block_size",
        "_clock",
        "_mark",
        "_next_mark",
        "began",
        "cancelled",
        "detail",
        "done",
        "ended",
        "error",
        "name",
        "total",
    )

    def __init__(self, name: str, detail: str, total: int, *, block_size: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.detail = detail
        self.total = total
        self.done = 0
        """Blocks that it is through with, whatever came of them."""
        self.error = ""
        """Why it failed, if it did."""
        self.cancelled = ""
        """Why it is to end early, if it is."""
        self.began = clock()
        self.ended: float | None = None
        self._clock = clock
        self._block_size = block_size
        self._mark = self._next_mark = (self.began, 0)
        """When how many blocks were done: the rate is counted from the first; the second will take its place."""

    @property
    def left(self) -> int:
        """Blocks that it has still to look at; at least 1 until it has ended."""
        return max(1, self.total - self.done) if self.ended is None else 0

    @property
    def rate(self) -> int:
        """Bytes a second, lately."""
        then, done = self._mark
        seconds = self._clock() - then
        return round((self.done - done) * self._block_size / seconds) if seconds > 0 else 0

    def advance(self, blocks: int = 1) -> None:
        """Count blocks as done."""
        self.done += blocks
        self.total = max(self.total, self.done)
        now = self._clock()
        if now >= self._next_mark[0] + RATE_SECONDS:
            self._mark, self._next_mark = self._next_mark, (now, self.done)

    def fail(self, reason: str) -> None:
        """Note why not all of it can be done; it may go on with the rest."""
        self.error = reason

    def cancel(self, reason: str) -> None:
        """Ask it to end early.  It does so where it looks at :attr:`cancelled`; some work does not."""
        self.cancelled = self.cancelled or reason

    def end(self) -> None:
        """Count it as ended, for good or ill."""
        self.ended = self._clock()

    def __str__(self) -> str:
        """Say in a few words how far it is: ``flush 120/4000 blocks, 12MiB/s``."""
        text = f"{self.name} {self.detail}" if self.detail else self.name
        if self.total:
            text += f" {self.done}/{self.total} blocks"
        if rate := self.rate:
            text += f", {format_size(rate)}/s"
        return text

    def check(self) -> None:
        """Assert that it is possible."""
        assert 0 <= self.done <= self.total, self
        assert self._mark <= self._next_mark, self
        assert self._next_mark[1] <= self.done, self
        assert self.ended is None or self.ended >= self.began, self
