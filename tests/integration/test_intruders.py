"""Root's mounts beside a user without any rights, in a directory that both may write to (as ``/tmp``).

The intruder is real: a process of *nobody*.  Whatever it plants, locks or forges, root's origin keeps what root wrote,
and what is refused is refused in one line.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fusecache.linux import try_lock
from tests.integration.judges import MIB, fill, need
from tests.integration.mounts import Mount, is_mounted, program, run

NOBODY = 65534
HELLO = b"what root wrote"


class Shared:
    """A sticky directory for all, in which root keeps a cache, its metadata and the log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o711)
        (directory / "shared").mkdir()
        (directory / "shared").chmod(0o1777)
        (directory / "mnt").mkdir()
        origin = directory / "origin"
        origin.write_bytes(bytes(4 * MIB))
        origin.chmod(0o600)
        cache, metadata = (directory / "shared" / name for name in ("disk.cache", "disk.metadata"))
        sizes = ["--cache-size", "2MiB", "--block-size", "64KiB"]
        self.mount = Mount(origin, cache, metadata, directory / "mnt", options=sizes)
        self.names = [cache, metadata, *(Path(f"{metadata}{end}") for end in ("-wal", "-shm", "-journal", ".log"))]

    def words(self) -> list[str | Path]:
        """Name the three parts to an offline command."""
        return [self.mount.origin, "--cache", self.mount.cache, "--metadata", self.mount.metadata]

    def intrude(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Let nobody run a shell script in the shared directory."""
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return run(*become, "sh", "-euc", f"cd {self.directory}/shared; umask 0; {script}", timeout=20, check=check)

    def mount_is_refused(self) -> str:
        """Try to mount; returns the line, and nothing was made."""
        before = sorted(path.name for path in self.mount.cache.parent.iterdir())
        origin = self.mount.origin.read_bytes()
        result = run(*self.mount.mount_command(), check=False, timeout=20)
        assert (result.returncode, result.stdout) == (1, ""), result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert not is_mounted(self.mount.mountpoint)
        after = sorted(path.name for path in self.mount.cache.parent.iterdir())
        assert [name for name in after if not name.endswith(".log")] == [
            name for name in before if not name.endswith(".log")
        ]
        assert self.mount.origin.read_bytes() == origin
        return result.stderr

    def use(self) -> None:
        """Be mounted, with something dirty at the end."""
        fill(self.mount, 8)
        self.mount.write(0, HELLO, sync=True)


@pytest.fixture
def shared() -> Iterator[Shared]:
    need("setpriv", "flock")
    if os.geteuid() != 0:
        pytest.skip("two users need root")
    with tempfile.TemporaryDirectory(prefix="fusecache-shared-") as name:
        shared = Shared(Path(name))
        try:
            yield shared
        finally:
            shared.mount.discard()


def test_f16_a_cache_of_another_user_is_refused(shared: Shared) -> None:
    shared.intrude(": > disk.cache")
    assert f"belongs to user {NOBODY}" in shared.mount_is_refused()
    assert shared.mount.cache.stat().st_size == 0
    shared.mount.cache.unlink()
    shared.mount.mount()


def test_f16_a_planted_cache_with_dirty_blocks_is_refused(shared: Shared) -> None:
    """Everything fits: the forger knows the origin's identity, and says that the first block is newer in the cache."""
    shared.mount.mount()
    shared.use()
    shared.mount.unmount()
    for path in (shared.mount.cache, shared.mount.metadata):
        os.chown(path, NOBODY, NOBODY)
    assert f"belongs to user {NOBODY}" in shared.mount_is_refused()
    words = shared.words()
    for command in ("check", "writeback", "dump"):
        result = run(program(), command, *words, check=False)
        assert result.returncode == 1, result.stdout
        assert f"belongs to user {NOBODY}" in result.stderr
    assert HELLO not in shared.mount.origin.read_bytes()


def test_f16_a_forged_log_is_refused(shared: Shared) -> None:
    shared.mount.mount()
    shared.use()
    shared.mount.unmount()
    dirty = _dirty(shared.mount.metadata)
    assert dirty
    forged = shared.directory / "forged"
    shutil.copyfile(shared.mount.metadata, forged)
    with closing(sqlite3.connect(forged, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("DELETE FROM blocks")
        Path(f"{forged}-wal").chmod(0o644)
        shared.intrude(f"cp {forged}-wal disk.metadata-wal")
    assert "disk.metadata-wal belongs to user" in shared.mount_is_refused()
    Path(f"{shared.mount.metadata}-wal").unlink()
    assert _dirty(shared.mount.metadata) == dirty
    shared.mount.mount()
    assert shared.mount.read(0, len(HELLO)) == HELLO


@pytest.mark.parametrize("plant", ["mkfifo {}", "ln -s /etc/passwd {}", "echo x > {}"])
def test_f16_whatever_is_planted_beforehand_is_refused(shared: Shared, plant: str) -> None:
    passwd = Path("/etc/passwd").read_bytes()
    for path in shared.names:
        shared.intrude(plant.format(path.name))
        told = shared.mount_is_refused()
        assert path.name in told
        shared.intrude(f"rm -r {path.name}")
        if shared.mount.metadata.with_name("disk.metadata.log").exists():
            shared.mount.metadata.with_name("disk.metadata.log").unlink()
    assert Path("/etc/passwd").read_bytes() == passwd
    shared.mount.mount()


@pytest.mark.parametrize(
    ("plant", "command"),
    [("mkfifo {}", "dump"), ("ln -s /etc/hostname {}", "dump"), ("echo x > {}", "restore"), ("mkfifo {}", "repair")],
)
def test_f16_whatever_is_planted_in_a_drafts_place_is_refused(shared: Shared, plant: str, command: str) -> None:
    hostname = Path("/etc/hostname").read_bytes()
    shared.mount.mount()
    shared.use()
    shared.mount.unmount()
    words = shared.words()
    xml = shared.directory / "dump.xml"
    run(program(), "dump", *words, "-o", xml)
    new = shared.mount.cache.with_name("new")
    more: dict[str, list[str | Path]] = {
        "dump": [*words, "-o", new],
        "restore": [shared.mount.origin, "--cache", shared.mount.cache, "-i", xml, "-o", new],
        "repair": [*words, "-o", new],
    }
    shared.intrude(plant.format("new.draft"))
    result = run(program(), command, *more[command], check=False, timeout=20)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), result.stderr
    assert "new.draft" in result.stderr
    assert not new.exists()
    assert Path("/etc/hostname").read_bytes() == hostname
    shared.intrude("rm new.draft")
    run(program(), command, *more[command])
    assert new.stat().st_mode & 0o777 == 0o600


def test_f16_a_running_mount_cannot_be_touched(shared: Shared) -> None:
    shared.mount.mount()
    shared.use()
    for path in shared.mount.cache.parent.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
        for deed in ("cat {}", "echo x >> {}", "rm -f {}", "mv -f {} mine", "ln {} mine", "chmod 666 {}"):
            assert shared.intrude(deed.format(path.name), check=False).returncode, (deed, path)
    shared.mount.unmount()
    shared.mount.mount()
    assert shared.mount.read(0, len(HELLO)) == HELLO


def test_f16_a_directory_without_the_sticky_bit_is_refused(shared: Shared) -> None:
    shared.mount.cache.parent.chmod(0o777)
    assert "others may replace files in" in shared.mount_is_refused()


def test_f16_a_user_hears_how_to_keep_others_out(shared: Shared) -> None:
    shared.mount.cache.touch()
    shared.mount.cache.chmod(0o664)
    assert "(mode 0664)" in (told := shared.mount_is_refused())
    assert "`chmod go-w` it" in told


@contextmanager
def locked_by_nobody(shared: Shared, path: Path) -> Iterator[None]:
    """Have nobody lock a file that it can read in every way there is."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [*become, "flock", "--no-fork", "-x", str(path), "sh", "-c", "echo locked; exec sleep 60"]
    fd = os.open(path, os.O_RDONLY)  # nobody could have it open like this, too
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "locked\n"
                if path.is_file():
                    assert try_lock(fd, for_writing=False)
                yield
            finally:
                process.kill()
    finally:
        os.close(fd)


def test_f20_readers_keep_nobody_out(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.mount.origin.chmod(0o644)
    words = shared.words()
    with locked_by_nobody(shared, shared.mount.origin), locked_by_nobody(shared, shared.mount.cache.parent):
        shared.mount.mount()
        shared.use()
        result = run(*shared.mount.mount_command(), check=False)
        assert result.returncode == 1
        shared.mount.unmount()
        run(program(), "check", *words)
        run(program(), "repair", *words, "-o", shared.mount.cache.with_name("repaired"))
        run(program(), "writeback", *words)
    assert shared.mount.origin.read_bytes().startswith(HELLO)


def test_f20_the_holder_is_named(shared: Shared) -> None:
    shared.mount.mount()
    other = shared.directory / "mnt2"
    other.mkdir()
    result = run(program(), "mount", shared.mount.origin, other, check=False)
    assert f"in use by another mount (pid {shared.mount.pid}: " in result.stderr
    assert "fusecache mount" in result.stderr
    result = run(program(), "check", "--metadata", shared.mount.metadata, check=False)
    assert f"is in use: unmount it first (or wait for the other command) (pid {shared.mount.pid}: " in result.stderr


def test_f18_a_mountpoint_that_looks_like_an_option(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared.directory)
    (shared.directory / "-V").mkdir()
    files = ["--cache", "shared/c", "--metadata", "shared/m", "--cache-size", "2MiB"]
    try:
        run(program(), "mount", "origin", "./-V", *files)
        assert run(program(), "unmount", "./-V").stdout == ""
        assert not is_mounted(shared.directory / "-V")
    finally:
        while is_mounted(shared.directory / "-V"):
            run("umount", "--lazy", "--", shared.directory / "-V")


def test_f18_what_a_claim_says_does_nothing_to_the_terminal(shared: Shared) -> None:
    claim = b'{"uuid": "x", "metadata": "/etc/\\u001b]0;owned\\u0007\\n"}'
    os.setxattr(shared.mount.origin, "user.fusecache.claim", claim)
    result = run(*shared.mount.mount_command(), check=False)
    assert "\x1b" not in result.stderr + result.stdout


def test_f14_names_that_are_not_utf8(shared: Shared) -> None:
    odd = shared.directory / "J\udcfcrgen \x1b[31m\n"
    shared.mount.cache.parent.rename(odd)
    shared.mount.origin.rename(odd / "origin")
    mount = shared.mount
    (odd / "mnt").mkdir()
    # What FUSE is told of the origin is the address as it was given.
    (shared.directory / "address").symlink_to(odd)
    mount.origin, mount.cache, mount.metadata = (
        shared.directory / "address" / name for name in ("origin", "disk.cache", "disk.metadata")
    )
    mount.mountpoint = odd / "mnt"
    try:
        mount.mount()
        shared.use()
        assert mount.status()["metadata"] == str(odd / "disk.metadata")
        told = run(program(), "status", mount.mountpoint).stdout
        assert r"J\xfcrgen \x1b[31m\n/disk.cache" in told
        assert "\x1b" not in told
        run(program(), "unmount", mount.mountpoint)
        words = shared.words()
        assert "no problems found" in run(program(), "check", *words, "--data").stdout
        run(program(), "dump", *words, "-o", odd / "dump.xml")
        run(program(), "restore", *words[:3], "-i", odd / "dump.xml", "-o", mount.metadata, "--replace")
        run(program(), "repair", *words, "-o", odd / "repaired")
        run(program(), "check", *words)
        run(program(), "writeback", *words)
        assert (odd / "origin").read_bytes().startswith(HELLO)
    finally:
        mount.discard()


def _dirty(metadata: Path) -> int:
    with closing(sqlite3.connect(f"{metadata.as_uri()}?immutable=1", uri=True)) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM blocks WHERE dirty").fetchone()
        return int(count)
