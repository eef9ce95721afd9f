"""Asking for what may wait for ever, such as the size of a file on a server that is away.

A thread asks.  Whoever wants to know waits a second for it at most, and then goes by what was known before.  There is
one thread: a server that never answers does not use up those that others need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import structlog
import trio

log = structlog.get_logger(__name__)

PATIENCE_SECONDS: Final = 1.0

Answer = TypeVar("Answer")


class Patience(Generic[Answer]):
    """One question.

    :param ask: what may wait; may raise OSError.
    :param known: the answer for as long as there is no other.
    """

    def __init__(self, ask: Callable[[], Answer], known: Answer) -> None:
        self._ask = ask
        self._known = known
        self._limiter: trio.CapacityLimiter | None = None

    async def answer(self) -> Answer:
        """Return the answer, or the last one if there is none within a second."""
        if self._limiter is None:
            self._limiter = trio.CapacityLimiter(1)  # which only a running trio can make
        with trio.move_on_after(PATIENCE_SECONDS):
            try:
                self._known = await trio.to_thread.run_sync(self._ask, abandon_on_cancel=True, limiter=self._limiter)
            except (OSError, RuntimeError) as exc:  # RuntimeError: the system gives no thread
                log.info("goes by what was known before", reason=str(exc))
        return self._known
