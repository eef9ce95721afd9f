"""Origin, cache and metadata that do not belong together, as life mixes them: with real mounts and real kill -9.

Every story ends with the right parts, and with all that was flushed.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache.errors import FusecacheError
from fusecache.metadata import Database
from tests.integration.conftest import Mounted
from tests.integration.judges import need
from tests.integration.mounts import LoopDevices, Mount, program, run, wait_until

MIB = 1 << 20
BLOCK = 64 << 10
SIZE = 4 * MIB
EAGER = "mq,read_promote_adjustment=0,write_promote_adjustment=0,discard_promote_adjustment=0"
ENDS = ["unmount", "kill9"]
PARTS = ("origin", "cache", "metadata")


def use(mount: Mount, seed: int) -> bytes:
    """Have some blocks clean and some dirty in the cache, all flushed; returns the image."""
    rng = random.Random(seed)
    image = bytearray(mount.read(0, SIZE))
    for block in range(20):
        for _ in range(3):
            mount.read(block * BLOCK, BLOCK)
    mount.setxattr("migration_threshold", "0")  # nothing is written back
    for block in rng.sample(range(20), 6):
        data = rng.randbytes(BLOCK)
        mount.write(block * BLOCK, data)
        image[block * BLOCK : (block + 1) * BLOCK] = data
    mount.write(0, bytes(image[:BLOCK]), sync=True)
    assert mount.count("dirty_blocks")
    assert mount.count("used_blocks") > mount.count("dirty_blocks")
    clean = mount.count("used_blocks") - mount.count("dirty_blocks")
    wait_until(lambda: _sums_of(mount) >= clean, "what is clean is recorded, so that it can be compared")
    return bytes(image)


def _sums_of(mount: Mount) -> int:
    try:
        with Database.read_only(mount.metadata) as record:
            return len(list(record.sums()))
    except FusecacheError:
        return 0  # it was written while it was copied


def files(mount: Mount, *, with_logs: bool = True) -> dict[Path, bytes]:
    """Read everything that a mount consists of."""
    found = {
        path
        for part in PARTS
        for path in getattr(mount, part).parent.glob(f"{getattr(mount, part).name}*")
        if path.is_file() and not path.name.endswith((".log", "-shm"))
    }
    return {path: path.read_bytes() for path in sorted(found)}


def refused(mount: Mount, words: str, *options: str) -> str:
    """A mount is refused in one line, and nothing is changed; what the line tells to type does no harm."""
    before = files(mount)
    result = run(*mount.mount_command(*options), check=False)
    assert result.returncode == 1, result.stdout
    assert result.stderr.count("\n") == 1
    assert re.search(words, result.stderr), result.stderr
    assert files(mount) == before
    for command in re.findall(r"\(next: `([^`]*)`\)", result.stderr):
        if " adopt " not in command:
            run(*typed(command), check=False)
    assert files(mount) == before
    tool(mount, "check")
    assert files(mount) == before
    return result.stderr


def typed(command: str) -> list[str]:
    words = shlex.split(command)
    return [program(), *words[1:]] if words[0] == "fusecache" else words


def tool(mount: Mount, name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Run an offline command on the three files."""
    return run(
        program(), name, mount.origin, "--cache", mount.cache, "--metadata", mount.metadata, *options, check=False
    )


def serves(mount: Mount, image: bytes) -> None:
    """The right parts can be mounted, and have everything; so does the origin in the end."""
    mount.mount("--policy", EAGER)
    assert mount.read(0, SIZE) == image
    mount.unmount()
    result = tool(mount, "writeback")
    assert result.returncode == 0, result.stderr
    assert mount.origin.read_bytes() == image


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    return mounted("--policy", EAGER, size=SIZE, cache_size="3MiB")


def moved_away(mount: Mount, directory: Path) -> None:
    directory.mkdir()
    for path in (*mount.metadata.parent.glob("metadata*"), mount.cache):
        path.rename(directory / path.name)


