"""The gate's workers between a kernel and a disk that the test plays."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import ParamSpec, cast

import pytest
import trio
import trio.testing

from fusecache.datapath import Disk
from fusecache.errors import ReadOnlyError, StoreError
from fusecache.frontends.fuse import gate as fuse_gate
from fusecache.frontends.fuse import polling, wire
from fusecache.frontends.fuse.gate import Gate
from fusecache.frontends.fuse.operations import SYNC_HANDLE
from fusecache.linux import pin
from fusecache.stores.file import PAGE
from tests.unit.frontends.fake_kernel import RECORDED, FakeKernel, asking, faked

P = ParamSpec("P")


class FakeDisk:
    """Answers at once what is below ``slow``; from there on when ``released``.

    :ivar error: what writes and fsyncs fail with.
    """

    def __init__(self) -> None:
        self.content = bytearray(range(256)) * 64
        self.slow = self.size = len(self.content)
        self.discarded: list[tuple[int, int]] = []
        self.sought: list[tuple[int, bool]] = []
        self.place: int | None = 300
        self.released = trio.Event()
        self.error: Exception | None = None
        self.under_way = 0
        self.most_under_way = 0
        self.served = 0
        self.flushes = 0
        self.addresses: list[int] = []
        self.on_read: Callable[[], object] = lambda: None

    async def read(self, offset: int, length: int) -> bytes:
        self.served += 1
        self.on_read()
        await self._wait(offset)
        return bytes(self.content[offset : offset + length])

    async def write(self, offset: int, data: memoryview) -> int:
        self.addresses.append(pin(data)[1])
        before = bytes(data)
        await self._wait(offset)
        if self.error is not None:
            raise self.error
        assert data == before, "somebody else has the memory"
        self.content[offset : offset + len(data)] = data
        return len(data)

    async def discard(self, offset: int, length: int) -> None:
        if self.error is not None:
            raise self.error
        self.discarded.append((offset, length))

    async def seek(self, offset: int, *, hole: bool) -> int | None:
        self.sought.append((offset, hole))
        return self.place

    async def flush(self) -> None:
        if self.error is not None:
            raise self.error
        self.flushes += 1

    async def _wait(self, offset: int) -> None:
        if offset < self.slow:
            return
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.released.wait()
        finally:
            self.under_way -= 1


class Libfuse:
    """Serves until it is to end; ``error`` ends it otherwise."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.ends = 0
        self.error: Exception | None = None

    async def run(self) -> None:
        if self.error is not None:
            await trio.lowlevel.checkpoint()
            raise self.error
        await self.ended.wait()

    def end(self) -> None:
        self.ends += 1
        self.ended.set()


class World:
    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.disk = FakeDisk()
        self.libfuse = Libfuse()
        self.gate = Gate(cast("Disk", self.disk), kernel.relay, self.libfuse.run, self.libfuse.end)

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self.gate.check()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    with faked(monkeypatch) as kernel:
        yield kernel


def in_trio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            with trio.fail_after(20):
                await test(*args, **kwargs)

        trio.run(limited)

    return run


def reading(number: int, offset: int = 0, size: int = 16) -> bytes:
    return asking("READ", number, offset, size)


