"""The whole life of a mount, with nobody but the kernel missing: FUSE is played by the test."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio

from fusecache.attach import Binding
from fusecache.config import KIB, Mode, MountConfig, PageCache, PolicyChoice
from fusecache.daemon import serve as mount
from fusecache.errors import BusyError, FusecacheError, MetadataError, RefusedError, StoreError
from fusecache.frontends.fuse.operations import Operations
from fusecache.metadata.database import Database
from fusecache.stores.file import FileStore
from tests.unit.frontends.backing import by
from tests.unit.worlds import settle

BLOCK = 4 * KIB
IMAGE = 16 * BLOCK + 100
FH = pyfuse3.FileHandleT(1)

Session = Callable[[Operations], Awaitable[None]]


class Kernel:
    """What pyfuse3 does, without /dev/fuse."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.refuses: str = ""
        self.options: Collection[str] = ()
        self.events: list[str] = []
        self.operations: Operations | None = None
        self.end = trio.Event()
        self.may_answer = threading.Event()

    def hang(self) -> None:
        """Keep a request waiting that nobody serves."""
        self.may_answer.wait(10)

    def init(self, operations: Operations, mountpoint: str, options: Collection[str]) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.events.append("init")
        self.operations, self.options, self.end = operations, options, trio.Event()

    async def main(self, *, min_tasks: int) -> None:
        assert min_tasks >= 1
        assert self.operations is not None
        self.events.append("main")
        if self.session is not None:
            await self.session(self.operations)
        else:
            await self.end.wait()

    def terminate(self) -> None:
        self.end.set()

    def close(self, unmount: bool) -> None:
        self.events.append("close" if unmount else "leave dead")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    for name in ("init", "main", "terminate", "close"):
        monkeypatch.setattr(pyfuse3, name, getattr(kernel, name))
    monkeypatch.setattr(mount, "become_io_flusher", lambda: None)
    return kernel


@pytest.fixture
def config(tmp_path: Path) -> MountConfig:
    (tmp_path / "origin").write_bytes(b"o" * IMAGE)
    (tmp_path / "mnt").mkdir()
    return MountConfig(
        origin=str(tmp_path / "origin"),
        mountpoint=tmp_path / "mnt",
        cache=tmp_path / "cache",
        metadata=tmp_path / "metadata",
        cache_size=8 * BLOCK,
        block_size=BLOCK,
        policy=PolicyChoice("smq"),  # which absorbs nothing: what is cached is known
    )


def serve(config: MountConfig, kernel: Kernel, session: Session | None) -> list[str]:
    """Mount, let the session talk to the operations, unmount; returns the notes."""
    told: list[list[str]] = []
    kernel.session = session
    mount.serve(config, told.append)
    assert len(told) == 1
    return told[0]


def contents(config: MountConfig) -> dict[str, bytes]:
    directory = Path(config.origin).parent
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(directory.rglob("*"))}


def values(config: MountConfig) -> dict[str, str]:
    assert config.metadata is not None
    with Database.read_only(config.metadata) as database:
        return database.values()


def rows(config: MountConfig) -> list[tuple[int, bool, int | None]]:
    assert config.metadata is not None
    with closing(Database.open(config.metadata)) as database:
        return [(row.oblock, row.dirty, row.hint) for row in database.rows()]


async def nothing(operations: Operations) -> None:
    await trio.lowlevel.checkpoint()


async def write_blocks(operations: Operations) -> None:
    """Write two whole blocks until they are cached (smq takes those at once), and part of another."""
    for number in range(2):
        for _ in range(64):
            await operations.write(FH, number * BLOCK, bytes([65 + number]) * BLOCK)
    await operations.write(FH, 5 * BLOCK + 10, b"small")


async def check_blocks(operations: Operations) -> None:
    assert await operations.read(FH, 0, BLOCK) == b"A" * BLOCK
    assert await operations.read(FH, BLOCK, BLOCK) == b"B" * BLOCK
    assert await operations.read(FH, 5 * BLOCK + 8, 9) == b"oosmalloo"
    assert await operations.read(FH, IMAGE - 3, 100) == b"ooo"


