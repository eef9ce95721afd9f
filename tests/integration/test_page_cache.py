"""``--page-cache``: each of its three kinds is as right and as durable (what is in memory: ``test_in_memory_once``)."""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, PAGE_CACHES, Model, assert_same, fill, fio, need
from tests.integration.mounts import MAPS_EVERYWHERE, LoopDevices, run, wait_until
from tests.integration.writer import Writer

JOBS = {
    "libaio-direct": ["ioengine=libaio", "direct=1", "iodepth=16"],
    "libaio-cached": ["ioengine=libaio", "direct=0", "iodepth=16", "bs=3k"],
    "psync-cached": ["ioengine=psync", "direct=0", "bs=5k", "offset=512"],
    "mmap": ["ioengine=mmap", "fsync=50"],
}

each_page_cache = pytest.mark.parametrize("page_cache", PAGE_CACHES)


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        with suppress(OSError):  # its server may have been killed
            os.close(fd)


# Right


@each_page_cache
@pytest.mark.parametrize("mode", ["writeback", "writethrough", "passthrough"])
def test_fio_verifies(mounted: Mounted, page_cache: str, mode: str) -> None:
    options = ["--page-cache", page_cache, "--mode", mode]
    mount = mounted(*options, content=bytes(3 * MIB), cache_size="512KiB")
    jobs = [job for name, job in JOBS.items() if page_cache == "image" or name != "mmap"]
    for job in jobs:
        fio(mount.image, *job, size=2 * MIB)
    mount.remount(*options)
    fio(mount.image, *jobs[-1], "verify_only=1", size=2 * MIB)
    if mode != "writeback":
        mount.unmount()
        fio(mount.origin, *jobs[-1], "verify_only=1", size=2 * MIB)


@each_page_cache
@pytest.mark.parametrize(
    ("size", "cache_size", "block_size"),
    [(8 * MIB, "2MiB", "64KiB"), (4 * MIB + 512, "512KiB", "64KiB"), (4 * MIB + 5127, "1200KiB", "12KiB")],
)
def test_reads_give_what_was_written(
    mounted: Mounted, page_cache: str, size: int, cache_size: str, block_size: str
) -> None:
    content = random.Random(size).randbytes(size)
    options = ["--page-cache", page_cache]
    mount = mounted(*options, content=content, cache_size=cache_size, block_size=block_size)
    model = Model(mount, content)
    model.stomp(400)
    mount.remount(*options)
    model.stomp(100)
    model.verify()
    mount.setxattr("mode", "writethrough")
    mount.unmount()
    model.verify(mount.origin)


@pytest.mark.parametrize("size", [1, 511, 4097, 64 * 1024 + 512])
@each_page_cache
def test_images_that_end_within_a_page(mounted: Mounted, page_cache: str, size: int) -> None:
    content = random.Random(2).randbytes(size)
    mount = mounted("--page-cache", page_cache, content=content, cache_size="128KiB")
    model = Model(mount, content)
    model.stomp(100)
    model.verify()
    with pytest.raises(OSError, match=r".") as caught:
        mount.write(size - 1, b"xx")
    assert caught.value.errno == errno.EFBIG
    mount.setxattr("mode", "writethrough")
    mount.unmount()
    model.verify(mount.origin)


@each_page_cache
def test_who_opens_it_past_the_page_cache_sees_what_others_see(mounted: Mounted, page_cache: str) -> None:
    mount = mounted("--page-cache", page_cache, content=bytes(4 * MIB))
    with (
        opened(mount.image, os.O_RDWR) as fd,
        opened(mount.image, os.O_RDWR | os.O_DIRECT) as direct,
        mmap.mmap(-1, 65536) as buffer,
    ):
        for number in range(20):
            offset = number * 100_000 // 4096 * 4096
            os.pwrite(fd, bytes([number + 1]) * 65536, offset)
            assert os.preadv(direct, [buffer], offset) == len(buffer)
            assert buffer[:] == bytes([number + 1]) * 65536
            buffer[:] = bytes([number + 100]) * 65536
            assert os.pwritev(direct, [buffer], offset) == len(buffer)
            assert os.pread(fd, 65536, offset) == buffer[:]


# Durable


@each_page_cache
def test_fsynced_data_survives_kills(mounted: Mounted, page_cache: str) -> None:
    slots = 2 * MIB // Writer.SLOT
    options = ["--page-cache", page_cache]
    mount = mounted(*options, content=Writer.blank(slots) + bytes(1000), cache_size="1MiB", block_size="16KiB")
    writer = Writer(mount.image, slots, seed=5)
    for _ in range(2):
        writer.start()
        writer.wait_for_syncs(20)
        mount.kill9()
        writer.join()
        mount.mount(*options)
        writer.judge(mount.image.read_bytes())


