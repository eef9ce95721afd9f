"""G08: df and du see the origin's file system and the origin's holes."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import NOTHING_UNASKED, LoopDevices, Mount, fusecache, run, wait_until


def test_g08_df_tells_the_origins_file_system(mounted: Mounted) -> None:
    mount = mounted()
    told, origins = os.statvfs(mount.mountpoint), os.statvfs(mount.origin)
    assert (told.f_frsize, told.f_blocks, told.f_files) == (origins.f_frsize, origins.f_blocks, origins.f_files)
    assert abs(told.f_bavail - origins.f_bavail) * told.f_frsize < 1 << 30
    assert told.f_ffree > 0
    used = int(run("df", "--output=pcent", mount.mountpoint).stdout.split()[-1].rstrip("%"))
    origin_used = int(run("df", "--output=pcent", mount.origin).stdout.split()[-1].rstrip("%"))
    assert abs(used - origin_used) <= 1


def test_g08_du_tells_the_origins_holes(mounted: Mounted, tmp_path: Path) -> None:
    origin = sparse(tmp_path / "sparse", {3 * MIB: 65536})
    mount = mounted(origin=origin)
    assert mount.image.stat().st_blocks == origin.stat().st_blocks < 16 * MIB // 512
    assert run("du", "--block-size=1", mount.image).stdout.split()[0] == str(origin.stat().st_blocks * 512)


def test_g08_a_dense_origin_has_none(mounted: Mounted) -> None:
    mount = mounted(size=MIB)
    assert mount.image.stat().st_blocks == mount.origin.stat().st_blocks >= MIB // 512


def test_g08_what_waits_in_the_cache_is_no_hole(mounted: Mounted, tmp_path: Path) -> None:
    """tar takes a file of which no block is allocated for one without any content."""
    origin = sparse(tmp_path / "sparse", {})
    mount = mounted(*NOTHING_UNASKED, origin=origin, cache_size="4MiB")
    empty = origin.stat().st_blocks  # what its extended attributes take
    assert mount.image.stat().st_blocks == empty < 65536 // 512
    data = os.urandom(65536)
    mount.setxattr("policy", "lru")  # which absorbs
    mount.write(5 * MIB, data)
    assert mount.count("dirty_blocks") == 1
    assert origin.stat().st_blocks == empty
    assert mount.image.stat().st_blocks >= 65536 // 512
    assert restored(mount, tmp_path)[5 * MIB : 5 * MIB + 65536] == data
    fusecache("flush", mount.mountpoint)
    wait_until(lambda: mount.image.stat().st_blocks == origin.stat().st_blocks, "they agree")
    assert origin.stat().st_blocks >= 65536 // 512


def test_g08_a_device_lies_on_no_file_system(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    """df leaves such a file system out, and nobody is alarmed; the times are kept all the same."""
    device = loops.attach(sparse(tmp_path / "disk", {0: 4096}), direct_io=False)
    mount = mounted(origin=device)
    status = mount.image.stat()
    assert status.st_blocks == 16 * MIB // 512
    assert (os.statvfs(mount.mountpoint).f_blocks, os.statvfs(mount.mountpoint).f_files) == (0, 0)
    assert str(mount.mountpoint) not in run("df", check=False).stdout
    mount.remount()
    assert mount.image.stat().st_mtime_ns == status.st_mtime_ns
    mount.unmount()


def restored(mount: Mount, tmp_path: Path) -> bytes:
    """Return the image as tar saves and restores it, without its holes."""
    archive, directory = tmp_path / "archive", tmp_path / "restored"
    directory.mkdir()
    run("tar", "--create", "--sparse", f"--file={archive}", f"--directory={mount.mountpoint}", "image")
    run("tar", "--extract", f"--file={archive}", f"--directory={directory}")
    return (directory / "image").read_bytes()


def sparse(path: Path, content: dict[int, int]) -> Path:
    """Make a file of holes, with some data in it."""
    with path.open("wb") as file:
        file.truncate(16 * MIB)
        for offset, length in content.items():
            file.seek(offset)
            file.write(os.urandom(length))
        file.flush()
        os.fsync(file.fileno())
    return path
