"""Scenarios of other caches' test suites that need a real mount to prove anything; see ``tests/README.rst``.

The others run on simulated stores: ``tests/unit/test_scenarios.py``.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, assert_same, fill, finished, fio, fio_running
from tests.integration.mounts import NOTHING_UNASKED, fusecache, program, run, wait_until
from tests.integration.test_health import small_disk

_TB = 10**12


def test_scenario_04_blocks_of_2_mib_are_cleaned(mounted: Mounted) -> None:
    mount = mounted(size=16 * MIB, cache_size="8MiB", block_size="2MiB")
    fill(mount, 3)
    image = mount.image.read_bytes()
    mount.setxattr("migration_threshold", str(100 * MIB // 512))
    mount.setxattr("policy", "cleaner")
    wait_until(lambda: mount.count("dirty_blocks") == 0, "the cleaner has cleaned")
    assert_same(mount.origin, image)


@pytest.mark.parametrize("how", ["mount", "switch"])
def test_scenario_06_after_the_cleaner_passthrough_is_allowed(mounted: Mounted, how: str) -> None:
    mount = mounted(size=2 * MIB, cache_size="1MiB")
    fill(mount, 8)
    image = mount.image.read_bytes()
    if how == "switch":
        mount.setxattr("policy", "cleaner")
    else:
        mount.remount("--policy", "cleaner")
    wait_until(lambda: mount.count("dirty_blocks") == 0, "the cleaner has cleaned")
    assert_same(mount.origin, image)
    mount.remount("--mode", "passthrough")
    assert_same(mount.image, image)


def test_scenario_07_uncached_while_fio_writes(mounted: Mounted) -> None:
    mount = mounted(content=bytes(4 * MIB), cache_size="2MiB")
    fill(mount)
    job = ["ioengine=libaio", "direct=1", "iodepth=8", "loops=5"]
    with fio_running(mount.image, *job, size=4 * MIB) as load:
        mount.setxattr("policy", "cleaner")
        mount.setxattr("mode", "writethrough")
        assert mount.count("dirty_blocks") == 0
        fusecache("decommission", mount.mountpoint)
        assert load.poll() is None, "the load ended too early to prove anything"
        finished(load)
    mount.unmount()
    mount.cache.unlink()
    mount.metadata.unlink()
    fio(mount.origin, *job, "verify_only=1", size=4 * MIB)


def test_scenario_11_after_writethrough_the_origin_verifies_alone(mounted: Mounted) -> None:
    mount = mounted("--mode", "writethrough", content=bytes(4 * MIB), cache_size="2MiB")
    job = ["ioengine=libaio", "direct=1", "iodepth=8"]
    with fio_running(mount.image, *job, size=4 * MIB) as load:
        while load.poll() is None:
            assert mount.count("dirty_blocks") == 0
        finished(load)
    with mount.image.open("rb+") as file:
        os.fsync(file.fileno())
    fio(mount.origin, *job, "verify_only=1", size=4 * MIB)


def test_scenario_13_passthrough_refuses_a_dirty_cache(mounted: Mounted) -> None:
    mount = mounted(*NOTHING_UNASKED, size=2 * MIB, cache_size="1MiB")
    fill(mount, 8)
    image = mount.image.read_bytes()
    mount.unmount()
    files = ["--cache", str(mount.cache), "--metadata", str(mount.metadata)]
    refused = run(program(), "mount", mount.origin, mount.mountpoint, *files, "--mode", "passthrough", check=False)
    assert refused.returncode == 1
    assert "passthrough needs a clean cache" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    mount.mount()
    assert_same(mount.image, image)


def test_scenario_21_an_idle_mount_touches_no_file_and_takes_no_time(mounted: Mounted) -> None:
    mount = mounted(size=2 * MIB, cache_size="1MiB")
    fill(mount, 8)
    fusecache("flush", mount.mountpoint)
    mount.remount()
    pid = mount.pid

    def touched() -> list[int]:
        paths = (mount.origin, mount.cache, mount.metadata, Path(f"{mount.metadata}-wal"))
        return [path.stat().st_mtime_ns for path in paths if path.exists()]

    def seconds() -> float:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    before, busy = touched(), seconds()
    time.sleep(4)
    assert touched() == before
    assert seconds() - busy < 0.3


def test_scenario_23_an_origin_of_48_tb_is_mounted_quickly_and_in_little_memory(
    mounted: Mounted, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small", "4m") as small:  # tmpfs has sparse files of any length
        origin = small / "sparse"
        origin.touch()
        os.truncate(origin, 48 * _TB)
        serve_48_tb(mounted, origin)


def serve_48_tb(mounted: Mounted, origin: Path) -> None:
    """Mount a sparse origin, and look at what that takes."""
    began = time.monotonic()
    mount = mounted(origin=origin, cache_size="64MiB", block_size="64KiB")
    took = time.monotonic() - began
    mount.write(48 * _TB - 5, b"at th", sync=True)
    mount.write(24 * _TB, b"in the middle", sync=True)
    assert mount.read(48 * _TB - 5, 100) == b"at th"
    assert mount.read(24 * _TB, 13) == b"in the middle"
    status = Path(f"/proc/{mount.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    assert resident < 200 * 1024, f"{resident} KiB"
    assert took < 10
    mount.unmount()


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write; what is large comes as several requests."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def test_scenario_34_what_cannot_be_read_or_written(mounted: Mounted) -> None:
    size = MIB + 1000
    mount = mounted(size=size, cache_size="512KiB")
    image = mount.image.read_bytes()
    fd = os.open(mount.image, os.O_RDWR)
    try:
        assert os.pread(fd, 10, size) == b""
        assert os.pread(fd, 10, 2**60) == b""
        assert os.pread(fd, 4 * MIB, size - 7) == image[-7:]
        assert os.pread(fd, 0, 5) == b""
        assert os.pwrite(fd, b"", 5) == 0
        for offset, length in ((size, 1), (size - 1, 2), (2**50, 1), (0, size + 1)):
            with pytest.raises(OSError, match=r".") as caught:
                write_all(fd, image[offset:].ljust(length, b"x"), offset)
            assert caught.value.errno == errno.EFBIG
        assert os.pwrite(fd, b"odd", 12345) == 3
        assert os.pread(fd, 5, 12344) == image[12344:12345] + b"odd" + image[12348:12349]
        with pytest.raises(OSError, match=r".") as caught:
            os.ftruncate(fd, 5)
        assert caught.value.errno == errno.EPERM
    finally:
        os.close(fd)
    assert mount.image.stat().st_size == size
