"""A day's work in small: files read in no order, a tree searched, small files written one by one and made durable.

The same work comes in two forms: on the files of a mounted file system, and, for who may not mount, on the same number
of ranges of the bare image.  Every choice is seeded: each pass does exactly what the last one did.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, Protocol

MIB: Final = 1024 * 1024

CONTENT_BYTES: Final = 420 * MIB
"""Files in the image, in all."""
READ_BYTES: Final = 72 * MIB
"""Files that are read, file by file."""
SEARCHED_BYTES: Final = 48 * MIB
"""Files that are searched, directory by directory."""
LARGEST_FILE: Final = 4 * MIB
WRITTEN_FILES: Final = 48

IMAGE_BYTES: Final = 1024 * MIB
FILE_SYSTEM_BYTES: Final = 960 * MIB
"""The rest of the image is free for writes past the file system."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that the three parts took."""

    read: float
    search: float
    write: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.read + self.search + self.write


class Workload(Protocol):
    """The three parts."""

    def read(self) -> None:
        """Read the hot files, in an order that no disk likes."""

    def search(self) -> None:
        """Search the hot trees."""

    def write(self) -> None:
        """Write small files, each made durable before the next."""


def timed(workload: Workload) -> Times:
    """Do the work once."""
    seconds = []
    for part in (workload.read, workload.search, workload.write):
        began = time.monotonic()
        part()
        seconds.append(time.monotonic() - began)
    return Times(*seconds)


def make_content(tree: Path) -> None:
    """Fill ``tree/read``, ``tree/search`` and ``tree/rest`` with files of this machine's /usr, as links if possible."""
    rng = random.Random(1)
    directories = [Path(path) for path, _, _ in os.walk("/usr")]
    rng.shuffle(directories)
    sections = iter((("read", READ_BYTES), ("search", SEARCHED_BYTES), ("rest", CONTENT_BYTES)))
    section, room = next(sections)
    total = 0
    for number, directory in enumerate(directories):
        target = tree / section / f"{number:05}"
        size = _link_files(directory, target)
        total += size
        room -= size
        if total >= CONTENT_BYTES:
            return
        if room <= 0:
            section, room = next(sections)


def _link_files(source: Path, target: Path) -> int:
    """Link or copy the plain files of one directory, and return their bytes."""
    size = 0
    for entry in sorted(_plain_files(source), key=lambda entry: entry.name):
        target.mkdir(parents=True, exist_ok=True)
        try:
            os.link(entry.path, target / entry.name)
        except OSError:  # another file system, or somebody else's file
            (target / entry.name).write_bytes(Path(entry.path).read_bytes())
        size += entry.stat().st_size
    return size


def _plain_files(directory: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if (
                entry.is_file(follow_symlinks=False)
                and 0 < entry.stat().st_size <= LARGEST_FILE
                and os.access(entry.path, os.R_OK)
            ):
                yield entry


class FileWorkload:
    """On a mounted file system that was made from :func:`make_content`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self) -> None:
        """Read all files below ``read``, shuffled."""
        files = sorted(path for path in (self._root / "read").rglob("*") if path.is_file())
        random.Random(2).shuffle(files)
        for path in files:
            path.read_bytes()

    def search(self) -> None:
        """Run grep over ``search``."""
        needle = "a string that no file will ever contain"
        subprocess.run(
            ["grep", "-r", "-c", "-F", needle, str(self._root / "search")], check=False, stdout=subprocess.DEVNULL
        )

    def write(self) -> None:
        """Write below ``written``."""
        rng = random.Random(3)
        directory = self._root / "written"
        directory.mkdir(exist_ok=True)
        for number in range(WRITTEN_FILES):
            with (directory / f"{number}").open("wb") as file:
                file.write(rng.randbytes(rng.randrange(1024, 16 * 1024)))
                file.flush()
                os.fsync(file.fileno())


class RangeWorkload:
    """On the bare image: as many bytes, in ranges as long as small files."""

    RANGE_BYTES: Final = 48 * 1024

    def __init__(self, image: Path) -> None:
        self._image = image

    def read(self) -> None:
        """Read ranges from the first megabytes, shuffled."""
        offsets = list(range(0, READ_BYTES, self.RANGE_BYTES))
        random.Random(2).shuffle(offsets)
        self._read(offsets)

    def search(self) -> None:
        """Read ranges in order, with gaps."""
        rng = random.Random(3)
        steps = [rng.choice((1, 1, 4)) * self.RANGE_BYTES for _ in range(SEARCHED_BYTES // self.RANGE_BYTES)]
        self._read(list(accumulate(steps, initial=2 * READ_BYTES)))

    def write(self) -> None:
        """Write behind the file system."""
        rng = random.Random(4)
        fd = os.open(self._image, os.O_WRONLY)
        try:
            for _ in range(WRITTEN_FILES):
                offset = rng.randrange(FILE_SYSTEM_BYTES, IMAGE_BYTES - 65536, 4096)
                os.pwrite(fd, rng.randbytes(rng.randrange(1, 5) * 4096), offset)
                os.fsync(fd)
        finally:
            os.close(fd)

    def _read(self, offsets: list[int]) -> None:
        fd = os.open(self._image, os.O_RDONLY)
        try:
            for offset in offsets:
                os.pread(fd, self.RANGE_BYTES, offset)
        finally:
            os.close(fd)
