"""``boot-vm --disk``: what is measured is measured on the right disk, without QEMU, which takes minutes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import pytest

from scripts.benchmarks.slow_disk import PROFILES
from scripts.vm.boot_vm import IMAGE_SIZE, Machine, parse
from scripts.vm.guest import BUSYBOX, GuestError, said_when_read
from scripts.vm.timing import PROGRAMS, timed_boots
from tests.integration.judges import need
from tests.integration.mounts import discard_mount, fuse_mountpoints, run

PIECE = 1024 * 1024


class Reader:
    """Reads half of an image where a machine would boot from it, and appends what it was given to a list."""

    def __init__(self, says: str) -> None:
        self.says = says
        self.images: list[Path] = []

    def boot(self, task: str, image: Path, drive_options: str) -> str:
        assert task == "start"
        assert drive_options == "cache=none,aio=native"
        self.images.append(image)
        with image.open("rb", buffering=0) as file:
            for _ in range(IMAGE_SIZE // 2 // PIECE):
                assert len(file.read(PIECE)) == PIECE
        return self.says


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    need("mkfs.ext4", "debugfs")
    if not BUSYBOX.exists():
        pytest.skip("no busybox")
    return tmp_path


def size_of_programs(directory: Path) -> int:
    """Count what the image really has, and see that the list names each program once."""
    found = directory / "found"
    found.mkdir()
    run("debugfs", "-R", f"rdump /programs {found}", directory / "fast")
    *programs, order = sorted((found / "programs").iterdir())
    assert order.name == "order"
    assert sorted(order.read_text().split()) == sorted(f"/programs/{path.name}" for path in programs)
    assert len(programs) == PROGRAMS
    return sum(path.stat().st_size for path in programs)


def test_five_boots_on_the_disks_that_are_compared(scratch: Path) -> None:
    reader = Reader("")
    with pytest.raises(GuestError, match=r"did not read its \d+ bytes") as caught:
        timed_boots(cast("Machine", reader), scratch, "ram")
    size = size_of_programs(scratch)
    assert str(size) in str(caught.value)
    directory = scratch / "again"
    directory.mkdir()
    reader = Reader(said_when_read(size))
    times = timed_boots(cast("Machine", reader), directory, "ram", ["--policy", "mq"])
    names = ["fast", "slow/disk", "mnt/image", "mnt/image", "fast"]
    assert reader.images == [directory / name for name in names]
    assert times.slow.operations >= IMAGE_SIZE // 2 // PIECE
    assert times.first.operations >= IMAGE_SIZE // 2 // PIECE
    assert not [mountpoint for mountpoint in fuse_mountpoints() if mountpoint.is_relative_to(scratch)]


def test_a_boot_that_fails_leaves_no_mount(scratch: Path) -> None:
    class Failing(Reader):
        def boot(self, task: str, image: Path, drive_options: str) -> str:
            if image.name == "image":
                msg = "no root"
                raise GuestError(msg)
            return super().boot(task, image, drive_options)

    with pytest.raises(GuestError, match="did not read"):
        timed_boots(cast("Machine", Reader("")), scratch, "ram")
    size = size_of_programs(scratch)
    shutil.rmtree(scratch / "found")
    directory = scratch / "again"
    directory.mkdir()
    try:
        with pytest.raises(GuestError, match="no root"):
            timed_boots(cast("Machine", Failing(said_when_read(size))), directory, "ram")
        assert not [mountpoint for mountpoint in fuse_mountpoints() if mountpoint.is_relative_to(scratch)]
    finally:
        for mountpoint in fuse_mountpoints():
            if mountpoint.is_relative_to(scratch):
                discard_mount(mountpoint)


@pytest.mark.parametrize("profile", ["hdd", "net"])
def test_the_disks_that_can_be_named_are_there(profile: str) -> None:
    assert parse(["--disk", profile]).disk in PROFILES
