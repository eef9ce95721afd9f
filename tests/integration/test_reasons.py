"""What people see who begin, who forget something, or who call us from their scripts: real mounts, real messages."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusecache.paths import defaults_for
from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, need
from tests.integration.mounts import NOTHING_UNASKED, Mount, discard_mount, is_mounted, program, run, wait_until
from tests.integration.sessions import NOBODY, REPOSITORY, Session

KEEPS_DIRTY = (*NOTHING_UNASKED, "--policy", "smq,absorb=on,migration_threshold=0")


class Beginner:
    """An image, a mountpoint and a place for a cache; metadata is never named."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.image = directory / "disk.img"
        self.mountpoint = directory / "mnt"
        self.cache = directory / "vm.cache"
        self.metadata = directory / "vm.cache.metadata"
        self.image.write_bytes(bytes(4 * MIB))
        self.mountpoint.mkdir()

    def mount(self, *options: str, cache: bool = True) -> subprocess.CompletedProcess[str]:
        files: list[str | Path] = ["--cache", self.cache] if cache else []
        return run(program(), "mount", self.image, self.mountpoint, *files, *options, check=False)

    def mounts(self, *options: str) -> str:
        """Mount, and hear what is told."""
        done = self.mount(*options)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refused(self, *options: str, cache: bool = True) -> str:
        """Mount, which is refused in one line."""
        done = self.mount(*options, cache=cache)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("fusecache: ")
        assert done.stderr.count("\n") == 1
        assert not is_mounted(self.mountpoint)
        return done.stderr

    def write(self, data: bytes) -> None:
        with (self.mountpoint / "image").open("r+b") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def unmount(self) -> None:
        run(program(), "unmount", self.mountpoint)

    def kill(self) -> None:
        """Let the daemon die, and take its mount away, as the README says."""
        mount = Mount(self.image, self.cache, self.metadata, self.mountpoint)
        mount.kill9()


@pytest.fixture
def beginner(tmp_path: Path) -> Iterator[Beginner]:
    beginner = Beginner(tmp_path)
    yield beginner
    discard_mount(beginner.mountpoint)
    for image in tmp_path.glob("disk*"):  # logs, and caches of those who forget to name theirs
        default = defaults_for(str(image), environ=os.environ, is_root=os.geteuid() == 0)
        for left in (default.cache, default.metadata, default.log):
            left.unlink(missing_ok=True)


class TestMetadata:
    """G09: where it is, and what is said to whom forgets it."""

    def test_g09_the_cache_has_its_metadata_beside_it(self, beginner: Beginner) -> None:
        told = beginner.mounts()
        assert f"created metadata {beginner.metadata}" in told
        beginner.write(b"kept")
        beginner.unmount()
        beginner.mounts()
        assert (beginner.mountpoint / "image").read_bytes()[:4] == b"kept"
        beginner.unmount()
        assert "no problems found" in run(program(), "check", "--cache", beginner.cache).stdout

    def test_g09_whoever_forgets_the_cache_after_a_crash_is_told(self, beginner: Beginner) -> None:
        beginner.mounts(*KEEPS_DIRTY)
        beginner.write(b"dirty")
        beginner.kill()
        assert f"last used: {beginner.cache}" in beginner.refused(cache=False)
        for command in ("check", "writeback"):
            done = run(program(), command, beginner.image, check=False)
            assert done.returncode == 1
            assert f"last used: {beginner.cache}" in done.stderr or f"--cache {beginner.cache}" in done.stderr
        beginner.mounts()
        assert (beginner.mountpoint / "image").read_bytes()[:5] == b"dirty"

    def test_g09_metadata_of_an_earlier_version_stays_where_it_is(self, beginner: Beginner) -> None:
        old = beginner.directory / "old" / "metadata"
        old.parent.mkdir()
        beginner.mounts("--metadata", str(old), *KEEPS_DIRTY)
        beginner.write(b"dirty")
        beginner.unmount()
        old.rename(beginner.metadata)  # as somebody does who has read of the new place
        beginner.mounts()
        assert (beginner.mountpoint / "image").read_bytes()[:5] == b"dirty"

    def test_g09_a_cache_as_large_as_the_image(self, beginner: Beginner) -> None:
        assert "the cache has 4MiB, not 1GiB: the image has no more" in beginner.mounts("--cache-size", "1GiB")
        assert beginner.cache.stat().st_size < 5 * MIB

    def test_g09_what_is_not_lost_is_said_first(self, beginner: Beginner) -> None:
        beginner.mounts()
        beginner.kill()
        for command in ("check", "writeback"):
            done = run(program(), command, beginner.image, "--cache", beginner.cache)
            assert done.stdout.startswith("nothing is lost: no block ")


