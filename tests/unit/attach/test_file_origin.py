"""An origin in a file or a device."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from fusecache.attach import locate, signs
from fusecache.attach.file_origin import strengths_of
from fusecache.attach.origin import OpenStore, Origin, Strengths
from fusecache.config import PageCache
from fusecache.errors import BusyError, StoreError
from fusecache.stores import ThreadEngine, choice, is_read_ahead, make_engine
from tests.unit.worlds import threaded

SIZE = 10_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "origin"
    path.write_bytes(bytes(range(100)) * 100)
    return path


def opened(path: Path, resources: ExitStack) -> Origin:
    return locate(str(path)).open(resources)


def test_what_it_is_known_by(path: Path) -> None:
    with ExitStack() as resources:
        origin = opened(path, resources)
        before = origin.identity()
        assert (before.address, before.size, origin.size) == (str(path), SIZE, SIZE)
        assert before.version == str(path.stat().st_mtime_ns)
        os.truncate(path, SIZE + 1)
        os.utime(path, ns=(1, 1))
        now = origin.identity()
    assert now.is_known_by_signs(before)
    assert now.has_changed_since(before)
    assert now.has_grown_since(before)
    assert not before.has_grown_since(now)


def test_g01_its_times_are_those_of_the_file_and_a_device_has_none(path: Path) -> None:
    os.utime(path, ns=(5, 7))
    with ExitStack() as resources:
        times = opened(path, resources).times()
    assert times is not None
    assert times.modified_ns == 7
    assert times.changed_ns == path.stat().st_ctime_ns


def test_g08_it_says_what_room_it_takes_and_how_full_its_file_system_is(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    with ExitStack() as resources:
        origin = opened(path, resources)
        assert origin.allocated() == path.stat().st_blocks * 512 > 0
        space, told = origin.space(), os.statvfs(path)
    assert space is not None
    assert (space.block_bytes, space.blocks, space.files) == (told.f_frsize, told.f_blocks, told.f_files)
    assert space.available <= space.free <= space.blocks


def test_g08_a_file_system_that_says_0_of_every_file_is_not_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saves files without their holes would save nothing (vmfs-fuse, and what others report of archives)."""
    hole = path.with_name("hole")
    with hole.open("wb") as file:
        file.truncate(1 << 20)
    with ExitStack() as resources:
        origin, empty = opened(path, resources), opened(hole, resources)
        real = os.fstat

        def fstat(fd: int) -> SimpleNamespace:
            status = real(fd)
            return SimpleNamespace(st_mode=status.st_mode, st_blocks=0)

        monkeypatch.setattr(os, "fstat", fstat)
        assert origin.allocated() is None
        assert empty.allocated() == 0
        monkeypatch.undo()


def test_nobody_else_has_it_meanwhile(path: Path) -> None:
    with ExitStack() as resources:
        opened(path, resources)
        with pytest.raises(BusyError, match="in use by another mount"), ExitStack() as others:
            opened(path, others)
    with ExitStack() as resources:
        opened(path, resources)


def test_f07_one_that_can_only_be_read_says_so_and_is_no_use_where_it_has_to_be_written(path: Path) -> None:
    with ExitStack() as resources:
        assert not opened(path, resources).unwritable
    denied = PermissionError(errno.EPERM, "Operation not permitted")
    real = os.open

    def deny(name: Path, flags: int, *arguments: int) -> int:
        if Path(name).resolve() == path and flags & os.O_ACCMODE != os.O_RDONLY:
            raise denied
        return real(name, flags, *arguments)

    with pytest.MonkeyPatch.context() as patch, ExitStack() as resources:
        patch.setattr(os, "open", deny)
        with pytest.raises(StoreError, match="cannot be written"):
            locate(str(path)).open(resources)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as resources:
        patch.setattr(os, "open", deny)
        origin = locate(str(path)).open(resources, writable=False)
        assert origin.unwritable == (
            f"origin {path} cannot be written: it is not permitted, or its file system is read-only"
        )
        assert origin.read_now(0, 3) == b"\0\1\2"


