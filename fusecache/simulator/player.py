"""What all replays through a policy have in common: the clock, its ticks, and the items that are taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from typing import Final

from fusecache.simulator.counts import Counts
from fusecache.simulator.requests import Portion, Progress
from fusecache.simulator.trace import Trace
from policies import Policy, Work

ITEMS: Final = 8
"""Items that are taken after a block request, at most."""
REQUESTS_PER_TICK: Final = 32

_SECOND_US: Final = 1_000_000
_MAX_GAP_TICKS: Final = 300
_IDLE_ITEMS: Final = 64
_NO_BLOCK: Final = -1


class Player(ABC):
    """A policy at work on a trace; plays it once, by the rules that ``replay.py`` tells."""

    def __init__(self, trace: Trace, policy: Policy, block_size: int, report: Progress, counts: Counts) -> None:
        self.counts = counts
        self._trace = trace
        self._policy = policy
        self._block_size = block_size
        self._report = report
        self._due_us = _SECOND_US if trace.timed else inf

    @abstractmethod
    def play(self) -> None:
        """Replay the trace."""

    @abstractmethod
    def _carry_out(self, work: Work, oblock: int, kind: int) -> None:
        """Complete an item that was taken after a request of some kind for ``oblock``."""

    def _enter(self, portion: Portion) -> range:
        """Count the requests of a portion; return their numbers."""
        begin = self.counts.requests
        self.counts.requests += len(portion.oblocks)
        return range(begin, self.counts.requests)

    def _now_ms(self, index: int, time_us: int) -> int:
        return time_us // 1000 if self._trace.timed else (index + 1) // 1000 * 1000

    def _let_time_pass(self, index: int, previous_us: int, time_us: int) -> float:
        """Tick before a block request, as the rules say; return when the next timed tick is due."""
        if index:
            is_due = time_us >= self._due_us
            if is_due:
                self._due_us = time_us + _SECOND_US
            in_gap = self._tick_in_gap(previous_us, time_us)
            if not index % REQUESTS_PER_TICK or (is_due and not in_gap):
                self._policy.tick(self._now_ms(index, time_us))
        return self._due_us

    def _tick_in_gap(self, previous_us: int, time_us: int) -> bool:
        """Let the seconds between two requests pass one by one; False if they are a second apart or less."""
        if not self._trace.timed or time_us - previous_us <= _SECOND_US:
            return False
        tick, takes = self._policy.tick, not self._policy.observes_bios
        begin = previous_us // 1000
        seconds = min((time_us - previous_us) // _SECOND_US, _MAX_GAP_TICKS)
        for now_ms in range(begin + 1000, begin + 1000 * seconds + 1, 1000):
            tick(now_ms)
            if takes:
                self._take(_IDLE_ITEMS, _NO_BLOCK, 0, idle=True)
        return True

    def _take(self, limit: int, oblock: int, kind: int, *, idle: bool = False) -> None:
        """Take items and carry them out."""
        get_background_work, carry_out = self._policy.get_background_work, self._carry_out
        while limit and (work := get_background_work(idle)) is not None:
            carry_out(work, oblock, kind)
            limit -= 1
