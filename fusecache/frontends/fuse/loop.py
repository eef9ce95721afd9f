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

*The descriptor is polled first* (:mod:`fusecache.frontends.fuse.polling`).

This is the way of mounts without the gate (:mod:`fusecache.frontends.fuse.gate`).
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from fusecache.frontends.fuse.polling import BURST_REQUESTS, BURST_SECONDS, SPIN_SECONDS, Polling

if TYPE_CHECKING:
    from types import TracebackType

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
        "_polling",
        "_requests",
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
        self._fd = -1  # none yet, and so no polling of it
        self._polling: Polling

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
            self._fd, self._polling = fd, Polling(fd)
        self._requests += 1
        polling = self._polling
        if not (polling.is_readable(0) or (self._was_quick and polling.is_soon_readable())):
            await trio.lowlevel.wait_readable(fd)
            self._begin_burst()
        self._taken = perf_counter()

    def _unlock(self) -> None:
        self._locked = False
        if self._standby:
            self._standby.unpark()

    def _begin_burst(self) -> None:
        self._requests = 0
        self._burst_began = perf_counter()
