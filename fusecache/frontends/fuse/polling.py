"""Looking for the next request before anybody sleeps; and when the others have their turn.

Theory of operation
-------------------
*The descriptor is polled first*, and for some 50 microseconds more if the last request took no longer than that.  The
client that just had its answer is about to ask again, and a processor that went to sleep takes about as long to wake.
Where requests come more slowly the polling is left out, for longer each time that it found nothing.  So an idle mount
costs nothing, and a slow one next to nothing.

What must hold: in each pass of the scheduler every other task that is ready runs (migrations, flushes, ticks).  Between
two passes there is one burst: at most :data:`BURST_REQUESTS` requests, and no more once :data:`BURST_SECONDS` have
passed.  What it costs: one pass for each burst.
"""

from __future__ import annotations

import os
import select
from time import perf_counter
from typing import Final, final

BURST_REQUESTS: Final = 64
"""Requests of one burst: they are answered before any other task runs."""
BURST_SECONDS: Final = 0.001
"""How long a burst may take; its last request may take longer."""
SPIN_SECONDS: Final = 50e-6
"""How long the descriptor is polled for the next request of a client that just had its answer."""
_MOST_SKIPPED: Final = 255
"""How often in a row polling is left out at most, after it was in vain."""


@final
class Polling:
    """Asks a descriptor whether it is readable.

    :ivar is_readable: tells, with 0 for an argument, whether it is now.
    """

    __slots__ = ("_skip", "_skipped", "is_readable")

    def __init__(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self.is_readable = poll.poll
        self._skip = 0
        self._skipped = 0

    def is_soon_readable(self) -> bool:
        """Poll for a short while, unless that was in vain the last times; tell whether there is a request."""
        if self._skipped < self._skip:
            self._skipped += 1
            return False
        end = perf_counter() + SPIN_SECONDS
        while perf_counter() < end:
            os.sched_yield()  # to the client, if it has to share our processor
            if self.is_readable(0):
                self._skip = self._skipped = 0
                return True
        self._skip = min(2 * self._skip + 1, _MOST_SKIPPED)
        self._skipped = 0
        return False

    def check(self) -> None:
        """Assert that polling is left out for a while only."""
        assert 0 <= self._skipped <= self._skip <= _MOST_SKIPPED
