"""Long work: nobody's I/O waits for it, who asked hears of its end, and the mount ends all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, assert_same, fill
from tests.integration.mounts import NOTHING_UNASKED, Mount, fusecache, program, run, wait_until

BLOCK = 64 * 1024
SIZE = 4 * MIB
RATE = BLOCK // 4
"""Bytes a second: what is asked for goes on as long as a test looks at it, also on a busy machine."""


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image with many dirty blocks, of which next to nothing may be copied."""
    mount = mounted(*NOTHING_UNASKED, size=SIZE, cache_size="2MiB")
    fill(mount)
    mount.write(0, b"safe", sync=True)
    mount.setxattr("copy_rate", str(RATE))
    assert mount.count("dirty_blocks") > 20
    return mount


@contextmanager
def command(*words: str | os.PathLike[str]) -> Iterator[subprocess.Popen[str]]:
    """Have a command run beside."""
    with subprocess.Popen(
        [program(), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], timeout: float = 30) -> tuple[int, str]:
    """Wait for a command's end; returns its exit code and what it says on stderr."""
    _, said = process.communicate(timeout=timeout)
    return process.returncode, said


def seconds_of(action: str, mount: Mount) -> float:
    """Do something to the image, and say how long that took."""
    began = time.monotonic()
    match action:
        case "write":
            mount.write(BLOCK, b"w" * 4096)
        case "fsync":
            mount.write(2 * BLOCK, b"s" * 4096, sync=True)
        case "copy_rate":
            mount.begin("copy_rate", str(RATE))
        case _:
            assert len(mount.read(BLOCK, 4096)) == 4096
    return time.monotonic() - began


@pytest.mark.parametrize("words", ["", "set mode writethrough", "flush", "decommission"])
def test_f10_writes_and_fsyncs_go_on_while_long_work_is_done(mount: Mount, words: str) -> None:
    verb, *rest = words.split() or ["status"]
    with command(verb, mount.mountpoint, *rest) as process:
        if not words:
            began = time.monotonic()
            mount.begin("mode", "writethrough")
            assert time.monotonic() - began < 1
        wait_until(lambda: mount.getxattr("job"), "it has begun")
        slowest = max(seconds_of(action, mount) for _ in range(5) for action in ("write", "fsync", "read", "copy_rate"))
        assert mount.count("dirty_blocks") > 5, "it ended too early to prove anything"
        assert mount.getxattr("job")
        assert mount.getxattr("mode") == "writeback"
        assert slowest < 2
        mount.setxattr("copy_rate", "0")
        wait_until(lambda: not mount.getxattr("job"), "it is done")
        assert ended(process)[0] == 0
    expected = {"flush": "writeback", "decommission": "passthrough"}
    assert mount.getxattr("mode") == expected.get(verb, "writethrough")
    if verb == "flush":
        fusecache("flush", mount.mountpoint)  # what was written meanwhile
    assert_same(mount.origin, mount.image.read_bytes())


def test_f10_changes_are_made_in_the_order_in_which_they_were_asked_for(mount: Mount) -> None:
    began = time.monotonic()
    for name, value in (
        ("mode", "writethrough"),
        ("policy", "mq"),
        ("policy.sequential_threshold", "7"),
        ("mode", "passthrough"),
        ("message", "invalidate_cblocks 0-32"),
    ):
        mount.begin(name, value)
    assert time.monotonic() - began < 2
    assert mount.getxattr("policy") == "smq"
    assert mount.getxattr("job").startswith("mode writethrough ")
    mount.setxattr("copy_rate", "0")
    wait_until(lambda: not mount.getxattr("job"), "all is done")
    assert (mount.getxattr("mode"), mount.getxattr("policy")) == ("passthrough", "mq")
    assert mount.getxattr("policy.sequential_threshold") == "7"
    assert mount.count("used_blocks") == 0


def test_f10_two_clients_at_once_each_wait_for_their_own(mount: Mount) -> None:
    with command("set", mount.mountpoint, "mode", "writethrough") as first:
        wait_until(lambda: "mode" in mount.getxattr("job"), "the first one has asked")  # else the second could be done
        with (
            command("set", mount.mountpoint, "policy", "mq") as second,
            command("flush", mount.mountpoint) as third,
        ):
            wait_until(lambda: len(mount.getxattr("job").split(";")) == 3, "all three have asked")
            _go_on_side_by_side(mount, first, second, third)
    assert (mount.getxattr("mode"), mount.getxattr("policy")) == ("writethrough", "mq")


