"""Programs and models that judge an image from outside: fio, e2fsck, qemu, and bytes kept in memory."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies import policy_names
from tests.integration.mounts import Mount, run

MIB = 1024 * 1024
POLICIES = [name for name in policy_names() if name != "default"]
MODES = ["writeback", "writethrough", "passthrough"]
PAGE_CACHES = ["stores", "image", "none"]
FIO_SECONDS = 60


def need(*programs: str) -> None:
    """Skip the test if a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")


def fio_command(file: Path, *options: str, size: int = 8 * MIB) -> list[str]:
    """Spell a job of random writes in a fixed order, each verified; ``options`` come last, so that they win."""
    return [
        "fio",
        "--name=verify",
        f"--filename={file}",
        f"--size={size}",
        "--allow_file_create=0",
        "--rw=randwrite",
        "--bs=4k",
        "--randseed=7",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--output-format=terse",
        *(f"--{option}" for option in options),
    ]


def fio(file: Path, *options: str, size: int = 8 * MIB) -> None:
    """Run such a job; ``verify_only=1`` reads again what a job of the same options wrote earlier."""
    need("fio")
    run(*fio_command(file, *options, size=size), timeout=FIO_SECONDS)


@contextlib.contextmanager
def fio_running(file: Path, *options: str, size: int = 8 * MIB) -> Iterator[subprocess.Popen[str]]:
    """Have such a job run beside this block, and no longer; :func:`finished` tells how it went."""
    need("fio")
    with subprocess.Popen(
        fio_command(file, *options, size=size),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen[str]) -> None:
    """Wait until a job of :func:`fio_running` has done all its work and found it right."""
    output, _ = process.communicate(timeout=FIO_SECONDS)
    assert process.returncode == 0, output


def e2fsck(device: Path) -> None:
    """Check an ext4 file system that is not mounted, changing nothing: it has to be without fault."""
    need("e2fsck")
    run("e2fsck", "-fn", device)


class Model:
    """An image and, in memory, what it has to read as."""

    def __init__(self, mount: Mount, content: bytes, *, seed: int = 1) -> None:
        self.expected = bytearray(content)
        self._mount = mount
        self._random = random.Random(seed)

    def stomp(self, count: int, *, longest: int = 100_000, syncs: int = 50) -> None:
        """Write anywhere, any length, any alignment; in between, read and verify, and fsync now and then.

        Half of it goes to a tenth of the image, so that there is something worth caching.
        """
        size = len(self.expected)
        fd = os.open(self._mount.image, os.O_RDWR)
        try:
            for number in range(count):
                span = max(1, size // 10) if self._random.random() < 0.5 else size
                offset = self._random.randrange(span)
                length = min(self._random.choice([1, 512, 4096, 5000, 65536, longest]), size - offset)
                if self._random.random() < 0.5:
                    offset -= offset % 4096
                if self._random.random() < 0.6:
                    data = self._random.randbytes(length)
                    assert os.pwrite(fd, data, offset) == length
                    self.expected[offset : offset + length] = data
                else:
                    assert os.pread(fd, length, offset) == self.expected[offset : offset + length], (offset, length)
                if number % syncs == syncs - 1:
                    os.fsync(fd)
        finally:
            os.close(fd)

    def verify(self, path: Path | None = None) -> None:
        """Read all of the image (or of ``path``) and compare."""
        assert_same(path or self._mount.image, self.expected)


def fill(mount: Mount, blocks: int = 16) -> None:
    """Write whole blocks at the begin of the image until ``blocks`` of them are cached and dirty, and stay so.

    With a migration threshold of 0 the cache is never idle, so nothing is written back for lack of other work.  Neither
    age nor amount make fusecache write anything back.
    """
    mount.setxattr("migration_threshold", "0")
    mount.setxattr("dirty_age", "0")
    mount.setxattr("dirty_limit", "100%")
    size = mount.count("block_bytes")
    rng = random.Random(9)
    fd = os.open(mount.image, os.O_WRONLY)
    try:
        for _ in range(200):
            for number in rng.sample(range(2 * blocks), 2 * blocks):
                os.pwrite(fd, rng.randbytes(size), number * size)
            if mount.count("dirty_blocks") >= blocks:
                return
    finally:
        os.close(fd)
    pytest.fail(f"the policy wants none of it: {mount.status()}")


def read_blocks(mount: Mount) -> bytes:
    """Read the image with one request for each block, so that hits can be counted."""
    size = mount.count("block_bytes")
    fd = os.open(mount.image, os.O_RDONLY)
    try:
        return b"".join(os.pread(fd, size, offset) for offset in range(0, mount.image.stat().st_size, size))
    finally:
        os.close(fd)


def assert_same(path: Path, expected: bytes | bytearray) -> None:
    """Compare a file with bytes; a difference is told by its place, not by megabytes."""
    assert path.stat().st_size == len(expected)
    with path.open("rb") as file:
        for offset in range(0, len(expected), MIB):
            found, wanted = file.read(MIB), expected[offset : offset + MIB]
            if found != wanted:
                first = next(place for place, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1])
                pytest.fail(f"{path} differs first at byte {offset + first}")


def digest(path: Path) -> int:
    """Sum up a file's content and size, to see whether it changed."""
    data = path.read_bytes()
    return zlib.crc32(data) << 64 | len(data)
