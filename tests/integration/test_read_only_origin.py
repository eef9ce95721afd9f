"""F07: origins that cannot be written, or are not to be."""

from __future__ import annotations

import errno
import mmap
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import LoopDevices, Mount, fusecache, program, run, wait_until
from tests.integration.test_health import cache_everything
from tests.integration.test_lifecycle import ended_cleanly


def dirty_rows(mount: Mount) -> int:
    """Count what the record of an unmounted cache calls dirty."""
    with closing(sqlite3.connect(mount.metadata)) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM blocks WHERE dirty").fetchone()
        return int(count)


@pytest.fixture
def image(mounted: Mounted) -> Iterator[Mount]:
    """Have a cache with everything dirty, not mounted."""
    mount = mounted("--policy", "smq,migration_threshold=0", size=MIB, cache_size="2MiB")
    cache_everything(mount)
    mount.unmount()
    yield mount
    mount.discard()


def judge(mount: Mount, content: bytes, *options: str) -> None:
    """Mount what cannot be written; everything that must hold then."""
    said = run(*mount.mount_command(*options)).stdout
    assert "the image is read-only: " in said
    assert "dirty blocks stay in the cache" in said
    dirty = mount.count("dirty_blocks")
    assert dirty
    assert mount.image.read_bytes() == content
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(OSError, match=r".") as caught:
            os.open(mount.image, flags)
        assert caught.value.errno == errno.EROFS
    fd = os.open(mount.image, os.O_RDONLY)
    os.fsync(fd)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 4096)
    os.close(fd)
    status = mount.status()
    assert (status["state"], status["needs_check"]) == ("read-only", False)
    assert "the image is read-only" in " ".join(fusecache("status", mount.mountpoint).split())
    for command in (("flush",), ("decommission",), ("set", "mode", "writethrough")):
        result = run(program(), command[0], mount.mountpoint, *command[1:], check=False)
        assert result.returncode == 1
        assert f"{dirty} dirty blocks stay in the cache" in result.stderr
    fusecache("set", mount.mountpoint, "policy", "cleaner")  # it wants to write back all the time
    wait_until(lambda: float(mount.status()["uptime_s"]) > 2, "some ticks")
    assert (mount.count("dirty_blocks"), mount.count("writebacks"), mount.count("origin_writes")) == (dirty, 0, 0)
    assert f"{dirty} dirty blocks" in fusecache("unmount", mount.mountpoint)
    assert ended_cleanly(mount)
    assert dirty_rows(mount) == dirty


def judge_the_way_back(mount: Mount) -> None:
    """Mount it writable again: nothing is lost."""
    mount.mount()
    content = mount.image.read_bytes()
    mount.write(5, b"written again", sync=True)
    fusecache("flush", mount.mountpoint)
    mount.unmount()
    assert mount.origin.read_bytes() == content[:5] + b"written again" + content[18:]


def content_of(mount: Mount) -> bytes:
    """Read what the image holds."""
    mount.mount()
    content = mount.image.read_bytes()
    mount.unmount()
    return content


def test_f07_asked_for(image: Mount) -> None:
    content = content_of(image)
    before = (image.origin.read_bytes(), image.origin.stat(), dict(attributes(image.origin)))
    judge(image, content, "-o", "ro")
    after = (image.origin.read_bytes(), image.origin.stat(), dict(attributes(image.origin)))
    assert before[0] == after[0]
    assert before[1].st_mtime_ns == after[1].st_mtime_ns
    assert before[1].st_ctime_ns == after[1].st_ctime_ns
    assert before[2] == after[2]
    judge_the_way_back(image)


def attributes(path: Path) -> Iterator[tuple[str, bytes]]:
    for name in os.listxattr(path):
        yield name, os.getxattr(path, name)


@pytest.mark.parametrize("page_cache", ["stores", "image", "none"])
def test_f07_a_file_that_cannot_be_changed(image: Mount, page_cache: str) -> None:
    content = content_of(image)
    if run("chattr", "+i", image.origin, check=False).returncode:
        pytest.skip("chattr")
    try:
        judge(image, content, "--page-cache", page_cache)
    finally:
        run("chattr", "-i", image.origin)
    judge_the_way_back(image)


@contextmanager
def read_only_view(directory: Path) -> Iterator[None]:
    """Have a directory on a read-only mount."""
    if os.geteuid() != 0:
        pytest.skip("to mount a file system needs root")
    run("mount", "--bind", directory, directory)
    try:
        run("mount", "-o", "remount,ro,bind", directory)
        yield
    finally:
        run("umount", "--lazy", directory)


def test_f07_a_read_only_mount(mounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    origin = tmp_path / "share" / "origin"
    origin.write_bytes(os.urandom(MIB))
    mount = mounted("--policy", "smq,migration_threshold=0", origin=origin, cache_size="2MiB")
    cache_everything(mount)
    content = mount.image.read_bytes()
    mount.unmount()
    with read_only_view(tmp_path / "share"):
        judge(mount, content)
    judge_the_way_back(mount)


def test_f07_after_a_crash_suspects_stay_dirty(mounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    origin = tmp_path / "share" / "origin"
    origin.write_bytes(os.urandom(MIB))
    mount = mounted("--policy", "smq,migration_threshold=0", origin=origin, cache_size="2MiB")
    cache_everything(mount)
    fusecache("flush", mount.mountpoint)
    mount.write(0, b"in an open region", sync=True)
    content = mount.image.read_bytes()
    mount.kill9()
    with read_only_view(tmp_path / "share"):
        judge(mount, content)
    judge_the_way_back(mount)


def test_f07_a_device_that_is_set_read_only(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(os.urandom(MIB))
    device = loops.attach(backing)
    mount = mounted("--policy", "smq,migration_threshold=0", origin=device, cache_size="2MiB")
    cache_everything(mount)
    content = mount.image.read_bytes()
    mount.unmount()
    run("blockdev", "--setro", device)
    try:
        judge(mount, content)
        for force in ((), ("--force",)):
            files: list[str | Path] = ["--cache", mount.cache, "--metadata", mount.metadata]
            refused = run(program(), "writeback", device, *files, *force, check=False)
            assert refused.returncode == 1
            assert "nothing can be written back, and nothing was changed" in refused.stderr
            assert "set read-only" in refused.stderr
    finally:
        run("blockdev", "--setrw", device)  # it would stay so for whoever has it next
    judge_the_way_back(mount)
    loops.detach(device)


def test_f07_what_is_read_is_cached_all_the_same(mounted: Mounted, loops: LoopDevices) -> None:
    mount = mounted("-o", "ro", size=4 * MIB)

    def promoted() -> bool:
        for _ in range(4):
            mount.image.read_bytes()
        return mount.count("promotions") > 0

    wait_until(promoted, "it is cached")
    mount.remount("-o", "rw,ro")
    hits = mount.count("read_hits")
    mount.image.read_bytes()
    assert mount.count("read_hits") > hits
    device = loops.attach(mount.image)
    assert run("blockdev", "--getro", device).stdout.strip() == "1"
    loops.detach(device)
    mount.remount("-o", "ro", "-o", "rw")
    mount.write(0, b"written", sync=True)
