"""A day's work in small: files read in no order, a tree searched, small files written one by one and made durable.

The same work comes in two forms: on the files of a mounted file system, and, for who may not mount, on the same number
of ranges of the bare image.  Every choice is seeded: each pass does exactly what the last one did.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, Protocol

KIB: Final = 1024
MIB: Final = 1024 * KIB

READ_BYTES: Final = 64 * MIB
"""Files that are read, file by file."""
SEARCHED_BYTES: Final = 40 * MIB
"""Files that are searched, directory by directory."""
SECTIONS: Final = (
    ("read", 4 * KIB, READ_BYTES),
    ("search", 4 * KIB, SEARCHED_BYTES),
    ("rest", 64 * KIB, 240 * MIB),
)
"""Directories of the image; their smallest file, lest making the image take longer than using it; their bytes."""
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


def content_commands() -> Iterator[str]:
    """Yield what to tell debugfs(8) to fill ``/read``, ``/search`` and ``/rest`` with files of this machine's /usr.

    So the image needs neither root nor a copy of the files beside it.
    """
    directories = [path for path, _, _ in os.walk("/usr")]
    random.Random(1).shuffle(directories)
    numbered = enumerate(directories)
    for section, smallest, wanted in SECTIONS:
        yield f"mkdir /{section}"
        copied = 0
        while copied < wanted and (item := next(numbered, None)):
            number, directory = item
            files = [entry for entry in _plain_files(directory) if smallest <= entry.stat().st_size <= LARGEST_FILE]
            if files:
                yield f"mkdir /{section}/{number}"
            for entry in files:
                yield f"write {entry.path} /{section}/{number}/{entry.name}"
                copied += entry.stat().st_size


def _plain_files(directory: str) -> list[os.DirEntry[str]]:
    """List the files that can be read, and whose names debugfs takes as one word."""
    with os.scandir(directory) as entries:
        files = [
            entry
            for entry in entries
            if re.fullmatch(r"[\w/.+-]+", entry.path)
            and entry.is_file(follow_symlinks=False)
            and os.access(entry.path, os.R_OK)
        ]
    return sorted(files, key=lambda entry: entry.name)


class FileWorkload:
    """On a mounted file system that was made by :func:`content_commands`."""

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
                file.write(rng.randbytes(rng.randrange(KIB, 16 * KIB)))
                file.flush()
                os.fsync(file.fileno())


class RangeWorkload:
    """On the bare image: as many bytes, in ranges as long as small files."""

    RANGE_BYTES: Final = 48 * KIB

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
                offset = rng.randrange(FILE_SYSTEM_BYTES, IMAGE_BYTES - 64 * KIB, 4096)
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