class TestWords:
    """G04: what FUSE says, and what fstab says."""

    def test_g04_the_reason_is_in_the_line(self, beginner: Beginner) -> None:
        told = beginner.refused("-o", "nonsense")
        assert "fuse: unknown option" in told
        assert "nonsense" in told
        log = Path(told.rpartition("the log is ")[2].strip())
        assert "unknown option" in log.read_text()
        assert not beginner.cache.exists()

    @pytest.mark.parametrize("words", ["defaults,nofail,_netdev,x-systemd.automount", "noauto,user,rw,relatime"])
    def test_g04_words_of_fstab(self, beginner: Beginner, words: str) -> None:
        beginner.mounts("-o", words)

    def test_g04_a_line_of_fstab(self, beginner: Beginner) -> None:
        """G04: with the type ``fuse.fusecache``, mount(8) calls us so, by a path that the shell finds."""
        need("mount.fuse3")
        options = f"_netdev,nofail,x-systemd.automount,cache={beginner.cache}"
        run("mount.fuse3", f"{program()}#{beginner.image}", beginner.mountpoint, "-o", options)
        assert beginner.cache.exists()
        assert "health         ok" in run(program(), "status", beginner.mountpoint).stdout

    @pytest.mark.parametrize("streams", [">&-", "<&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"])
    def test_g04_streams(self, beginner: Beginner, streams: str) -> None:
        words: list[str | Path] = ["mount", beginner.image, beginner.mountpoint, "--cache", beginner.cache]
        done = run("sh", "-c", f'exec "$@" {streams}', "sh", program(), *words)
        assert done.stderr == ""
        beginner.write(b"written")
        pid = json.loads(run(program(), "status", "--json", beginner.mountpoint).stdout)["pid"]
        streams_of_daemon = [Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in range(3)]
        assert streams_of_daemon[0] == Path("/dev/null")
        assert {path.suffix for path in streams_of_daemon[1:]} == {".log"}
        run("sh", "-c", f'exec "$@" {streams}', "sh", program(), "unmount", beginner.mountpoint, check=False)
        assert not is_mounted(beginner.mountpoint)

    def test_g04_the_image_stands_for_its_mountpoint(self, mounted: Mounted) -> None:
        mount = mounted(size=MIB, cache_size="512KiB")
        log = mount.metadata.with_name("metadata.log")
        assert f"log            {log}\n" in run(program(), "status", mount.image).stdout
        for words in (
            ["set", "mode", "writethrough"],
            ["message", "migration_threshold", "0"],
            ["flush"],
            ["decommission"],
        ):
            run(program(), words[0], mount.image, *words[1:])
        run(program(), "umount", mount.image)
        assert not is_mounted(mount.mountpoint)
        run(*mount.mount_command()[:3], mount.image, *mount.mount_command()[4:])
        assert is_mounted(mount.mountpoint)


