"""How the daemon waits for requests: it looks for the next one before it asks the scheduler.

Theory of operation
-------------------
pyfuse3's workers share one descriptor.  One after the other they lock it, wait until it is readable, unlock it, receive
one request and serve it.  With trio the locking costs a pass of the scheduler and the waiting costs another, with
three system calls that only ask whether there is a request; at any depth above one there nearly always is one.  pyfuse3
looks the name ``trio`` up in its own namespace.  So :func:`serve_requests` puts a :class:`_Front` there for as long as
it runs.  The front does what trio does, but for two things:

*A worker may take the lock again right after it gave it back.*  A worker that answered without waiting goes on with the
next request.  Another worker stands by at the lock all the time (without one, pyfuse3 would start a new worker for each
request).  It is woken, but it gets the lock only when the first worker waits for something, or when a *burst* ends.

*The descriptor is polled first*, and for some 50 microseconds more if the last request took no longer than that.  The
client that just had its answer is about to ask again, and a processor that went to sleep takes about as long to wake.
Where requests come more slowly the polling is left out, for longer each time that it found nothing.  So an idle mount
costs nothing, and a slow one next to nothing.

What must hold: in each pass of the scheduler every other task that is ready runs (migrations, flushes, ticks).  Between
two passes there is one burst: at most :data:`BURST_REQUESTS` requests, and no more once :data:`BURST_SECONDS` have
passed.  What it costs: one pass for each burst, and one ``poll`` for each request.
"""

from __future__ import annotations

import os
import select
from time import perf_counter
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

if TYPE_CHECKING:
    from types import TracebackType

BURST_REQUESTS: Final = 64
"""Requests of one burst: they are answered before any other task runs."""
BURST_SECONDS: Final = 0.001
"""How long a burst may take; its last request may take longer."""
SPIN_SECONDS: Final = 50e-6
"""How long the descriptor is polled for the next request of a client that just had its answer."""
_MOST_SKIPPED: Final = 255
"""How often in a row polling is left out at most, after it was in vain."""
_STANDING_BY: Final = 8
"""Workers that are kept although they have nothing to do."""


async def serve_requests() -> None:
    """Serve requests until the image is unmounted or :func:`pyfuse3.terminate` is called."""
    pyfuse3.trio = _Front()  # type: ignore[attr-defined]
    try:
        await pyfuse3.main(min_tasks=_STANDING_BY)
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]


class _Front:
    """What pyfuse3 takes for the package trio."""

    def __init__(self) -> None:
        self.lowlevel = _Lowlevel()

    def Lock(self) -> _Lowlevel:  # noqa: N802 - trio's name
        return self.lowlevel

    def __getattr__(self, name: str) -> object:
        return getattr(trio, name)


class _Lowlevel:
    """What pyfuse3 takes for ``trio.lowlevel``, and the lock around the descriptor as well."""

    __slots__ = (
        "_burst_began",
        "_fd",
        "_locked",
        "_poll",
        "_requests",
        "_skip",
        "_skipped",
        "_standby",
        "_taken",
        "_was_quick",
    )

    def __init__(self) -> None:
        self._locked = False
        self._standby = trio.lowlevel.ParkingLot()
        self._requests = 0
        self._burst_began = perf_counter()
        self._taken = 0.0
        self._was_quick = False
        self._skip = 0
        self._skipped = 0
        self._fd = -1
        self._poll = select.poll().poll

    def __getattr__(self, name: str) -> object:
        return getattr(trio.lowlevel, name)

    async def __aenter__(self) -> None:
        """Lock the descriptor; at the end of a burst let every other task run first."""
        now = perf_counter()
        was_quick = now - self._taken < SPIN_SECONDS
        while self._locked:
            was_quick = False
            await self._standby.park()
        self._locked = True
        self._was_quick = was_quick
        if self._requests >= BURST_REQUESTS or now - self._burst_began > BURST_SECONDS:
            # Locked meanwhile: otherwise those who stand by would serve burst after burst before anybody else runs.
            try:
                await trio.lowlevel.checkpoint()
            except BaseException:
                self._unlock()
                raise
            self._begin_burst()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock it; a worker that stands by looks again when the scheduler next runs."""
        self._unlock()

    async def wait_readable(self, fd: int) -> None:
        """Wait until there is a request; raises ClosedResourceError when there will be none any more."""
        if fd != self._fd:
            self._listen_to(fd)
        self._requests += 1
        if not (self._poll(0) or (self._was_quick and self._is_soon_readable())):
            await trio.lowlevel.wait_readable(fd)
            self._begin_burst()
        self._taken = perf_counter()

    def _unlock(self) -> None:
        self._locked = False
        if self._standby:
            self._standby.unpark()

    def _listen_to(self, fd: int) -> None:
        descriptor = select.poll()
        descriptor.register(fd, select.POLLIN)
        self._poll = descriptor.poll
        self._fd = fd

    def _begin_burst(self) -> None:
        self._requests = 0
        self._burst_began = perf_counter()

    def _is_soon_readable(self) -> bool:
        """Poll for a short while, unless that was in vain the last times; tell whether there is a request."""
        if self._skipped < self._skip:
            self._skipped += 1
            return False
        end = perf_counter() + SPIN_SECONDS
        while perf_counter() < end:
            os.sched_yield()  # to the client, if it has to share our processor
            if self._poll(0):
                self._skip = self._skipped = 0
                return True
        self._skip = min(2 * self._skip + 1, _MOST_SKIPPED)
        self._skipped = 0
        return False
