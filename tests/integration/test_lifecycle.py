"""How mounts begin and end: ready when the command returns, safe when unmount returns, warm the next time."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, Model, fill, fio_running, read_blocks
from tests.integration.mounts import NOTHING_UNASKED, Mount, fusecache, is_mounted, program, run, wait_until
from tests.integration.writer import Writer

SIZE = 4 * MIB


def ended_cleanly(mount: Mount) -> bool:
    """Tell what the metadata says of the last end."""
    with closing(sqlite3.connect(mount.metadata)) as connection:
        return bool(connection.execute("SELECT value FROM meta WHERE name = 'clean_shutdown'").fetchone() == ("1",))


def rows(mount: Mount) -> list[tuple[int, int, int, bytes]]:
    """Read the recorded mapping of a cache that is not mounted: cblock, oblock, dirty, hint."""
    with closing(sqlite3.connect(mount.metadata)) as connection:
        return connection.execute("SELECT cblock, oblock, dirty, hint FROM blocks ORDER BY cblock").fetchall()


def is_running(pid: int) -> bool:
    """Tell whether there is such a process; one that is dead and unburied does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image, half of which fits into the cache."""
    return mounted(content=Writer.blank(SIZE // Writer.SLOT) + bytes(100), cache_size="2MiB")


@contextmanager
def served_in_foreground(mount: Mount) -> Iterator[subprocess.Popen[str]]:
    """Serve by a process of ours, so that its exit code can be had."""
    mount.unmount()
    files = ["--cache", str(mount.cache), "--metadata", str(mount.metadata)]
    with subprocess.Popen(
        [program(), "mount", str(mount.origin), str(mount.mountpoint), *files, "--foreground"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: is_mounted(mount.mountpoint) and mount.image.exists(), "it is mounted")
            yield process
        finally:
            process.kill()


class TestTheEnd:
    """However it comes, data is safe and the record says so."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
    def test_signals_end_it_cleanly(self, mount: Mount, number: signal.Signals) -> None:
        with served_in_foreground(mount) as process:
            mount.write(5, b"hello")
            process.send_signal(number)
            _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
        assert "Traceback" not in log
        assert not is_mounted(mount.mountpoint)
        assert ended_cleanly(mount)
        mount.mount()
        assert mount.read(5, 5) == b"hello"

    def test_sigterm_under_load(self, mount: Mount) -> None:
        with served_in_foreground(mount) as process:
            fill(mount, 8)
            mount.write(0, Writer.blank(SIZE // Writer.SLOT))
            writer = Writer(mount.image, SIZE // Writer.SLOT, seed=1)
            writer.start()
            with fio_running(mount.image, "direct=1", "loops=100", "rw=randread", "verify=0") as job:
                wait_until(lambda: writer.syncs > 20, "there is load")
                process.terminate()
                _, log = process.communicate(timeout=30)
                writer.join()
                job.communicate(timeout=30)
        assert process.returncode == 0, log
        assert "Traceback" not in log
        assert not is_mounted(mount.mountpoint)
        assert ended_cleanly(mount)
        mount.mount()
        writer.judge(mount.image.read_bytes())

    def test_fusermount_ends_it_cleanly(self, mount: Mount) -> None:
        model = Model(mount, mount.image.read_bytes())
        model.stomp(200)
        pid = mount.count("pid")
        run("fusermount3", "-u", mount.mountpoint)
        wait_until(lambda: not is_running(pid), "the daemon has ended")
        assert ended_cleanly(mount)
        mount.mount()
        model.verify()

    def test_lazy_unmount_under_load_waits_for_the_last_user(self, mount: Mount) -> None:
        fd = os.open(mount.image, os.O_RDWR)
        pid = mount.count("pid")
        run("fusermount3", "-uz", mount.mountpoint)
        os.pwrite(fd, b"after", 7)
        assert os.pread(fd, 5, 7) == b"after"
        assert is_running(pid)
        os.close(fd)
        wait_until(lambda: not is_running(pid), "the daemon has ended")
        assert ended_cleanly(mount)
        mount.mount()
        assert mount.read(7, 5) == b"after"

    def test_unmount_returns_when_the_daemon_is_gone_and_clean(self, mount: Mount) -> None:
        fill(mount, 8)
        pid = mount.count("pid")
        said = fusecache("unmount", mount.mountpoint)
        assert not is_running(pid)
        assert ended_cleanly(mount)
        assert not is_mounted(mount.mountpoint)
        assert f"{sum(row[2] for row in rows(mount))} dirty" in said
        assert not Path(f"{mount.metadata}-wal").exists()

    def test_a_busy_image_is_refused_and_stays(self, mount: Mount) -> None:
        with mount.image.open("rb") as file:
            result = run(program(), "unmount", mount.mountpoint, check=False)
            assert (result.returncode, result.stdout) == (1, "")
            assert len(result.stderr.splitlines()) == 1
            assert f"busy, so it stays mounted: in use by pid {os.getpid()} (" in result.stderr
            assert file.read(10)
        mount.write(0, b"still works", sync=True)
        mount.unmount()

    def test_f11_one_who_lets_go_soon_is_waited_for(self, mount: Mount) -> None:
        with subprocess.Popen(["sleep", "0.5"], cwd=mount.mountpoint):
            mount.unmount()
        assert ended_cleanly(mount)

    def test_the_daemon_says_nothing_where_it_was_started(self, mount: Mount) -> None:
        pid, log = mount.count("pid"), mount.metadata.with_name("metadata.log")
        for number in (0, 1, 2):
            assert Path(f"/proc/{pid}/fd/{number}").readlink() in {Path("/dev/null"), log}
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")

    def test_commands_on_a_dead_mount_say_what_to_do(self, mount: Mount) -> None:
        mount.end_survival()
        os.kill(pid := mount.count("pid"), signal.SIGKILL)
        wait_until(lambda: not is_running(pid), "it is dead")
        for command in ("unmount", "status"):
            result = run(program(), command, mount.mountpoint, check=False)
            assert (result.returncode, result.stdout) == (1, "")
            assert len(result.stderr.splitlines()) == 1
            assert "umount" in result.stderr or "fusermount3" in result.stderr
        result = run(program(), "mount", mount.origin, mount.mountpoint, check=False)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1


class TestTheNextMount:
    """A cache is warm from the first request on."""

    def test_what_was_cached_is_hit(self, mount: Mount) -> None:
        fill(mount)
        used = mount.count("used_blocks")
        content = mount.image.read_bytes()
        mount.unmount()
        cached = {oblock for _, oblock, _, _ in rows(mount)}
        assert len(cached) == used
        mount.mount()
        before = mount.status()
        assert (before["used_blocks"], before["promotions"]) == (used, 0)
        for oblock in cached:
            assert mount.read(oblock * 65536, 65536) == content[oblock * 65536 :][:65536]
        after = mount.status()
        assert int(after["read_hits"]) - int(before["read_hits"]) == used
        assert after["origin_reads"] == 0

    @pytest.mark.parametrize("policy", ["smq", "mq"])
    def test_mappings_dirty_bits_and_hints_are_kept(self, mount: Mount, policy: str) -> None:
        mount.setxattr("policy", policy)
        fill(mount)
        for _ in range(3):
            read_blocks(mount)
        mount.unmount()
        first = rows(mount)
        assert any(row[2] for row in first)
        assert any(row[3] for row in first), "no hints were written"
        mount.mount("--policy", f"{policy},migration_threshold=0", *NOTHING_UNASKED)
        mount.unmount()
        second = rows(mount)
        assert [row[:3] for row in second] == [row[:3] for row in first]
        kept = sum(after[3] == before[3] for before, after in zip(first, second, strict=True))
        assert kept > len(first) * 3 // 4, "a second's tick may move a few blocks between levels, no more"

    def test_hit_counters_go_on(self, mount: Mount) -> None:
        fill(mount, 8)
        names = ("read_hits", "read_misses", "write_hits", "write_misses")
        before = [mount.count(name) for name in names]
        mount.remount()
        assert [mount.count(name) for name in names] == before

    def test_another_policy_takes_the_mapping_over(self, mount: Mount) -> None:
        fill(mount)
        used = mount.count("used_blocks")
        mount.remount("--policy", "mq")
        assert mount.count("used_blocks") == used

    def test_a_grown_origin_is_served_in_full(self, mount: Mount) -> None:
        fill(mount)
        mount.setxattr("mode", "writethrough")
        content = mount.image.read_bytes()
        mount.unmount()
        with mount.origin.open("ab") as file:
            file.write(b"more" * 50_000)
        mount.mount()
        assert mount.image.read_bytes() == content + b"more" * 50_000

    def test_mount_and_unmount_many_times(self, mount: Mount) -> None:
        model = Model(mount, mount.image.read_bytes())
        for policy in ("smq", "mq", "cleaner"):
            model.stomp(60)
            mount.remount("--policy", policy)
        model.verify()
