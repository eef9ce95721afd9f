"""Having the kernel forget what it keeps of the image.

Theory of operation
-------------------
With ``--page-cache image`` the kernel answers reads from its own pages, and programs that map the image into their
memory (mmap) have pages of it in any case.  The kernel believes that only writes which it has seen change the image.
Three things change it otherwise: rot that was read is healed; a block is dropped because nobody knows what its copy
holds; a cache loses writes.  After any of them all pages of the image are dropped.

Dropping waits for pages that are just being read, or written through ``mmap``, and those need the event loop.  So a
thread does it.  Nobody who holds a block does it or waits for it.

*The mount does not end while pages are being dropped* (:meth:`KernelPages.settle`).
  What must hold: the kernel answers the thread that has asked.  A thread that waits there for a page which nobody
  serves any more could not even be killed.
  What it costs: the end waits for the slowest read that was under way.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

_PAUSE_SECONDS: Final = 1.0


@final
class KernelPages:
    """The kernel's pages of the image; :meth:`run` must be running for anything to happen.

    :param drop: asks the kernel; called in a thread, raises OSError.
    """

    __slots__ = ("_ask", "_asked", "_busy", "_settled")

    def __init__(self, drop: Callable[[], None]) -> None:
        self._ask = drop
        self._asked = trio.Event()
        self._busy = trio.Lock()
        self._settled = False

    def forget(self) -> None:
        """Have the pages dropped, soon: the image reads differently now, although nobody has written to it."""
        self._asked.set()

    async def run(self) -> None:
        """Drop the pages whenever :meth:`forget` asks for it, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            async with self._busy:
                if not self._settled:
                    await self._drop()

    async def _drop(self) -> None:
        try:
            await trio.to_thread.run_sync(self._ask)
        except OSError as exc:
            if exc.errno != errno.ENOENT:  # nobody has looked at the image yet
                log.error("the kernel keeps pages of the image that are out of date", error=exc.strerror)
        except RuntimeError as exc:  # the system gives no thread
            log.warning("the kernel keeps pages of the image that are out of date, for now", error=str(exc))
            await trio.sleep(_PAUSE_SECONDS)
            self.forget()

    async def settle(self) -> None:
        """Wait until the kernel has dropped what it was asked to drop; it will not be asked again."""
        self._settled = True
        async with self._busy:
            pass
