"""What cannot be done is refused in one clear line, before anything is touched."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, digest, fill, need
from tests.integration.mounts import Mount, is_mounted, program, run


def snapshot(directory: Path) -> dict[str, int]:
    """Sum up every file below a directory but logs; what is mounted there is left alone."""
    return {
        str(path): digest(path)
        for path in sorted(directory.rglob("*"))
        if path.suffix != ".log" and path.is_file() and path.name != "image"
    }


def refused(*words: str | Path, code: int = 1, keeps: Path) -> str:
    """Run a command that has to be refused in one line, with nothing below ``keeps`` changed; returns the line."""
    before = snapshot(keeps)
    result = run(program(), *words, check=False, timeout=20)
    told = result.stderr
    assert (result.returncode, result.stdout) == (code, ""), told
    assert len(told.splitlines()) == 1, told
    assert told.startswith("fusecache: "), told
    assert "Traceback" not in told
    assert snapshot(keeps) == before
    return told


class Room:
    """An origin and a mountpoint that were never used, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.origin = directory / "origin"
        self.mountpoint = directory / "mnt"
        self.cache = directory / "cache"
        self.metadata = directory / "metadata"
        self.origin.write_bytes(os.urandom(MIB))
        self.mountpoint.mkdir()

    def refuses(self, *options: str | Path, code: int = 1, origin: Path | None = None, at: Path | None = None) -> str:
        """Try to mount; nothing may come of it."""
        files: list[str | Path] = ["--cache", self.cache, "--metadata", self.metadata]
        paths = [origin or self.origin, at or self.mountpoint]
        return refused("mount", *paths, *files, *options, code=code, keeps=self.directory)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """Have a room; nothing stays mounted in it."""
    room = Room(tmp_path)
    yield room
    if is_mounted(room.mountpoint):
        run("fusermount3", "-uz", room.mountpoint)


@pytest.fixture
def used(mounted: Mounted) -> Mount:
    """Have a cache with dirty blocks in it that is not mounted."""
    mount = mounted(size=4 * MIB, cache_size="2MiB")
    fill(mount, 8)
    mount.unmount()
    return mount


def refuses(mount: Mount, *options: str | Path, code: int = 1, **other: Path) -> str:
    """Try to mount a used cache, with other files in the place of those that it was used with; nothing may change."""
    files = {"origin": mount.origin, "cache": mount.cache, "metadata": mount.metadata} | other
    words: list[str | Path] = [files["origin"], mount.mountpoint, "--cache", files["cache"]]
    directory = mount.origin.parent
    told = refused("mount", *words, "--metadata", files["metadata"], *options, code=code, keeps=directory)
    assert not is_mounted(mount.mountpoint)
    return told


