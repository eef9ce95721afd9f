"""Dropping blocks whose copies in the cache cannot be read, behind the back of who found that out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from fusecache.errors import FusecacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger(__name__)


class Unreadable:
    """The blocks of one volume that are to be dropped.

    :param drop: drops a block.
    """

    __slots__ = ("_drop", "_oblocks", "_reported")

    def __init__(self, drop: Callable[[int], Awaitable[None]]) -> None:
        self._drop = drop
        self._oblocks: set[int] = set()
        self._reported = trio.Event()

    def report(self, oblock: int) -> None:
        """Have :meth:`run` drop a block; returns at once."""
        self._oblocks.add(oblock)
        self._reported.set()

    async def run(self) -> None:
        """Drop what is reported until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._reported.wait()
                self._reported = trio.Event()
                while self._oblocks:
                    nursery.start_soon(self._try_to_drop, self._oblocks.pop())

    async def _try_to_drop(self, oblock: int) -> None:
        try:
            await self._drop(oblock)
        except FusecacheError as exc:
            log.warning("unreadable block not dropped", oblock=oblock, error=str(exc))