def moved_back(mount: Mount, directory: Path) -> None:
    for path in directory.iterdir():
        path.replace(mount.cache.parent / path.name)


# F01: absent is not clean


@pytest.mark.parametrize("end", ENDS)
def test_f01_the_ssd_is_not_mounted_today(mount: Mount, tmp_path: Path, end: str) -> None:
    image = use(mount, 1)
    getattr(mount, end)()
    moved_away(mount, tmp_path / "ssd")
    assert str(mount.metadata) in refused(mount, "newer data of origin .* may be in the cache")
    refused(mount, "newer data of origin", "--format")
    moved_back(mount, tmp_path / "ssd")
    serves(mount, image)


@pytest.mark.parametrize("end", ENDS)
def test_f01_two_caches_for_one_image(mount: Mount, end: str) -> None:
    image = use(mount, 2)
    getattr(mount, end)()
    other = replace(mount, cache=mount.cache.with_name("cache 2"), metadata=mount.metadata.with_name("metadata 2"))
    refused(other, "newer data of origin")
    assert not other.cache.exists()
    serves(mount, image)
    other.mount("--policy", EAGER)
    assert other.read(0, SIZE) == image
    image = use(other, 22)
    other.kill9()
    refused(mount, "newer data of origin .*metadata 2")
    serves(other, image)
    serves(mount, image)


@pytest.mark.parametrize("end", ENDS)
def test_f01_an_older_copy_of_the_metadata_disproves_nothing(mount: Mount, tmp_path: Path, end: str) -> None:
    """F01: the SSD is gone, and a backup of it is in its place, of a time when nothing was dirty."""
    mount.read(0, SIZE)
    mount.unmount()
    shutil.copytree(mount.cache.parent, tmp_path / "backup")
    mount.mount("--policy", EAGER)
    image = use(mount, 3)
    getattr(mount, end)()
    moved_away(mount, tmp_path / "ssd")
    for name in ("cache", "metadata"):
        shutil.copy2(tmp_path / "backup" / name, mount.cache.parent)
    other = replace(mount, cache=mount.cache.with_name("cache 2"), metadata=mount.metadata.with_name("metadata 2"))
    refused(other, "newer data of origin")
    refused(mount, "of generation")
    assert "generation" in tool(mount, "writeback").stderr
    assert "generation" in tool(mount, "writeback", "--force").stderr
    assert "generation" in tool(mount, "adopt").stderr
    moved_back(mount, tmp_path / "ssd")
    serves(mount, image)


@pytest.mark.parametrize("end", ENDS)
def test_f01_the_note_is_gone_from_an_origin_that_lacks_something(mount: Mount, end: str) -> None:
    image = use(mount, 4)
    getattr(mount, end)()
    os.removexattr(mount.origin, "user.fusecache.claim")
    refused(mount, "note that fusecache left on it is gone")
    result = tool(mount, "writeback", "--force")
    assert result.returncode == 0, result.stderr
    assert mount.origin.read_bytes() == image


def test_f01_an_origin_without_extended_attributes(mounted: Mounted, loops: LoopDevices, tmp_path: Path) -> None:
    """F01: it is said once; then the note lies on this host, and protects as well as it can."""
    backing = tmp_path / "backing"
    backing.write_bytes(random.Random(0).randbytes(SIZE))
    origin = loops.attach(backing)
    mount = mounted("--policy", EAGER, origin=origin, cache_size="3MiB")
    mount.unmount()
    image = b""
    for option, expected in (("--format", True), ("--scrub=0", False)):
        said = run(*mount.mount_command("--policy", EAGER, option))
        assert ("no extended attributes" in said.stdout + said.stderr) is expected
        image = use(mount, 5)
        mount.kill9()
    moved_away(mount, tmp_path / "ssd")
    refused(mount, "newer data of origin")
    moved_back(mount, tmp_path / "ssd")
    serves(mount, image)


# F02: an origin is known by what it is


