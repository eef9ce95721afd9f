from __future__ import annotations

import errno
import functools
import mmap
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import trio

from fusecache.errors import RefusedError, StoreError
from fusecache.linux import unit_of
from fusecache.stores import direct
from fusecache.stores.base import Data, Store
from fusecache.stores.buffers import Buffers
from fusecache.stores.direct import CHUNK, DirectStore, open_past_page_cache
from fusecache.stores.engine import ThreadEngine
from fusecache.stores.file import PAGE, FileStore, open_for_store
from fusecache.stores.unit_locks import UnitLocks
from tests.unit.worlds import settle, threaded, virtual

START = 4096
SIZE = 8 * PAGE + 700

Content = Callable[[], bytes]


def refuse_to_punch(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


class Spy:
    """An engine that remembers what it was asked for, and waits where it is told to."""

    name = "spy"
    parallelism = 1

    def __init__(self) -> None:
        self._real = ThreadEngine()
        self.asked: list[tuple[str, int, int]] = []
        self.gate: trio.Event | None = None
        self.reached = trio.Event()

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        self.asked.append(("read", position, len(into)))
        await self._real.read(fd, into, position)

    async def write(self, fd: int, data: Data, position: int) -> None:
        self.asked.append(("write", position, len(data)))
        if self.gate is not None:
            self.reached.set()
            await self.gate.wait()
        await self._real.write(fd, data, position)

    async def fdatasync(self, fd: int) -> None:
        await self._real.fdatasync(fd)

    async def discard(self, fd: int, position: int, length: int) -> None:
        await self._real.discard(fd, position, length)

    def close(self) -> None:
        self._real.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_bytes(b"h" * START + bytes(SIZE) + b"t" * 100)
    return path


@pytest.fixture
def opened(path: Path) -> Iterator[tuple[int, int]]:
    """Open it both ways."""
    fd = open_for_store(path)
    direct_fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    os.fsync(fd)
    yield fd, direct_fd
    os.close(fd)
    os.close(direct_fd)


@pytest.fixture
def content(path: Path) -> Content:
    """Read all of the file."""
    return path.read_bytes


@pytest.fixture
def spy() -> Spy:
    return Spy()


@pytest.fixture
def store(opened: tuple[int, int], spy: Spy) -> DirectStore:
    file = FileStore(opened[0], name="the store", size=SIZE, start=START)
    return DirectStore(file, opened[1], start=START, unit=512, engine=spy)


@threaded
async def test_what_is_written_is_read_and_nothing_around_it_changes(store: DirectStore, content: Content) -> None:
    expected = bytearray(SIZE)
    rng = random.Random(1)
    for offset, length in (
        (0, 512),
        (5, 9),
        (511, 2),
        (4096, 8192),
        (100, SIZE - 200),
        (SIZE - 1, 1),
        (SIZE - 800, 800),
    ):
        data = rng.randbytes(length)
        await store.write(offset, memoryview(data))
        expected[offset : offset + length] = data
        into = bytearray(length)
        await store.read(offset, into)
        assert into == data
        store.check()
    assert content() == b"h" * START + expected + b"t" * 100


@threaded
async def test_only_whole_units_go_to_the_disk(store: DirectStore, spy: Spy) -> None:
    await store.write(1024, bytes(1024))
    assert spy.asked == [("write", START + 1024, 1024)]
    spy.asked.clear()
    await store.write(1000, bytes(100))
    assert spy.asked == [("read", START + 512, 512), ("read", START + 1024, 512), ("write", START + 512, 1024)]
    spy.asked.clear()
    await store.read(700, bytearray(1))
    assert spy.asked == [("read", START + 512, 512)]


@pytest.mark.parametrize(
    ("begin", "offset", "length", "copied"),
    [(0, 512, 1024, False), (512, 0, 4096, False), (0, 100, 1024, True), (8, 512, 1024, True), (0, 512, 1000, True)],
)
@threaded
async def test_whole_units_that_lie_aligned_are_written_from_where_they_lie(
    store: DirectStore,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
    begin: int,
    offset: int,
    length: int,
    copied: bool,
) -> None:
    lent: list[int] = []
    lend = Buffers.lent

    def lending(buffers: Buffers, size: int) -> AbstractContextManager[memoryview]:
        lent.append(size)
        return lend(buffers, size)

    data = random.Random(length).randbytes(length)
    with mmap.mmap(-1, 2 * PAGE) as memory:
        memory[begin : begin + length] = data
        monkeypatch.setattr(Buffers, "lent", lending)
        with memoryview(memory) as view:
            await store.write(offset, view[begin : begin + length])
    assert bool(lent) == copied
    assert content()[START + offset :][:length] == data
    lent.clear()
    await store.write(offset, data)
    assert lent, "nobody knows where read-only memory lies"
    store.check()


@threaded
async def test_the_tail_of_a_page_goes_another_way(store: DirectStore, spy: Spy) -> None:
    await store.write(8 * PAGE, bytes(700))
    await store.read(8 * PAGE + 5, bytearray(600))
    assert spy.asked == []
    await store.write(8 * PAGE - 512, b"x" * 600)
    assert spy.asked == [("write", START + 8 * PAGE - 512, 512)]


@threaded
async def test_long_ranges_go_in_parts(tmp_path: Path, spy: Spy) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(4 * CHUNK))
    fd, direct_fd = open_for_store(path), os.open(path, os.O_RDWR | os.O_DIRECT)
    store = DirectStore(FileStore(fd, name="long", size=4 * CHUNK), direct_fd, start=0, unit=512, engine=spy)
    data = random.Random(2).randbytes(2 * CHUNK + 1000)
    await store.write(100, data)
    into = bytearray(len(data))
    await store.read(100, into)
    assert into == data
    assert max(length for _, _, length in spy.asked) == CHUNK
    os.close(fd)
    os.close(direct_fd)


