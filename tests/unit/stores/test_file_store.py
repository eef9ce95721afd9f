from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusecache.errors import StoreError, UntrustedError
from fusecache.linux import size_of
from fusecache.stores.file import PAGE, FileStore, open_for_store, open_to_read
from tests.unit.worlds import settle, threaded

START = 4096
SIZE = 8 * PAGE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_bytes(b"h" * START + bytes(SIZE) + b"t" * PAGE)
    return path


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    fd = open_for_store(path)
    yield fd
    os.close(fd)


@pytest.fixture
def store(fd: int) -> FileStore:
    return FileStore(fd, name="the store", size=SIZE, start=START)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(os.fdatasync)
    monkeypatch.setattr(os, "fdatasync", gate)
    yield gate
    gate.opened.set()


class Gate:
    """fdatasync that waits to be let through; ``results`` are what the next calls raise."""

    def __init__(self, real: Callable[[int], None]) -> None:
        self.real = real
        self.opened = threading.Event()
        self.calls = 0
        self._entered = threading.Semaphore(0)
        self.results: list[OSError] = []

    def __call__(self, fd: int) -> None:
        self.calls += 1
        self._entered.release()
        assert self.opened.wait(30)
        if self.results:
            raise self.results.pop()
        self.real(fd)

    async def reached(self) -> None:
        """Wait until one more call has begun."""
        await trio.to_thread.run_sync(self._entered.acquire)


@threaded
async def test_what_is_written_is_read_and_lies_behind_the_start(store: FileStore, fd: int) -> None:
    await store.write(5, b"unaligned")
    assert store.write_nowait(PAGE, b"p" * PAGE)
    into = bytearray(PAGE + 1)
    await store.read(5, memoryview(into)[:9])
    await store.read(PAGE - 1, memoryview(into)[9:])
    assert into[:11] == b"unaligned\0p"
    content = os.pread(fd, START + SIZE + PAGE, 0)
    assert content[:START] == b"h" * START
    assert content[START + 5 : START + 14] == b"unaligned"
    assert content[START + SIZE :] == b"t" * PAGE


@given(data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_offset_and_length_will_do(store: FileStore, data: st.DataObject) -> None:
    writes = data.draw(
        st.lists(
            st.tuples(st.integers(0, SIZE - 1), st.integers(1, 3 * PAGE), st.integers(0, 255), st.booleans()),
            max_size=6,
        )
    )

    async def replay() -> None:
        blank = bytes(SIZE)
        assert store.write_nowait(0, blank)
        expected = bytearray(blank)
        for offset, length, byte, nowait in writes:
            part = bytes([byte]) * min(length, SIZE - offset)
            if not (nowait and store.write_nowait(offset, part)):
                await store.write(offset, memoryview(part))
            expected[offset : offset + len(part)] = part
            into = bytearray(len(part) + 1)
            into = into[: SIZE - offset]
            if not store.read_nowait(offset, into):
                await store.read(offset, into)
            assert into == expected[offset : offset + len(into)]

    trio.run(replay)


def test_a_cached_read_is_done_at_once(store: FileStore) -> None:
    assert store.write_nowait(0, b"q" * PAGE)
    into = bytearray(7)
    assert store.read_nowait(3, into)
    assert into == b"q" * 7


def test_a_partial_page_is_not_written_at_once(store: FileStore, path: Path) -> None:
    before = path.read_bytes()
    assert not store.write_nowait(0, b"x" * (PAGE - 1))
    assert not store.write_nowait(1, b"x" * PAGE)
    assert not store.write_nowait(512, b"x" * 512)
    assert path.read_bytes() == before


def test_whether_a_page_is_whole_depends_on_where_it_lies_in_the_file(fd: int) -> None:
    store = FileStore(fd, name="odd", size=SIZE - PAGE, start=START + 512)
    assert not store.write_nowait(0, b"x" * PAGE)
    assert store.write_nowait(PAGE - 512, b"x" * PAGE)


def test_reads_decline_where_the_file_system_cannot_say(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def refuse(*args: object) -> int:
        nonlocal calls
        calls += 1
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "preadv", refuse)
    assert not store.read_nowait(0, bytearray(8))
    assert not store.read_nowait(0, bytearray(8))
    assert calls == 1


def test_reads_decline_once_where_the_answer_is_not_in_memory(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.preadv

    def refuse(*args: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "later")

    monkeypatch.setattr(os, "preadv", refuse)
    assert not store.read_nowait(0, bytearray(8))
    monkeypatch.setattr(os, "preadv", real)
    assert store.read_nowait(0, bytearray(8))


def test_half_an_answer_is_none(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 4)
    assert not store.read_nowait(0, bytearray(8))


@threaded
async def test_short_reads_and_writes_go_on(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset, *flags: preadv(fd, [views[0][:2]], offset, *flags))
    await store.write(10, b"0123456789")
    into = bytearray(10)
    await store.read(10, into)
    assert into == b"0123456789"


@threaded
async def test_a_write_that_was_done_in_part_is_not_done(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:512], offset))
    assert not store.write_nowait(0, b"w" * PAGE)
    assert store.unflushed


