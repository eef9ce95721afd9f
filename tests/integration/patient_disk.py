"""A disk that takes its time, as much as it is told, over any number of requests at once.

``python -m tests.integration.patient_disk BACKING MOUNTPOINT`` serves BACKING as MOUNTPOINT/disk.  To set the extended
attribute ``user.seconds`` says how long requests take from now on, and ``user.most`` tells how many reads or writes
were under way at a time, at most, since then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyfuse3
import trio

from scripts.benchmarks.bare_server import serve
from scripts.benchmarks.slow_disk import PROFILES, SlowDisk
from tests.integration.mounts import discard_mount


@contextlib.contextmanager
def patient_disk(directory: Path, content: bytes) -> Iterator[Path]:
    """Serve such a disk with this content; gives the path of it."""
    directory.mkdir()
    (directory / "backing").write_bytes(content)
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.integration.patient_disk",
        directory / "backing",
        mountpoint,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield mountpoint / "disk"
        finally:
            discard_mount(mountpoint)


class PatientDisk(SlowDisk):
    """See above."""

    def __init__(self, backing: int) -> None:
        super().__init__(PROFILES["ram"], backing)
        self._seconds = 0.0
        self._under_way = 0
        self._most = 0

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read, when it is time."""
        with self._counted():
            await trio.sleep(self._seconds)
            return await super().read(fh, off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write, when it is time."""
        with self._counted():
            await trio.sleep(self._seconds)
            return await super().write(fh, off, buf)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Begin to count anew."""
        if name != b"user.seconds":
            raise pyfuse3.FUSEError(errno.EOPNOTSUPP)
        self._seconds = float(value)
        self._most = self._under_way

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Tell the greatest number of requests under way."""
        return str(self._most).encode() if name == b"user.most" else await super().getxattr(inode, name, ctx)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._under_way += 1
        self._most = max(self._most, self._under_way)
        try:
            yield
        finally:
            self._under_way -= 1


def take(disk: Path, seconds: float) -> None:
    """Have each request take so long from now on, and count anew."""
    os.setxattr(disk, "user.seconds", str(seconds).encode())


def most_under_way(disk: Path) -> int:
    """Return the greatest number of requests under way since :func:`take`."""
    return int(os.getxattr(disk, "user.most"))


if __name__ == "__main__":
    serve(PatientDisk, *sys.argv[1:], options=set())
