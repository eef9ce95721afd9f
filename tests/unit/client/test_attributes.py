from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusecache.client.attributes import ImageAttributes, mountpoint_of
from fusecache.client.client import Client
from fusecache.errors import RefusedError
from fusecache.linux import mounts


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the kernel say that something of ours is mounted at ``vm``, and something else at ``other``."""
    table = tmp_path / "mountinfo"
    table.write_text(
        f"22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n"
        f"31 22 0:47 / {tmp_path}/vm rw,nosuid - fuse.fusecache /disk.img rw,user_id=65534\n"
        f"32 22 0:48 / {tmp_path}/other rw,nosuid - fuse.sshfs host: rw,user_id=65534\n"
    )
    for name in ("vm", "other", "empty"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image").touch()
    monkeypatch.setattr(mounts, "MOUNTS", table)
    return tmp_path / "vm"


def test_g04_the_image_stands_for_its_mountpoint(vm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G04: scripts have the image's path, and got "is not a fusecache mount"."""
    assert mountpoint_of(vm / "image") == vm
    monkeypatch.chdir(vm)
    assert mountpoint_of(Path("image")) == vm
    link = vm.parent / "disk"
    link.symlink_to(vm / "image")
    assert mountpoint_of(link) == vm
    link.unlink()
    link.symlink_to("vm/image")
    assert mountpoint_of(link) == vm


def test_g04_a_mountpoint_that_is_called_image_is_one(vm: Path) -> None:
    vm.rename(vm.parent / "image")
    table = vm.parent / "mountinfo"
    table.write_text(table.read_text().replace(f"{vm} ", f"{vm.parent}/image "))
    assert mountpoint_of(vm.parent / "image") == vm.parent / "image"
    assert mountpoint_of(vm.parent / "image" / "image") == vm.parent / "image"


@pytest.mark.parametrize("name", ["vm", "vm/other", "empty/image", "other/image", "nowhere", "nowhere/image"])
def test_g04_anything_else_is_what_it_is(vm: Path, name: str) -> None:
    assert mountpoint_of(vm.parent / name) == vm.parent / name


def test_g04_whoever_may_not_look_into_a_mount_is_told_why(vm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G04: root got "Permission denied", and root is not used to that."""

    def refuse(path: Path, _name: str) -> bytes:
        assert path == vm / "image"
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "getxattr", refuse)
    with pytest.raises(PermissionError):
        ImageAttributes(vm).get("stats")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(
        RefusedError, match=r"was mounted by user 65534, and nobody else .* root included: .* allow_root"
    ):
        Client(vm / "image").stats()
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(RefusedError, match="vm: Permission denied"):
        Client(vm).stats()