@threaded
async def test_a_file_that_ends_too_early_is_an_error_and_no_zeroes(store: FileStore, fd: int) -> None:
    os.ftruncate(fd, START + 100)
    into = bytearray(200)
    assert not store.read_nowait(0, into)
    with pytest.raises(StoreError, match="read of the store failed") as caught:
        await store.read(0, into)
    assert "\n" not in str(caught.value)


@threaded
async def test_failures_name_the_store_and_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "read only"
    path.write_bytes(bytes(SIZE))
    fd = os.open(path, os.O_RDONLY)
    store = FileStore(fd, name="disk 5", size=SIZE)
    with pytest.raises(StoreError, match="write of disk 5 failed: Bad file descriptor"):
        await store.write(0, b"x")
    with pytest.raises(StoreError, match="write of disk 5 failed: Bad file descriptor"):
        store.write_nowait(0, b"x" * PAGE)
    os.close(fd)
    with pytest.raises(StoreError, match="read of disk 5 failed"):
        await store.read(0, bytearray(1))


# Flushing


@threaded
async def test_unflushed_from_the_beginning_until_a_flush(store: FileStore, gate: Gate) -> None:
    gate.opened.set()
    before = store.unflushed
    await store.flush()
    assert (before, store.unflushed) == (True, False)
    await store.flush()
    assert gate.calls == 1


@threaded
async def test_every_way_of_writing_counts_as_unflushed(store: FileStore, gate: Gate) -> None:
    gate.opened.set()

    async def write() -> None:
        await store.write(1, b"x")

    async def write_nowait() -> None:
        assert store.write_nowait(0, bytes(PAGE))

    async def discard() -> None:
        await store.discard(0, PAGE)

    for change in (write, write_nowait, discard):
        await store.flush()
        before = gate.calls
        await change()
        assert store.unflushed, change
        await store.flush()
        assert gate.calls == before + 1


@threaded
async def test_a_write_during_a_flush_needs_another_one(store: FileStore, gate: Gate) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.flush)
        await gate.reached()
        await store.write(1, b"x")
        gate.opened.set()
    assert store.unflushed


@threaded
async def test_a_write_that_a_flush_overtook_needs_another_one(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, pwrite = threading.Event(), os.pwrite

    def slow(fd: int, data: bytes, offset: int) -> int:
        assert go_on.wait(30)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, 0, b"late")
        await trio.sleep(0.01)
        await store.flush()
        go_on.set()
    assert store.unflushed


@threaded
async def test_a_failed_flush_leaves_it_unflushed(store: FileStore, gate: Gate) -> None:
    gate.opened.set()
    gate.results = [OSError(errno.EIO, "Input/output error")]
    with pytest.raises(StoreError, match="flush of the store failed: Input/output error"):
        await store.flush()
    assert store.unflushed


@threaded
async def test_two_flushes_at_once_both_wait(store: FileStore, gate: Gate) -> None:
    done: list[int] = []

    async def flush(number: int) -> None:
        await store.flush()
        done.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush, 1)
        await gate.reached()
        nursery.start_soon(flush, 2)
        await settle()
        early = list(done)
        gate.opened.set()
    assert not early
    assert gate.calls == 1


