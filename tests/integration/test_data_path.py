"""What is written is what is read, whatever lies between: all policies, modes and geometries, and the image's edges."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, MODES, POLICIES, Model, need
from tests.integration.mounts import Mount, run

KIB = 1024
TAIL = 4 * MIB + 5 * KIB + 7
GEOMETRIES = {
    "usual": (8 * MIB, "2MiB", "64KiB"),
    "eight-blocks": (8 * MIB, "512KiB", "64KiB"),
    "4KiB-blocks": (TAIL, "1MiB", "4KiB"),
    "12KiB-blocks": (TAIL, "1200KiB", "12KiB"),
    "76KiB-blocks": (TAIL, "760KiB", "76KiB"),
    "one-block": (TAIL, "256KiB", "256KiB"),
}


def combinations() -> list[tuple[str, str, str]]:
    """Pair every policy with every mode, each with the next geometry; and every geometry with the default."""
    pairs = itertools.product(MODES, POLICIES)
    covered = [(mode, policy, name) for (mode, policy), name in zip(pairs, itertools.cycle(GEOMETRIES), strict=False)]
    return list(dict.fromkeys([*covered, *(("writeback", "smq", name) for name in GEOMETRIES)]))


@pytest.mark.parametrize(("mode", "policy", "geometry"), combinations())
def test_reads_give_what_was_written(mounted: Mounted, mode: str, policy: str, geometry: str) -> None:
    size, cache_size, block_size = GEOMETRIES[geometry]
    content = random.Random(size).randbytes(size)
    mount = mounted("--mode", mode, "--policy", policy, content=content, cache_size=cache_size, block_size=block_size)
    model = Model(mount, content)
    model.stomp(600)
    model.verify()
    if mode != "writeback":
        assert mount.count("dirty_blocks") == 0
        model.verify(mount.origin)
    mount.remount("--mode", mode, "--policy", policy)
    model.stomp(200)
    model.verify()


def test_small_cache_is_always_moving(mounted: Mounted) -> None:
    content = bytes(8 * MIB)
    mount = mounted("--policy", "mq", content=content, cache_size="512KiB")
    model = Model(mount, content)
    for _ in range(4):
        model.stomp(500)
        mount.message("flush")
    model.verify()
    status = mount.status()
    assert status["cache_blocks"] == 8
    assert status["demotions"], status
    assert status["writebacks"], status


def test_direct_io_of_the_opener(mounted: Mounted) -> None:
    mount = mounted()
    expected = bytearray(mount.origin.read_bytes())
    fd = os.open(mount.image, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 128 * KIB) as buffer:
            for number, offset in enumerate(range(0, 4 * MIB, 100 * KIB)):
                buffer[:] = bytes([number + 1]) * len(buffer)
                assert os.pwritev(fd, [buffer], offset) == len(buffer)
                expected[offset : offset + len(buffer)] = buffer[:]
            for offset in range(0, 4 * MIB, 128 * KIB):
                assert os.preadv(fd, [buffer], offset) == len(buffer)
                assert buffer[:] == expected[offset : offset + len(buffer)], offset
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [1, 4095, 64 * KIB, 50 * KIB + 1, 64 * KIB + 1])
def test_images_of_odd_sizes(mounted: Mounted, size: int) -> None:
    content = random.Random(1).randbytes(size)
    mount = mounted(content=content, cache_size="128KiB")
    model = Model(mount, content)
    model.stomp(100)
    model.verify()
    mount.unmount()
    mount.mount()
    model.verify()


class TestTheEnd:
    """The image behaves like a disk there: short reads, no growth, no truncation."""

    SIZE = 1 * MIB + 1000

    @pytest.fixture
    def mount(self, mounted: Mounted) -> Mount:
        """Mount an image with a partial tail."""
        return mounted(size=self.SIZE)

    def test_reads_past_it_are_short(self, mount: Mount) -> None:
        content = mount.origin.read_bytes()
        assert mount.read(self.SIZE - 10, 4096) == content[-10:]
        assert mount.read(self.SIZE - 100_000, 200_000) == content[-100_000:]
        assert mount.read(self.SIZE, 4096) == b""
        assert mount.read(self.SIZE + 10 * MIB, 4096) == b""
        assert mount.read(2**62, 1) == b""

    def test_writes_past_it_are_refused_and_change_nothing(self, mount: Mount) -> None:
        content = mount.origin.read_bytes()
        for offset in (self.SIZE - 10, self.SIZE, self.SIZE + MIB, 2**62):
            with pytest.raises(OSError, match=r".") as caught:
                mount.write(offset, bytes(20))
            assert (offset, caught.value.errno) == (offset, errno.EFBIG)
        assert mount.image.read_bytes() == content
        assert mount.image.stat().st_size == self.SIZE

    def test_writes_up_to_it_are_taken(self, mount: Mount) -> None:
        before = mount.image.read_bytes()
        mount.write(self.SIZE - 20, b"x" * 20, sync=True)
        assert mount.image.read_bytes() == before[:-20] + b"x" * 20

    def test_truncation_is_refused(self, mount: Mount) -> None:
        for size in (0, self.SIZE - 1, self.SIZE + 1):
            with pytest.raises(PermissionError):
                os.truncate(mount.image, size)
            assert mount.image.stat().st_size == self.SIZE
        os.truncate(mount.image, self.SIZE)
        with pytest.raises(PermissionError):
            os.open(mount.image, os.O_WRONLY | os.O_TRUNC)

    def test_nothing_else_happens_in_the_directory(self, mount: Mount) -> None:
        assert [path.name for path in mount.mountpoint.iterdir()] == ["image"]
        with pytest.raises(PermissionError):
            (mount.mountpoint / "other").touch()
        with pytest.raises(PermissionError):
            mount.image.unlink()
        with pytest.raises(OSError, match=r"."):
            mount.image.rename(mount.mountpoint / "other")
        with pytest.raises(OSError, match=r"."):
            (mount.mountpoint / "directory").mkdir()
        assert mount.image.stat().st_size == self.SIZE


class TestQemu:
    """What QEMU does to a raw image, in its own words."""

    @pytest.fixture
    def mount(self, mounted: Mounted) -> Mount:
        """Mount 16 MiB of zeroes."""
        need("qemu-io", "qemu-img")
        return mounted(content=bytes(16 * MIB), cache_size="1MiB")

    @staticmethod
    def qemu_io(file: Path, *commands: str, direct: bool) -> None:
        """Run qemu-io, whose exit code says nothing about patterns that differ."""
        flags = ["-t", "none", "-i", "native"] if direct else ["-t", "writeback", "-i", "threads"]
        words = [word for command in commands for word in ("-c", command)]
        result = run("qemu-io", "-f", "raw", *flags, *words, file)
        assert "failed" not in result.stdout + result.stderr, result.stdout + result.stderr

    @pytest.mark.parametrize("direct", [True, False], ids=["native", "threads"])
    def test_patterns(self, mount: Mount, direct: bool) -> None:
        writes = [
            "write -P 0xa5 1M 64k",
            "write -P 0x11 65024 1024",
            "aio_write -P 0x5a 512 3584",
            "aio_write -P 0x33 3M 2M",
            "aio_write -P 0x44 8257536 512",
            "aio_flush",
            "flush",
        ]
        reads = [
            "read -P 0xa5 1M 64k",
            "read -P 0x11 65024 1024",
            "read -P 0 66048 1024",
            "read -P 0x5a 512 3584",
            "read -P 0 0 512",
            "read -P 0x33 3M 2M",
            "read -P 0x44 8257536 512",
        ]
        self.qemu_io(mount.image, *writes, *reads, direct=direct)
        mount.remount()
        self.qemu_io(mount.image, *reads, direct=direct)

    def test_an_image_converted_onto_it_is_identical(self, mount: Mount, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(random.Random(5).randbytes(12 * MIB) + bytes(4 * MIB))
        formats = ["-f", "raw", "-F", "raw"]
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-t", "none", "-T", "none", source, mount.image)
        run("qemu-img", "compare", *formats, source, mount.image)
        mount.remount()
        run("qemu-img", "compare", *formats, source, mount.image)
        run("qemu-img", "bench", "-f", "raw", "-w", "-c", "2000", "-d", "16", "-t", "none", "-i", "native", mount.image)