def test_nothing_is_done_at_once(store: DirectStore, spy: Spy) -> None:
    assert not store.read_nowait(0, bytearray(512))
    assert not store.write_nowait(0, bytes(512))
    assert spy.asked == []


@threaded
async def test_two_writes_to_one_unit_take_turns(store: DirectStore, spy: Spy) -> None:
    spy.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for offset, byte in ((0, b"a"), (100, b"b"), (200, b"c")):
            nursery.start_soon(store.write, offset, byte * 100)
            await spy.reached.wait()
            await settle()
        nursery.start_soon(store.write, 1024, b"d" * 512)  # shares nothing with them
        await settle()
        store.check()
        assert spy.asked[-1] == ("write", START + 1024, 512)
        assert [asked for asked in spy.asked if asked[1] == START] == [("read", START, 512), ("write", START, 512)]
        spy.gate.set()
    into = bytearray(400)
    await store.read(0, into)
    assert into == b"a" * 100 + b"b" * 100 + b"c" * 100 + bytes(100)


@threaded
async def test_a_write_of_a_whole_unit_is_not_undone_by_one_of_a_part(store: DirectStore, spy: Spy) -> None:
    spy.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, 512, b"p")
        await settle()
        nursery.start_soon(store.write, 0, b"w" * 1024)
        await settle()
        spy.gate.set()
    into = bytearray(1024)
    await store.read(0, into)
    assert into == b"w" * 1024


@threaded
async def test_a_write_makes_it_unflushed_also_if_a_flush_overtakes_it(store: DirectStore, spy: Spy) -> None:
    await store.flush()
    assert not store.unflushed
    spy.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, 0, bytes(512))
        await settle()
        await store.flush()
        spy.gate.set()
    assert store.unflushed


@threaded
async def test_a_flush_that_failed_fails_for_good(store: DirectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    await store.write(0, bytes(512))
    with pytest.raises(StoreError, match="flush of the store failed"):
        await store.flush()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="may be lost"):
        await store.flush()


@threaded
async def test_failures_name_the_store(store: DirectStore, path: Path) -> None:
    os.truncate(path, START)
    with pytest.raises(StoreError, match="read of the store failed"):
        await store.read(0, bytearray(10))
    with pytest.raises(StoreError, match="write of the store failed"):
        await store.write(5, b"x")
    store.check()


@pytest.mark.parametrize("punched", [True, False])
@threaded
async def test_discard_leaves_zeros_in_the_range_and_the_rest_as_it_was(
    store: DirectStore, content: Content, monkeypatch: pytest.MonkeyPatch, punched: bool
) -> None:
    if not punched:
        monkeypatch.setattr("fusecache.stores.engine.punch_hole", refuse_to_punch)
    await store.write(0, b"x" * SIZE)
    await store.flush()
    await store.discard(100, 3 * PAGE)
    assert store.unflushed
    expected = bytearray(b"x" * SIZE)
    expected[100 : 100 + 3 * PAGE] = bytes(3 * PAGE)
    assert content()[START : START + SIZE] == expected
    await store.discard(10, 20)
    expected[10:30] = bytes(20)
    assert content()[START : START + SIZE] == expected
    into = bytearray(SIZE)
    await store.read(0, into)
    assert into == expected
    await store.discard(0, SIZE)
    assert content()[: START + SIZE] == b"h" * START + bytes(SIZE)
    store.check()