@threaded
async def test_what_a_failed_flush_lost_no_later_flush_calls_durable(store: FileStore, gate: Gate) -> None:
    """The kernel drops what it could not write, and the next fdatasync knows nothing of it (fsync(2))."""
    gate.opened.set()
    gate.results = [OSError(errno.EIO, "Input/output error")]
    for _ in range(3):
        with pytest.raises(StoreError, match="flush of the store failed: Input/output error"):
            await store.flush()
        await store.write(0, b"x")


# Memory


def resident(path: Path, length: int) -> int:
    """Count pages in memory (mincore(2)), from the start of a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), length) as memory:
        answer = (ctypes.c_ubyte * (length // PAGE))()
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mincore(ctypes.c_void_p(place), ctypes.c_size_t(length), answer) == 0
        return sum(byte & 1 for byte in answer)


@threaded
async def test_what_is_forgotten_leaves_memory_once_it_is_on_the_disk(store: FileStore, fd: int, path: Path) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # page by page, as the kernel drops what it read together
    os.pread(fd, START + SIZE, 0)
    before = resident(path, START + SIZE)
    await store.forget(PAGE, 2 * PAGE)
    assert (before, resident(path, START + SIZE)) == (9, 7)
    await store.write(PAGE, b"w" * 2 * PAGE)
    await store.forget(PAGE, 2 * PAGE)
    assert resident(path, START + SIZE) == 9
    await store.flush()
    assert resident(path, START + SIZE) == 7
    into = bytearray(2 * PAGE)
    await store.read(PAGE, into)
    assert into == b"w" * 2 * PAGE


@threaded
async def test_where_there_is_no_thread_there_are_no_holes_and_nothing_leaves_memory(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.ftruncate(fd, 0)
    os.ftruncate(fd, START + SIZE)
    store = FileStore(fd, name="the store", size=SIZE, start=START)
    assert await store.holes(0, SIZE) == [(0, SIZE)]

    async def run_sync(*_args: object) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    assert await store.holes(0, SIZE) == []
    await store.forget(PAGE, 2 * PAGE)


# The file


def test_what_cannot_be_a_store(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, words in [("none", "No such file"), ("fifo", "neither a file"), (".", "neither a file")]:
        with pytest.raises(StoreError, match=words):
            open_for_store(tmp_path / name)
    with pytest.raises(StoreError, match="neither a file"):
        open_for_store(Path("/dev/null"))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY])
def test_f20_what_is_only_read_is_opened_for_a_lock_if_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "file").touch()
    fd = open_to_read(tmp_path / "file")
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    os.close(fd)
    real = os.open

    def refuse_writing(path: str, flags: int, *more: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse_writing)
    fd = open_to_read(tmp_path / "file")
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    os.close(fd)
    with pytest.raises(StoreError, match="No such file"):
        open_to_read(tmp_path / "none")


def test_f16_a_cache_is_to_be_trusted_and_an_origin_may_be_anybodys(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o666)
    os.close(open_for_store(tmp_path / "file"))
    with pytest.raises(UntrustedError, match="others may write"):
        open_for_store(tmp_path / "file", trusted=True)
    with pytest.raises(UntrustedError, match="others may write"):
        open_to_read(tmp_path / "file", trusted=True)


def test_size(fd: int) -> None:
    assert size_of(fd) == START + SIZE + PAGE


@threaded
async def test_discarded_space_keeps_its_place(store: FileStore, fd: int) -> None:
    await store.write(0, b"x" * SIZE)
    await store.flush()
    before = size_of(fd)
    await store.discard(PAGE, 4 * PAGE)
    assert size_of(fd) == before
    into = bytearray(SIZE)
    await store.read(0, into)
    assert into == b"x" * PAGE + bytes(4 * PAGE) + b"x" * (SIZE - 5 * PAGE)
    assert store.unflushed


@threaded
async def test_a_store_that_was_full_knows_the_holes_that_were_punched(store: FileStore) -> None:
    await store.write(0, b"x" * SIZE)
    store._sparse = False  # as if it had been opened now
    assert await store.holes(0, SIZE) == []
    await store.discard(PAGE, 4 * PAGE)
    assert await store.holes(0, SIZE) == [(PAGE, 5 * PAGE)]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
@threaded
async def test_zeros_are_written_where_no_hole_can_be_punched(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fusecache.stores.engine.punch_hole", refuse)
    await store.write(0, b"x" * SIZE)
    into = bytearray(SIZE)
    if code == errno.EIO:
        with pytest.raises(StoreError, match=r"discard of .* failed: Input/output error"):
            await store.discard(100, SIZE - 200)
        return
    await store.discard(100, SIZE - 200)
    await store.read(0, into)
    assert into == b"x" * 100 + bytes(SIZE - 200) + b"x" * 100


@threaded
async def test_one_slow_store_does_not_hold_up_another(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").write_bytes(bytes(PAGE))
    other_fd = os.open(tmp_path / "other", os.O_RDWR)
    other = FileStore(other_fd, name="other", size=PAGE)
    go_on, preadv = threading.Event(), os.preadv

    def slow(fd: int, views: list[memoryview], offset: int, *flags: int) -> int:
        if fd != other_fd:
            assert go_on.wait(30)
        return preadv(fd, views, offset, *flags)

    monkeypatch.setattr(os, "preadv", slow)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(store.read, 0, bytearray(1))
        await trio.sleep(0.02)
        with trio.fail_after(10):
            await other.read(0, bytearray(1))
        go_on.set()
    os.close(other_fd)


def test_a_file_in_memory_is_read_at_once() -> None:
    """Tmpfs knows no RWF_NOWAIT; what lies on it needs no waiting all the same."""
    directory = Path("/dev/shm")  # noqa: S108 - it is tmpfs that is wanted
    if not os.access(directory, os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"m" * PAGE)
        file.flush()
        into = bytearray(PAGE)
        assert FileStore(file.fileno(), name="memory", size=PAGE).read_nowait(0, into)
    assert into == b"m" * PAGE


# Writes that take long


class Throttle:
    """A pwrite that takes as long as is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._real = os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, fd: int, data: bytes, offset: int) -> int:
        self.calls += 1
        time.sleep(self.seconds)
        return self._real(fd, data, offset)