def test_a_mount_from_beginning_to_end(config: MountConfig, kernel: Kernel) -> None:
    notes = serve(config, kernel, nothing)
    assert [note.split()[:2] for note in notes] == [["created", "cache"], ["created", "metadata"]]
    assert kernel.events == ["init", "main", "close"]
    assert values(config)["clean_shutdown"] == "1"
    assert serve(config, kernel, nothing) == []
    assert Path(config.origin).read_bytes() == b"o" * IMAGE


def test_what_was_written_is_there_after_a_remount_and_dirty_blocks_are_recorded(
    config: MountConfig, kernel: Kernel
) -> None:
    serve(config, kernel, write_blocks)
    recorded = rows(config)
    assert {oblock for oblock, dirty, _ in recorded if dirty} <= {0, 1}
    assert any(dirty for _, dirty, _ in recorded)
    assert all(hint is not None for _, _, hint in recorded)
    serve(config, kernel, check_blocks)
    serve(config, kernel, check_blocks)


def test_counters_of_hits_and_misses_go_on(config: MountConfig, kernel: Kernel) -> None:
    serve(config, kernel, write_blocks)
    before = json.loads(values(config)["stats"])
    assert sum(before.values()) == 127  # the two writes that promoted their blocks are neither
    serve(config, kernel, check_blocks)
    assert sum(json.loads(values(config)["stats"]).values()) == 130  # the tail is not counted


