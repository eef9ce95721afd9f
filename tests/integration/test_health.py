"""Faults of real files: a cache that somebody cuts, bits that rot, disks that are full when it matters."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusecache.attach.stamp import DATA_START
from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import LoopDevices, Mount, fusecache, program, run, wait_until

BLOCK = 64 * 1024


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image that fits into its cache, and have all of it cached and dirty."""
    mount = mounted("--policy", "smq,migration_threshold=0", size=MIB, cache_size="2MiB")  # no writebacks of its own
    cache_everything(mount)
    return mount


def cache_everything(mount: Mount) -> None:
    """Write the image anew, block by block, until all of it is cached; and make that durable."""
    size = mount.image.stat().st_size

    def write() -> bool:
        for offset in range(0, size, BLOCK):
            mount.write(offset, os.urandom(BLOCK))
        return mount.count("promotions") == size // BLOCK  # blocks in use may be on their way still

    wait_until(write, "everything is cached")
    with mount.image.open("rb+") as file:
        os.fsync(file.fileno())


def place_of(mount: Mount, offset: int) -> int:
    """Find where the cache file has a block of the image."""
    place = mount.cache.read_bytes().find(mount.read(offset, BLOCK), DATA_START)
    assert place >= DATA_START
    return place


def overwrite(file: Path, place: int, data: bytes) -> None:
    """Change a file behind the back of whoever uses it."""
    with file.open("rb+") as opened:
        assert os.pwrite(opened.fileno(), data, place) == len(data)
        os.fsync(opened.fileno())


def last_place(mount: Mount) -> int:
    """Return the offset in the image of the block that lies last in the cache."""
    size = mount.image.stat().st_size
    return max(range(0, size, BLOCK), key=lambda offset: place_of(mount, offset))