# Opening


def opened_past(path: Path, resources: ExitStack) -> Store:
    fd = open_for_store(path)
    resources.callback(os.close, fd)
    return open_past_page_cache(fd, name=f"cache {path}", size=SIZE, start=START, resources=resources)


@threaded
async def test_opening_finds_out_what_the_file_system_wants(path: Path) -> None:
    with ExitStack() as resources:
        store = opened_past(path, resources)
        assert isinstance(store, DirectStore)
        await store.write(3, b"works")
        into = bytearray(7)
        await store.read(2, into)
        assert into == b"\0works\0"
        store.check()


def test_a_file_system_that_refuses_is_named_with_the_way_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "preadv", refuse)
    with (
        ExitStack() as resources,
        pytest.raises(RefusedError, match=rf"cache {path} .*\(Invalid argument\).*--page-cache stores"),
    ):
        opened_past(path, resources)


def test_a_disk_that_cannot_be_read_is_no_reason_to_refuse(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with ExitStack() as resources:
        opened_past(path, resources)


def test_a_file_system_that_only_pretends_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(_fd: int) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(direct, "unit_of", pretend)
    with ExitStack() as resources, pytest.raises(RefusedError, match="Operation not supported"):
        opened_past(path, resources)


def test_the_unit_of_a_file_is_a_power_of_two(opened: tuple[int, int]) -> None:
    assert unit_of(opened[1]) in {512, 1024, 2048, 4096}


def test_what_is_all_memory_is_there_once_as_it_is() -> None:
    directory = Path("/dev/shm")  # noqa: S108 - it is tmpfs that is wanted
    if not os.access(directory, os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    with tempfile.NamedTemporaryFile(dir=directory) as file, ExitStack() as resources:
        file.write(bytes(START + SIZE))
        file.flush()
        assert isinstance(opened_past(Path(file.name), resources), FileStore)


# Turns


@virtual
async def test_turns_are_taken_in_order_and_only_where_units_are_shared() -> None:
    unit_locks, order = UnitLocks(), []

    async def write(name: str, begin: int, end: int, *partial: int) -> None:
        async with unit_locks.locked(begin, end, partial):
            order.append(name)
            unit_locks.check()
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for name, begin, end, *partial in (
            ("a", 0, 4),
            ("b", 3, 6, 3),
            ("c", 2, 4),
            ("d", 5, 6),
            ("e", 3, 4, 3),
            ("f", 0, 2),
        ):
            nursery.start_soon(functools.partial(write, name, begin, end, *partial))
            await settle()
        assert order == ["a", "d", "f"]
    assert order == ["a", "d", "f", "b", "c", "e"]
    unit_locks.check()


@virtual
async def test_who_gives_up_waiting_lets_the_next_one_on_but_not_past_others() -> None:
    unit_locks, order = UnitLocks(), []

    async def write(name: str) -> None:
        async with unit_locks.locked(0, 1, (0,)):
            order.append(name)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "a")
        await settle()
        impatient = trio.CancelScope()
        with impatient:
            nursery.start_soon(write, "c")
            async with trio.open_nursery() as inner:
                inner.start_soon(write, "b")
                await settle()
                impatient.cancel()
        unit_locks.check()
        assert order == ["a"]
    assert order == ["a", "c"]


# Buffers


def test_memory_is_aligned_and_kept_up_to_a_limit() -> None:
    buffers = Buffers(limit=3 * PAGE)
    with buffers.lent(100) as one, buffers.lent(PAGE + 1) as two, buffers.lent(PAGE) as three:
        assert (len(one), len(two), len(three)) == (100, PAGE + 1, PAGE)
        two[:] = b"2" * len(two)
        buffers.check()
    buffers.check()
    with buffers.lent(2 * PAGE) as again:
        assert bytes(again[: PAGE + 1]) == b"2" * (PAGE + 1), "it was kept"
    buffers.check()
