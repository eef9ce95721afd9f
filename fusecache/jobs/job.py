"""One piece of long work: what it does, how far it has come, how fast, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from fusecache.errors import FusecacheError, RefusedError
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
        "_over",
        "began",
        "cancelled",
        "detail",
        "done",
        "ended",
        "failure",
        "name",
        "total",
        "waiting",
    )

    def __init__(self, name: str, detail: str, total: int, *, block_size: int, clock: Callable[[], float]) -> None:
        self.name = name
        self.detail = detail
        self.total = total
        self.done = 0
        """Blocks that it is through with, whatever came of them."""
        self.waiting = False
        """Whether it waits for others to end before it begins."""
        self.failure: FusecacheError | None = None
        """Why it failed, if it did."""
        self.cancelled = ""
        """Why it is to end early, if it is."""
        self.began = clock()
        self.ended: float | None = None
        self._over = trio.Event()
        self._clock = clock
        self._block_size = block_size
        self._mark = self._next_mark = (self.began, 0)
        """When how many blocks were done: the rate is counted from the first; the second will take its place."""

    @property
    def title(self) -> str:
        """What it does: ``mode writethrough``."""
        return f"{self.name} {self.detail}" if self.detail else self.name

    @property
    def error(self) -> str:
        """Why it failed, in one line; empty if it did not."""
        return "" if self.failure is None else " ".join(str(self.failure).split()) or type(self.failure).__name__

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

    def start(self) -> None:
        """Say that it waits for others no longer."""
        self.waiting = False
        self.began = self._clock()
        self._mark = self._next_mark = (self.began, self.done)

    def advance(self, blocks: int = 1) -> None:
        """Count blocks as done."""
        self.done += blocks
        self.total = max(self.total, self.done)
        now = self._clock()
        if now >= self._next_mark[0] + RATE_SECONDS:
            self._mark, self._next_mark = self._next_mark, (now, self.done)

    def fail(self, failure: FusecacheError) -> None:
        """Note why not all of it can be done; it may go on with the rest."""
        self.failure = failure

    def cancel(self, reason: str) -> None:
        """Ask it to end early; it does so where it looks at :attr:`cancelled` the next time."""
        self.cancelled = self.cancelled or reason

    def require_going_on(self) -> None:
        """Raise RefusedError if it is to end early."""
        if self.cancelled:
            raise RefusedError(self.cancelled)

    def end(self) -> None:
        """Count it as ended, for good or ill."""
        self.ended = self._clock()
        self._over.set()

    async def wait(self) -> None:
        """Wait for its end; raises what it failed with."""
        await self._over.wait()
        if self.failure is not None:
            raise self.failure

    def __str__(self) -> str:
        """Say in a few words how far it is: ``flush 120/4000 blocks, 12MiB/s``."""
        if self.waiting:
            return f"{self.title} (waiting)"
        text = self.title
        if self.total:
            text += f" {self.done}/{self.total} blocks"
        if rate := self.rate:
            text += f", {format_size(rate)}/s"
        return text

    @property
    def outcome(self) -> str:
        """What has become of it: ``done``, or ``failed: `` and why; empty until it has ended."""
        if self.ended is None:
            return ""
        return "done" if self.failure is None else f"failed: {self.error}"

    def report(self) -> str:
        """Say for programs how it is: its state, blocks done, blocks in all, and then words for people.

        The state is ``waiting``, ``running``, ``done`` or ``failed``.
        """
        if self.ended is None:
            state, words = "waiting" if self.waiting else "running", str(self)
        else:
            state, words = ("done", self.title) if self.failure is None else ("failed", self.error)
        return f"{state} {self.done} {self.total} {words}"

    def check(self) -> None:
        """Assert that it is possible."""
        assert 0 <= self.done <= self.total, self
        assert self._mark <= self._next_mark, self
        assert self._next_mark[1] <= self.done, self
        assert self.ended is None or self.ended >= self.began, self
        assert self._over.is_set() == (self.ended is not None), self
        assert not (self.waiting and self.done), self