def _go_on_side_by_side(mount: Mount, *processes: subprocess.Popen[str]) -> None:
    """A bad value is refused meanwhile, and all end well once they may."""
    assert run(program(), "set", mount.mountpoint, "policy", "none", check=False).returncode == 1
    assert [process.poll() for process in processes] == [None] * len(processes)
    mount.setxattr("copy_rate", "0")
    assert [ended(process) for process in processes] == [(0, "")] * len(processes)


def test_f10_an_interrupted_command_undoes_nothing(mount: Mount) -> None:
    with command("set", mount.mountpoint, "mode", "writethrough") as process:
        wait_until(lambda: mount.getxattr("job"), "it has begun")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        code, said = ended(process)
    assert code == 1
    assert "it goes on: mode writethrough" in said
    assert len(said.splitlines()) == 1
    assert mount.getxattr("job").startswith("mode writethrough ")
    mount.setxattr("copy_rate", "0")
    wait_until(lambda: mount.getxattr("mode") == "writethrough", "it was done all the same")


@pytest.mark.parametrize("how", ["unmount", "SIGTERM", "kill"])
@pytest.mark.parametrize(
    "words", ["set mode writethrough", "flush", "decommission"], ids=lambda words: words.split()[0]
)
def test_f10_the_end_of_the_mount_ends_the_command_and_waits_for_nothing(mount: Mount, how: str, words: str) -> None:
    verb, *rest = words.split()
    content = mount.image.read_bytes()
    with command(verb, mount.mountpoint, *rest) as process:
        wait_until(lambda: mount.getxattr("job"), "it has begun")
        time.sleep(0.3)
        if how == "kill":
            mount.end_survival()
        pid = mount.pid
        began = time.monotonic()
        if how == "unmount":
            mount.unmount()
        else:
            os.kill(pid, signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
            wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon is gone")
        assert time.monotonic() - began < 5
        code, said = ended(process, timeout=10)
    assert code == 1
    assert len(said.splitlines()) == 1
    assert any(text in said for text in ("has died", "was unmounted before", "the mount is ending")), said
    if how == "kill":
        mount.crash()
    mount.mount()
    assert mount.image.read_bytes() == content


def test_f10_a_script_learns_what_became_of_its_request(mount: Mount) -> None:
    mount.begin("request", "mine mode writethrough")
    assert mount.getxattr("request.mine").startswith("running ")
    assert "outcome.mode" not in mount.status()
    mount.setxattr("copy_rate", "0")
    wait_until(lambda: mount.getxattr("request.mine").startswith("done "), "it is done")
    assert mount.status()["outcome.mode"] == "done"


def test_report_everything_is_written_back_whatever_the_threshold_and_the_load(mounted: Mounted) -> None:
    """As lvm2 22, 30 and 141: a threshold below one block, a cleaner, writers, and the count of blocks stood still."""
    mount = mounted("--policy", "smq,migration_threshold=0", size=SIZE, cache_size="2MiB")
    fill(mount)
    mount.write(0, b"safe", sync=True)
    mount.kill9()
    mount.mount("--mode", "writethrough", "--policy", "cleaner,migration_threshold=0")
    assert mount.count("dirty_blocks"), "a crash has left a cache that is dirty although it writes through"
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            mount.write(BLOCK, b"x" * BLOCK)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        fusecache("flush", mount.mountpoint, timeout=30)
        assert mount.count("dirty_blocks") == 0
        fusecache("decommission", mount.mountpoint, timeout=30)
        assert mount.count("used_blocks") == 0
    finally:
        stop.set()
        writer.join()


def test_report_a_clean_cache_is_left_at_once(mounted: Mounted) -> None:
    """As lvm2 188: five hours for a cache that had nothing dirty."""
    mount = mounted(content=bytes(64 * MIB), cache_size="32MiB", block_size="4KiB")
    fill(mount)
    fusecache("flush", mount.mountpoint)
    wait_until(lambda: mount.count("dirty_blocks") == 0, "it is clean")
    mount.setxattr("copy_rate", "1")
    fusecache("decommission", mount.mountpoint, timeout=20)
    assert mount.status()["decommissioned"]


def test_f11_a_flush_ends_although_others_go_on_dirtying_and_flushing(mount: Mount) -> None:
    """As lvconvert --uncache, which counted the same blocks again and again while the image was in use."""
    mount.setxattr("copy_rate", str(16 * BLOCK))
    with command("flush", mount.mountpoint) as process:
        began = time.monotonic()
        number = 0
        while process.poll() is None and time.monotonic() - began < 30:
            mount.write(BLOCK * (number % 30), b"x" * 4096)
            if number % 5 == 0:
                mount.begin("message", "flush")
            number += 1
            time.sleep(0.02)
        assert ended(process) == (0, "")
    mount.setxattr("copy_rate", "0")
