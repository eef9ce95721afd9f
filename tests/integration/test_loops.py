"""ext4 on a loop device on the image, as people use it; and an origin that is itself a block device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, Model, e2fsck, fio, need
from tests.integration.mounts import LoopDevices, run

SIZE = 24 * MIB
CACHED = ["ioengine=psync", "direct=0", "end_fsync=1", "bs=5k"]
DIRECT = ["ioengine=libaio", "direct=1", "iodepth=16"]


@pytest.mark.parametrize(
    ("direct_io", "mode", "policy", "cache_size", "block_size"),
    [
        (True, "writeback", "smq", "6MiB", "64KiB"),
        (False, "writeback", "mq", "512KiB", "64KiB"),
        (True, "writethrough", "mq", "2MiB", "4KiB"),
        (False, "writeback", "cleaner", "760KiB", "76KiB"),
        (False, "passthrough", "smq", "6MiB", "64KiB"),
    ],
)
def test_ext4_and_fio_find_no_fault(
    mounted: Mounted,
    loops: LoopDevices,
    tmp_path: Path,
    direct_io: bool,
    mode: str,
    policy: str,
    cache_size: str,
    block_size: str,
) -> None:
    need("mkfs.ext4", "fio")
    options = ["--mode", mode, "--policy", policy]
    mount = mounted(*options, content=bytes(SIZE), cache_size=cache_size, block_size=block_size)
    files = tmp_path / "ext4"
    device = loops.attach(mount.image, direct_io=direct_io)
    run("mkfs.ext4", "-q", device)
    loops.mount(device, files)
    for name, job in (("cached", CACHED), ("direct", DIRECT)):
        (files / name).write_bytes(bytes(4 * MIB))
        fio(files / name, *job, size=4 * MIB)
    loops.unmount(files)
    e2fsck(device)
    loops.detach(device)
    mount.remount(*options)
    device = loops.attach(mount.image, direct_io=direct_io)
    loops.mount(device, files)
    for name, job in (("cached", CACHED), ("direct", DIRECT)):
        fio(files / name, *job, "verify_only=1", size=4 * MIB)
    loops.unmount(files)
    e2fsck(device)


def test_raw_loop_device_with_both_ways_of_io(mounted: Mounted, loops: LoopDevices) -> None:
    mount = mounted(content=bytes(8 * MIB), cache_size="1MiB")
    device = loops.attach(mount.image)
    fio(device, *DIRECT, size=4 * MIB)
    fio(device, *CACHED, "offset=4m", "bs=8k", size=4 * MIB)
    loops.detach(device)
    fio(mount.image, *DIRECT, "verify_only=1", size=4 * MIB)


def test_origin_on_a_block_device(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 * MIB))
    device = loops.attach(disk)
    mount = mounted(origin=device, cache_size="1MiB")
    model = Model(mount, bytes(8 * MIB))
    model.stomp(500)
    model.verify()
    mount.remount()
    model.verify()
    mount.setxattr("mode", "writethrough")
    mount.unmount()
    loops.detach(device)
    model.verify(disk)


def test_an_unmount_waits_for_the_loop_device(mounted: Mounted, loops: LoopDevices) -> None:
    mount = mounted(content=bytes(8 * MIB))
    device = loops.attach(mount.image)
    with pytest.raises(AssertionError, match="busy"):
        mount.unmount()
    fio(device, *DIRECT, size=MIB)
    loops.detach(device)
    mount.unmount()


def test_f21_a_disk_with_data_in_its_middle_becomes_no_cache_unless_told_so(
    mounted: Mounted, loops: LoopDevices, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 200 * MIB)
    mount = mounted(size=MIB, cache_size="2MiB")
    mount.unmount()
    mount.metadata.unlink()
    mount.options = []
    mount.cache = loops.attach(disk, direct_io=False)
    with mount.cache.open("rb+") as file:
        os.pwrite(file.fileno(), b"my thesis", 33 * MIB)
    refused = run(*mount.mount_command(), check=False)
    assert refused.returncode == 1
    assert f"{mount.cache} holds data in its middle (near byte {33 * MIB}); --format" in refused.stderr
    run("mkswap", mount.cache)
    assert "holds swap space; --format to overwrite it" in run(*mount.mount_command(), check=False).stderr
    mount.mount("--format")
    assert mount.image.read_bytes() == mount.origin.read_bytes()
    mount.unmount()