class TestNamespaces:
    """G04: a mount that others have as well."""

    def test_g04_who_has_the_mount_in_a_namespace_of_his_own_is_named(self, beginner: Beginner) -> None:
        """G04: unmount waited for a container without a word."""
        if os.geteuid() != 0:
            pytest.skip("mount namespaces need root")
        beginner.mounts()
        apart = ["unshare", "--mount", "--propagation", "private", "sleep", "60"]
        with subprocess.Popen(apart) as other:
            link = Path(f"/proc/{other.pid}/ns/mnt")
            wait_until(lambda: link.readlink() != Path("/proc/self/ns/mnt").readlink(), "it has its own namespace")
            with subprocess.Popen(
                [program(), "unmount", str(beginner.mountpoint)], stderr=subprocess.PIPE, text=True
            ) as unmounting:
                assert unmounting.stderr is not None
                told = unmounting.stderr.readline()
                other.kill()
                assert unmounting.wait(30) == 0
        assert "is unmounted here, but not in the mount namespace of pid " in told
        assert f"pid {other.pid} (sleep): waiting for that" in told


class TestUsers:
    """G04: who may not do what, told by whom it concerns."""

    def test_g04_others_need_a_line_in_fuse_conf(self, session: Session) -> None:
        tries = [f"fusecache mount disk.img mnt -o {option} 2>&1 && exit 1" for option in ("allow_other", "allow_root")]
        lines = session.run("\n".join([*tries, "true"])).splitlines()
        assert len(lines) == 2
        assert all("'user_allow_other' is set in /etc/fuse.conf" in line for line in lines)

    def test_g04_a_directory_that_is_not_ours(self, session: Session) -> None:
        (session.room / "roots").mkdir()
        printed = session.run(f"fusecache mount disk.img {session.room}/roots 2>&1 && exit 1; true")
        assert f"user has no write access to mountpoint {session.room}/roots" in printed

    def test_g04_root_is_told_why_he_may_not_look(self, session: Session) -> None:
        helpers = "for place in mnt mnt/image; do " + "".join(
            f"{command} $place 2>&1 && exit 1; "
            for command in (
                "fusecache status",
                "fusecache flush",
                f"{REPOSITORY}/scripts/losetup",
                f"PYTHONPATH={REPOSITORY} {REPOSITORY}/.venv/bin/python -P -m scripts.vm.drive",
            )
        )
        printed = session.run("fusecache mount disk.img mnt >/dev/null", root=f"{helpers} done; true")
        lines = printed.splitlines()
        assert len(lines) == 8
        reason = f"was mounted by user {NOBODY}, and nobody else may look into it, root included"
        assert all(reason in line and "allow_root" in line for line in lines), printed

    @pytest.mark.parametrize("option", ["allow_root", "allow_other"])
    def test_g04_root_may_look_where_he_was_let_in(self, session: Session, option: str) -> None:
        printed = session.run(
            f"fusecache mount disk.img mnt -o {option}",
            root="fusecache status mnt/image; fusecache set mnt policy mq; cmp mnt/image disk.img",
            fuse_conf="user_allow_other\n",
        )
        assert "health         ok" in printed


class TestFormats:
    """G05: what is no raw disk, and a raw disk that looks so."""

    def test_g05_a_qcow2_image_and_what_the_message_says(self, beginner: Beginner) -> None:
        need("qemu-img")
        content = os.urandom(MIB)
        beginner.image.write_bytes(content)
        wrapped = beginner.directory / "disk.qcow2"
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", beginner.image, wrapped)
        beginner.image = wrapped
        told = beginner.refused()
        assert "is a qcow2 image" in told
        run("sh", "-c", told.partition("`")[2].partition("`")[0])
        beginner.image = Path(f"{wrapped}.raw")
        beginner.mounts()
        assert (beginner.mountpoint / "image").read_bytes() == content

    def test_g05_a_guest_that_writes_such_a_header_keeps_its_disk(self, beginner: Beginner) -> None:
        header = b"QFI\xfb\0\0\0\x03"
        beginner.mounts()
        beginner.write(header)
        beginner.kill()
        beginner.mounts()
        run(program(), "flush", beginner.mountpoint)
        beginner.unmount()
        assert beginner.image.read_bytes()[:8] == header
        beginner.mounts()
        beginner.unmount()
        beginner.cache.unlink()
        beginner.metadata.unlink()
        assert "--raw insists" in beginner.refused()
        beginner.mounts("--raw")
