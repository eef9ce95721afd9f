"""Both engines do the same; what only a ring has is tried on a pipe, whose reads last until somebody writes."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusecache.errors import StoreError
from fusecache.linux import syscalls, uring
from fusecache.stores import choice
from fusecache.stores.choice import make_engine
from fusecache.stores.engine import Engine, ThreadEngine
from fusecache.stores.file import PAGE, FileStore
from fusecache.stores.ring import RingEngine
from tests.unit.worlds import settle, threaded

SIZE = 8 * PAGE


def ring_or_skip() -> RingEngine:
    try:
        return RingEngine()
    except OSError as exc:
        pytest.skip(f"no io_uring here: {exc.strerror}")


@pytest.fixture(params=[ThreadEngine, ring_or_skip], ids=["threads", "io_uring"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine: Engine = request.param()
    yield engine
    engine.close()


@pytest.fixture
def ring() -> Iterator[RingEngine]:
    ring = ring_or_skip()
    yield ring
    ring.check()
    ring.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    fd = os.open(tmp_path / "file", os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


# What any engine does


@given(
    writes=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 3 * PAGE), st.integers(1, 255)), max_size=6),
    kind=st.sampled_from([bytes, bytearray, lambda data: memoryview(b"xx" + data)[2:]]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(
    engine: Engine, fd: int, writes: list[tuple[int, int, int]], kind: Callable[[bytes], bytes]
) -> None:
    expected = bytearray(SIZE)

    async def replay() -> None:
        await engine.write(fd, expected, 0)
        for position, length, byte in writes:
            data = bytes([byte]) * min(length, SIZE - position)
            await engine.write(fd, kind(data), position)
            expected[position : position + len(data)] = data
            into = bytearray(len(data) + 2)
            await engine.read(fd, memoryview(into)[1:-1], position)
            assert into == b"\0" + data + b"\0"

    trio.run(replay)
    assert os.pread(fd, SIZE + 1, 0) == expected


@threaded
async def test_more_at_a_time_than_there_is_room_for(engine: Engine, fd: int) -> None:
    for page in range(8):
        os.pwrite(fd, bytes([page]) * PAGE, page * PAGE)
    buffers = [bytearray(PAGE) for _ in range(1000)]
    async with trio.open_nursery() as nursery:
        for number, buffer in enumerate(buffers):
            nursery.start_soon(engine.read, fd, buffer, number % 8 * PAGE)
    assert all(buffer == bytes([number % 8]) * PAGE for number, buffer in enumerate(buffers))


@threaded
async def test_a_file_that_ends_too_early_is_an_error(engine: Engine, fd: int) -> None:
    with pytest.raises(OSError, match=f"the file ends at {SIZE}") as caught:
        await engine.read(fd, bytearray(PAGE), SIZE - 100)
    assert caught.value.errno == errno.EIO


@threaded
async def test_failures_keep_their_number(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "read only").write_bytes(b"x")
    fd = os.open(tmp_path / "read only", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await engine.write(fd, b"y", 0)
    store = FileStore(fd, name="disk 5", size=1, engine=engine)
    with pytest.raises(StoreError, match="write of disk 5 failed: Bad file descriptor"):
        await store.write(0, b"y")
    os.close(fd)
    for operate in (engine.read(fd, bytearray(1), 0), engine.fdatasync(fd), engine.discard(fd, 0, 1)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            await operate


@threaded
async def test_a_store_on_it_flushes_and_discards(engine: Engine, fd: int) -> None:
    store = FileStore(fd, name="disk", size=SIZE, engine=engine)
    await store.write(0, b"x" * SIZE)
    await store.flush()
    assert not store.unflushed
    await store.discard(PAGE, 2 * PAGE)
    assert os.pread(fd, SIZE, 0) == b"x" * PAGE + bytes(2 * PAGE) + b"x" * 5 * PAGE


@threaded
async def test_discarding_is_refused_where_the_file_system_cannot(engine: Engine) -> None:
    fd = os.open("/proc/self/comm", os.O_RDWR)
    with pytest.raises(OSError, match="Operation not supported"):
        await engine.discard(fd, 0, PAGE)
    os.close(fd)


@threaded
async def test_what_else_fails_when_discarding_is_an_error(engine: Engine, pipe: tuple[int, int]) -> None:
    with pytest.raises(OSError, match="Illegal seek"):
        await engine.discard(pipe[1], 0, PAGE)


def test_it_outlives_an_event_loop(engine: Engine, fd: int) -> None:
    into = bytearray(2)
    for _ in range(2):
        trio.run(engine.write, fd, b"ab", 5)
        trio.run(engine.read, fd, into, 5)
    assert into == b"ab"


# The ring


@threaded
async def test_a_cancelled_read_ends_when_the_kernel_is_done_with_its_memory(
    ring: RingEngine, pipe: tuple[int, int]
) -> None:
    into = bytearray(4)
    ended = False

    async def read() -> None:
        nonlocal ended
        await ring.read(pipe[0], into, 0)
        ended = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await settle()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
            ring.check()
            assert not ended
            with pytest.raises(BufferError):
                into.clear()  # it is held
            os.write(pipe[1], b"late")
            await trio.sleep(0.05)
    assert into == b"late"
    into.clear()


@threaded
async def test_short_reads_go_on(ring: RingEngine, pipe: tuple[int, int]) -> None:
    into = bytearray(9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ring.read, pipe[0], into, 0)
        for part in (b"in ", b"thr", b"ee."):
            await settle()
            os.write(pipe[1], part)
            await trio.sleep(0.01)
    assert into == b"in three."


@threaded
async def test_who_waits_holds_up_nobody_else(ring: RingEngine, pipe: tuple[int, int], fd: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(ring.read, pipe[0], bytearray(1), 0)
        await settle()
        with trio.fail_after(10):
            for _ in range(20):
                await ring.write(fd, b"meanwhile", 3)
                await ring.fdatasync(fd)
        ring.check()
        os.write(pipe[1], bytes(200))


@threaded
async def test_a_full_ring_holds_up_no_other_ring(ring: RingEngine, pipe: tuple[int, int], fd: int) -> None:
    other = RingEngine()
    async with trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(ring.read, pipe[0], bytearray(1), 0)
        await settle()
        with trio.fail_after(10):
            await other.read(fd, bytearray(PAGE), 0)
            await other.fdatasync(fd)
        os.write(pipe[1], bytes(300))
    other.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Refusals:
    """The kernel, which refuses the next calls of one kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: int, codes: list[int]) -> None:
        self.codes = codes
        self._call = call
        self._real = syscalls.syscall
        monkeypatch.setattr(uring, "syscall", self)

    def __call__(self, number: int, *arguments: object) -> int:
        if number == self._call and self.codes:
            code = self.codes.pop()
            raise OSError(code, os.strerror(code))
        return self._real(number, *arguments)


