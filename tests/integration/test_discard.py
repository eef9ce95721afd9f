"""Discards as programs make them: fallocate, blkdiscard, fstrim and qemu; and where the image has holes."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, MODES, PAGE_CACHES, e2fsck, finished, fio_running, need, read_blocks
from tests.integration.mounts import GATE, LoopDevices, Mount, fusecache, run, wait_until
from tests.integration.ways import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate

pytestmark = pytest.mark.skipif(bool(GATE), reason="pyfuse3 knows no fallocate(2)")

SIZE = 8 * MIB
BLOCK = 64 * 1024
RANGES = [(BLOCK, BLOCK), (10 * BLOCK - 700, 3 * BLOCK + 900), (40 * BLOCK + 512, 1024), (100 * BLOCK, SIZE)]
"""A block, some with parts at both ends, a part, and what passes the end."""


def content() -> bytearray:
    return bytearray(random.Random(5).randbytes(SIZE + 1234))


def assert_same_bytes(path: Path, expected: bytes | bytearray) -> None:
    found = path.read_bytes()
    wrong = [
        number
        for number in range(0, len(expected), 512)
        if found[number : number + 512] != expected[number : number + 512]
    ]
    assert not wrong, f"{len(wrong)} sectors differ, from {wrong[0]} to {wrong[-1]}"


def change_space(mount: Mount, mode: int, offset: int, length: int, *, sync: bool = False) -> None:
    fd = os.open(mount.image, os.O_RDWR)
    try:
        fallocate(fd, mode, offset, length)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def space_of(path: Path) -> int:
    return path.stat().st_blocks * 512


def make_dirty(mount: Mount, expected: bytearray) -> None:
    """Have much of the image cached, and some of it dirty, in whole blocks and in parts."""
    read_blocks(mount)
    for place in range(0, SIZE, 3 * BLOCK):
        data = random.Random(place).randbytes(2000 if place % 2 else BLOCK)
        mount.write(place, data)
        expected[place : place + len(data)] = data


@pytest.mark.parametrize("page_cache", PAGE_CACHES)
@pytest.mark.parametrize("mode", MODES)
def test_a_discarded_range_reads_as_zeros_for_good(mounted: Mounted, mode: str, page_cache: str) -> None:
    expected = content()
    mount = mounted("--mode", mode, "--page-cache", page_cache, "--policy", "adaptive", content=bytes(expected))
    make_dirty(mount, expected)
    for number, (offset, length) in enumerate(RANGES):
        change_space(mount, (PUNCH_HOLE if number % 2 else ZERO_RANGE) | KEEP_SIZE, offset, length, sync=True)
        end = min(offset + length, len(expected))
        expected[offset:end] = bytes(end - offset)
        assert mount.image.read_bytes() == expected
    mount.kill9()
    mount.mount("--mode", mode, "--page-cache", page_cache)
    assert mount.image.read_bytes() == expected
    mount.setxattr("mode", "writethrough")
    mount.unmount()
    assert mount.origin.read_bytes() == expected
    assert space_of(mount.origin) < SIZE * 7 // 8, "its space was given back"


def test_blocks_leave_the_cache_without_being_written_back(mounted: Mounted) -> None:
    expected = content()
    mount = mounted("--policy", "adaptive", content=bytes(expected))
    make_dirty(mount, expected)
    before = mount.status()
    assert before["dirty_blocks"]
    change_space(mount, PUNCH_HOLE | KEEP_SIZE, 0, len(expected))
    after = mount.status()
    assert (after["used_blocks"], after["dirty_blocks"]) == (0, 0)
    assert after["writebacks"] == before["writebacks"]
    assert (after["discards"], after["discarded_bytes"]) == (1, len(expected))
    assert not any(mount.image.read_bytes())
    assert space_of(mount.origin) <= BLOCK


def test_the_origin_keeps_its_space_without_passdown(mounted: Mounted) -> None:
    mount = mounted("--no-discard-passdown", content=bytes(content()))
    before = space_of(mount.origin)
    change_space(mount, PUNCH_HOLE | KEEP_SIZE, 100, SIZE, sync=True)
    assert not any(mount.read(100, SIZE))
    assert space_of(mount.origin) >= before
    assert "no_discard_passdown" in mount.getxattr("status")


@pytest.mark.parametrize(
    ("mode", "offset", "length", "code"),
    [
        (0, 0, 4096, errno.EOPNOTSUPP),
        (KEEP_SIZE, 0, 4096, errno.EOPNOTSUPP),
        (ZERO_RANGE, SIZE, 4096, errno.EINVAL),
        (PUNCH_HOLE | KEEP_SIZE, 0, 0, errno.EINVAL),
    ],
)
def test_what_a_disk_cannot_do_is_refused(mounted: Mounted, mode: int, offset: int, length: int, code: int) -> None:
    expected = bytes(content())
    mount = mounted(content=expected)
    with pytest.raises(OSError, match=os.strerror(code)):
        change_space(mount, mode, offset, length)
    assert mount.image.read_bytes() == expected


def test_an_image_that_is_read_only_cannot_be_discarded(mounted: Mounted) -> None:
    expected = bytes(content())
    mount = mounted("-o", "ro", content=expected)
    with pytest.raises(OSError, match="Read-only"):
        change_space(mount, PUNCH_HOLE | KEEP_SIZE, 0, SIZE)
    assert mount.image.read_bytes() == expected


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("mode", ["writeback", "writethrough"])
def test_blkdiscard_through_a_loop_device(mounted: Mounted, loops: LoopDevices, mode: str, zeros: bool) -> None:
    need("blkdiscard")
    expected = content()[:SIZE]
    mount = mounted("--mode", mode, "--policy", "adaptive", content=bytes(expected))
    make_dirty(mount, expected)
    device = loops.attach(mount.image)
    begin, length = 3 * BLOCK + 4096, 40 * BLOCK
    run("blkdiscard", *(["-z"] if zeros else []), "-o", str(begin), "-l", str(length), device)
    expected[begin : begin + length] = bytes(length)
    assert_same_bytes(device, expected)
    loops.detach(device)
    assert mount.image.read_bytes() == expected
    mount.remount("--mode", mode)
    mount.setxattr("mode", "passthrough")
    mount.unmount()
    assert mount.origin.read_bytes() == expected


def test_fstrim_of_ext4_under_load(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    need("mkfs.ext4", "fstrim", "fio")
    mount = mounted("--policy", "adaptive", content=bytes(64 * MIB), cache_size="16MiB")
    files = tmp_path / "ext4"
    device = loops.attach(mount.image)
    run("mkfs.ext4", "-q", "-E", "nodiscard", device)
    loops.mount(device, files)
    (files / "goes").write_bytes(os.urandom(24 * MIB))
    (files / "verified").write_bytes(bytes(4 * MIB))
    run("sync", "-f", files)
    before = mount.count("discarded_bytes")
    with fio_running(files / "verified", "ioengine=psync", "direct=1", "loops=3", size=4 * MIB) as job:
        for _ in range(3):
            (files / "goes").unlink(missing_ok=True)
            run("sync", "-f", files)
            run("fstrim", "-v", files)
        finished(job)
    assert mount.count("discarded_bytes") - before >= 24 * MIB
    loops.unmount(files)
    e2fsck(device)
    loops.detach(device)
    mount.setxattr("mode", "writethrough")
    mount.unmount()
    e2fsck(mount.origin)
    assert space_of(mount.origin) < 24 * MIB


def test_the_message_discard_tells_the_kernel_as_well(mounted: Mounted) -> None:
    expected = content()
    mount = mounted("--page-cache", "image", content=bytes(expected))
    assert mount.image.read_bytes() == expected
    fusecache("message", mount.mountpoint, "discard", f"{BLOCK}-{3 * BLOCK + 1}")
    expected[BLOCK : 3 * BLOCK + 1] = bytes(2 * BLOCK + 1)
    wait_until(lambda: mount.image.read_bytes() == expected, "the kernel has dropped its pages")
    assert mount.status()["outcome.discard"] == "done"


def test_qemu_discards_and_sees_the_holes(mounted: Mounted) -> None:
    need("qemu-io", "qemu-img")
    expected = content()[:SIZE]
    mount = mounted("--policy", "adaptive", content=bytes(expected))
    make_dirty(mount, expected)
    commands = ["discard 1M 1M", "write -z -u 3M 1M", "write -z 5M 64k"]
    options = [word for command in commands for word in ("-c", command)]
    run("qemu-io", "-f", "raw", "-d", "unmap", "-t", "none", *options, mount.image)
    for begin, length in ((MIB, MIB), (3 * MIB, MIB), (5 * MIB, BLOCK)):
        expected[begin : begin + length] = bytes(length)
    told = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", mount.image).stdout)
    holes = [(each["start"], each["length"]) for each in told if each["zero"]]
    assert {(MIB, MIB), (3 * MIB, MIB)} <= set(holes)
    assert mount.image.read_bytes() == expected


def test_a_copy_has_the_holes_and_what_only_the_cache_has(mounted: Mounted, tmp_path: Path) -> None:
    need("qemu-img")
    origin = tmp_path / "sparse"
    origin.touch()
    os.truncate(origin, SIZE)
    mount = mounted("--policy", "adaptive", "--dirty-age", "0", origin=origin)
    expected = bytearray(SIZE)
    for place, length in ((5 * BLOCK, BLOCK), (20 * BLOCK + 512, 512), (70 * BLOCK - 100, 300)):
        data = random.Random(place).randbytes(length)
        mount.write(place, data)
        expected[place : place + length] = data
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", mount.image, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == expected
    assert space_of(tmp_path / "copy") < MIB
    run("cp", "--sparse=auto", mount.image, tmp_path / "another")
    assert (tmp_path / "another").read_bytes() == expected
    assert space_of(tmp_path / "another") < MIB
    fd = os.open(mount.image, os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_DATA) <= 5 * BLOCK
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(fd, SIZE, os.SEEK_DATA)
    finally:
        os.close(fd)