@pytest.mark.parametrize("how", ["mv", "rm and new", "cp in place", "truncated and written"])
@pytest.mark.parametrize("end", ENDS)
def test_f02_another_image_of_the_same_name_and_time(mount: Mount, tmp_path: Path, end: str, how: str) -> None:
    image = use(mount, 6)
    getattr(mount, end)()
    before, saved = mount.origin.stat(), tmp_path / "saved"
    claim = os.getxattr(mount.origin, "user.fusecache.claim")
    shutil.copyfile(mount.origin, saved)
    other = random.Random(99).randbytes(SIZE)
    if how == "mv":
        (tmp_path / "other").write_bytes(other)
        mount.origin.rename(tmp_path / "origin")
        (tmp_path / "other").rename(mount.origin)
    elif how == "rm and new":
        mount.origin.unlink()
        mount.origin.write_bytes(other)
    else:
        mount.origin.write_bytes(other)
    if how != "cp in place":
        os.setxattr(mount.origin, "user.fusecache.claim", claim)
    os.utime(mount.origin, ns=(before.st_atime_ns, before.st_mtime_ns))
    refused(mount, "belongs to another origin|changed by others")
    assert tool(mount, "adopt").returncode == 1
    assert mount.origin.read_bytes() == other
    if how == "mv":
        (tmp_path / "origin").rename(mount.origin)
        serves(mount, image)
    elif how != "rm and new":
        shutil.copyfile(saved, mount.origin)
        os.utime(mount.origin, ns=(before.st_atime_ns, before.st_mtime_ns))
        serves(mount, image)


def test_f02_a_golden_image_with_its_time_kept_and_other_content(mount: Mount, tmp_path: Path) -> None:
    """F02: nothing is dirty, the time is the old one, and one cached block is another: nothing old is shown."""
    image = mount.read(0, SIZE)
    for block in range(20):
        mount.read(block * BLOCK, BLOCK)
    mount.unmount()
    before = mount.origin.stat()
    golden = bytearray(image)
    golden[7 * BLOCK : 8 * BLOCK] = random.Random(7).randbytes(BLOCK)
    (tmp_path / "golden").write_bytes(golden)
    os.utime(tmp_path / "golden", ns=(before.st_atime_ns, before.st_mtime_ns))
    run("cp", "--preserve=timestamps", tmp_path / "golden", mount.origin)
    assert mount.origin.stat().st_mtime_ns == before.st_mtime_ns
    mount.mount()
    assert mount.read(0, SIZE) == bytes(golden)


@pytest.mark.parametrize("end", ENDS)
def test_f02_another_disk_behind_the_same_name(mounted: Mounted, loops: LoopDevices, tmp_path: Path, end: str) -> None:
    """F02: dirty blocks of the first disk are not for the second, and the first is known under any name."""
    first, second = tmp_path / "first", tmp_path / "second"
    for number, path in enumerate((first, second)):
        path.write_bytes(random.Random(number).randbytes(SIZE))
    device = loops.attach(first)
    mount = mounted("--policy", EAGER, origin=device, cache_size="3MiB")
    image = use(mount, 8)
    getattr(mount, end)()
    run("losetup", "--detach", device)
    # Somebody else may have taken the device meanwhile, for a while.
    wait_until(lambda: run("losetup", device, second, check=False).returncode == 0, "the device has the other disk")
    try:
        before = second.read_bytes()
        refused(mount, "belongs to another origin")
        assert tool(mount, "writeback").returncode == 1
        assert tool(mount, "adopt").returncode == 1
        other = replace(mount, cache=mount.cache.with_name("cache 2"), metadata=mount.metadata.with_name("metadata 2"))
        other.mount()  # the second one may have a cache of its own
        other.kill9()
        assert second.read_bytes() == before
        again = loops.attach(first)
        moved = replace(mount, origin=again)
        third = replace(other, origin=again, cache=other.cache.with_name("cache 3"))
        third.metadata = other.metadata.with_name("metadata 3")
        refused(third, "newer data of origin")
        moved.mount("--policy", EAGER)
        assert moved.read(0, SIZE) == image
        moved.unmount()
        assert tool(moved, "writeback").returncode == 0
        run("losetup", "--detach", again)
        assert first.read_bytes() == image
    finally:
        run("losetup", "--detach", device, check=False)


