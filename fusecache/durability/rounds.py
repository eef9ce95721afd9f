"""Work that is done for many at once: rounds, one at a time, each serving everybody who asked before it began.

Theory of operation
-------------------
Whoever asks while no round runs does the round, in its own task: alone, it waits for nothing but the work.  Those who
ask meanwhile wait; when the round has ended the first of them does the next one, for all of them.  So no task stands
between those who ask and the work, and a round begins as soon as the one before it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from fusecache.errors import FusecacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(slots=True)
class Outcome:
    """How something went, for whoever waits for it."""

    done: trio.Event = field(default_factory=trio.Event)
    error: FusecacheError | None = None

    def finish(self, error: FusecacheError | None) -> None:
        """Tell those who wait."""
        self.error = error
        self.done.set()

    async def wait(self) -> None:
        """Wait for the end; raises the error if there was one."""
        await self.done.wait()
        if self.error is not None:
            raise self.error


@dataclass(slots=True)
class _Joiner(Outcome):
    leads: bool = False
    """Whether this one has to do the round."""
    left: bool = False
    """Whether whoever waited was cancelled."""


class Rounds:
    """Rounds of one kind of work.

    :param work: what a round does; a FusecacheError of it reaches everybody whom it serves.
    """

    __slots__ = ("_running", "_waiting", "_work")

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._running = False
        self._waiting: list[_Joiner] = []

    async def join(self) -> None:
        """Wait for the end of a round that begins after this call; raises what went wrong with it."""
        if self._running:
            joiner = _Joiner()
            self._waiting.append(joiner)
            try:
                await joiner.done.wait()
            except BaseException:
                joiner.left = True
                raise
            if not joiner.leads:
                return await joiner.wait()
        return await self._lead()

    async def _lead(self) -> None:
        self._running = True
        served, self._waiting = self._waiting, []
        error: FusecacheError | None = None
        try:
            await self._work()
        except FusecacheError as exc:
            error = exc
        except BaseException:
            self._waiting[:0] = served  # nobody can tell how it went: they need another one
            self._pass_on()
            raise
        for joiner in served:
            joiner.finish(error)
        self._pass_on()
        if error is not None:
            raise error

    def _pass_on(self) -> None:
        """Let the first who waits do the next round, if anybody does."""
        self._waiting = [joiner for joiner in self._waiting if not joiner.left]
        self._running = bool(self._waiting)
        if self._running:
            leader = self._waiting.pop(0)
            leader.leads = True
            leader.finish(None)
