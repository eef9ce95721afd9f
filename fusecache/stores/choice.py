"""Which store and engine are the right ones for a file: see *Storage engines* in docs/performance.rst.

It is io_uring, wherever the kernel has it.  Files on a FUSE file system (sshfs, rclone) need more.  FUSE has at most 12
asynchronous requests under way, unless its owner allows more.  It has only one synchronous write to a file under way,
but any number of synchronous reads.  So there, threads do the reads that would have to queue.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import structlog

from fusecache.config import PageCache
from fusecache.linux import is_in_memory
from fusecache.stores.direct import open_past_page_cache
from fusecache.stores.engine import ThreadEngine
from fusecache.stores.file import FileStore
from fusecache.stores.ring import RingEngine

if TYPE_CHECKING:
    from contextlib import ExitStack

    from fusecache.stores.base import Data, Store
    from fusecache.stores.engine import Engine

log = structlog.get_logger(__name__)

MOUNTS: Final = Path("/proc/self/mountinfo")
ASYNCHRONOUS: Final = 12
"""Requests that the kernel has under way in the background of a FUSE mount (max_background)."""


def open_file_store(
    fd: int, *, name: str, size: int, start: int = 0, page_cache: PageCache, resources: ExitStack
) -> tuple[Store, Engine]:
    """Make a store over an open file or device, with an engine of its own; returns both.

    :param fd: stays the caller's.
    :param page_cache: what the host's page cache is to hold; the store goes past it if that is not the stores' content.
    :param resources: closes what is opened here.
    :raises RefusedError: its file system cannot do without the page cache.
    """
    engine = make_engine(fd)
    resources.callback(engine.close)
    if page_cache is PageCache.STORES:
        return FileStore(fd, name=name, size=size, start=start, engine=engine), engine
    store = open_past_page_cache(fd, name=name, size=size, start=start, resources=resources, engine=engine)
    return store, engine


def is_read_ahead(fd: int, page_cache: PageCache) -> bool:
    """Tell whether the kernel reads ahead of a store over this file.

    In front of a FUSE file system it does so to no great depth, or not at all, which cannot be told from outside.
    """
    return not is_on_fuse(fd) and (page_cache is PageCache.STORES or is_in_memory(fd))


def make_engine(fd: int) -> Engine:
    """Make an engine for one store, of the fastest kind that works here.

    Each store needs its own: a store that hangs must not take the room of the others.
    """
    try:
        ring = RingEngine()
    except OSError as exc:
        log.warning("no io_uring: threads do the I/O that waits", reason=exc.strerror)
        return ThreadEngine()
    return EngineOverFuse(ring) if is_on_fuse(fd) else ring


def is_on_fuse(fd: int) -> bool:
    """Tell whether a file lies on a FUSE file system; statfs(2) would ask the file system, which may not answer."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        words = line.split(" ")
        if words[2] == number:
            kind = words[words.index("-") + 1]
            return kind in {"fuse", "fuseblk"} or kind.startswith("fuse.")
    return False


@final
class EngineOverFuse:
    """Another engine, asynchronous; threads do the reads that are too many for FUSE."""

    __slots__ = ("_asynchronous", "_engine", "_threads", "name", "parallelism")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadEngine()
        self._asynchronous = 0
        self.name = engine.name
        self.parallelism = ASYNCHRONOUS + self._threads.parallelism
        """Of reads; writes to one file FUSE takes one after the other, or 12 at a time."""

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        if self._asynchronous >= ASYNCHRONOUS:
            await self._threads.read(fd, into, position)
            return
        self._asynchronous += 1
        try:
            await self._engine.read(fd, into, position)
        finally:
            self._asynchronous -= 1

    async def write(self, fd: int, data: Data, position: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        self._asynchronous += 1
        try:
            await self._engine.write(fd, data, position)
        finally:
            self._asynchronous -= 1

    async def fdatasync(self, fd: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        await self._engine.fdatasync(fd)

    async def discard(self, fd: int, position: int, length: int) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        await self._engine.discard(fd, position, length)

    def close(self) -> None:
        """See :class:`fusecache.stores.engine.Engine`."""
        assert not self._asynchronous
        self._engine.close()
