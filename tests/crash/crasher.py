"""What crashes a running history: it stops every few steps of any task, and has what a crash would leave judged."""

from __future__ import annotations

import random
from collections.abc import Callable

import trio


class Crasher(trio.abc.Instrument):
    """Judges crashes while a history runs, every few steps of any task."""

    def __init__(self, rng: random.Random, gap: int, judge: Callable[[], None]) -> None:
        self._rng = rng
        self._gap = gap
        self._judge = judge
        self._left = self._next()
        self.active = False
        self.failure: BaseException | None = None

    def _next(self) -> int:
        return 1 + int(self._rng.expovariate(1 / self._gap))

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.active:
            return
        self._left -= 1
        if self._left <= 0:
            self._left = self._next()
            try:
                self._judge()
            except BaseException as exc:  # noqa: BLE001 - trio would only log what an instrument raises
                self.failure = exc
                self.active = False