class TestUsage:
    """Words that make no sense: exit code 2; values that nothing knows or takes: exit code 1."""

    def test_unknown_policies_and_tunables(self, room: Room) -> None:
        assert "lru9" in room.refuses("--policy", "lru9")
        assert "nonsense" in room.refuses("--policy", "smq,nonsense=1")
        assert "sequential_threshold" in room.refuses("--policy", "mq,sequential_threshold=x")

    def test_options(self, room: Room) -> None:
        assert "sequential_threshold" in room.refuses("--policy", "mq,sequential_threshold", code=2)
        assert "migration_threshold" in room.refuses("--policy", "mq,migration_threshold=-1", code=2)
        assert "writearound" in room.refuses("--mode", "writearound", code=2)
        assert "5000" in room.refuses("--block-size", "5000", code=2)
        assert "512" in room.refuses("--block-size", "512", code=2)
        assert "block size" in room.refuses("--block-size", "2GiB", code=2)
        assert "many" in room.refuses("--cache-size", "many", code=2)
        assert "--table" in room.refuses("--table", "0 8 cache", code=2)

    def test_tables(self, room: Room) -> None:
        for table in (
            "",
            "1 8 cache a b c 8 0 smq 0",
            "0 8 linear a b c 8 0 smq 0",
            "0 8 cache a b c 7 0 smq 0",
            "0 8 cache a b c 8 1 fast smq 0",
            "0 8 cache a b c 8 0 smq 1 x",
            "0 8 cache a b c 8 0 smq 0 x",
        ):
            assert "table" in refused("mount", "--table", table, room.mountpoint, code=2, keeps=room.directory)

    @pytest.mark.parametrize("words", [["mount"], ["mount", "one"], ["nonsense"], ["mount", "a", "b", "--nonsense"]])
    def test_command_lines(self, words: list[str]) -> None:
        result = run(program(), *words, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        assert "Traceback" not in result.stderr


class TestPaths:
    """Files that are not there, are not what they should be, or are in use."""

    def test_no_origin(self, room: Room) -> None:
        assert "origin9" in room.refuses(origin=room.directory / "origin9")
        assert str(room.directory) in room.refuses(origin=room.directory)
        (room.directory / "empty").touch()
        assert "empty" in room.refuses(origin=room.directory / "empty")

    def test_no_mountpoint(self, room: Room) -> None:
        assert "does not exist" in room.refuses(at=room.directory / "nowhere")
        assert "not a directory" in room.refuses(at=room.origin)
        (room.mountpoint / "file").touch()
        assert "not empty" in room.refuses()

    def test_busy_mountpoint(self, room: Room, mounted: Mounted) -> None:
        assert "busy" in room.refuses(at=mounted(size=MIB).mountpoint)

    def test_no_directory_for_the_cache(self, room: Room) -> None:
        assert "origin" in room.refuses("--cache", room.origin / "below" / "cache")
        assert "origin" in room.refuses("--metadata", room.origin / "below" / "metadata")

    def test_one_file_in_two_roles(self, room: Room) -> None:
        room.refuses("--cache", room.origin, code=2)
        room.refuses("--metadata", room.origin, code=2)

    def test_too_small_for_one_block(self, room: Room) -> None:
        room.refuses("--cache-size", "16KiB", "--block-size", "64KiB")
        room.cache.write_bytes(bytes(16 * 1024))
        room.refuses("--block-size", "64KiB")

    def test_no_space(self, room: Room) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system needs root")
        small = room.directory / "small"
        small.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
        try:
            assert "space" in room.refuses("--cache", small / "cache", "--cache-size", "16MiB")
            assert list(small.iterdir()) == []
        finally:
            run("umount", small)

    def test_unknown_fuse_option(self, room: Room) -> None:
        assert "nonsense" in room.refuses("-o", "nonsense")

    @pytest.mark.parametrize("command", ["unmount", "status", "flush", "decommission", "set", "message"])
    def test_not_a_fusecache_mount(self, room: Room, command: str) -> None:
        words = {"set": ["policy", "mq"], "message": ["flush"]}.get(command, [])
        for place in (room.mountpoint, room.directory / "nowhere"):
            assert str(place) in refused(command, place, *words, keeps=room.directory)


class TestInUse:
    """One origin, one cache, one metadata: one mount."""

    def test_second_mount(self, mounted: Mounted, room: Room) -> None:
        mount = mounted(size=MIB)
        for origin, cache, metadata in (
            (mount.origin, mount.cache, mount.metadata),
            (mount.origin, room.cache, room.metadata),
            (room.origin, mount.cache, room.metadata),
            (room.origin, room.cache, mount.metadata),
        ):
            files: list[str | Path] = ["--cache", cache, "--metadata", metadata]
            told = refused("mount", origin, room.mountpoint, *files, keeps=room.directory)
            assert "in use" in told
        assert mount.read(0, 10) == mount.origin.read_bytes()[:10]
        assert not room.cache.exists()
        assert not room.metadata.exists()


class TestWrongPairs:
    """A cache with dirty blocks in it is for its own origin, as it was left."""

    def test_refusals_do_no_harm(self, used: Mount) -> None:
        content = used.origin.read_bytes()
        other = used.origin.with_name("other")
        assert "other" in refuses(used, origin=other)
        assert "missing" in refuses(used, cache=other)
        assert "--format" in refuses(used, metadata=other)
        assert "131072" in refuses(used, "--block-size", "128KiB")
        assert "dirty" in refuses(used, "--mode", "passthrough")
        assert "dirty" in refuses(used, "--format")
        other.write_bytes(content)
        assert "origin" in refuses(used, origin=other)
        used.mount()
        assert used.image.read_bytes() != content
        used.setxattr("mode", "writethrough")
        assert used.image.read_bytes() == used.origin.read_bytes()

    def test_shrunken_origin(self, used: Mount) -> None:
        os.truncate(used.origin, 3 * MIB)
        assert "shrunk" in refuses(used)

    def test_origin_that_others_changed(self, used: Mount) -> None:
        with used.origin.open("r+b") as file:
            file.write(b"changed behind our back")
        os.utime(used.origin, ns=(1, 1))
        assert "changed" in refuses(used)

    def test_cache_of_another_mount(self, used: Mount, mounted: Mounted) -> None:
        other = mounted(size=MIB, cache_size="2MiB")
        other.unmount()
        assert "does not belong" in refuses(used, cache=other.cache)
        assert "does not belong" in refuses(used, metadata=other.metadata, origin=other.origin)

    def test_shrunken_cache(self, used: Mount) -> None:
        os.truncate(used.cache, 128 * 1024)
        assert "blocks are dirty" in refuses(used)

    def test_format_twice_begins_anew(self, used: Mount) -> None:
        used.mount("--format", "--format", "--block-size", "64KiB")
        assert used.count("used_blocks") == 0
        assert used.image.read_bytes() == used.origin.read_bytes()


def overwrite(path: Path) -> None:
    """Fill a file with what is no database."""
    path.write_bytes(b"this is no database " * 1000)


def tear(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    """Damage everything behind a file's first page."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


def foreign(path: Path) -> None:
    """Put another program's database in its place."""
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
        connection.commit()


def execute(*statements: str) -> Callable[[Path], None]:
    """Change the metadata by SQL."""

    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "overwritten": overwrite,
    "torn": tear,
    "scribbled": scribble,
    "foreign": foreign,
    "emptied": execute("DELETE FROM meta"),
    "needs-check": execute("UPDATE meta SET value = '1' WHERE name = 'needs_check'"),
    "no-number": execute("UPDATE meta SET value = 'many' WHERE name = 'cache_blocks'"),
    "beyond-image": execute("UPDATE blocks SET oblock = 1000000 WHERE cblock = (SELECT max(cblock) FROM blocks)"),
    "beyond-cache": execute("UPDATE blocks SET cblock = 1000000 WHERE cblock = (SELECT max(cblock) FROM blocks)"),
    "of-the-future": execute("PRAGMA user_version = 1000"),
    "negative": execute("UPDATE blocks SET oblock = -5 WHERE cblock = (SELECT max(cblock) FROM blocks)"),
}


def test_damaged_metadata(used: Mount) -> None:
    content = used.metadata.read_bytes()
    refusals = 0
    for name, damage in DAMAGES.items():
        try:
            damage(used.metadata)
        except sqlite3.IntegrityError:
            continue  # the database itself does not let such rows in
        assert str(used.metadata) in refuses(used), name
        refusals += 1
        used.metadata.write_bytes(content)
    assert refusals > len(DAMAGES) // 2
    used.mount()
    assert used.count("dirty_blocks")


def test_interrupting_a_mount_leaves_nothing(room: Room) -> None:
    need("timeout")
    files = ["--cache", str(room.cache), "--metadata", str(room.metadata)]
    command = [program(), "mount", str(room.origin), str(room.mountpoint), *files]
    for delay in ("0.1", "0.25", "0.4"):
        subprocess.run(["timeout", "-s", "INT", delay, *command], capture_output=True, timeout=30, check=False)
        if is_mounted(room.mountpoint):
            run(program(), "unmount", room.mountpoint)
    run(*command)
    run(program(), "unmount", room.mountpoint)
