"""The helpers for losetup and QEMU: requests are as large as FUSE takes them, and nothing is cached twice."""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, PAGE_CACHES, need
from tests.integration.mounts import LoopDevices, Mount, run
from tests.integration.page_counts import cached_bytes, drop_cached

ROOT = Path(__file__).parents[2]
LOSETUP = ROOT / "scripts/losetup"
HUGE = 2 * MIB

Heard = Callable[[], list[int]]


@pytest.fixture
def heard(mounted: Mounted, tmp_path: Path) -> tuple[Mount, Heard]:
    """Mount 16 MiB and listen: the largest read and the largest write so far."""
    sizes = tmp_path / "sizes"
    sizes.write_text("0 0")
    mount = mounted("--page-cache", "none", content=bytes(16 * MIB))
    mount.unmount()
    mount.command = [sys.executable, "-m", "tests.integration.listener", sizes]
    mount.mount("--page-cache", "none")
    return mount, lambda: [int(word) for word in sizes.read_text().split()]


def attached(loops: LoopDevices, place: Path) -> Path:
    device = Path(run(LOSETUP, place).stdout.strip())
    loops.adopt(device)
    return device


def test_requests_are_as_large_as_fuse_takes_them(heard: tuple[Mount, Heard], loops: LoopDevices) -> None:
    mount, largest = heard
    device = attached(loops, mount.mountpoint)
    assert stat.S_ISBLK(device.stat().st_mode)
    queue = Path("/sys/block") / device.name / "queue"
    assert int((queue / "max_sectors_kb").read_text()) == 1024
    assert run("losetup", "--noheadings", "--output", "DIO", "--list", device).stdout.strip() == "1"
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 2 * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)  # scattered pages would fill the device's list of segments sooner
            memory[:] = bytes(len(memory))
            os.preadv(fd, [memory], 0)
            os.pwritev(fd, [memory], 4 * MIB)
    finally:
        os.close(fd)
    read, written = largest()
    assert (read, written) >= (512 * 1024, 512 * 1024)
    assert max(read, written) <= MIB
    loops.detach(device)


def test_buffered_reads_of_the_device_are_large_too(heard: tuple[Mount, Heard], loops: LoopDevices) -> None:
    mount, largest = heard
    device = attached(loops, mount.image)
    with device.open("rb") as file:
        drop_cached(file.fileno())
        while file.read(MIB):
            pass
        assert cached_bytes(file.fileno()) == 16 * MIB
    assert largest()[0] >= 512 * 1024
    loops.detach(device)


def test_a_device_goes_when_nothing_is_mounted_from_it(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    need("mkfs.ext4")
    mount = mounted(content=bytes(16 * MIB))
    device = attached(loops, mount.mountpoint)
    run("mkfs.ext4", "-q", device)
    loops.mount(device, tmp_path / "files")
    for place in (device, mount.mountpoint, mount.image):
        with pytest.raises(AssertionError, match=f"{device} is mounted on {tmp_path / 'files'}"):
            run(LOSETUP, "--detach", place)
    loops.unmount(tmp_path / "files")
    run(LOSETUP, "--detach", mount.mountpoint)
    loops.wait_until_free(device)
    with pytest.raises(AssertionError, match=f"no loop device is attached to {mount.image}"):
        run(LOSETUP, "--detach", mount.image)
    mount.unmount()


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--help"], ["/nowhere"]])
def test_losetup_says_what_it_wants(words: list[str], loops: LoopDevices) -> None:
    del loops  # root only
    with pytest.raises(AssertionError, match=r"losetup: "):
        run(LOSETUP, *words)


class TestQemu:
    """``scripts/qemu-drive``, by what it prints."""

    @staticmethod
    def drive(place: Path) -> str:
        return run(sys.executable, "-m", "scripts.vm.drive", place).stdout.strip()

    @pytest.mark.parametrize("page_cache", PAGE_CACHES)
    def test_never_two_caches_and_never_threads(self, mounted: Mounted, page_cache: str) -> None:
        need("qemu-io")
        mount = mounted("--page-cache", page_cache)
        words = self.drive(mount.mountpoint).split(",")
        assert words[:3] == [f"file={mount.image}", "format=raw", "if=virtio"]
        assert words[3] == ("cache=writeback" if page_cache == "image" else "cache=none")
        if page_cache != "image":
            assert words[4] in {"aio=io_uring", "aio=native"}
        assert self.drive(mount.image).split(",") == words

    def test_what_is_no_mount_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "image").touch()
        with pytest.raises(AssertionError, match=r"qemu-drive: .* is not the image of a mount"):
            self.drive(tmp_path)
