"""Where claims are kept that an origin cannot keep, and whose they are."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fusecache.attach.claim import Claim
from fusecache.attach.claims import Claims
from fusecache.attach.origin import OpenStore, Space
from fusecache.config import PageCache
from fusecache.metadata import Identity, ImageTimes


@dataclass
class Disk:
    """An origin that keeps no notes unless told so."""

    address: str = "/dev/sdb"
    signs: dict[str, str] = field(default_factory=dict)
    place: str = "device 2064"
    keeps_notes: bool = False
    can_remove: bool = True
    note: Claim | None = None
    size: int = 0

    @property
    def unwritable(self) -> str:
        return ""

    def is_in_place(self) -> bool:
        return True

    def identity(self) -> Identity:
        return Identity(self.address, self.place, "0", 0, signs=self.signs)

    def claim(self) -> Claim | None:
        return self.note

    def touched(self) -> str:
        return ""

    def times(self) -> ImageTimes | None:
        raise NotImplementedError

    def allocated(self) -> int | None:
        raise NotImplementedError

    def space(self) -> Space | None:
        raise NotImplementedError

    def write_claim(self, claim: Claim) -> bool:
        if self.keeps_notes:
            self.note = claim
        return self.keeps_notes

    def remove_claim(self) -> None:
        self.note = None if self.can_remove else self.note

    def read_now(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def open_store(self, size: int, page_cache: PageCache) -> OpenStore:
        raise NotImplementedError

    def make_identity_durable(self) -> None:
        raise NotImplementedError


def claims(directory: Path | None, disk: Disk) -> Claims:
    return Claims(disk, directory)


A, B = Claim("a", "/a", "1-a"), Claim("b", "/b", "1-b")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "home" / "claims"


def test_f01_what_the_origin_keeps_is_nowhere_else(directory: Path) -> None:
    disk = Disk(keeps_notes=True)
    assert claims(directory, disk).write(A) == disk.address
    assert claims(directory, disk).read() == A
    assert not directory.exists()
    claims(directory, disk).remove()
    assert claims(directory, disk).read() is None


def test_f01_what_it_cannot_keep_lies_in_the_directory_for_its_owner_alone(directory: Path) -> None:
    disk = Disk(signs={"serial number": "1"})
    where = Path(claims(directory, disk).write(A))
    assert where.parent == directory
    assert (where.stat().st_mode & 0o777, directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [file.name for file in directory.iterdir()] == [where.name]
    assert claims(directory, disk).read() == A
    claims(directory, disk).write(B)
    assert claims(directory, disk).read() == B
    claims(directory, disk).remove()
    assert list(directory.iterdir()) == []


def test_f02_it_is_found_under_another_name_by_its_signs(directory: Path) -> None:
    claims(directory, Disk(signs={"serial number": "1", "WWN": "x"})).write(A)
    assert claims(directory, Disk("/dev/sdz", {"serial number": "1"}, "device 9")).read() == A
    assert claims(directory, Disk("/dev/sdz", {"serial number": "2"}, "device 9")).read() is None


def test_f02_another_disk_in_its_place_neither_has_its_claim_nor_takes_it_away(directory: Path) -> None:
    """F02: the file was named after the device's name, so the second disk's claim replaced the first one's."""
    first, second = Disk(signs={"serial number": "1"}), Disk(signs={"serial number": "2"})
    claims(directory, first).write(A)
    assert claims(directory, second).read() is None
    claims(directory, second).write(B)
    assert claims(directory, Disk("/dev/sdc", {"serial number": "1"}, "device 7")).read() == A
    claims(directory, second).remove()
    assert claims(directory, first).read() == A


def test_f02_without_signs_the_address_counts_and_the_place_does_not(directory: Path) -> None:
    """F02: a file system that numbers its files anew may give another file the same number."""
    claims(directory, Disk("/mnt/a", place="7:7")).write(A)
    other = Disk("/mnt/b", place="7:7")
    assert claims(directory, other).read() is None
    claims(directory, other).remove()
    assert claims(directory, Disk("/mnt/a", place="8:8")).read() == A
    claims(directory, Disk("/mnt/a", place="8:8")).remove()
    assert claims(directory, Disk("/mnt/a", place="7:7")).read() is None


def test_f01_an_older_note_that_stays_is_believed_and_one_that_goes_is_replaced(directory: Path) -> None:
    """F01: a file system that is full may refuse a new note, and keep the old one, which says that all is well."""
    disk = Disk(note=A)
    assert claims(directory, disk).write(B).startswith(str(directory))
    assert claims(directory, disk).read() == B
    disk = Disk(note=A, can_remove=False)
    claims(directory, disk).write(B)  # the bond sees that another one is believed, and stops
    assert claims(directory, disk).read() == A


def test_where_there_is_no_directory_it_is_kept_nowhere(directory: Path) -> None:
    assert claims(None, Disk()).write(A) == ""
    directory.parent.mkdir()
    directory.write_text("no directory")
    assert claims(directory, Disk()).write(A) == ""
    assert claims(directory, Disk()).read() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "1",
        '{"claim": 1, "origin": 2}',
        '{"claim": {"uuid": "u", "metadata": "m"}, "origin": []}',
        "[",
    ],
)
def test_what_is_no_claim_is_passed_over(directory: Path, text: str) -> None:
    directory.mkdir(parents=True)
    for name in ("a.claim", "z.claim"):
        (directory / name).write_text(text)
    (directory / "b.claim").mkdir()
    claims(directory, Disk()).write(A)
    assert claims(directory, Disk()).read() == A
    assert (directory / "a.claim").read_text() == text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_f16_a_note_of_somebody_else_is_not_believed(directory: Path) -> None:
    assert claims(directory, Disk()).write(A)
    (note,) = directory.glob("*.claim")
    os.chown(note, 65534, 65534)
    assert claims(directory, Disk()).read() is None
    os.chown(note, 0, 0)
    assert claims(directory, Disk()).read() == A