@threaded
async def test_what_the_kernel_cannot_begin_now_is_begun_later(
    ring: RingEngine, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = Refusals(monkeypatch, uring._ENTER, [errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.EINTR])
    await ring.write(fd, b"after all", 7)
    assert not refusals.codes
    assert os.pread(fd, 9, 7) == b"after all"


@threaded
async def test_what_the_kernel_refuses_for_good_fails(
    ring: RingEngine, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Refusals(monkeypatch, uring._ENTER, [errno.EINVAL])
    with pytest.raises(OSError, match="Invalid argument"):
        await ring.write(fd, b"never", 0)
    await ring.write(fd, b"the next", 0)
    assert os.pread(fd, 8, 0) == b"the next"


@threaded
async def test_what_the_kernel_can_never_begin_fails_in_the_end(
    ring: RingEngine, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusecache.stores.ring._TRIES", 3)
    refusals = Refusals(monkeypatch, uring._ENTER, [errno.ENOMEM] * 4)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        await ring.write(fd, b"never", 0)
    assert len(refusals.codes) == 1


def answering(ring: RingEngine, monkeypatch: pytest.MonkeyPatch, codes: list[int]) -> None:
    """Have the next operations end with these errno values, whatever they did."""
    real = uring.Ring.completed

    def completed(self: uring.Ring) -> list[tuple[int, int]]:
        return [(number, -codes.pop() if codes else result) for number, result in real(self)]

    monkeypatch.setattr(uring.Ring, "completed", completed)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOMEM])
@threaded
async def test_a_flush_that_failed_is_not_tried_again(
    ring: RingEngine, fd: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    answering(ring, monkeypatch, [code])
    with pytest.raises(OSError, match=os.strerror(code)):
        await ring.fdatasync(fd)
    await ring.fdatasync(fd)


@threaded
async def test_what_was_interrupted_is_done_again(ring: RingEngine, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [errno.EAGAIN, errno.EINTR]
    answering(ring, monkeypatch, codes)
    await ring.write(fd, b"after all", 7)
    assert not codes
    assert os.pread(fd, 9, 7) == b"after all"


@pytest.mark.parametrize("code", [errno.EBUSY, errno.ENOMEM, errno.EIO])
@threaded
async def test_what_a_device_answers_is_an_error_at_once(
    ring: RingEngine, fd: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    answering(ring, monkeypatch, [code])
    with pytest.raises(OSError, match=os.strerror(code)):
        await ring.read(fd, bytearray(1), 0)


@threaded
async def test_what_never_gets_further_fails_in_the_end(
    ring: RingEngine, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusecache.stores.ring._TRIES", 3)
    answering(ring, monkeypatch, codes := [errno.EAGAIN] * 4)
    with pytest.raises(OSError, match="temporarily unavailable"):
        await ring.read(fd, bytearray(1), 0)
    assert len(codes) == 1


@threaded
async def test_a_ring_closed_before_its_event_loop_ends(fd: int) -> None:
    ring = ring_or_skip()
    await ring.write(fd, b"x", 0)
    ring.close()
    await settle()


def test_positions_wrap_around(fd: int) -> None:
    """Heads and tails are 32 bits, and slots are used again: many more operations than either queue has places."""
    ring = ring_or_skip()

    async def use() -> None:
        for number in range(3000):
            await ring.write(fd, number.to_bytes(2), 2 * (number % 100))

    trio.run(use)
    assert [int.from_bytes(os.pread(fd, 2, 2 * place)) for place in range(100)] == list(range(2900, 3000))
    ring.close()


@pytest.mark.parametrize("call", [uring._SETUP, uring._REGISTER])
def test_where_there_is_no_ring_threads_do_it(call: int, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if call == uring._REGISTER:
        ring_or_skip().close()
    before = open_files()
    Refusals(monkeypatch, call, [errno.EPERM])
    engine = make_engine(fd)
    assert (type(engine), engine.name) == (ThreadEngine, "threads")
    assert open_files() == before


def test_a_machine_that_orders_memory_otherwise_has_no_ring(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert isinstance(make_engine(fd), ThreadEngine)


def test_a_ring_where_there_is_one(fd: int) -> None:
    ring_or_skip().close()
    engine = make_engine(fd)
    assert (type(engine), engine.name) == (RingEngine, "io_uring")
    engine.close()


# Over FUSE


def test_files_on_fuse_have_an_engine_of_their_own(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ring_or_skip().close()
    monkeypatch.setattr(choice, "is_on_fuse", lambda _: True)
    engine = make_engine(fd)
    assert (type(engine), engine.name) == (choice.EngineOverFuse, "io_uring")
    trio.run(engine.write, fd, b"ab", 5)
    engine.close()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("fuse", True), ("fuseblk", True), ("fuse.sshfs", True), ("fusectl", False), ("ext4", False)],
)
def test_what_counts_as_fuse(
    fd: int, kind: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = os.fstat(fd).st_dev
    (tmp_path / "mounts").write_text(
        "22 1 999:0 / / rw shared:1 - fuse.other x rw\n"
        f"31 22 {os.major(device)}:{os.minor(device)} / /a\\040- rw,nosuid shared:9 master:2 - {kind} - rw\n"
    )
    monkeypatch.setattr(choice, "MOUNTS", tmp_path / "mounts")
    assert choice.is_on_fuse(fd) == expected


@threaded
async def test_reads_that_would_queue_in_fuse_do_not(ring: RingEngine, pipe: tuple[int, int], fd: int) -> None:
    """A pipe stands for the mount that hangs with all that it takes."""
    engine = choice.EngineOverFuse(ring)
    os.pwrite(fd, b"cd", 5)
    async with trio.open_nursery() as nursery:
        for under_way in range(choice.ASYNCHRONOUS + 1):
            before = ring._number
            into = bytearray(2)
            with trio.fail_after(10):
                await engine.read(fd, into, 5)
            assert into == b"cd"
            assert ring._number - before == (under_way < choice.ASYNCHRONOUS)
            if under_way < choice.ASYNCHRONOUS:
                nursery.start_soon(engine.read, pipe[0], bytearray(1), 0)
                await settle()
        os.write(pipe[1], bytes(choice.ASYNCHRONOUS))


@threaded
async def test_writes_over_fuse_count_too(ring: RingEngine, pipe: tuple[int, int], fd: int) -> None:
    engine = choice.EngineOverFuse(ring)
    room = fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
    os.write(pipe[1], bytes(room))
    async with trio.open_nursery() as nursery:
        for _ in range(choice.ASYNCHRONOUS):
            nursery.start_soon(engine.write, pipe[1], b"x", 0)
        await settle()
        before = ring._number
        await engine.read(fd, bytearray(1), 0)
        assert ring._number == before
        assert os.read(pipe[0], room) == bytes(room)
    assert os.read(pipe[0], room) == b"x" * choice.ASYNCHRONOUS
