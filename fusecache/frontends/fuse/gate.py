"""The gate: we take the kernel's requests ourselves, answer the frequent ones, and leave the others to libfuse.

Theory of operation
-------------------
*Workers* take turns at the device.  The one that is there receives a request and serves it.  A request that needs no
waiting is answered on the spot, with no task switch, and its worker stays.  Whenever a request may wait, another
worker has been told before (:meth:`Gate._wake`) and takes the device over in the next pass of the scheduler.  So there
is a pass for each burst of hits, and one for each request that waits (:mod:`fusecache.frontends.fuse.polling`).

*Memory.*  A worker at the device has a piece of memory into which requests are received, so that the data of a write
begins at a page: stores that go past the page cache, and io_uring, take it from there.  It is lent to others when the
request has been answered.  A read that hits is answered from memory that all hits share, before anything else runs.

*Whoever has a request answers it, once.*  A request that is interrupted (FUSE_INTERRUPT) is served all the same, as a
disk does, so the interruption itself needs no answer.  When the kernel has given a request up, or has aborted them all,
it takes no answer (ENOENT), and nothing is left to do.

The end: the device says that there is no mount any more, libfuse ends, or somebody calls :meth:`Gate.end`.  Nothing is
received from then on.  Requests under way are served and answered, ours and libfuse's, and :meth:`Gate.serve` returns.
"""

from __future__ import annotations

import errno
import os
from time import perf_counter
from typing import TYPE_CHECKING, Final, final

import trio

from fusecache.frontends.fuse import wire
from fusecache.frontends.fuse.errnos import errno_for
from fusecache.frontends.fuse.operations import SYNC_HANDLE
from fusecache.frontends.fuse.polling import BURST_REQUESTS, BURST_SECONDS, SPIN_SECONDS, Polling
from fusecache.stores import Buffers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fusecache.datapath import Disk
    from fusecache.frontends.fuse.relay import Relay
    from fusecache.stores import Data


_MOST_WORKERS: Final = 128
"""Requests that may be under way; more of them stay in the kernel."""
_STANDING_BY: Final = 64
"""Workers that are kept although they have nothing to do: as many as there may be asynchronous requests."""
_BEFORE_DATA: Final = os.sysconf("SC_PAGESIZE") - wire.WRITE_HEADER_BYTES
"""Where a request begins in memory, so that the data of a write begins at a page."""
_MEMORY: Final = _BEFORE_DATA + wire.LEAST_MEMORY
_KEPT_MEMORY: Final = 32 * 1024 * 1024
"""Bytes of memory kept for workers to come; what was never written to takes no space."""
_NOT_NOW: Final = frozenset({errno.ENOENT, errno.EINTR})
"""The request was given up while it was received."""
_NO_MOUNT: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})
_CAPABILITY: Final = b"security.capability"
"""An attribute for which the kernel asks at each write through its page cache, and which nobody can set here."""
_NAMES: Final = {
    wire.READ: "read",
    wire.WRITE: "write",
    wire.FSYNC: "fsync",
    wire.FALLOCATE: "fallocate",
    wire.LSEEK: "lseek",
}