def test_after_two_writes_that_took_long_others_decline_for_a_while(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle = Throttle(monkeypatch)
    throttle.seconds = 0.02
    assert store.write_nowait(0, bytes(PAGE))
    assert store.write_nowait(0, bytes(PAGE))
    throttle.seconds = 0
    began = time.monotonic()
    while not store.write_nowait(PAGE, b"n" * PAGE):
        time.sleep(0.005)
    assert throttle.calls == 3
    assert 0.2 < time.monotonic() - began < 10
    assert store.write_nowait(0, bytes(PAGE))
    assert store.write_nowait(0, bytes(PAGE))


def test_a_processor_that_others_have_is_no_reason(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def busy(fd: int, data: bytes, offset: int) -> int:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", busy)
    assert all(store.write_nowait(0, bytes(PAGE)) for _ in range(10))


def test_a_watched_write_fails_like_any_other(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    Throttle(monkeypatch).seconds = 0.02
    assert store.write_nowait(0, bytes(PAGE))

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(StoreError, match="write of the store failed: No space left on device"):
        store.write_nowait(0, bytes(PAGE))


@pytest.mark.alone  # it measures how late other tasks are
@threaded
async def test_slow_writes_do_not_hold_up_the_event_loop(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a twentieth means: writes for half a second, each of them slow, and other tasks that hardly notice."""
    Throttle(monkeypatch).seconds = 0.02
    late = 0.0

    async def watch() -> None:
        nonlocal late
        while True:
            before = trio.current_time()
            await trio.sleep(0.001)
            late += max(0.0, trio.current_time() - before - 0.011)

    inline = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with trio.move_on_after(0.5):
            while True:
                if store.write_nowait(0, bytes(PAGE)):
                    inline += 1
                    await trio.lowlevel.checkpoint()
                else:
                    await store.write(0, bytes(PAGE))
        nursery.cancel_scope.cancel()
    assert 2 <= inline <= 4
    assert late < 0.25


@threaded
async def test_f08_a_system_that_gives_no_thread_fails_an_operation_and_nothing_else(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_sync(*_: object, **__: object) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    with pytest.raises(StoreError, match="read of the store failed: can't start new thread"):
        await store.read(0, bytearray(PAGE))
    with pytest.raises(StoreError, match="write of the store failed: can't start new thread"):
        await store.write(0, bytes(PAGE))
