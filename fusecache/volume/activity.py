"""What the origin does for users now, since when it has been quiet, and when the policy gets its next tick.

*Idle*, as dm-cache means it (2.9): no user I/O at the origin, for longer than a second.  Hits do not count.

*Calm* is less: no user I/O for a moment.  A client that sends one request at a time leaves short gaps in which nothing
is under way.  If writebacks began in those gaps, each of its requests would find one in front of it.
"""

from __future__ import annotations

from typing import Final

import trio

QUIET_SECONDS: Final = 1.0
CALM_SECONDS: Final = 0.02
_HITS_PER_TICK: Final = 16


class Activity:
    """User I/O at the origin; times are seconds of trio's clock."""

    __slots__ = ("_quiet", "_since", "hits_until_tick", "in_flight", "marked")

    def __init__(self) -> None:
        self.in_flight = 0
        self._since = -QUIET_SECONDS
        self._quiet = trio.Event()
        self.marked = False
        """Whether a bio under way carries the tick mark (dm-cache 2.9)."""
        self.hits_until_tick = _HITS_PER_TICK
        """How many hits are still to be served at once before the next tick.  Such a hit takes no time in which others
        could pass, so it carries no mark.  Instead a fixed number of them makes a tick, about as many as fit into one
        round trip of a busy client."""

    def begin(self) -> bool:
        """Note that one user I/O begins; returns whether it carries the tick mark."""
        self.in_flight += 1
        mark = not self.marked
        self.marked = True
        return mark

    def end(self, now: float, *, mark: bool) -> None:
        """Note that it has ended."""
        self.in_flight -= 1
        if mark:
            self.marked = False
        if self.in_flight == 0:
            self._since = now
            self._quiet.set()
            self._quiet = trio.Event()

    def is_quiet(self, now: float) -> bool:
        """Tell whether the origin has had no user I/O for more than a second."""
        return self.in_flight == 0 and now > self._since + QUIET_SECONDS

    def is_calm(self, now: float) -> bool:
        """Tell whether the origin has had no user I/O for a moment."""
        return self.in_flight == 0 and now >= self._since + CALM_SECONDS

    def restart_hits(self) -> None:
        """Count hits from the beginning again, after a tick."""
        self.hits_until_tick = _HITS_PER_TICK

    async def give_way(self, patience: float) -> None:
        """Let user I/O at the origin go first, but wait no longer than ``patience`` seconds."""
        if not self.is_calm(trio.current_time()):
            with trio.move_on_after(patience):
                await self._calm()

    async def _calm(self) -> None:
        while not self.is_calm(trio.current_time()):
            if self.in_flight:
                await self._quiet.wait()
            else:
                await trio.sleep_until(self._since + CALM_SECONDS)

    def check(self) -> None:
        """Assert that the counts are possible."""
        assert self.in_flight >= 0
        assert 0 < self.hits_until_tick <= _HITS_PER_TICK
        assert not self.marked or self.in_flight
