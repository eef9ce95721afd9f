"""kill -9 in the midst of it: what was acknowledged is there, nothing goes back in time, little is taken for dirty."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from fusecache.errors import MetadataError
from fusecache.metadata import Database
from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, Model, e2fsck, fill, fio_running
from tests.integration.mounts import LoopDevices, Mount, fusecache, run, wait_until
from tests.integration.writer import Writer

GEOMETRIES = {
    "usual": ("4MiB", "64KiB"),
    "eight-blocks": ("512KiB", "64KiB"),
    "4KiB-blocks": ("1MiB", "4KiB"),
    "76KiB-blocks": ("760KiB", "76KiB"),
}


@pytest.mark.parametrize(
    ("geometry", "mode", "policy"),
    [
        ("usual", "writeback", "smq"),
        ("eight-blocks", "writeback", "mq"),
        ("4KiB-blocks", "writeback", "smq"),
        ("76KiB-blocks", "writeback", "cleaner"),
        ("eight-blocks", "writethrough", "smq"),
    ],
)
def test_fsynced_data_survives_several_kills(mounted: Mounted, geometry: str, mode: str, policy: str) -> None:
    cache_size, block_size = GEOMETRIES[geometry]
    slots = 3 * MIB // Writer.SLOT
    options = ["--mode", mode, "--policy", policy]
    content = Writer.blank(slots) + random.Random(1).randbytes(1000)
    mount = mounted(*options, content=content, cache_size=cache_size, block_size=block_size)
    writer = Writer(mount.image, slots, seed=3)
    rng = random.Random(11)
    for kill in range(4):
        syncs = writer.syncs + rng.randrange(5, 40)
        writer.start()
        pid = mount.count("pid")
        wait_until(lambda syncs=syncs: writer.syncs >= syncs, "enough was written")  # type: ignore[misc]
        if kill % 2:
            mount.message("flush")
        mount.end_survival()
        os.kill(pid, signal.SIGKILL)
        writer.join()
        run("fusermount3", "-uz", mount.mountpoint)
        mount.mount(*options)
        writer.judge(mount.image.read_bytes())
    after_recovery = mount.image.read_bytes()
    mount.remount(*options)
    assert mount.image.read_bytes() == after_recovery, "what was read once changed without a write"
    mount.setxattr("mode", "passthrough")
    assert mount.image.read_bytes() == after_recovery
    mount.unmount()
    assert mount.origin.read_bytes() == after_recovery


def test_only_what_was_being_written_is_taken_for_dirty(mounted: Mounted) -> None:
    mount = mounted(size=4 * MIB, cache_size="4MiB")
    wait_until(lambda: mount.count("promotions") >= 16 or not mount.image.read_bytes(), "promotions", 20)
    mount.setxattr("policy", "cleaner")  # from here on the mapping stands still
    model = Model(mount, mount.image.read_bytes())
    used = mount.count("used_blocks")
    wait_until(lambda: _recorded_blocks(mount) == used, "every promotion is recorded", 10)
    offset = _offset_of_a_cached_block(mount)
    mount.write(offset, b"x" * 10, sync=True)
    model.expected[offset : offset + 10] = b"x" * 10
    mount.kill9()
    mount.mount()
    log = mount.metadata.with_name("metadata.log").read_text()
    recovered = [line for line in log.splitlines() if "recovered" in line][-1]
    assert f"blocks={used} clean=False dirty=1 " in recovered
    model.verify()


def _recorded_blocks(mount: Mount) -> int:
    """Count the rows; promotions get theirs within a second, as an fsync has no need of those of clean blocks."""
    try:
        with Database.read_only(mount.metadata) as record:
            return record.count(dirty_only=False)
    except MetadataError:
        return 0  # it was written while it was copied


def _offset_of_a_cached_block(mount: Mount) -> int:
    for offset in range(0, 4 * MIB, 65536):
        hits = mount.count("read_hits")
        mount.read(offset, 1)
        if mount.count("read_hits") > hits:
            return offset
    pytest.fail("nothing is cached")


def test_suspects_are_written_back_without_being_asked(mounted: Mounted) -> None:
    mount = mounted(content=bytes(4 * MIB))
    model = Model(mount, bytes(4 * MIB))
    model.stomp(300, syncs=300)
    mount.kill9()
    mount.mount()
    wait_until(lambda: not mount.count("flush_pending") and not mount.count("suspect_blocks"), "suspects are gone", 20)
    model.verify()


def test_mapping_survives_a_kill_during_fio(mounted: Mounted) -> None:
    mount = mounted(content=bytes(8 * MIB), cache_size="2MiB")
    with fio_running(mount.image, "direct=1", "ioengine=libaio", "loops=50", "fsync=64") as job:
        wait_until(lambda: _recorded_blocks(mount) > 10, "fio is at work, and promotions are recorded")
        mount.kill9()
        job.communicate(timeout=30)
        assert job.returncode, "fio has to see the disk fail"
    mount.mount()
    status = mount.status()
    assert status["used_blocks"], status
    model = Model(mount, mount.image.read_bytes())
    model.stomp(300)
    mount.remount()
    model.verify()


def test_killed_while_idle_and_while_recovering(mounted: Mounted) -> None:
    mount = mounted(content=bytes(4 * MIB))
    model = Model(mount, bytes(4 * MIB))
    model.stomp(400, syncs=400)
    fd = os.open(mount.image, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    for _ in range(3):
        mount.kill9()
        mount.mount()  # recovery writes suspects back, and is killed doing that
    model.verify()


@pytest.mark.parametrize(
    ("name", "value"),
    [("mode", "passthrough"), ("message", "decommission"), ("message", "flush"), ("policy", "cleaner")],
)
def test_killed_while_the_cache_is_being_cleaned(mounted: Mounted, name: str, value: str) -> None:
    mount = mounted(content=bytes(8 * MIB), cache_size="4MiB")
    fill(mount, 32)
    fd = os.open(mount.image, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    model = Model(mount, mount.image.read_bytes())
    mount.end_survival()
    pid = mount.count("pid")
    writebacks = mount.count("writebacks")
    changing = threading.Thread(target=_set_until_killed, args=(mount, name, value))
    changing.start()
    with contextlib.suppress(OSError):
        wait_until(lambda: mount.count("writebacks") > writebacks, "writing back has begun")
    os.kill(pid, signal.SIGKILL)
    changing.join(30)
    run("fusermount3", "-uz", mount.mountpoint)
    mount.mount()
    model.verify()
    model.stomp(100)
    mount.setxattr("mode", "writethrough")
    model.verify(mount.origin)


def _set_until_killed(mount: Mount, name: str, value: str) -> None:
    with contextlib.suppress(OSError):
        mount.setxattr(name, value)


def test_a_crashed_cache_can_be_cleaned_and_left(mounted: Mounted) -> None:
    mount = mounted(content=bytes(4 * MIB), cache_size="2MiB")
    fill(mount)
    model = Model(mount, mount.image.read_bytes())
    mount.write(0, b"x" * 10, sync=True)
    model.expected[:10] = b"x" * 10
    mount.kill9()
    mount.mount("--mode", "writethrough")
    fusecache("flush", mount.mountpoint)
    model.verify(mount.origin)
    mount.remount("--mode", "passthrough")
    model.verify()


@pytest.mark.parametrize("direct_io", [True, False], ids=["direct", "cached"])
def test_ext4_comes_back_with_what_was_fsynced(
    mounted: Mounted, loops: LoopDevices, tmp_path: Path, direct_io: bool
) -> None:
    mount = mounted(content=bytes(24 * MIB), cache_size="3MiB")
    device = loops.attach(mount.image, direct_io=direct_io)
    run("mkfs.ext4", "-q", device)
    promised: dict[str, bytes] = {}
    for kill in range(2):
        loops.mount(device, tmp_path / "ext4")
        stop = threading.Event()
        writer = threading.Thread(target=_write_files, args=(tmp_path / "ext4", f"k{kill}", promised, stop))
        writer.start()
        wait_until(lambda kill=kill: len(promised) > 40 * (kill + 1), "files are written")  # type: ignore[misc]
        mount.end_survival()
        os.kill(mount.count("pid"), signal.SIGKILL)
        stop.set()
        writer.join(30)
        loops.unmount(tmp_path / "ext4")
        loops.detach(device)
        run("fusermount3", "-uz", mount.mountpoint)
        mount.mount()
        device = loops.attach(mount.image, direct_io=direct_io)
        loops.mount(device, tmp_path / "ext4")
        for name, content in promised.items():
            assert (tmp_path / "ext4" / name).read_bytes() == content, name
        loops.unmount(tmp_path / "ext4")
        e2fsck(device)


def _write_files(directory: Path, prefix: str, promised: dict[str, bytes], stop: threading.Event) -> None:
    """Write files and fsync them and their names, until the disk fails; those that are acknowledged are promised."""
    rng = random.Random(prefix)
    with contextlib.suppress(OSError):
        for number in itertools.count():
            if stop.is_set():
                return
            name, content = f"{prefix}-{number}", rng.randbytes(rng.randrange(1, 30_000))
            with (directory / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            top = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(top)
            finally:
                os.close(top)
            promised[name] = content