@each_page_cache
@pytest.mark.parametrize("flag", [os.O_DSYNC, os.O_SYNC], ids=["dsync", "sync"])
def test_a_synchronous_write_is_durable(mounted: Mounted, page_cache: str, flag: int) -> None:
    mount = mounted("--page-cache", page_cache, content=bytes(4 * MIB))
    fill(mount)
    before = mount.image.read_bytes()
    with opened(mount.image, os.O_WRONLY | flag) as fd:
        os.pwrite(fd, b"s" * 5000, 70_000)
        mount.kill9()
    mount.mount("--page-cache", page_cache)
    assert mount.read(70_000, 5000) == b"s" * 5000
    assert mount.read(0, 70_000) == before[:70_000]


def test_what_is_written_by_mmap_is_durable_after_msync(mounted: Mounted) -> None:
    content = random.Random(3).randbytes(MIB + 100)
    mount = mounted("--page-cache", "image", content=content)
    expected = bytearray(content)
    with opened(mount.image, os.O_RDWR) as fd, mmap.mmap(fd, len(content)) as memory:
        for offset in (0, 4090, 300_000, MIB + 90):
            memory[offset : offset + 10] = expected[offset : offset + 10] = b"by mmap..."
        memory.flush()
        assert mount.image.read_bytes() == expected
        mount.kill9()
    mount.mount("--page-cache", "image")
    assert_same(mount.image, expected)


@pytest.mark.parametrize("page_cache", ["stores", "none"])
def test_maps_and_descriptors_show_the_same_past_the_page_cache(mounted: Mounted, page_cache: str) -> None:
    mount = mounted("--page-cache", page_cache, content=bytes(MIB))
    if not MAPS_EVERYWHERE:
        pytest.skip("pyfuse3 alone cannot have the kernel allow it, nor does it before Linux 6.6")
    with opened(mount.image, os.O_RDWR) as fd, mmap.mmap(fd, MIB) as memory:
        for offset in range(0, MIB, 100_000):
            assert memory[offset : offset + 8] == bytes(8)
            os.pwrite(fd, b"a writer", offset)
            assert memory[offset : offset + 8] == b"a writer"
            memory[offset : offset + 8] = b"by mmap."
            memory.flush()
            assert os.pread(fd, 8, offset) == b"by mmap."
        mount.kill9()
    mount.mount("--page-cache", page_cache)
    for offset in range(0, MIB, 100_000):
        assert mount.read(offset, 8) == b"by mmap."


@pytest.mark.parametrize("page_cache", ["stores", "none"])
def test_without_the_gate_there_are_no_maps_to_share_past_the_page_cache(mounted: Mounted, page_cache: str) -> None:
    mount = mounted("--page-cache", page_cache, "--no-gate")
    assert not mount.status()["gate"]
    with opened(mount.image, os.O_RDWR) as fd, pytest.raises(OSError, match=r".") as caught, mmap.mmap(fd, 4096):
        pass
    assert caught.value.errno == errno.ENODEV


def test_a_write_that_failed_is_not_in_the_page_cache(mounted: Mounted) -> None:
    """It would be read as if it had been written."""
    mount = mounted("--page-cache", "image", size=MIB + 5000)
    content = mount.image.read_bytes()
    for offset in (MIB + 4000, MIB + 4999):
        with pytest.raises(OSError, match=r"."):
            mount.write(offset, b"z" * 8192)
    assert mount.image.read_bytes() == content
    assert mount.image.stat().st_size == len(content)


def test_other_attributes_are_not_there_and_ours_go_on_working(mounted: Mounted) -> None:
    """The kernel asks for ``security.capability`` at each write; an answer of ENOSYS would end all attributes."""
    mount = mounted("--page-cache", "image")
    for offset in range(0, MIB, 65536):
        mount.write(offset, b"x" * 100)
    with pytest.raises(OSError, match=r".") as caught:
        os.getxattr(mount.image, "security.capability")
    assert caught.value.errno == errno.ENODATA
    mount.setxattr("policy", "mq")
    assert mount.status()["policy"] == "mq"
    assert mount.status()["page_cache"] == "image"


# Where it cannot be


def test_a_file_system_that_only_pretends_is_refused(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    """With its data in the journal, ext4 takes O_DIRECT and goes through the page cache all the same."""
    need("mkfs.ext4")
    disk, files = tmp_path / "disk", tmp_path / "files"
    disk.write_bytes(bytes(32 * MIB))
    device = loops.attach(disk, direct_io=False)
    run("mkfs.ext4", "-q", device)
    loops.mount(device, files, "-o", "data=journal")
    origin = files / "origin"
    origin.write_bytes(bytes(4 * MIB))
    for page_cache in ("image", "none"):
        with pytest.raises(AssertionError, match=r"origin .* cannot be used past the page cache .*--page-cache stores"):
            mounted("--page-cache", page_cache, origin=origin)
    mount = mounted(origin=origin)
    assert mount.image.read_bytes() == bytes(4 * MIB)
    mount.unmount()
    loops.unmount(files)


def test_on_a_block_device(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 * MIB))
    device = loops.attach(disk)
    mount = mounted("--page-cache", "none", origin=device, cache_size="1MiB")
    model = Model(mount, bytes(8 * MIB))
    model.stomp(500)
    model.verify()
    mount.setxattr("mode", "writethrough")
    mount.unmount()
    loops.detach(device)
    model.verify(disk)
    wait_until(lambda: not mount.image.exists(), "it is unmounted")
