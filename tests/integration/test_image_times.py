"""G01: the image has the time of its last write, for the programs that go by it: rsync, cp, tar, backups."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, need
from tests.integration.mounts import PAGE_CACHE, Mount, fusecache, run, wait_until

OLD_NS = 1_577_880_000_123_456_789
HELD_BACK_SECONDS = 3
"""So long after the last write a kernel that keeps pages hears of its time."""
AT_ONCE = pytest.mark.skipif(PAGE_CACHE == "image", reason="new times are held back while others write")


@pytest.fixture
def mount(mounted: Mounted, tmp_path: Path) -> Mount:
    """Mount an origin that was written long ago."""
    origin = tmp_path / "origin"
    origin.write_bytes(os.urandom(2 * MIB))
    os.utime(origin, ns=(OLD_NS, OLD_NS))
    return mounted(origin=origin, cache_size="1MiB")


def times(mount: Mount) -> tuple[int, int]:
    """Return when the image was written and when it was changed."""
    status = mount.image.stat()
    return status.st_mtime_ns, status.st_ctime_ns


def modified(mount: Mount) -> int:
    return mount.image.stat().st_mtime_ns


def shown(mount: Mount, before: int) -> int:
    """Wait until the image has another time than before, and return it."""
    wait_until(lambda: modified(mount) != before, "the image has a new time")
    return modified(mount)


def copied(*command: str | Path) -> bool:
    """Run rsync; returns whether it copied the data of anything."""
    return ">f" in run("rsync", "--archive", "--itemize-changes", *command).stdout


def test_g01_they_begin_as_the_origins(mount: Mount) -> None:
    changed = times(mount)[1]
    assert modified(mount) == OLD_NS
    assert abs(mount.image.stat().st_atime_ns - OLD_NS) < 10
    mount.read(0, MIB)
    assert times(mount) == (OLD_NS, changed)
    assert mount.mountpoint.stat().st_mtime_ns == OLD_NS


@AT_ONCE
def test_g01_every_write_that_somebody_looks_for_shows(mount: Mount) -> None:
    seen = [times(mount)]
    for number in range(20):
        before = time.time_ns()
        mount.write(number * 4096, b"new")
        seen.append(times(mount))
        assert before <= seen[-1][0] == seen[-1][1] <= time.time_ns()
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("page_cache", ["stores", "image", "none"])
def test_g01_a_write_shows_soon_whatever_the_kernel_keeps(mount: Mount, page_cache: str) -> None:
    mount.remount("--page-cache", page_cache)
    before = time.time_ns()
    mount.write(0, b"new")
    assert before <= shown(mount, OLD_NS) <= time.time_ns()


def test_g01_what_was_written_through_memory_shows(mount: Mount) -> None:
    mount.remount("--page-cache", "image")
    before = time.time_ns()
    fd = os.open(mount.image, os.O_RDWR)
    with mmap.mmap(fd, MIB) as memory:
        memory[:3] = b"new"
        memory.flush()
    os.close(fd)
    assert shown(mount, OLD_NS) >= before


def test_g01_pages_that_the_kernel_keeps_survive_a_write(mount: Mount) -> None:
    """It drops them all when it hears of a new time; so it does not hear of each."""
    mount.remount("--page-cache", "image")

    def reads() -> int:
        return mount.count("read_hits") + mount.count("read_misses")

    for _ in range(9):
        mount.read(0, 2 * MIB)
        before, began = reads(), time.monotonic()
        for number in range(10):
            mount.write(number * 4096, b"new")
            mount.read(0, 2 * MIB)
            mount.image.stat()
        if time.monotonic() - began < HELD_BACK_SECONDS:
            assert reads() - before <= 10
            return
    pytest.skip("this machine has too much to do")


def test_g01_what_is_no_write_changes_nothing(mount: Mount) -> None:
    before = times(mount)
    mount.setxattr("policy", "mq")
    mount.setxattr("mode", "writethrough")
    run("sync", mount.image)
    assert times(mount) == before


def test_g01_a_writeback_is_no_write_of_the_user(mount: Mount) -> None:
    """It makes the origin newer, which is right of the origin."""
    mount.write(0, os.urandom(65536), sync=True)
    mount.write(0, os.urandom(65536), sync=True)
    written = shown(mount, OLD_NS)
    time.sleep(0.05)
    mount.message("flush")
    wait_until(lambda: mount.count("dirty_blocks") == 0, "all is written back")
    assert modified(mount) == written
    assert mount.origin.stat().st_mtime_ns >= written
    assert mount.origin.read_bytes() == mount.image.read_bytes()
    for _ in range(2):
        before = times(mount)
        mount.remount()
        assert times(mount) == before


def test_g01_what_is_dirty_at_the_end_is_not_older_at_the_next_mount(mount: Mount) -> None:
    mount.write(0, os.urandom(65536), sync=True)
    last = time.time_ns()
    mount.write(100, b"dirty")
    mount.unmount()
    mount.mount()
    first = modified(mount)
    assert last <= first <= time.time_ns()
    mount.remount()
    assert modified(mount) == first


def test_g01_after_a_kill_it_is_not_older_than_its_last_write(mount: Mount) -> None:
    mount.write(0, os.urandom(65536), sync=True)
    mount.write(100, b"dirty")
    last = time.time_ns()
    mount.kill9()
    mount.mount()
    recovered = modified(mount)
    assert last <= recovered
    mount.remount()
    assert modified(mount) == recovered


def test_g01_a_tool_that_writes_back_keeps_them(mount: Mount) -> None:
    mount.write(0, os.urandom(65536), sync=True)
    mount.write(100, b"dirty")
    written = shown(mount, OLD_NS)
    mount.unmount()
    fusecache("writeback", mount.origin, "--cache", mount.cache, "--metadata", mount.metadata)
    assert mount.origin.stat().st_mtime_ns > written
    mount.mount()
    assert modified(mount) == written


def test_g01_an_origin_that_others_have_changed_tells_its_own(mount: Mount) -> None:
    mount.write(0, b"new")
    mount.message("flush")
    wait_until(lambda: mount.count("dirty_blocks") == 0, "all is written back")
    mount.unmount()
    mount.origin.write_bytes(os.urandom(2 * MIB))
    os.utime(mount.origin, ns=(OLD_NS + 7, OLD_NS + 7))
    mount.mount()
    assert modified(mount) == OLD_NS + 7
    assert mount.image.read_bytes() == mount.origin.read_bytes()


def test_g01_the_owner_sets_them_and_they_last(mount: Mount) -> None:
    run("touch", "--date=@1000000000.5", mount.image)
    assert modified(mount) == 1_000_000_000_500_000_000
    mount.remount()
    assert modified(mount) == 1_000_000_000_500_000_000
    mount.write(0, b"new")
    assert shown(mount, 1_000_000_000_500_000_000) > OLD_NS
    before = time.time_ns()
    run("touch", mount.image)
    assert modified(mount) >= before - 50_000_000, "the kernel's clock ticks"


def test_g01_what_the_owner_set_is_not_overwritten_by_what_was_written_before(mount: Mount) -> None:
    """As others report of writes that are flushed later (seaweedfs 9363)."""
    mount.write(0, os.urandom(65536), sync=True)
    mount.write(0, b"dirty")
    os.utime(mount.image, ns=(5, 7))
    fusecache("flush", mount.mountpoint)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert modified(mount) == 7
        time.sleep(0.1)
    mount.remount()
    assert modified(mount) == 7


def test_g01_another_time_of_access_alone_is_a_change_of_the_image(mount: Mount) -> None:
    changed = times(mount)[1]
    run("touch", "-a", "--date=@1000000000", mount.image)
    assert mount.image.stat().st_atime_ns == 1_000_000_000_000_000_000
    assert times(mount)[0] == OLD_NS
    assert times(mount)[1] > changed


def test_g01_what_backups_know_a_file_by_stays_over_mounts(mount: Mount) -> None:
    """They read everything again if one of these is another one (borg 5770, restic 2819)."""

    def known_by() -> tuple[int, ...]:
        status = mount.image.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    before = known_by()
    for option in (["--policy", "mq"], ["-o", "ro"], []):
        mount.remount(*option)
        assert known_by() == before
    with mount.image.open("rb") as file:
        file.read()
    assert known_by() == before, "reading is no change (unionfs-fuse 75, borg 7558)"


def test_g01_a_read_only_image_keeps_them(mount: Mount) -> None:
    mount.remount("-o", "ro")
    before = times(mount)
    assert before[0] == OLD_NS
    with pytest.raises(OSError, match="Read-only"):
        os.utime(mount.image)
    mount.remount("-o", "ro")
    assert times(mount) == before


def test_g01_rsync_copies_what_was_written_and_nothing_else(mount: Mount, tmp_path: Path) -> None:
    need("rsync")
    copy = tmp_path / "copy"
    assert copied(mount.image, copy)
    assert not copied(mount.image, copy)
    mount.remount()
    assert not copied(mount.image, copy), "the next mount is no new image"
    before = modified(mount)
    mount.write(5, b"new")
    shown(mount, before)
    assert copied(mount.image, copy)
    assert copy.read_bytes() == mount.image.read_bytes()
    assert not copied(mount.image, copy)


def test_g01_rsync_on_the_way_back(mount: Mount, tmp_path: Path) -> None:
    need("rsync")
    backup = tmp_path / "backup"
    content = os.urandom(2 * MIB)
    backup.write_bytes(content)
    later = OLD_NS + 5_000_000_000  # rsync looks at whole seconds
    os.utime(backup, ns=(OLD_NS, later))
    assert copied("--inplace", backup, mount.image)
    assert mount.image.read_bytes() == content
    assert modified(mount) == later
    assert not copied("--inplace", backup, mount.image)
    mount.remount()
    assert not copied("--inplace", backup, mount.image)


def test_g01_rsync_writes_the_holes_of_what_comes_back(mount: Mount, tmp_path: Path) -> None:
    """It neither cuts the image nor leaves what was there (marfs 122)."""
    need("rsync")
    backup = tmp_path / "backup"
    with backup.open("wb") as file:
        file.truncate(2 * MIB)
        file.seek(MIB)
        file.write(b"data")
    run("rsync", "--archive", "--inplace", "--sparse", backup, mount.image)
    assert mount.image.read_bytes() == backup.read_bytes()
    run("dd", f"if={backup}", f"of={mount.image}", "bs=64K", "conv=notrunc,sparse", "status=none")
    assert mount.image.read_bytes() == backup.read_bytes()


def test_g01_cp_u_copies_what_is_newer(mount: Mount, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("cp", "--preserve", mount.image, copy)
    assert copy.stat().st_mtime_ns == OLD_NS
    inode = copy.stat()
    run("cp", "--update", "--preserve", mount.image, copy)
    assert copy.stat().st_ctime_ns == inode.st_ctime_ns, "nothing was copied"
    mount.write(5, b"new")
    shown(mount, OLD_NS)
    run("cp", "--update", "--preserve", mount.image, copy)
    assert copy.read_bytes() == mount.image.read_bytes()
    run("cp", "--attributes-only", "--preserve=timestamps", mount.origin, mount.image)
    assert modified(mount) == mount.origin.stat().st_mtime_ns


def test_g01_an_incremental_archive_is_empty_where_nothing_was_written(mount: Mount, tmp_path: Path) -> None:
    def saved() -> bool:
        archive, state = tmp_path / "archive", tmp_path / "state"
        options = ["--create", f"--file={archive}", f"--listed-incremental={state}", "--no-check-device"]
        run("tar", *options, f"--directory={mount.mountpoint}", ".")
        return "image" in run("tar", "--list", f"--file={archive}").stdout

    before = modified(mount)
    assert saved()
    assert not saved()
    mount.remount()
    assert not saved()
    mount.write(5, b"new")
    shown(mount, before)
    assert saved()
