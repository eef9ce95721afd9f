"""What is around a mount: signals, full disks, dead mountpoints, strange options and names."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, fill
from tests.integration.mounts import Mount, is_mounted, program, run, wait_until
from tests.integration.test_health import cache_everything, small_disk, use_up
from tests.integration.test_lifecycle import ended_cleanly, is_running


@pytest.fixture
def on_small_disk(mounted: Mounted, tmp_path: Path) -> Iterator[Mount]:
    """Mount an image whose metadata, and so whose log, lie on a small disk."""
    with small_disk(tmp_path / "small", "600k") as small:
        mount = mounted(size=MIB, cache_size="2MiB")
        mount.unmount()
        mount.metadata = small / "metadata"
        mount.cache.unlink()
        mount.mount()
        yield mount
        mount.discard()


def make_read_only(mount: Mount) -> Path:
    """Fill the disk of the metadata until a commit has failed; returns what fills it."""
    cache_everything(mount)
    filler = use_up(mount.metadata.parent)

    def failed() -> bool:
        with suppress(OSError):
            mount.write(0, os.urandom(65536), sync=True)
        run(program(), "flush", mount.mountpoint, check=False)
        return mount.status()["state"] == "read-only"

    wait_until(failed, "a commit has failed")
    return filler


def test_f08_where_the_log_cannot_be_written_either_it_is_read_only_all_the_same(on_small_disk: Mount) -> None:
    mount = on_small_disk
    filler = make_read_only(mount)
    pid = mount.pid
    for _ in range(300):  # each of them is worth a line
        with pytest.raises(OSError, match=r".") as caught:
            mount.write(0, b"refused")
        assert caught.value.errno == errno.EROFS
    assert mount.read(0, 10)
    assert is_running(pid)
    filler.unlink()
    assert run(program(), "unmount", mount.mountpoint, check=False).returncode == 1
    told = run(program(), "check", "--metadata", mount.metadata, "--cache", mount.cache, check=False)
    assert "--clear-needs-check" in told.stdout + told.stderr


def test_f09_a_mount_that_could_not_record_its_end_stays_dead(on_small_disk: Mount) -> None:
    mount = on_small_disk
    make_read_only(mount)
    os.kill(pid := mount.pid, signal.SIGTERM)
    wait_until(lambda: not is_running(pid), "the daemon has ended")
    assert is_mounted(mount.mountpoint)
    with pytest.raises(OSError, match=r".") as caught:
        mount.image.write_bytes(b"a plain file")
    assert caught.value.errno == errno.ENOTCONN
    result = run(program(), "status", mount.mountpoint, check=False)
    assert result.returncode == 1
    assert f"umount -- {mount.mountpoint}" in result.stderr
    run("fusermount3", "-u", mount.mountpoint)
    assert not any(mount.mountpoint.iterdir())


def test_f09_no_signal_but_term_and_int_ends_it(mounted: Mounted) -> None:
    mount = mounted()
    fill(mount, 4)
    pid, log = mount.pid, mount.metadata.with_name("metadata.log")
    log.rename(f"{log}.1")
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGHUP):
        os.kill(pid, number)
        time.sleep(0.05)
        assert mount.pid == pid
    wait_until(log.exists, "the log is opened anew")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    wait_until(lambda: not is_running(pid), "the daemon has ended")
    assert not is_mounted(mount.mountpoint)
    assert ended_cleanly(mount)
    assert "ended" in log.read_text()


def test_f21_an_option_that_fuse_swallows_without_serving_is_an_error(mounted: Mounted) -> None:
    mount = mounted()
    mount.unmount()
    result = run(*mount.mount_command("-o", "max_read=1"), check=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "max_read=1" in result.stderr
    assert not is_mounted(mount.mountpoint)
    mount.mount()


@pytest.mark.parametrize("name", ["J\u00fcrgen".encode(), b"J\xfcrgen, \\ \xff"])
@pytest.mark.parametrize(
    "environment",
    [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "utf-8:strict"}],
)
def test_f14_names_of_any_bytes(tmp_path: Path, name: bytes, environment: dict[str, str]) -> None:
    directory = os.fsencode(tmp_path) + b"/" + name
    paths = {part: directory + b"/" + name + part.encode() for part in ("origin", "mnt", "cache", "metadata")}
    Path(os.fsdecode(paths["mnt"])).mkdir(parents=True)
    with open(paths["origin"], "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write(b"o" * MIB)

    def command(*words: bytes) -> bytes:
        done = subprocess.run(
            [os.fsencode(program()), *words],
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    files = [b"--cache", paths["cache"], b"--cache-size", b"1MiB", b"--metadata", paths["metadata"]]
    try:
        for _ in range(2):
            command(b"mount", paths["origin"], paths["mnt"], *files)
            fd = os.open(paths["mnt"] + b"/image", os.O_RDWR)
            os.pwrite(fd, b"written", 5)
            assert os.pread(fd, 9, 4) == b"owritteno"
            os.close(fd)
            command(b"status", paths["mnt"])
            command(b"status", paths["mnt"], b"--json")
            command(b"set", paths["mnt"], b"policy", b"mq")
            command(b"flush", paths["mnt"])
            command(b"unmount", paths["mnt"])
    finally:
        subprocess.run(["fusermount3", "-uzq", paths["mnt"]], check=False)


@contextmanager
def foreground(mount: Mount, **streams: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve by a process of ours."""
    mount.unmount()
    with subprocess.Popen(mount.mount_command("--foreground"), stdin=subprocess.DEVNULL, **streams) as process:  # type: ignore[call-overload]
        try:
            wait_until(lambda: is_mounted(mount.mountpoint) and mount.image.exists(), "it is mounted")
            yield process
        finally:
            process.kill()


def test_f08_a_pipe_that_nobody_reads_makes_no_request_wait(mounted: Mounted) -> None:
    mount = mounted()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"full" * 1024)
    os.set_blocking(writing, True)
    with foreground(mount, stdout=subprocess.DEVNULL, stderr=writing) as process:
        began = time.monotonic()
        for number in range(50):
            with pytest.raises(OSError, match=r"."):
                mount.setxattr("policy", f"nonsense{number}")
        mount.write(0, b"data", sync=True)
        assert time.monotonic() - began < 10
        mount.unmount()
        process.wait(20)
    os.close(reading)
    os.close(writing)
    assert process.returncode == 0
    assert ended_cleanly(mount)


def test_f08_closed_pipes_end_nothing(mounted: Mounted) -> None:
    mount = mounted()
    reading, writing = os.pipe()
    os.close(reading)
    with foreground(mount, stdout=writing, stderr=writing) as process:
        with pytest.raises(OSError, match=r"."):
            mount.setxattr("policy", "nonsense")
        mount.write(0, b"data", sync=True)
        mount.unmount()
        process.wait(20)
    os.close(writing)
    assert process.returncode == 0
    assert ended_cleanly(mount)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_f20_a_mount_command_that_is_ended_leaves_no_mount(mounted: Mounted, number: signal.Signals) -> None:
    mount = mounted()
    mount.unmount()
    with subprocess.Popen(mount.mount_command(), stdout=subprocess.DEVNULL) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (child := children.read_text()):
            pass
        process.send_signal(number)
        assert process.wait(20) == -number
    wait_until(lambda: not is_running(int(child)), "the daemon has ended")
    assert not is_mounted(mount.mountpoint)
    assert not any(mount.mountpoint.iterdir())
    assert ended_cleanly(mount)
    mount.mount()