def test_the_record_says_unclean_while_mounted_and_clean_before_the_mount_is_gone(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def look(operations: Operations) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(values(config)["clean_shutdown"])

    def close(unmount: bool) -> None:
        assert unmount
        seen.append(values(config)["clean_shutdown"])

    monkeypatch.setattr(pyfuse3, "close", close)
    serve(config, kernel, look)
    assert seen == ["0", "1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(config: MountConfig, kernel: Kernel, number: signal.Signals) -> None:
    async def session(operations: Operations) -> None:
        await settle()
        os.kill(os.getpid(), number)
        await kernel.end.wait()

    serve(config, kernel, session)
    assert values(config)["clean_shutdown"] == "1"


def test_a_signal_ends_it_only_when_the_kernel_has_dropped_the_pages_that_it_was_asked_to(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may = threading.Event(), threading.Event()

    def invalidate(_: pyfuse3.InodeT, *, attr_only: bool) -> None:
        assert not attr_only
        asked.set()
        assert may.wait(10)

    async def session(operations: Operations) -> None:
        operations._disk._volume.content_changed()
        await trio.to_thread.run_sync(asked.wait, 10)
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep(0.1)
        assert not kernel.end.is_set()
        may.set()
        await kernel.end.wait()

    monkeypatch.setattr(pyfuse3, "invalidate_inode", invalidate)
    serve(replace(config, page_cache=PageCache.IMAGE), kernel, session)


def test_an_end_that_fails_is_not_marked_clean(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(operations: Operations) -> None:
        await write_blocks(operations)

        async def no_flush(store: FileStore) -> None:
            msg = f"flush of {store.name} failed: Input/output error"
            raise StoreError(msg)

        monkeypatch.setattr(FileStore, "flush", no_flush)

    kernel.session = fail
    with pytest.raises(FusecacheError, match="Input/output error"):
        mount.serve(config, lambda _: None)
    monkeypatch.undo()
    assert kernel.events[-1] == "leave dead"
    assert values(config)["clean_shutdown"] == "0"
    with closing(Database.open(Path(config.origin).parent / "metadata")) as database:
        assert database.count(dirty_only=True) or database.regions() or not database.count(dirty_only=False)


def test_f09_a_loop_that_ends_by_an_exception_leaves_the_mount_dead(config: MountConfig, kernel: Kernel) -> None:
    async def crash(operations: Operations) -> None:
        await write_blocks(operations)
        msg = "a bug"
        raise ValueError(msg)

    kernel.session = crash
    with pytest.raises(ExceptionGroup) as caught:
        mount.serve(config, lambda _: None)
    assert caught.group_contains(ValueError, match="a bug")
    assert kernel.events[-1] == "leave dead"
    assert values(config)["clean_shutdown"] == "0"


def test_f09_nothing_may_take_a_dead_mount_away(config: MountConfig, kernel: Kernel) -> None:
    refused(replace(config, fuse_options=("auto_unmount",)), kernel, RefusedError, "auto_unmount would take away")


def test_f09_a_mount_that_nobody_was_told_of_does_not_stay(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Binding) -> None:
        msg = "disk full"
        raise MetadataError(msg)

    monkeypatch.setattr(Binding, "begin", fail)
    refused(config, kernel, MetadataError, "disk full")
    assert kernel.events == ["init", "close"]


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,) * 3, (signal.SIGINT, signal.SIGTERM)])
def test_f09_signals_during_the_end_change_nothing(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, numbers: tuple[signal.Signals, ...]
) -> None:
    async def session(operations: Operations) -> None:
        await settle()
        os.kill(os.getpid(), numbers[0])
        await kernel.end.wait()
        for number in numbers[1:]:
            os.kill(os.getpid(), number)

    def close(unmount: bool) -> None:
        os.kill(os.getpid(), numbers[-1])
        assert unmount

    monkeypatch.setattr(pyfuse3, "close", close)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    serve(config, kernel, session)
    assert values(config)["clean_shutdown"] == "1"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_f20_a_signal_interrupts_what_comes_before_the_mount_and_undoes_it(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.posix_fallocate

    def take_long(*arguments: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        real(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", take_long)
    began = time.monotonic()
    refused(config, kernel, RefusedError, "asked to end")
    assert time.monotonic() - began < 4
    assert not kernel.events


def test_f20_a_signal_at_the_last_moment_before_the_mount_is_ready(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Binding.begin

    def begin(binding: Binding) -> None:
        real(binding)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Binding, "begin", begin)
    monkeypatch.setattr(os, "statvfs", lambda _: kernel.hang())
    kernel.session = None
    with pytest.raises(RefusedError, match="asked to end"):
        mount.serve(config, lambda _: pytest.fail("it is not ready"))
    kernel.may_answer.set()
    assert kernel.events == ["init", "main", "close"]
    assert values(config)["clean_shutdown"] == "1"


def test_f21_what_fuse_takes_and_then_does_not_serve_is_an_error(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(os, "statvfs", refuse)
    kernel.session = nothing
    with pytest.raises(RefusedError, match=r"cannot mount on .* \(options: max_read=1\)"):
        mount.serve(replace(config, fuse_options=("max_read=1",)), lambda _: pytest.fail("it is not ready"))
    assert kernel.events == ["init", "main", "close"]
    assert values(config)["clean_shutdown"] == "1"


def test_f06_a_system_that_gives_no_thread_is_no_reason_to_end(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trio.to_thread.run_sync

    async def scarce(function: Callable[..., object], *arguments: object, **options: Any) -> object:
        if function is os.statvfs or getattr(function, "__name__", "") == "gone":
            msg = "can't start new thread"
            raise RuntimeError(msg)
        return await real(function, *arguments, **options)

    async def session(operations: Operations) -> None:
        monkeypatch.setattr(trio.to_thread, "run_sync", scarce)
        await write_blocks(operations)
        await trio.sleep(1.2)
        monkeypatch.setattr(trio.to_thread, "run_sync", real)

    monkeypatch.setattr(trio.to_thread, "run_sync", scarce)
    serve(config, kernel, session)
    assert values(config)["clean_shutdown"] == "1"


@pytest.mark.parametrize("end", ["clean", "crash"])
def test_f06_metadata_that_lost_its_name_is_written_anew_however_it_ends(
    config: MountConfig, kernel: Kernel, end: str
) -> None:
    async def session(operations: Operations) -> None:
        assert config.metadata is not None
        await write_blocks(operations)
        await operations.fsync(FH, datasync=True)
        config.metadata.unlink()
        await trio.sleep(1.5)  # until it is missed
        if end == "crash":
            msg = "a bug"
            raise ValueError(msg)

    if end == "clean":
        serve(config, kernel, session)
    else:
        kernel.session = session
        with pytest.raises(ExceptionGroup):
            mount.serve(config, lambda _: None)
    assert values(config)["clean_shutdown"] == str(int(end == "clean"))
    serve(config, kernel, check_blocks)


@pytest.mark.parametrize("name", ["J\u00fcrgen".encode(), b"J\xfcrgen", b"\xff\xfe, \\"])
def test_f14_names_of_any_bytes_can_be_mounted(config: MountConfig, kernel: Kernel, name: bytes) -> None:
    directory = Path(config.origin).parent / os.fsdecode(name)
    directory.mkdir()
    origin = Path(config.origin).rename(directory / os.fsdecode(name))
    (directory / "mnt").mkdir()
    named = replace(config, origin=str(origin), mountpoint=directory / "mnt", cache=directory / "c")
    serve(named, kernel, nothing)
    assert all(option.isascii() for option in kernel.options)
    serve(named, kernel, check_origin)


async def check_origin(operations: Operations) -> None:
    assert await operations.read(FH, 0, BLOCK) == b"o" * BLOCK


@pytest.mark.parametrize("policy", ["smq", "mq", "cleaner"])
@pytest.mark.parametrize("mode", list(Mode))
def test_every_mode_and_policy(config: MountConfig, kernel: Kernel, policy: str, mode: Mode) -> None:
    serve(replace(config, policy=PolicyChoice(policy), mode=mode), kernel, write_blocks)
    if mode is not Mode.WRITEBACK:
        assert not any(dirty for _, dirty, _ in rows(config))
        assert Path(config.origin).read_bytes()[:BLOCK] == b"A" * BLOCK
    serve(config, kernel, check_blocks)


def test_options_reach_the_kernel(config: MountConfig, kernel: Kernel) -> None:
    serve(replace(config, fuse_options=("allow_other",)), kernel, nothing)
    assert {"allow_other", "subtype=fusecache", f"fsname={config.origin}", "default_permissions"} <= set(kernel.options)


@pytest.mark.parametrize("name", ["a,allow_other", "back\\slash", "a b"])
def test_an_origins_name_is_no_option(config: MountConfig, kernel: Kernel, name: str) -> None:
    origin = Path(config.origin).rename(Path(config.origin).with_name(name))
    serve(replace(config, origin=str(origin)), kernel, nothing)
    (told,) = [option for option in kernel.options if option.startswith("fsname=")]
    assert told.endswith(name.replace("\\", "\\\\").replace(",", "\\,"))


def test_the_threshold_of_a_table_is_taken(config: MountConfig, kernel: Kernel) -> None:
    seen = []

    async def look(operations: Operations) -> None:
        name = pyfuse3.XAttrNameT(b"user.fusecache.migration_threshold")
        image = pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1)
        seen.append(await operations.getxattr(image, name, None))  # type: ignore[arg-type]  # nobody looks at it

    serve(replace(config, policy=PolicyChoice("smq", migration_threshold=77 * 512)), kernel, look)
    assert seen == [b"77"]


def test_the_table_would_make_this_mount_again(config: MountConfig, kernel: Kernel) -> None:
    seen = []

    async def look(operations: Operations) -> None:
        name = pyfuse3.XAttrNameT(b"user.fusecache.table")
        image = pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1)
        seen.append(await operations.getxattr(image, name, None))  # type: ignore[arg-type]  # nobody looks at it

    serve(replace(config, policy=PolicyChoice("mq", (("random_threshold", "9"),), 512)), kernel, look)
    words = f"{config.metadata} {config.cache} {config.origin} 8 1 writeback mq"
    assert seen == [f"{words} 4 random_threshold 9 migration_threshold 1".encode()]


# Refusals


def refused(config: MountConfig, kernel: Kernel, kind: type[FusecacheError], words: str) -> None:
    """Mounting fails with one clear line, and nothing was changed."""
    before = contents(config)
    with pytest.raises(FusecacheError, match=words) as caught:
        mount.serve(config, lambda _: pytest.fail("it is not ready"))
    assert isinstance(caught.value, kind)
    assert "\n" not in str(caught.value)
    assert contents(config) == before


def test_mountpoints_that_will_not_do(config: MountConfig, kernel: Kernel) -> None:
    refused(replace(config, mountpoint=Path(config.origin)), kernel, RefusedError, "not a directory")
    refused(replace(config, mountpoint=Path(config.origin).parent / "none"), kernel, RefusedError, "does not exist")
    refused(replace(config, mountpoint=Path(config.origin).parent), kernel, RefusedError, "not empty")
    refused(replace(config, mountpoint=Path("/proc")), kernel, BusyError, "busy")
    assert not kernel.events


def test_the_way_out_of_a_dead_mount_can_be_typed_as_it_is(
    config: MountConfig, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> list[Path]:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))

    mountpoint = config.mountpoint.parent / "a b"
    mountpoint.mkdir()
    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(RefusedError, match=rf"try: fusermount3 -u -- '{mountpoint}'\)"):
        mount.serve(replace(config, mountpoint=mountpoint), lambda _: pytest.fail("it is not ready"))
    assert not kernel.events


@pytest.mark.parametrize("remount", [False, True])
def test_policies_that_will_not_do(config: MountConfig, kernel: Kernel, remount: bool) -> None:
    if remount:
        serve(config, kernel, write_blocks)
    refused(replace(config, policy=PolicyChoice("nonsense")), kernel, FusecacheError, "unknown policy")
    refused(replace(config, policy=PolicyChoice("smq", (("nonsense", "1"),))), kernel, FusecacheError, "nonsense")


def test_passthrough_over_dirty_blocks(config: MountConfig, kernel: Kernel) -> None:
    serve(config, kernel, write_blocks)
    refused(replace(config, mode=Mode.PASSTHROUGH), kernel, RefusedError, "passthrough needs a clean cache")


def test_fuse_that_refuses_leaves_an_existing_cache_as_it_was(config: MountConfig, kernel: Kernel) -> None:
    serve(config, kernel, write_blocks)
    kernel.refuses = "fuse_session_mount failed"
    refused(config, kernel, RefusedError, "cannot mount on .*fuse_session_mount failed")
    assert values(config)["clean_shutdown"] == "1"


def damage(config: MountConfig, statement: str) -> None:
    assert config.metadata is not None
    with closing(sqlite3.connect(config.metadata, isolation_level=None)) as connection:
        connection.execute(statement)
    with closing(Database.open(config.metadata)):
        pass


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO blocks VALUES (7, 999999, 0, 0, NULL)",
        "INSERT INTO blocks VALUES (999, 9, 0, 0, NULL)",
        "INSERT INTO blocks SELECT 7, oblock, 0, 0, NULL FROM blocks LIMIT 1",
    ],
)
def test_damage_that_shows_late_is_refused_all_the_same(config: MountConfig, kernel: Kernel, statement: str) -> None:
    serve(config, kernel, write_blocks)
    damage(config, statement)
    refused(config, kernel, MetadataError, "damaged")


@pytest.mark.parametrize("text", ["not json", "[1]", "7", '{"read_hits": "many"}', '{"read_hits": null}'])
def test_counters_that_make_no_sense_begin_anew(config: MountConfig, kernel: Kernel, text: str) -> None:
    serve(config, kernel, write_blocks)
    with closing(Database.open(Path(config.origin).parent / "metadata")) as database:
        database.set_values({"stats": text})
    serve(config, kernel, check_blocks)
    told = json.loads(values(config)["stats"])
    assert sum(told.values()) == 3


def test_values_that_are_no_text_are_refused_and_told(config: MountConfig, kernel: Kernel) -> None:
    async def session(operations: Operations) -> None:
        image = pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1)
        for name in (b"policy", b"mode", b"message", b"migration_threshold", b"policy.\xff"):
            attribute = pyfuse3.XAttrNameT(b"user.fusecache." + name)
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await operations.setxattr(image, attribute, b"\xff 1", by(os.geteuid()))
            assert caught.value.errno == errno.EINVAL
            error = pyfuse3.XAttrNameT(b"user.fusecache.error")
            assert await operations.getxattr(image, error, None)  # type: ignore[arg-type]  # not looked at

    serve(config, kernel, session)