@pytest.mark.parametrize("end", ENDS)
def test_f02_a_file_system_that_others_mounted_meanwhile(
    mounted: Mounted, loops: LoopDevices, tmp_path: Path, end: str
) -> None:
    """F02: a device has no time of change, but it counts, its superblock changes, and blocks differ."""
    need("mkfs.ext4")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SIZE))
    run("mkfs.ext4", "-q", disk)
    device = loops.attach(disk)
    mount = mounted("--policy", EAGER, origin=device, cache_size="3MiB")
    use(mount, 9)
    mount.remount("--policy", EAGER)  # after a kill only clean blocks can show it, and they need rows for that
    getattr(mount, end)()
    loops.mount(device, tmp_path / "files")
    (tmp_path / "files" / "new").write_bytes(random.Random(5).randbytes(MIB))
    loops.unmount(tmp_path / "files")
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    refused(mount, "was changed by others")
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before


def test_f02_a_device_that_others_wrote_to_far_from_its_beginning(
    mounted: Mounted, loops: LoopDevices, tmp_path: Path
) -> None:
    """F02: it has no time, and its superblock is the same, but it counts what is written to it."""
    disk = tmp_path / "disk"
    disk.write_bytes(random.Random(0).randbytes(SIZE))
    device = loops.attach(disk)
    mount = mounted("--policy", EAGER, origin=device, cache_size="3MiB")
    for block in range(20):
        mount.read(block * BLOCK, BLOCK)
    mount.remount("--policy", EAGER)
    assert mount.count("used_blocks")
    mount.unmount()
    newer = random.Random(1).randbytes(BLOCK)
    with device.open("r+b", buffering=0) as file:
        file.seek(7 * BLOCK)
        file.write(newer)
        os.fsync(file)
    mount.mount("--policy", EAGER)
    assert mount.read(7 * BLOCK, BLOCK) == newer
    image = use(mount, 18)
    mount.unmount()
    mount.mount("--policy", EAGER)
    assert mount.read(0, SIZE) == image
    mount.unmount()
    with device.open("r+b", buffering=0) as file:
        file.seek(SIZE - BLOCK)
        file.write(newer)
        os.fsync(file)
    refused(mount, "was changed by others")


# F03: one generation


def trio_copied(mount: Mount, directory: Path) -> Mount:
    directory.mkdir()
    for path in files(mount):
        run("cp", "-a", path, directory)
    (directory / "mnt").mkdir()
    return replace(
        mount, mountpoint=directory / "mnt", **{part: directory / getattr(mount, part).name for part in PARTS}
    )


@pytest.mark.parametrize("end", ENDS)
def test_f03_copies_of_all_three_are_adopted_and_go_their_own_way(mount: Mount, tmp_path: Path, end: str) -> None:
    image = use(mount, 10)
    mount.remount("--policy", EAGER)  # what is clean has rows now, which can be compared after a kill
    getattr(mount, end)()
    copy = trio_copied(mount, tmp_path / "a 'new' place")
    try:
        line = refused(copy, "belongs to another origin")
        (command,) = re.findall(r"\(next: `([^`]*)`\)", line)
        path = f"{Path(program()).parent}:{os.environ['PATH']}"
        run("env", f"PATH={path}", "sh", "-c", command)
        serves(copy, image)
        for part in ("cache", "metadata", "origin"):
            refused(replace(copy, **{part: getattr(mount, part)}), "of generation|another origin|does not belong")
            refused(replace(mount, **{part: getattr(copy, part)}), "of generation|another origin|does not belong")
        mixed = replace(mount, origin=copy.origin)
        assert "generation" in tool(mixed, "adopt").stderr
        serves(mount, image)
    finally:
        copy.discard()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("part", ["cache", "metadata"])