@final
class Gate:
    """Serves one mount.

    :param relay: libfuse's side.
    :param run_libfuse: has libfuse serve, until ``end_libfuse``.
    :param end_libfuse: has it end when it has answered what it has; may be called again.
    """

    __slots__ = (
        "_attended",
        "_buffers",
        "_burst_began",
        "_disk",
        "_end_libfuse",
        "_idle",
        "_nursery",
        "_over",
        "_polling",
        "_relay",
        "_requests",
        "_run_libfuse",
        "_woken",
        "_workers",
    )

    def __init__(
        self,
        disk: Disk,
        relay: Relay,
        run_libfuse: Callable[[], Awaitable[None]],
        end_libfuse: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._relay = relay
        self._run_libfuse = run_libfuse
        self._end_libfuse = end_libfuse
        self._polling = Polling(relay.device)
        self._buffers = Buffers(_KEPT_MEMORY)
        self._attended = False
        """Whether a worker is at the device, and not serving a request."""
        self._woken = False
        """Whether a worker was told to come, and has not run yet."""
        self._idle: list[trio.lowlevel.Task] = []
        self._workers = 0
        self._nursery: trio.Nursery
        self._requests = 0
        self._burst_began = 0.0
        self._over = False

    async def serve(self) -> None:
        """Serve until it is unmounted or :meth:`end` is called, and everything that was received has been answered."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._relay.run)
            nursery.start_soon(self._serve_rest)
            self._wake()

    def end(self) -> None:
        """Receive nothing any more."""
        if not self._over:
            self._over = True
            trio.lowlevel.notify_closing(self._relay.device)
            while self._idle:
                trio.lowlevel.reschedule(self._idle.pop())
        self._end_libfuse()

    def check(self) -> None:
        """Assert that somebody is at the device, or will be."""
        self._polling.check()
        self._buffers.check()
        assert 0 <= len(self._idle) <= _STANDING_BY
        assert len(self._idle) <= self._workers <= _MOST_WORKERS
        assert self._over or self._attended or self._woken or self._workers == _MOST_WORKERS

    async def _serve_rest(self) -> None:
        """Have libfuse serve what is left to it; if it ends by itself (it refuses to begin, say), so do we."""
        await self._run_libfuse()
        self.end()
        self._relay.end()

    # Workers

    def _wake(self) -> None:
        """Have another worker come to the device."""
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
        elif self._workers < _MOST_WORKERS:
            self._workers += 1
            self._nursery.start_soon(self._work)
        else:
            return
        self._woken = True

    async def _work(self) -> None:
        """Serve requests whenever the device is free, until the end or until there are workers enough."""
        try:
            self._come()
            while not self._over:
                if not self._attended:
                    with self._buffers.lent(_MEMORY) as memory:
                        await self._serve(memory[_BEFORE_DATA:])
                elif len(self._idle) < _STANDING_BY:
                    await self._stand_by()
                    self._come()
                else:
                    break
        finally:
            self._workers -= 1

    def _come(self) -> None:
        """Be the worker that was told to come: a pass of the scheduler has begun."""
        self._woken = False
        self._begin_burst()

    async def _stand_by(self) -> None:
        task = trio.lowlevel.current_task()

        def leave(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle.append(task)
        await trio.lowlevel.wait_task_rescheduled(leave)

    # At the device

    async def _serve(self, memory: memoryview) -> None:
        """Receive and serve requests until another worker has come, or the end.

        :param memory: where to; 80 bytes before the beginning of a page.
        """
        device, receive, send = self._relay.device, os.readv, os.writev
        read, write = self._disk.read, self._disk.write
        into, data = (memory,), memory[wire.WRITE_HEADER_BYTES :]
        request, head, written = wire.REQUEST.unpack_from, wire.ANSWER.pack, wire.WRITTEN.pack
        began, was_quick = perf_counter(), False
        while not (self._attended or self._over):
            self._attended = True
            try:
                length = receive(device, into)
            except BlockingIOError:
                await self._wait(was_quick)
                began = perf_counter()
                continue
            except OSError as exc:
                self._attended = False
                self._heed(exc)
                continue
            self._attended = False
            if not self._woken:
                self._wake()
            opcode, number, handle, offset, size = request(memory)
            answer: tuple[Data, ...]
            try:
                if opcode == wire.READ:
                    content = await read(offset, size)
                    answer = (head(16 + len(content), 0, number), content)
                elif opcode == wire.WRITE:
                    await write(offset, data[:size])
                    if handle == SYNC_HANDLE:
                        await self._disk.flush()
                    answer = (written(24, 0, number, size),)
                else:
                    answer = await self._serve_rare(opcode, number, memory[:length])
            except Exception as exc:  # noqa: BLE001 - whatever it is, the kernel is answered
                answer = (wire.refusal(number, errno_for(exc, _NAMES.get(opcode, f"opcode {opcode}"))),)
            if answer:
                try:
                    send(device, answer)
                except OSError as exc:
                    self._relay.unanswered(exc)
            self._requests += 1
            now = perf_counter()
            was_quick = now - began < SPIN_SECONDS
            began = now
            if self._requests >= BURST_REQUESTS or now - self._burst_began > BURST_SECONDS:
                await self._give_turn()

    async def _wait(self, was_quick: bool) -> None:
        """Wait, at the device, until there is a request or the end."""
        try:
            if not (was_quick and self._polling.is_soon_readable()):
                await trio.lowlevel.wait_readable(self._relay.device)
                self._begin_burst()
        except trio.ClosedResourceError:
            pass
        finally:
            self._attended = False

    async def _give_turn(self) -> None:
        """Let every other task run; at the device meanwhile, or others would serve burst after burst before them."""
        if not (self._attended or self._over):
            self._attended = True
            try:
                await trio.lowlevel.checkpoint()
            finally:
                self._attended = False
            self._begin_burst()

    def _begin_burst(self) -> None:
        self._requests = 0
        self._burst_began = perf_counter()

    def _heed(self, error: OSError) -> None:
        """Do what the kernel says in place of a request."""
        if error.errno in _NO_MOUNT:
            self.end()
        elif error.errno not in _NOT_NOW:
            raise error

    async def _serve_rare(self, opcode: int, number: int, request: memoryview) -> tuple[bytes, ...]:
        """Serve what is neither a read nor a write; returns the answer, if it is ours to give."""
        if opcode == wire.FSYNC:
            await self._disk.flush()
            return (wire.refusal(number, 0),)
        if opcode == wire.GETXATTR and wire.attribute(request) == _CAPABILITY:
            return (wire.refusal(number, errno.ENODATA),)
        if opcode == wire.FALLOCATE:
            return (wire.refusal(number, await self._allocate(wire.allocation(request))),)
        if opcode == wire.LSEEK:
            return (await self._seek(number, wire.seek(request)),)
        if opcode != wire.INTERRUPT:
            await self._relay.hand_over(opcode, number, request)
        return ()

    async def _allocate(self, asked: wire.Allocation) -> int:
        """Do what a disk can do of a fallocate(2); returns the errno."""
        code, length = asked.zeroed(self._disk.size)
        if length:
            await self._disk.discard(asked.offset, length)
            if asked.handle == SYNC_HANDLE:
                await self._disk.flush()
        return code

    async def _seek(self, number: int, asked: wire.Seek) -> bytes:
        """Find data or a hole; returns the answer."""
        if asked.whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            return wire.refusal(number, errno.EINVAL)
        place = await self._disk.seek(asked.offset, hole=asked.whence == os.SEEK_HOLE)
        return wire.refusal(number, errno.ENXIO) if place is None else wire.SOUGHT.pack(24, 0, number, place)
