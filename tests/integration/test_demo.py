from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.benchmarks.rig import fusecache, operations, slow_disk
from scripts.demonstration.transcript import README, block_of, shape
from tests.integration.mounts import discard_mount, fuse_mountpoints, is_mounted, run

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where the demo works: what it should leave behind after all, we find and remove."""
    yield tmp_path
    for line in run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout.splitlines():
        device, _, file = line.partition(" ")
        if Path(file.strip()).is_relative_to(tmp_path):
            run("losetup", "--detach", device)
    for mountpoint in mountpoints_below(tmp_path):
        discard_mount(mountpoint)


def mountpoints_below(directory: Path) -> list[Path]:
    return [mountpoint for mountpoint in fuse_mountpoints() if mountpoint.is_relative_to(directory)]


def make_backing(directory: Path) -> Path:
    backing = directory / "backing"
    backing.write_bytes(bytes(range(256)) * (16 * MIB // 256))
    return backing


def test_the_slow_disk_reads_writes_counts_and_takes_its_time(tmp_path: Path) -> None:
    backing, mountpoint = make_backing(tmp_path), tmp_path / "slow"
    with slow_disk("hdd", backing, mountpoint) as disk:
        assert [path.name for path in mountpoint.iterdir()] == ["disk"]
        assert disk.stat().st_size == 16 * MIB
        with disk.open("r+b", buffering=0) as file:
            began = time.monotonic()
            for offset in (8 * MIB, 0, 12 * MIB):
                assert os.pread(file.fileno(), 4096, offset) == bytes(range(256)) * 16
            assert time.monotonic() - began > 3 * 0.002
            assert os.pwrite(file.fileno(), b"written", 5) == 7
            os.fsync(file.fileno())
            assert operations(disk) == {
                "reads": 3,
                "read_bytes": 12288,
                "writes": 1,
                "write_bytes": 7,
                "flushes": 1,
            }
            with pytest.raises(OSError, match="No space left"):
                os.pwrite(file.fileno(), b"no disk grows", 16 * MIB - 4)
            assert os.pread(file.fileno(), 4096, 16 * MIB) == b""
    assert not is_mounted(mountpoint)
    assert backing.read_bytes()[:14] == bytes(range(5)) + b"written" + b"\x0c\x0d"


def test_the_slow_disk_ends_when_it_is_unmounted(tmp_path: Path) -> None:
    backing, mountpoint = make_backing(tmp_path), tmp_path / "slow"
    with slow_disk("ram", backing, mountpoint):
        run("fusermount3", "-u", mountpoint)
        assert list(mountpoint.iterdir()) == []


def test_a_rig_that_fails_leaves_no_mount_and_no_server(tmp_path: Path) -> None:
    pid = 0
    rig = fusecache(make_backing(tmp_path), tmp_path / "rig")
    with pytest.raises(RuntimeError, match="midway"), rig as cache:  # noqa: PT012 - it is the exit that is tested
        pid = cache.pid
        assert cache.image.stat().st_size == 16 * MIB
        msg = "midway"
        raise RuntimeError(msg)
    assert mountpoints_below(tmp_path) == []
    assert not Path(f"/proc/{pid}").exists()


def demo(scratch: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [ROOT / "scripts" / "demo", "--picture", scratch / "demo.png"],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def test_the_demo_tells_its_story_and_leaves_only_the_picture(scratch: Path) -> None:
    process = demo(scratch)
    try:
        output, errors = process.communicate(timeout=300)
    finally:
        process.terminate()
    assert process.returncode == 0, output + errors
    assert "the origin alone is byte for byte what the image was" in output
    if os.geteuid() == 0:  # G09: the README shows what root sees, by scripts/demo --readme
        assert shape(output) == shape(block_of(README.read_text(encoding="utf-8")))
    assert (scratch / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in scratch.iterdir()] == ["demo.png"]
    assert mountpoints_below(scratch) == []


def test_a_demo_that_is_interrupted_cleans_up(scratch: Path) -> None:
    process = demo(scratch)
    assert process.stdout
    try:
        for line in process.stdout:
            if line.startswith("bare:"):  # from here on all is mounted, or is just about to be
                break
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGTERM
    assert mountpoints_below(scratch) == []
    assert list(scratch.iterdir()) == []
    devices = json.loads(run("losetup", "--list", "--json").stdout or '{"loopdevices": []}')["loopdevices"]
    assert not any(device["back-file"].startswith(str(scratch)) for device in devices)