@in_trio
async def test_reads_writes_and_fsyncs(kernel: FakeKernel) -> None:
    world = World(kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(
            asking("WRITE", 2, 512, data=b"new" * 100),
            reading(4, 510, 8),
            asking("FSYNC", 6),
            asking("SYNC_WRITE", 8, 0, data=b"durable"),
            reading(10, len(world.disk.content) - 4, 100),
        )
        await world.settle()
        written, read, synced, durable, last = kernel.answers()
        assert wire.WRITTEN.unpack(written) == (24, 0, 2, 300)
        assert read == wire.ANSWER.pack(24, 0, 4) + b"\xfe\xffnewnew"
        assert synced == wire.refusal(6, 0)
        assert wire.WRITTEN.unpack(durable) == (24, 0, 8, 7)
        assert last == wire.ANSWER.pack(20, 0, 10) + b"\xfc\xfd\xfe\xff"
        assert world.disk.flushes == 2
        world.gate.end()


@in_trio
async def test_data_begins_at_a_page_and_the_largest_write_fits(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.disk.content = bytearray(wire.MOST_WRITTEN)
    world.disk.slow = 1
    data = bytes(range(256)) * 200  # sockets take no more of such messages at a time; the kernel does
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(*(asking("WRITE", number, 1, data=data) for number in (2, 4, 6)))
        await world.settle()
        assert len(set(world.disk.addresses)) == 3
        assert all(address % PAGE == 0 for address in world.disk.addresses)
        world.disk.released.set()
        await world.settle()
        assert len(kernel.answers()) == 3
        world.gate.end()
    assert fuse_gate._MEMORY - fuse_gate._BEFORE_DATA == wire.LEAST_MEMORY


@in_trio
async def test_a_request_that_waits_holds_up_nobody(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.disk.slow = 1000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(reading(2, 1000), *(reading(number) for number in range(4, 24, 2)))
        await world.settle()
        assert list(kernel.codes()) == list(range(4, 24, 2))
        world.disk.released.set()
        await world.settle()
        assert list(kernel.codes()) == [2]
        world.gate.end()


@in_trio
async def test_writers_of_the_same_sectors_are_under_way_side_by_side(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.disk.slow = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(*(asking("WRITE", 2 + number, 0, data=bytes([number]) * 512) for number in range(40)))
        await world.settle()
        assert world.disk.under_way == 40
        world.disk.released.set()
        await world.settle()
        assert len(kernel.codes()) == 40
        world.gate.end()
    assert len(set(world.disk.content[:512])) == 1


@in_trio
async def test_requests_beyond_the_most_wait_in_the_kernel(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_gate, "_MOST_WORKERS", 10)
    world = World(kernel)
    world.disk.slow = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(*(reading(2 + number) for number in range(25)))
        await world.settle()
        assert world.disk.under_way == 10
        world.disk.released.set()
        await world.settle()
        assert len(kernel.codes()) == 25
        world.gate.end()


@in_trio
async def test_idle_workers_are_few_and_keep_no_memory(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_gate, "_STANDING_BY", 3)
    world = World(kernel)
    world.disk.slow = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(*(reading(2 + number) for number in range(40)))
        await world.settle()
        world.disk.released.set()
        await world.settle()
        assert world.gate._workers <= 4
        assert world.gate._buffers._kept <= fuse_gate._KEPT_MEMORY
        world.gate.end()
    assert world.gate._workers == 0


@in_trio
async def test_hits_need_one_worker_and_one_that_stands_by(kernel: FakeKernel) -> None:
    world = World(kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        for _ in range(20):
            kernel.ask(*(reading(2 + number) for number in range(50)))
            await world.settle()
            assert len(kernel.codes()) == 50
        assert world.gate._workers == 2
        world.gate.end()


@in_trio
async def test_others_get_their_turn_while_requests_pour(kernel: FakeKernel) -> None:
    world = World(kernel)
    turns: list[int] = []
    asked = 0

    def ask_more() -> None:
        nonlocal asked
        kernel.answers()
        if asked < 5000:
            asked += 1
            kernel.ask(reading(2 + asked))

    async def other() -> None:
        while world.disk.served < 5000:
            turns.append(world.disk.served)
            await trio.lowlevel.checkpoint()

    world.disk.on_read = ask_more
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        ask_more()
        await other()
        world.gate.end()
    assert max(after - before for before, after in pairwise(turns)) <= 2 * polling.BURST_REQUESTS
    assert len(turns) >= 5000 // polling.BURST_REQUESTS


@in_trio
async def test_requests_that_come_at_once_are_polled_for(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request comes while it is polled for, each time; and nobody sleeps."""
    world = World(kernel)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1e-6
        return now

    waits = 0
    wait_readable = trio.lowlevel.wait_readable

    async def counted(fd: int) -> None:
        nonlocal waits
        waits += fd == kernel.device
        await wait_readable(fd)

    monkeypatch.setattr(fuse_gate, "perf_counter", clock)
    monkeypatch.setattr(polling, "perf_counter", clock)
    monkeypatch.setattr(trio.lowlevel, "wait_readable", counted)
    monkeypatch.setattr("os.sched_yield", lambda: kernel.ask(reading(2)) if world.disk.served < 500 else None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(reading(2))
        while world.disk.served < 500:
            await trio.lowlevel.checkpoint()
        world.gate.end()
    assert waits <= 2


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("dead"), errno.EIO),
        (ReadOnlyError("no"), errno.EROFS),
        (OSError(errno.ENOENT, "a bug"), errno.EIO),
        (RuntimeError("a bug"), errno.EIO),
    ],
)
@in_trio
async def test_whatever_fails_is_answered_and_ends_nothing(kernel: FakeKernel, error: Exception, code: int) -> None:
    world = World(kernel)
    world.disk.error = error
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(asking("WRITE", 2), asking("FSYNC", 4), asking("SYNC_WRITE", 6), reading(8))
        await world.settle()
        assert kernel.codes() == {2: code, 4: code, 6: code, 8: 0}
        world.gate.end()


@in_trio
async def test_discards_are_served_as_far_as_a_disk_can_do_them(kernel: FakeKernel) -> None:
    world = World(kernel)
    growing = bytearray(asking("ZERO", 6))
    growing[48:56] = (world.disk.size - 1).to_bytes(8, "little")
    plain = bytearray(asking("ZERO", 8))
    plain[64:68] = bytes(4)
    synchronous = bytearray(asking("ZERO", 10))
    synchronous[40] = SYNC_HANDLE
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(asking("FALLOCATE", 2), asking("ZERO", 4), bytes(growing), bytes(plain))
        await world.settle()
        assert kernel.codes() == {2: 0, 4: 0, 6: errno.EINVAL, 8: errno.EOPNOTSUPP}
        assert world.disk.discarded == [(4096, 8192)], "the other one lies behind the end"
        flushes = [world.disk.flushes]
        kernel.ask(bytes(synchronous))
        await world.settle()
        assert kernel.codes() == {10: 0}
        assert [*flushes, world.disk.flushes] == [0, 1]
        world.disk.error = ReadOnlyError("nothing is written")
        kernel.ask(asking("ZERO", 12))
        await world.settle()
        assert kernel.codes() == {12: errno.EROFS}
        world.gate.end()


@in_trio
async def test_seeks_are_answered_with_a_place(kernel: FakeKernel) -> None:
    world = World(kernel)
    wrong = bytearray(asking("LSEEK", 6))
    wrong[56] = os.SEEK_END
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(asking("LSEEK", 2))
        await world.settle()
        assert kernel.answers() == [wire.SOUGHT.pack(24, 0, 2, 300)]
        assert world.disk.sought == [(100, True)]
        world.disk.place = None
        kernel.ask(asking("LSEEK", 4), bytes(wrong))
        await world.settle()
        assert kernel.codes() == {4: errno.ENXIO, 6: errno.EINVAL}
        world.gate.end()


@in_trio
async def test_what_is_asked_at_each_write_is_answered_here_and_other_attributes_are_libfuses(
    kernel: FakeKernel,
) -> None:
    world = World(kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(asking("CAPABILITY", 2), asking("STATISTICS", 4))
        await world.settle()
        assert kernel.codes() == {2: errno.ENODATA}
        assert os.read(kernel.session_fd, 4096) == asking("STATISTICS", 4)
        world.gate.end()


@in_trio
async def test_interrupted_requests_are_served_and_the_interruption_is_not_answered(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.disk.slow = 0
    interruption = bytearray(RECORDED["FSYNC"])
    interruption[4] = wire.INTERRUPT
    interruption[8] = 3
    interruption[40:48] = (2).to_bytes(8, "little")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(reading(2), bytes(interruption))
        await world.settle()
        assert kernel.answers() == []
        assert world.disk.under_way == 1
        world.disk.released.set()
        await world.settle()
        assert kernel.codes() == {2: 0}
        world.gate.end()


@in_trio
async def test_requests_that_were_given_up_leave_nothing_behind(
    kernel: FakeKernel, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(kernel)
    world.disk.slow = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.gone = {2, 4}
        kernel.ask(reading(2), asking("WRITE", 4), reading(6))
        await world.settle()
        kernel.errors.extend([errno.ENOENT, errno.EINTR])
        kernel.ask(reading(8))
        await world.settle()
        world.disk.released.set()
        await world.settle()
        assert kernel.codes() == {6: 0, 8: 0}
        world.gate.end()
    assert not capsys.readouterr().out


# The end


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ECONNABORTED])
@in_trio
async def test_it_ends_when_the_kernel_says_so_and_serves_what_it_has(kernel: FakeKernel, code: int) -> None:
    world = World(kernel)
    world.disk.slow = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(asking("WRITE", 2, 0, data=b"last"))
        await world.settle()
        kernel.errors.append(code)
        kernel.ask(reading(4))  # which nobody receives
        await world.settle()
        assert world.libfuse.ends
        assert nursery.child_tasks
        world.disk.released.set()
        await world.settle()
        assert not nursery.child_tasks
    assert kernel.codes() == {2: 0}
    assert world.disk.content[:4] == b"last"


@pytest.mark.parametrize("waiting", [0, 5])
@in_trio
async def test_it_ends_when_it_is_told_so(kernel: FakeKernel, waiting: int) -> None:
    world = World(kernel)
    world.disk.slow = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        kernel.ask(*(reading(2 + number) for number in range(waiting)))
        await world.settle()
        world.gate.end()
        world.gate.end()
        await world.settle()
        assert bool(nursery.child_tasks) == bool(waiting)
        world.disk.released.set()
    assert len(kernel.codes()) == waiting
    world.gate.check()


@in_trio
async def test_told_so_before_it_has_begun(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.gate.end()
    kernel.ask(reading(2))
    await world.gate.serve()
    assert kernel.answers() == []


@in_trio
async def test_told_so_by_a_request_in_the_middle_of_a_burst(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.disk.on_read = lambda: world.gate.end() if world.disk.served == 10 else None
    kernel.ask(*(reading(2 + number) for number in range(20)))
    await world.gate.serve()
    assert len(kernel.codes()) == 10


@in_trio
async def test_it_ends_when_libfuse_does(kernel: FakeKernel) -> None:
    world = World(kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        await world.settle()
        world.libfuse.ended.set()
        await world.settle()
        assert not nursery.child_tasks


@in_trio
async def test_libfuse_that_fails_ends_it_with_its_error(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.libfuse.error = RuntimeError("died")
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="died")):
        await world.gate.serve()
    assert world.gate._workers == 0


@in_trio
async def test_a_device_that_fails_ends_it_with_its_error(kernel: FakeKernel) -> None:
    world = World(kernel)
    kernel.errors.append(errno.EINVAL)
    with pytest.RaisesGroup(OSError):
        await world.gate.serve()
    assert not world.gate._attended


@in_trio
async def test_workers_that_are_cancelled_end_although_requests_pour(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.disk.slow = 100
    kernel.ask(*(reading(2 + number, number) for number in range(150)))
    world.disk.on_read = lambda: kernel.ask(reading(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.gate.serve)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert world.gate._workers == 0
    assert not world.gate._idle
    assert not world.gate._attended
    assert world.disk.under_way == 0
    world.gate._buffers.check()
