"""Being asked to end: SIGTERM and SIGINT, whenever they come.

Theory of operation
-------------------
The handlers stay from before anything is opened until everything is closed, so that no second or third signal finds
the process without them and kills it while it makes things safe.  What a signal does depends on when it comes:

* before there is a mount (:meth:`EndRequest.interrupting`), it raises, wherever that is: taking space for a cache or
  looking at an origin may take long, and what was begun is undone;
* while the mount is served, it wakes the task that ends it;
* during the end, nothing.
"""

from __future__ import annotations

import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, Self

import trio

from fusecache.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class EndRequest:
    """Whether this process was asked to end; made by :meth:`heeded`, inside of trio's loop, in the main thread."""

    def __init__(self) -> None:
        self._came = trio.Event()
        self._loop = trio.lowlevel.current_trio_token()
        self._may_raise = False
        self.name = ""
        """The signal by which it was asked first."""

    @classmethod
    @contextmanager
    def heeded(cls) -> Iterator[Self]:
        """Heed the signals within this block."""
        request = cls()
        with ExitStack() as before:
            for number in _SIGNALS:
                before.callback(signal.signal, number, signal.signal(number, request._take))
            yield request

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Have a signal raise RefusedError within this block, in which nothing may be awaited."""
        self._may_raise = True
        try:
            yield
            self.refuse()
        finally:
            self._may_raise = False

    def refuse(self) -> None:
        """Raise RefusedError if it was asked to end by now."""
        if self.name:
            msg = f"asked to end ({self.name}) before the image was ready"
            raise RefusedError(msg)

    async def wait(self) -> None:
        """Wait until it is asked to end."""
        await self._came.wait()

    def _take(self, number: int, _frame: object) -> None:
        self.name = self.name or signal.Signals(number).name
        self._loop.run_sync_soon(self._came.set)
        if self._may_raise:
            self.refuse()