def test_reading_ends_where_it_ends(path: Path) -> None:
    with ExitStack() as resources:
        origin = opened(path, resources)
        assert origin.read_now(50, 100) == path.read_bytes()[50:150]
        assert origin.read_now(SIZE - 1, 100) == b"\x63"
        assert not origin.read_now(SIZE, 1)


def test_a_read_that_fails_is_one_line(path: Path) -> None:
    with ExitStack() as resources:
        origin = locate(str(path)).open(resources)
        os.close(origin._fd)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match=f"cannot read origin {path}: Bad file descriptor"):
            origin.read_now(0, 1)
        os.dup2(os.open(path, os.O_RDONLY | os.O_CLOEXEC), origin._fd)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page_cache", [PageCache.STORES, PageCache.IMAGE])
def test_served_it_says_what_it_is_good_at(path: Path, page_cache: PageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_in_memory", lambda _: False)

    async def serve() -> OpenStore:
        return opened(path, resources).open_store(SIZE - 1, page_cache)

    with ExitStack() as resources:
        found = trio.run(serve)
    assert found.store.size == SIZE - 1
    parallelism = {"io_uring": 256, "threads": 64}[found.engine]
    reads_ahead = page_cache is PageCache.STORES
    assert found.strengths == Strengths(path.stat().st_blksize, parallelism, reads_ahead=reads_ahead, can_discard=True)


class Device:
    """A block device as sysfs shows it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk = directory / "devices" / "sdx"
        (self.disk / "queue").mkdir(parents=True)
        (self.disk / "sdx1").mkdir()
        (directory / "8:16").symlink_to(self.disk)
        (directory / "8:17").symlink_to(self.disk / "sdx1")
        self.number = os.makedev(8, 16)
        monkeypatch.setattr(signs, "DEVICES", directory)
        monkeypatch.setattr(
            "fusecache.attach.file_origin.os", SimpleNamespace(fstat=self.fstat, major=os.major, minor=os.minor)
        )

    def fstat(self, fd: int) -> SimpleNamespace:
        return SimpleNamespace(st_mode=stat.S_IFBLK, st_rdev=self.number, st_blksize=4096)

    def has(self, **limits: int) -> None:
        for name, limit in limits.items():
            (self.disk / "queue" / name).write_text(f"{limit}\n")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


@threaded
async def test_of_a_device_its_queue_tells(device: Device) -> None:
    device.has(minimum_io_size=512, optimal_io_size=0, nr_requests=32, write_zeroes_max_bytes=0)
    assert strengths_of(0, ThreadEngine()) == Strengths(512, 32, reads_ahead=True, can_discard=False)
    device.has(optimal_io_size=1 << 20, nr_requests=1024, write_zeroes_max_bytes=1 << 30)
    assert strengths_of(0, ThreadEngine()) == Strengths(1 << 20, 64, reads_ahead=True, can_discard=True)


@threaded
async def test_of_a_partition_that_of_its_disk(device: Device) -> None:
    device.number = os.makedev(8, 17)
    device.has(minimum_io_size=4096, optimal_io_size=65536, nr_requests=8, write_zeroes_max_bytes=0)
    assert strengths_of(0, ThreadEngine()) == Strengths(65536, 8, reads_ahead=True, can_discard=False)


@threaded
async def test_where_nothing_is_told_nothing_is_made_up(device: Device) -> None:
    device.number = os.makedev(9, 9)
    assert strengths_of(0, ThreadEngine()) == Strengths(4096, 64, reads_ahead=True, can_discard=False)


@threaded
async def test_engines_tell_how_much_they_do_at_a_time(path: Path) -> None:
    with path.open("rb") as file:
        engine = make_engine(file.fileno())
        try:
            assert engine.parallelism in {64, 256}
        finally:
            engine.close()


def test_a_file_system_that_may_read_ahead_or_not_counts_as_one_that_does_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with path.open("rb") as file:
        assert is_read_ahead(file.fileno(), PageCache.STORES)
        monkeypatch.setattr(choice, "is_on_fuse", lambda _: True)
        assert not is_read_ahead(file.fileno(), PageCache.STORES)


def test_what_is_all_memory_needs_nobody_who_reads_ahead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_in_memory", lambda _: True)
    with path.open("rb") as file:
        assert is_read_ahead(file.fileno(), PageCache.NONE)