def test_clean_blocks_that_are_cut_off_come_from_the_origin(mount: Mount) -> None:
    fusecache("flush", mount.mountpoint)
    image = mount.image.read_bytes()
    used = mount.count("used_blocks")
    os.truncate(mount.cache, DATA_START + BLOCK // 2)
    assert mount.image.read_bytes() == image
    wait_until(lambda: mount.count("used_blocks") < used, "what cannot be read is dropped")
    assert mount.status()["state"] == "ok"
    assert mount.getxattr("lost") == ""


def test_dirty_bytes_that_are_cut_off_are_named_and_nothing_else_is_lost(mount: Mount) -> None:
    image = mount.image.read_bytes()
    offset = last_place(mount)
    place = place_of(mount, offset)
    os.truncate(mount.cache, place + BLOCK // 2)
    with pytest.raises(OSError, match=r".") as caught:
        mount.read(offset + BLOCK // 2, 4096)
    assert caught.value.errno == errno.EIO
    half = BLOCK // 2
    assert mount.read(offset, half) == image[offset : offset + half]
    assert mount.getxattr("lost") == f"{offset + half}-{offset + half + 4096}"
    assert mount.count("lost_bytes") == 4096
    assert mount.status()["state"] == "degraded"
    assert "4096 bytes of the image cannot be read" in fusecache("status", mount.mountpoint).replace("\n", " ")
    others = [at for at in range(0, len(image), BLOCK) if at != offset]
    assert all(mount.read(at, BLOCK) == image[at : at + BLOCK] for at in others)
    result = run(program(), "flush", mount.mountpoint, check=False)
    assert result.returncode == 1
    assert mount.getxattr("lost") == f"{offset + half}-{offset + BLOCK}"
    assert mount.count("dirty_blocks") == 1
    # The way back: whatever was cut off is put back.
    with mount.cache.open("rb+") as file:
        file.truncate(DATA_START + 2 * MIB)
        os.pwrite(file.fileno(), image[offset + half : offset + BLOCK], place + half)
    fusecache("flush", mount.mountpoint)
    assert mount.status()["state"] == "ok"
    assert mount.origin.read_bytes() == image


def test_rot_in_clean_blocks_is_healed_while_it_is_mounted(mount: Mount) -> None:
    fusecache("flush", mount.mountpoint)
    image = mount.image.read_bytes()
    places = {offset: place_of(mount, offset) for offset in (0, 5 * BLOCK)}
    for place in places.values():
        overwrite(mount.cache, place + 1000, b"rotten")
    mount.setxattr("scrub", "64MiB")
    wait_until(lambda: mount.count("healed") == len(places), "rot is healed")
    assert mount.image.read_bytes() == image
    for offset, place in places.items():
        assert mount.cache.read_bytes()[place : place + BLOCK] == image[offset : offset + BLOCK]
    mount.setxattr("scrub", "0")
    assert mount.count("cache_errors") == 0


def test_rot_that_came_while_it_was_not_mounted_is_healed_too(mount: Mount) -> None:
    fusecache("flush", mount.mountpoint)
    image = mount.image.read_bytes()
    place = place_of(mount, 3 * BLOCK)
    mount.unmount()
    overwrite(mount.cache, place + BLOCK - 1, bytes([image[4 * BLOCK - 1] ^ 1]))
    mount.mount("--scrub", "64MiB")
    wait_until(lambda: mount.count("healed") == 1, "rot is healed")
    assert mount.image.read_bytes() == image


def test_rot_that_the_kernel_has_read_is_not_seen_any_more_once_it_is_healed(mount: Mount) -> None:
    fusecache("flush", mount.mountpoint)
    image = mount.image.read_bytes()
    place = place_of(mount, 3 * BLOCK)
    mount.unmount()
    overwrite(mount.cache, place, bytes(10))
    mount.mount("--page-cache", "image")
    with mount.image.open("rb") as file:  # the kernel's pages are not looked after by opening it anew
        assert os.pread(file.fileno(), 10, 3 * BLOCK) == bytes(10)
        mount.setxattr("scrub", "64MiB")
        wait_until(lambda: mount.count("healed") == 1, "rot is healed")
        wait_until(lambda: os.pread(file.fileno(), BLOCK, 3 * BLOCK) == image[3 * BLOCK : 4 * BLOCK], "it is seen", 10)
    assert mount.image.read_bytes() == image


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Have a file system of a few bytes, which can be filled."""
    if os.geteuid() != 0:
        pytest.skip("to mount a file system needs root")
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory)
    try:
        yield directory
    finally:
        run("umount", "--lazy", directory)


def use_up(directory: Path) -> Path:
    """Leave no byte free; removing what this returns gives all of it back."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def test_scenario_19_a_commit_that_fails_makes_it_read_only_until_it_was_checked(
    mounted: Mounted, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "600k") as small:
        mount = mounted(size=MIB, cache_size="2MiB")
        mount.unmount()
        mount.metadata = small / "metadata"
        mount.cache.unlink()
        mount.mount()
        cache_everything(mount)
        image = bytearray(mount.image.read_bytes())
        filler = use_up(small)

        def written() -> bool:
            """Flush, which makes rows of what was dirty, until that finds no room."""
            try:
                mount.write(0, bytes(image[:BLOCK]), sync=True)
            except OSError:
                return False
            run(program(), "flush", mount.mountpoint, check=False)
            return True

        wait_until(lambda: not written(), "a commit has failed")
        status = mount.status()
        assert (status["state"], status["read_only"], status["needs_check"]) == ("read-only", True, True)
        assert mount.getxattr("status").split()[-2:] == ["ro", "needs_check"]
        with pytest.raises(OSError, match=r".") as caught:
            mount.write(BLOCK, b"new")
        assert caught.value.errno == errno.EROFS
        assert mount.image.read_bytes() == image
        assert "fusecache check" in " ".join(fusecache("status", mount.mountpoint).split())

        filler.unlink()
        assert run(program(), "unmount", mount.mountpoint, check=False).returncode == 1
        command = f"fusecache check --metadata {mount.metadata} --clear-needs-check"
        refused = run(program(), "mount", mount.origin, mount.mountpoint, *files(mount), check=False)
        assert refused.returncode == 1
        assert command in refused.stderr
        fusecache(*command.split()[1:])
        mount.mount()
        assert mount.status()["state"] == "ok"
        assert mount.image.read_bytes() == image
        mount.write(5, b"read and written again", sync=True)
        assert mount.read(5, 22) == b"read and written again"
        mount.unmount()


def test_f13_an_origin_that_is_full_shows_and_so_does_that_it_has_room_again(mounted: Mounted, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "1m") as small:
        origin = small / "origin"
        origin.touch()
        os.truncate(origin, 2 * MIB)  # sparse, and longer than there is room
        mount = mounted("--policy", "smq,migration_threshold=0", origin=origin, cache_size="4MiB")
        cache_everything(mount)
        image = mount.image.read_bytes()
        filler = use_up(small)
        mount.setxattr("migration_threshold", "204800")

        def told() -> bool:
            health = str(mount.status()["health"])
            return "blocks cannot be written back: write of" in health and "No space left on device" in health

        wait_until(told, "the mount says that the origin is full")
        status = mount.status()
        assert status["state"] == "degraded"
        assert mount.count("origin_errors") > 0
        assert mount.count("dirty_blocks") > 0
        assert mount.image.read_bytes() == image
        filler.unlink()
        run("mount", "-o", "remount,size=4m", small)
        wait_until(lambda: mount.count("dirty_blocks") == 0, "everything is written back", 60)
        assert (mount.status()["state"], mount.status()["health"]) == ("ok", "ok")
        assert origin.read_bytes() == image
        mount.unmount()


def test_f13_a_cache_on_a_full_disk_shows_and_so_does_that_it_has_room_again(mounted: Mounted, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "4m") as small:
        mount = mounted(size=MIB, cache_size="2MiB")
        mount.unmount()
        cache = small / "cache"
        run("cp", "--sparse=always", mount.cache, cache)  # as of a cache that a tool has made sparse
        mount.cache = cache
        filler = use_up(small)
        mount.mount()

        def told() -> bool:
            mount.image.read_bytes()
            return "promotions failed: write of" in str(mount.status()["health"])

        wait_until(told, "the mount says that the cache takes nothing")
        assert mount.status()["state"] == "degraded"
        assert mount.count("cache_errors") > 0
        assert mount.image.read_bytes() == mount.origin.read_bytes()
        filler.unlink()

        def promoted() -> bool:
            mount.image.read_bytes()
            return mount.count("promotions") > 0 and mount.status()["state"] == "ok"

        wait_until(promoted, "promotions go on", 60)
        mount.unmount()


def files(mount: Mount) -> list[str]:
    """Spell the options that name a mount's files."""
    return ["--cache", str(mount.cache), "--metadata", str(mount.metadata)]


def test_a_cache_that_cannot_be_flushed_is_given_up_and_the_origin_has_everything(
    mounted: Mounted, loops: LoopDevices, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "4m") as small:
        backing = small / "cache"
        backing.touch()
        os.truncate(backing, 8 * MIB)
        mount = mounted(size=MIB, cache_size="2MiB")
        mount.unmount()
        mount.metadata.unlink()
        mount.cache = loops.attach(backing, direct_io=False)
        mount.options = ["--block-size", str(BLOCK)]
        mount.mount()
        filler = use_up(small)
        image = bytearray(mount.image.read_bytes())
        written = {offset: [bytes(image[offset : offset + BLOCK])] for offset in range(0, MIB, BLOCK)}

        def fsync_fails() -> bool:
            for offset, contents in written.items():
                contents.append(os.urandom(BLOCK))
                mount.write(offset, contents[-1])
            try:
                with mount.image.open("rb+") as opened:
                    os.fsync(opened.fileno())
            except OSError:
                return True
            for contents in written.values():
                del contents[:-1]
            return False

        wait_until(fsync_fails, "an fsync has failed")
        assert mount.status()["state"] in {"failing", "degraded"}
        assert "the cache is given up" in " ".join(fusecache("status", mount.mountpoint).split())
        wait_until(lambda: mount.count("used_blocks") == 0, "everything has left the cache")
        image[:] = mount.image.read_bytes()
        # Which of them, depends: what no flush had made durable is lost where the cache may have forgotten it.
        assert all(image[offset : offset + BLOCK] in contents for offset, contents in written.items())
        image[:3] = b"new"
        mount.write(0, b"new", sync=True)
        assert mount.origin.read_bytes() == image
        mount.unmount()
        filler.unlink()
        mount.mount()
        assert mount.image.read_bytes() == image
        assert mount.status()["state"] == "ok"
        cache_everything(mount)
        mount.unmount()
        loops.detach(mount.cache)
