"""G03: controls are no data: who copies the image with all its attributes, and copies it back, sets nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, need
from tests.integration.mounts import Mount, run


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image whose origin has an attribute of its own."""
    mount = mounted(size=MIB)
    mount.unmount()
    os.setxattr(mount.origin, "user.note", b"of the origin")
    mount.mount()
    return mount


def settings(mount: Mount) -> tuple[str, str, str]:
    return mount.getxattr("mode"), mount.getxattr("policy"), mount.getxattr("scrub")


def switched(mount: Mount) -> tuple[str, str, str]:
    """Set what a copy that was made before would set back."""
    mount.setxattr("mode", "writethrough")
    mount.setxattr("policy", "mq")
    mount.setxattr("scrub", "4096")
    return settings(mount)


def test_g03_none_is_listed_and_each_is_read_by_its_name(mount: Mount) -> None:
    for path in (mount.image, mount.mountpoint):
        assert run("getfattr", "--dump", "--match=-", path).stdout == ""
    assert "writeback" in run("getfattr", "--name=user.fusecache.mode", mount.image).stdout
    stats = run("getfattr", "--only-values", "--name=user.fusecache.stats", mount.image).stdout
    assert stats.startswith("{")


def test_g03_rsync_there_and_back(mount: Mount, tmp_path: Path) -> None:
    need("rsync")
    copy = tmp_path / "copy"
    run("rsync", "--archive", "--xattrs", mount.image, copy)
    run("rsync", "--archive", "--xattrs", f"{mount.mountpoint}/", tmp_path / "tree")
    assert os.listxattr(copy) == os.listxattr(tmp_path / "tree" / "image") == os.listxattr(tmp_path / "tree") == []
    assert run("rsync", "--archive", "--xattrs", "--itemize-changes", mount.image, copy).stdout == ""
    before = switched(mount)
    with copy.open("r+b") as file:
        file.write(b"restored")
    run("rsync", "--archive", "--xattrs", "--inplace", "--ignore-times", copy, mount.image)
    assert mount.read(0, 8) == b"restored"
    run("rsync", "--archive", "--xattrs", "--inplace", f"{tmp_path}/tree/", mount.mountpoint)
    assert settings(mount) == before


def test_g03_cp_there_and_back(mount: Mount, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    assert run("cp", "--archive", mount.image, copy).stderr == ""
    assert run("cp", "--archive", mount.mountpoint, tmp_path / "tree").stderr == ""
    assert os.listxattr(copy) == os.listxattr(tmp_path / "tree") == os.listxattr(tmp_path / "tree" / "image") == []
    before = switched(mount)
    assert run("cp", "--archive", "--attributes-only", copy, mount.image).stderr == ""
    run("cp", "--archive", copy, mount.image, check=False)  # which cannot cut it to nothing first
    assert settings(mount) == before


def test_g03_tar_there_and_back(mount: Mount, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    options = ["--xattrs", "--xattrs-include=*", f"--file={archive}", f"--directory={mount.mountpoint}"]
    run("tar", "--create", *options, ".")
    assert "SCHILY.xattr" not in archive.read_bytes().decode("latin-1")
    (tmp_path / "tree").mkdir()
    run("tar", "--extract", "--xattrs", "--xattrs-include=*", f"--file={archive}", f"--directory={tmp_path}/tree")
    assert (tmp_path / "tree" / "image").read_bytes() == mount.origin.read_bytes()
    before = switched(mount)
    for how in ("--overwrite", "--unlink-first"):
        run("tar", "--extract", how, *options, check=False)  # which can neither cut nor replace it
    assert settings(mount) == before


def test_g03_an_origin_is_copied_onto_the_image_with_all_its_attributes(mount: Mount) -> None:
    """The image keeps none of them, as a file system that has no such attributes; the mark of an origin is none."""
    assert "user.note" in os.listxattr(mount.origin)
    before = settings(mount)
    told = run("cp", "--archive", "--attributes-only", mount.origin, mount.image).stderr
    assert all("Operation not supported" in line for line in told.splitlines()), told
    assert settings(mount) == before
    assert os.listxattr(mount.image) == []
