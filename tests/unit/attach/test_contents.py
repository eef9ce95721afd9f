"""What a file or device holds that is to become a cache."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fusecache.attach.contents import MARKS, Mark, found_on
from fusecache.config import KIB, MIB
from fusecache.errors import StoreError

SIZE = 8 * MIB
EXT = "an ext2, ext3 or ext4 file system"
PROGRAMS = {
    "mkfs.ext2 -q": EXT,
    "mkfs.ext4 -q": EXT,
    "mkswap": "swap space",
    "mkfs.xfs -q": "an XFS file system",
    "mkfs.btrfs -q": "a Btrfs file system",
    "mkfs.f2fs -q": "an F2FS file system",
    "mkfs.vfat": "a FAT file system",
    "mkfs.vfat -F32": "a FAT file system",
    "sgdisk -o": "a partition table (GPT)",
    "qemu-img create -q -f qcow2 -o size=1G": "an image of QEMU (qcow2)",
}


def made(path: Path, size: int = SIZE, data: dict[int, bytes] | None = None) -> Path:
    """Make a sparse file with some data in it."""
    with path.open("wb") as file:
        file.truncate(size)
        for position, content in (data or {}).items():
            file.seek(position)
            file.write(content)
    return path


def found(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return found_on(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB, 5 * MIB + 1, 200 * MIB])
def test_zeros_are_nothing(tmp_path: Path, size: int) -> None:
    assert found(made(tmp_path / "sparse", size)) == ""
    (tmp_path / "full").write_bytes(bytes(size))
    assert found(tmp_path / "full") == ""


@pytest.mark.parametrize("size", [1, 4096, 3 * MIB, 5 * MIB + 1, 60 * MIB])
def test_f21_one_byte_anywhere_is_something_where_all_is_read(tmp_path: Path, size: int) -> None:
    rng = random.Random(size)
    places = {0, size - 1, *(min(size - 1, n * MIB) for n in range(7)), *(rng.randrange(size) for _ in range(20))}
    for place in places:
        assert found(made(tmp_path / "file", size, {place: b"x"})) != "", place


@pytest.mark.parametrize("place", [2 * MIB, 100 * MIB, 1 << 39, (1 << 40) - 3 * MIB])
def test_f21_any_data_in_a_sparse_file_is_seen(tmp_path: Path, place: int) -> None:
    path = made(tmp_path / "file", 1 << 40, {place: b"x"})
    assert found(path).startswith("data in its middle (near byte ")


def test_f21_of_a_large_disk_pages_all_over_it_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device has no holes: everywhere is data."""
    read = list[tuple[int, int]]()

    def pread(fd: int, length: int, position: int) -> bytes:
        read.append((position, position + length))
        return bytes(length)

    def lseek(fd: int, position: int, whence: int) -> int:
        return position

    path = made(tmp_path / "disk", size := 1 << 40)
    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(os, "lseek", lseek)
    assert found(path) == ""
    assert sum(end - begin for begin, end in read) < 80 * MIB
    assert len(read) < 700
    starts = sorted(begin for begin, _ in read)
    assert max(later - earlier for earlier, later in pairwise(starts)) < size / 250
    assert max(end for _, end in read) == size


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: f"{mark.what} {mark.magic.hex()}")
def test_f21_marks_give_names(tmp_path: Path, mark: Mark) -> None:
    for place in (mark.places[0], mark.places[-1]):
        path = made(tmp_path / "file", SIZE, {place if place >= 0 else SIZE + place: mark.magic})
        assert found(path) == mark.what


@pytest.mark.parametrize("command", PROGRAMS)
def test_f21_what_programs_make_is_known(tmp_path: Path, command: str) -> None:
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]} here")
    path = made(tmp_path / "disk", 512 * MIB)
    subprocess.run([*words, path], check=True, capture_output=True, timeout=60)
    assert found(path) == PROGRAMS[command]


def test_what_has_no_mark_is_data(tmp_path: Path) -> None:
    assert found(made(tmp_path / "file", SIZE, {5 * KIB: b"my thesis"})) == "data that is not a fusecache cache"


def test_a_disk_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    path = made(tmp_path / "disk")
    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(StoreError, match="cannot be read: Input/output error"):
        found(path)
