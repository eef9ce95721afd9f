"""Mounts that outlive their daemons: killed, restarted, given up, and unmounted while nobody serves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, fio_command, need
from tests.integration.mounts import (
    GATE,
    LoopDevices,
    Mount,
    fusecache,
    is_mounted,
    processes_of,
    program,
    run,
    wait_until,
)
from tests.integration.test_lifecycle import ended_cleanly, is_running

KILLS = int(os.environ.get("FUSECACHE_KILLS", "3"))
WRITERS = Path(__file__).with_name("promised_writers.py")
SIZE = 16 * MIB
CONTENT = random.Random(15).randbytes(SIZE)
LIVED_SECONDS = 1.2
"""A daemon that served that long has not failed, however it ended."""
END_SECONDS = 60
"""Nobody waits longer for an answer or an error."""


@pytest.fixture(autouse=True)
def _survives() -> None:
    """Need a kernel that sends requests again, and the gate."""
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    if GATE or release < (6, 9):
        pytest.skip("no mount outlives its daemon here")


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """A mount that is held."""
    mount = mounted(content=CONTENT)
    assert mount.count("holder")
    return mount


def kill(mount: Mount) -> int:
    """Kill the daemon; returns its number.  Whoever asks the mount anything waits for the next one."""
    pid = mount.pid
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    return pid


def wait_for_end(pid: int) -> None:
    wait_until(lambda: not is_running(pid), f"process {pid} is gone", END_SECONDS)


@contextlib.contextmanager
def writing(mount: Mount, threads: int = 8) -> Iterator[dict[str, object]]:
    """Have a program write within this block; what it was promised and what it found is there afterwards."""
    stop = mount.mountpoint.with_name("stop")
    stop.unlink(missing_ok=True)
    result: dict[str, object] = {}
    command = [sys.executable, str(WRITERS), str(mount.image), str(threads), str(SIZE // 4096), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            yield result
            stop.touch()
            said, _ = process.communicate(timeout=END_SECONDS)
            result |= json.loads(said)
        finally:
            process.kill()
            if process.returncode is None:
                mount.discard()  # or it could not even be killed


def judge(found: dict[str, object]) -> None:
    """What was promised is there, and no program has seen an error."""
    assert found["errors"] == []
    assert found["wrong"] == []
    places = found["places"]
    assert isinstance(places, int)
    assert places > 20


class TestKilled:
    """A daemon that dies is a stall."""

    @pytest.mark.parametrize("page_cache", ["stores", "none"])
    @pytest.mark.parametrize("mode", ["writeback", "writethrough"])
    def test_nothing_acknowledged_is_lost_and_nobody_sees_an_error(
        self, mounted: Mounted, mode: str, page_cache: str
    ) -> None:
        mount = mounted("--mode", mode, "--page-cache", page_cache, content=CONTENT)
        with writing(mount) as found:
            for number in range(KILLS):
                assert mount.count("crashes") == number
                time.sleep(LIVED_SECONDS)
                kill(mount)
            assert mount.count("crashes") == KILLS
        judge(found)
        content = mount.image.read_bytes()
        mount.unmount()
        assert ended_cleanly(mount)
        assert not is_mounted(mount.mountpoint)
        mount.mount()
        assert mount.image.read_bytes() == content

    def test_a_page_cache_of_the_image_stays_right(self, mounted: Mounted) -> None:
        mount = mounted("--page-cache", "image", content=CONTENT)
        expected = bytearray(CONTENT)
        with mount.image.open("r+b", buffering=0) as file:
            for number in range(2):
                for place in range(0, SIZE, 50_000):
                    data = bytes([number + 1]) * 700
                    file.seek(place)
                    file.write(data)
                    expected[place : place + 700] = data
                kill(mount)
            file.seek(0)
            assert file.read() == expected
        mount.unmount()
        mount.mount()
        assert mount.image.read_bytes() == expected

    def test_ext4_on_a_loop_device_sees_a_stall(self, mount: Mount, loops: LoopDevices, tmp_path: Path) -> None:
        device = loops.attach(mount.image)
        run("mkfs.ext4", "-q", device)
        place = tmp_path / "ext4"
        loops.mount(device, place, "-o", "errors=remount-ro")
        contents = {name: random.Random(name).randbytes(200_000) for name in map(str, range(12))}
        for number, (name, content) in enumerate(contents.items()):
            if number in {4, 8}:
                kill(mount)
            (place / name).write_bytes(content)
            with (place / name).open("rb") as file:
                os.fsync(file.fileno())
        assert {name: (place / name).read_bytes() for name in contents} == contents
        loops.unmount(place)
        run("e2fsck", "-fn", device)
        loops.detach(device)
        mount.unmount()
        assert ended_cleanly(mount)

    def test_what_was_set_is_set_in_the_next_one(self, mount: Mount) -> None:
        mount.setxattr("mode", "writethrough")
        mount.setxattr("policy", "lru")
        mount.setxattr("copy_rate", "1234567")
        mount.setxattr("dirty_limit", "50%")
        time.sleep(2.5)
        kill(mount)
        stats = mount.status()
        assert [stats[name] for name in ("mode", "policy", "copy_rate", "dirty_limit")] == [
            "writethrough",
            "lru",
            1234567,
            "50%",
        ]

    def test_an_option_that_empties_the_cache_does_so_once(self, mounted: Mounted) -> None:
        mount = mounted(content=CONTENT)
        mount.unmount()
        mount.mount("--format", "--format")
        mount.write(0, b"x" * 65536 * 8)
        kill(mount)
        assert mount.image.read_bytes() == b"x" * 65536 * 8 + CONTENT[65536 * 8 :]

    def test_one_that_dies_again_and_again_is_given_up(self, mounted: Mounted) -> None:
        mount = mounted(content=CONTENT)
        with failing_reads(mount) as reading:
            while is_held(mount):
                for pid in daemons(mount):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
            assert reading.wait(END_SECONDS) != 0
        assert "given up" in mount.metadata.with_name("metadata.log").read_text()
        assert is_mounted(mount.mountpoint), "nobody takes a plain file for the disk"
        result = run(program(), "status", mount.mountpoint, check=False)
        assert result.returncode == 1
        run("fusermount3", "-u", mount.mountpoint)
        mount.mount()
        assert mount.image.read_bytes() == CONTENT

    def test_metadata_that_cannot_be_read_any_more_ends_in_errors(self, mount: Mount) -> None:
        holder = mount.count("holder")
        damaged = mount.metadata.with_name("damaged")
        damaged.write_bytes(b"x" * 100_000)
        damaged.rename(mount.metadata)
        kill(mount)
        with failing_reads(mount) as reading:
            assert reading.wait(END_SECONDS) != 0
        wait_for_end(holder)
        assert "given up" in mount.metadata.with_name("metadata.log").read_text()


def daemons(mount: Mount) -> list[int]:
    """Find the processes that serve a mount, or are going to."""
    return [pid for pid in processes_of(mount.mountpoint) if b"holder.py" not in command_of(pid)]


def is_held(mount: Mount) -> bool:
    return any(b"holder.py" in command_of(pid) for pid in processes_of(mount.mountpoint))


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def failing_reads(mount: Mount) -> Iterator[subprocess.Popen[bytes]]:
    """Have a program read again and again until it sees an error."""
    reader = "import os, sys, time; fd = os.open(sys.argv[1], 0)\nwhile os.pread(fd, 512, 0): time.sleep(0.1)"
    command = [sys.executable, "-c", reader, str(mount.image)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()
            if process.poll() is None:
                time.sleep(0.2)
            if process.poll() is None:
                mount.discard()


class TestUnmounted:
    """A holder keeps nobody from unmounting."""

    def test_it_ends_with_the_mount(self, mount: Mount) -> None:
        holder = mount.count("holder")
        mount.unmount()
        assert not is_running(holder)
        assert ended_cleanly(mount)

    def test_after_a_crash_too(self, mount: Mount) -> None:
        holder = mount.count("holder")
        kill(mount)
        mount.unmount()
        wait_for_end(holder)
        assert ended_cleanly(mount)

    @pytest.mark.parametrize("after", ["at first", "a crash", "a restart"])
    def test_sigterm_ends_it_cleanly_and_takes_it_away(self, mount: Mount, after: str) -> None:
        holder = mount.count("holder")
        if after == "a crash":
            kill(mount)
        elif after == "a restart":
            fusecache("restart", mount.mountpoint)
        mount.write(0, b"y" * 5000)
        pid = mount.pid
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)
        wait_for_end(holder)
        assert ended_cleanly(mount)
        assert not is_mounted(mount.mountpoint)
        mount.mount()
        assert mount.read(0, 5000) == b"y" * 5000

    def test_it_can_be_unmounted_while_nobody_serves(self, mount: Mount) -> None:
        holder = mount.count("holder")
        kill(mount)
        run("fusermount3", "-u", mount.mountpoint)
        wait_for_end(holder)
        wait_until(lambda: not processes_of(mount.mountpoint), "nobody is left")
        mount.mount()
        assert mount.image.read_bytes() == CONTENT

    def test_a_holder_that_hangs_is_killed(self, mount: Mount) -> None:
        holder = mount.count("holder")
        os.kill(holder, signal.SIGSTOP)
        try:
            os.kill(pid := mount.pid, signal.SIGTERM)
            wait_for_end(pid)
            wait_for_end(holder)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
        assert ended_cleanly(mount)
        assert not is_mounted(mount.mountpoint)

    @pytest.mark.parametrize("after", ["at first", "a crash"])
    def test_a_mount_goes_on_without_its_holder(self, mount: Mount, after: str) -> None:
        if after == "a crash":
            kill(mount)
        mount.end_survival()
        assert mount.image.read_bytes() == CONTENT
        assert "has died" in str(mount.status()["unheld"])
        assert "ends with its daemon" in fusecache("status", mount.mountpoint)
        result = run(program(), "restart", mount.mountpoint, check=False)
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
        mount.unmount()
        assert ended_cleanly(mount)

    def test_without_it_a_daemon_that_dies_is_a_dead_mount(self, mounted: Mounted) -> None:
        mount = mounted("--no-survive", content=CONTENT)
        assert (mount.count("holder"), mount.status()["unheld"]) == (0, "the mount was told so")
        kill(mount)
        with pytest.raises(OSError, match=r"not connected|abort"):
            mount.image.read_bytes()


class TestRestarted:
    """Another process goes on, and nobody has to stop using the image."""

    def test_under_writers_with_other_options(self, mount: Mount) -> None:
        with writing(mount) as found:
            time.sleep(1)
            was = mount.pid
            said = fusecache("restart", mount.mountpoint, "--page-cache", "none", "--scrub", "1MiB")
            assert f"in the place of pid {was}" in said
            time.sleep(1)
            fusecache("restart", mount.mountpoint, "--mode", "writethrough", "--cache-size", "6MiB")
        judge(found)
        stats = mount.status()
        names = ("page_cache", "scrub_rate", "mode", "cache_blocks", "restarts", "crashes", "suspect_blocks")
        assert [stats[name] for name in names] == ["none", MIB, "writethrough", 96, 2, 0, 0]
        log = mount.metadata.with_name("metadata.log").read_text()
        assert "clean=False" not in log
        mount.unmount()
        assert ended_cleanly(mount)

    def test_under_fio(self, mount: Mount) -> None:
        need("fio")
        command = fio_command(mount.image, "direct=1", "time_based=1", "runtime=6", "verify_backlog=64")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as fio:
            for _ in range(2):
                time.sleep(1)
                fusecache("restart", mount.mountpoint)
            said, _ = fio.communicate(timeout=END_SECONDS)
        assert fio.returncode == 0, said
        assert mount.count("restarts") == 2

    def test_options_that_the_next_one_refuses_leave_the_old_ones(self, mount: Mount) -> None:
        result = run(program(), "restart", mount.mountpoint, "--cache-size", "1KiB", "--copy-rate", "7MiB", check=False)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert mount.image.read_bytes() == CONTENT
        stats = mount.status()
        assert str(stats["restart"]).startswith("failed: ")
        assert (stats["copy_rate"], stats["cache_blocks"], stats["crashes"]) == (0, 64, 0)
        fusecache("restart", mount.mountpoint)
        assert mount.status()["restart"] == "done"

    @pytest.mark.parametrize("option", [("--page-cache", "nonsense"), ("--policy", "nonsense")], ids=lambda o: o[0])
    def test_nonsense_is_refused_in_one_line(self, mount: Mount, option: tuple[str, str]) -> None:
        result = run(program(), "restart", mount.mountpoint, *option, check=False)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert "nonsense" in result.stderr
        assert mount.image.read_bytes() == CONTENT

    def test_a_release_that_does_not_work_is_refused_before_anything_ends(
        self, mounted: Mounted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "release" / "fusecache"
        monkeypatch.setenv("PYTHONPATH", str(broken.parent))
        mount = mounted(content=CONTENT)
        pid = mount.pid
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise ImportError('half a release')")
        monkeypatch.delenv("PYTHONPATH")
        result = run(program(), "restart", mount.mountpoint, check=False)
        assert result.returncode == 1
        assert mount.pid == pid
        shutil.rmtree(broken)
        fusecache("restart", mount.mountpoint)
        assert mount.pid != pid

    def test_a_kill_while_it_restarts_is_a_crash(self, mount: Mount) -> None:
        with writing(mount) as found:
            for pause in (0.0, 0.2, 0.5):
                time.sleep(LIVED_SECONDS)
                pid = mount.pid
                asking = threading.Thread(
                    target=run, args=(program(), "restart", mount.mountpoint), kwargs={"check": False}
                )
                asking.start()
                time.sleep(pause)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                asking.join(END_SECONDS)
        judge(found)
        mount.unmount()
        assert ended_cleanly(mount)