def test_f03_an_older_copy_of_one_part(mount: Mount, tmp_path: Path, part: str, end: str) -> None:
    use(mount, 11)
    getattr(mount, end)()
    kept = trio_copied(mount, tmp_path / "older")
    mount.mount("--policy", EAGER)
    image = use(mount, 12)
    mount.unmount()
    newer = trio_copied(mount, tmp_path / "newer")
    path = getattr(mount, part)
    shutil.copy2(getattr(kept, part), path)
    expected = "of generation|its log metadata-wal is missing"
    refused(mount, expected)
    for name, *options in (("check",), ("writeback",), ("writeback", "--force"), ("adopt",)):
        result = tool(mount, name, *options)
        assert result.returncode == 1
        assert re.search(expected, result.stdout + result.stderr)
    shutil.copy2(getattr(newer, part), path)
    serves(mount, image)


def test_f03_a_dump_that_is_older_than_the_cache(mount: Mount, tmp_path: Path) -> None:
    """F03: also where the cache's time does not tell, as that of a device does not."""
    use(mount, 13)
    mount.unmount()
    tool(mount, "dump", "-o", tmp_path / "xml")
    before = mount.cache.stat()
    mount.mount("--policy", EAGER)
    image = use(mount, 14)
    mount.unmount()
    os.utime(mount.cache, ns=(before.st_atime_ns, before.st_mtime_ns))
    result = tool(mount, "restore", "-i", tmp_path / "xml", "--replace")
    assert result.returncode == 1
    assert "written since the dump was made" in result.stderr
    serves(mount, image)


def test_f03_metadata_without_its_log_does_not_read_as_ended_cleanly(mount: Mount, tmp_path: Path) -> None:
    image = use(mount, 15)
    mount.kill9()
    log = mount.metadata.with_name("metadata-wal")
    log.rename(tmp_path / "log")
    refused(mount, "its log metadata-wal is missing")
    repair = f"repair -o {tmp_path / 'repaired'}"
    for name in ("check", "writeback", repair, "adopt", "dump"):
        result = tool(mount, *name.split())
        assert result.returncode == 1, name
        assert "metadata-wal is missing" in result.stdout + result.stderr
    (tmp_path / "log").rename(log)
    serves(mount, image)


def test_f03_sqlites_shell_looks_at_metadata_after_a_crash(mount: Mount) -> None:
    """F03: it has the log in the file when it goes; nothing is lost by that."""
    image = use(mount, 16)
    mount.kill9()
    script = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT COUNT(*) FROM blocks').fetchone())"
    )
    run(sys.executable, "-c", script, mount.metadata)
    assert not mount.metadata.with_name("metadata-wal").exists()
    serves(mount, image)


# F04: no command undoes what is newer


@pytest.mark.parametrize("end", ENDS)
def test_f04_what_check_prints_for_an_origin_that_was_changed(mount: Mount, end: str) -> None:
    image = bytearray(use(mount, 17))
    mount.setxattr("migration_threshold", "2048")
    run(program(), "flush", mount.mountpoint)
    getattr(mount, end)()
    newer = random.Random(4).randbytes(BLOCK)
    with mount.origin.open("r+b") as file:
        file.seek(3 * BLOCK)
        file.write(newer)
    image[3 * BLOCK : 4 * BLOCK] = newer
    choices: list[list[str | Path]] = [[], ["--data"], ["--data", "--heal"]]
    for options in choices:
        before = files(mount) if "--heal" not in options else {}
        output = tool(mount, "check", *options).stdout
        assert "dd " not in output
        for command in re.findall(r"next:  (.*)", output):
            run(*typed(command), check=False)
            assert mount.origin.read_bytes() == bytes(image)
        assert before in ({}, files(mount)) or "--heal" in output
    assert mount.origin.read_bytes() == bytes(image)
