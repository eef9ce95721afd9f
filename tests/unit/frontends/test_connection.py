from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusecache.frontends.fuse import connection
from fusecache.frontends.fuse.connection import LIMITS, raise_request_limit

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 0:47 / /srv/a\\040disk rw,nosuid shared:9 - fuse.fusecache /data/disk.img rw,user_id=0
33 22 0:50 / /srv/twice rw,nosuid - fuse.other x rw
34 33 0:51 / /srv/twice rw,nosuid - fuse.fusecache x rw
"""


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(connection, "MOUNTS", tmp_path / "mountinfo")
    control = tmp_path / "connections"
    control.mkdir()
    monkeypatch.setattr(connection, "CONTROL", control)
    return control


def add(control: Path, name: str) -> Path:
    (control / name).mkdir()
    for limit in LIMITS:
        (control / name / limit).write_text("12\n")
    return control / name


def content(directory: Path) -> dict[str, str]:
    return {limit: (directory / limit).read_text() for limit in LIMITS}


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(connection, "_mount_nowhere", refuse)


@pytest.mark.parametrize(("mountpoint", "name"), [("/srv/a disk", "47"), ("/srv/twice", "51")])
def test_the_limits_of_the_mount_are_raised_and_no_others(control: Path, mountpoint: str, name: str) -> None:
    directories = {number: add(control, number) for number in ("0", "47", "50", "51")}
    assert raise_request_limit(Path(mountpoint)) == []
    expected = {"max_background": "64\n", "congestion_threshold": "48\n"}
    for number, directory in directories.items():
        assert content(directory) == (expected if number == name else dict.fromkeys(LIMITS, "12\n"))


def test_what_is_not_mounted_has_no_limits(control: Path) -> None:
    add(control, "47")
    assert raise_request_limit(Path("/srv/elsewhere")) == []
    assert content(control / "47") == dict.fromkeys(LIMITS, "12\n")


def test_without_permission_the_command_is_told(control: Path, unprivileged: None) -> None:
    (note,) = raise_request_limit(Path("/srv/a disk"))
    assert f"mount -t fusectl fusectl {control}; echo 64 >{control}/47/max_background" in note
    assert "\n" not in note
    add(control, "12")
    (note,) = raise_request_limit(Path("/srv/a disk"))
    assert f"as root: echo 64 >{control}/47/max_background" in note


def test_where_there_is_no_control_at_all(control: Path, unprivileged: None) -> None:
    control.rmdir()
    assert "mount -t fusectl" in raise_request_limit(Path("/srv/a disk"))[0]


def test_the_control_file_system_that_nobody_sees(control: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    try:
        fd = connection._mount_nowhere()
    except OSError as exc:
        pytest.skip(f"needs root: {exc.strerror}")
    assert os.stat(".", dir_fd=fd).st_dev != control.stat().st_dev
    os.close(fd)
    assert Path("/proc/self/mountinfo").read_text() == before
