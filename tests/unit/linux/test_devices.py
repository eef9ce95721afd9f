"""G08: block devices by their numbers, as tables of dm-cache have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusecache.errors import UsageError
from fusecache.linux import devices
from fusecache.linux.devices import device_path


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a system with a disk and a device of the device mapper."""
    monkeypatch.setattr(devices, "DEVICES", tmp_path / "block")
    monkeypatch.setattr(devices, "NAMES", tmp_path / "dev")
    (tmp_path / "block" / "8:16").mkdir(parents=True)
    (tmp_path / "block" / "8:16" / "uevent").write_text("MAJOR=8\nMINOR=16\nDEVNAME=sdb\nDEVTYPE=disk\n")
    (tmp_path / "block" / "254:2" / "dm").mkdir(parents=True)
    (tmp_path / "block" / "254:2" / "uevent").write_text("DEVNAME=dm-2\n")
    (tmp_path / "block" / "254:2" / "dm" / "name").write_text("vg-fast_cdata\n")
    (tmp_path / "dev" / "mapper").mkdir(parents=True)
    return tmp_path


def test_g08_a_disk(system: Path) -> None:
    assert device_path("8:16") == device_path("008:016") == str(system / "dev" / "sdb")


def test_g08_a_device_of_the_device_mapper_by_the_name_that_lasts(system: Path) -> None:
    assert device_path("254:2") == str(system / "dev" / "dm-2"), "nobody has made its name"
    (system / "dev" / "mapper" / "vg-fast_cdata").touch()
    assert device_path("254:2") == str(system / "dev" / "mapper" / "vg-fast_cdata")


@pytest.mark.parametrize("numbers", ["8:17", "99999:1"])
def test_g08_there_is_no_such_device(system: Path, numbers: str) -> None:
    with pytest.raises(UsageError, match=f"there is no block device {numbers} here"):
        device_path(numbers)


def test_g08_a_real_one() -> None:
    found = sorted(Path("/sys/dev/block").iterdir())
    if not found:
        pytest.skip("no block device")
    path = Path(device_path(found[0].name))
    if not path.exists():
        pytest.skip(f"{path} has no name here")
    status = path.stat()
    assert f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" == found[0].name
