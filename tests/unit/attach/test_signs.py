"""By which signs a file or a device is known again."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusecache.attach import signs
from fusecache.attach.signs import signs_of


def of(path: Path) -> dict[str, str]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return signs_of(fd)
    finally:
        os.close(fd)


def test_f02_a_file_stays_the_same_whatever_becomes_of_its_name_and_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    before = of(path)
    assert before["inode"] == str(path.stat().st_ino)
    path.write_bytes(b"b")
    os.utime(path, ns=(1, 1))
    assert of(path.rename(tmp_path / "b")) == before


def test_f02_another_file_with_the_same_inode_is_another_one(tmp_path: Path) -> None:
    seen = []
    path = tmp_path / "a"
    for _ in range(5):
        path.write_bytes(b"a")
        seen.append(of(path))
        path.unlink()
    assert all(one != other for one, other in itertools.pairwise(seen))


def test_where_inodes_are_numbered_anew_a_file_has_no_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(signs, "inode_is_stable", lambda _: False)
    assert of(tmp_path / "a") == {}


class Device:
    """A disk with a partition, as sysfs and udev show them."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.disk = directory / "devices" / "sdx"
        (self.disk / "device").mkdir(parents=True)
        (self.disk / "sdx1").mkdir()
        (self.disk / "sdx1" / "partition").write_text("1\n")
        self.blocks, self.udev = directory / "dev", directory / "udev"
        self.blocks.mkdir()
        self.udev.mkdir()
        (self.blocks / "8:16").symlink_to(self.disk)
        (self.blocks / "8:17").symlink_to(self.disk / "sdx1")
        self.number = os.makedev(8, 16)
        monkeypatch.setattr(signs, "DEVICES", self.blocks)
        monkeypatch.setattr(signs, "UDEV", self.udev)
        monkeypatch.setattr(signs, "loop_backing", lambda _: None)
        real = {name: getattr(os, name) for name in ("major", "minor", "open", "close", "O_RDONLY", "O_NONBLOCK")}
        monkeypatch.setattr(
            signs, "os", SimpleNamespace(**real, O_CLOEXEC=os.O_CLOEXEC, fstat=self.fstat, fspath=os.fspath)
        )

    def fstat(self, fd: int) -> SimpleNamespace | os.stat_result:
        return SimpleNamespace(st_mode=stat.S_IFBLK, st_rdev=self.number) if fd == 0 else os.stat(fd)

    @property
    def signs(self) -> dict[str, str]:
        return signs_of(0)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def test_f02_a_disk_tells_its_serial_number_and_udev_what_it_found(device: Device) -> None:
    assert device.signs == {}
    (device.disk / "device" / "serial").write_text("\n")
    assert device.signs == {}
    (device.disk / "device" / "serial").write_text(" S1 \n")
    (device.disk / "device" / "wwid").write_text("naa.1\n")
    assert device.signs == {"serial number": "S1", "WWID": "naa.1"}
    (device.disk / "serial").write_text("V1\n")
    (device.udev / "b8:16").write_text("S:disk/by-id/x\nE:ID_SERIAL=udev 1\nE:ID_WWN=\nE:OTHER=1\nE:\n")
    assert device.signs == {"serial number": "V1", "WWID": "naa.1", "serial number of udev": "udev 1"}


def test_f02_a_partition_has_its_disks_and_its_number(device: Device) -> None:
    device.number = os.makedev(8, 17)
    assert device.signs == {}  # that it is the first one says nothing of the disk
    (device.udev / "b8:17").write_text("E:ID_PART_ENTRY_UUID=p1\n")
    assert device.signs == {"partition UUID": "p1"}
    (device.disk / "device" / "serial").write_text("S1")
    assert device.signs == {"partition number": "1", "serial number": "S1", "partition UUID": "p1"}


def test_a_device_that_sysfs_does_not_have(device: Device) -> None:
    device.number = os.makedev(9, 9)
    assert device.signs == {}


def test_f02_what_was_written_to_a_device_counts(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = device.blocks / "boot"
    monkeypatch.setattr(signs, "BOOT", boot)
    assert signs.written_of(device.number) == "0"
    (device.disk / "stat").write_text("1 2 3 4 5 6 4096 8\n")
    assert signs.written_of(device.number) == "0"
    boot.write_text("b00t\n")
    assert signs.written_of(device.number) == "b00t  4096+"
    (device.disk / "diskseq").write_text("9\n")
    (device.disk / "sdx1" / "stat").write_text("1 2 3 4 5 6 72 8 9 10 11 12 13 14 15\n")
    assert signs.written_of(os.makedev(8, 17)) == "b00t 9 72+14"
    assert signs.written_of(os.makedev(9, 9)) == "0"


def test_f02_of_a_loop_device_the_file_behind_it_tells(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F02: its inode's number alone is one that other file systems have, too."""
    monkeypatch.setattr(signs, "loop_backing", lambda _: (12, 0))
    assert device.signs == {"backing file": "inode 12 from byte 0"}
    backing = tmp_path / "backing"
    backing.touch()
    (device.disk / "loop").mkdir()
    (device.disk / "loop" / "backing_file").write_text(f"{backing}\n")

    assert device.signs == {"backing file": "inode 12 from byte 0"}  # another one has its name now
    monkeypatch.setattr(signs, "loop_backing", lambda _: (backing.stat().st_ino, 0))
    monkeypatch.setattr(signs, "birth_ns", lambda _: 5)
    assert device.signs["backing file's time of birth"] == "5"
