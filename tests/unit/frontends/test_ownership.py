"""G02: whose the image is, and who may do what."""

from __future__ import annotations

import stat

import pytest

from fusecache.config import Ownership
from fusecache.frontends.fuse.ownership import is_permitted_mode, may_control, modes


@pytest.mark.parametrize(
    ("wanted", "image", "directory"),
    [
        (Ownership(), 0o600, 0o755),
        (Ownership(uid=107, gid=108), 0o600, 0o755),
        (Ownership(mode=0o660), 0o660, 0o755),
        (Ownership(mode=0), 0, 0o755),
        (Ownership(umask=0), 0o666, 0o755),
        (Ownership(umask=0o007), 0o660, 0o750),
        (Ownership(umask=0o077), 0o600, 0o700),
    ],
)
def test_g02_permissions_of_the_image_and_of_its_directory(wanted: Ownership, image: int, directory: int) -> None:
    assert modes(wanted) == (image, directory)


def test_g02_the_mount_is_roots_and_of_who_runs_it() -> None:
    assert may_control(0, daemon=1000)
    assert may_control(1000, daemon=1000)
    assert not may_control(1001, daemon=1000)
    assert not may_control(1000, daemon=0)


def test_g02_a_disk_runs_as_nobody() -> None:
    assert is_permitted_mode(0o777)
    assert is_permitted_mode(stat.S_IFREG | 0o640)
    assert not any(is_permitted_mode(0o600 | bit) for bit in (stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX))
