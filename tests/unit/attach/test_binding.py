from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from fusecache.attach.inspection import inspect
from fusecache.attach.stamp import DATA_START, Stamp, write_stamp
from fusecache.config import KIB, MIB
from fusecache.errors import BusyError, FusecacheError, MetadataError, RefusedError, StoreError, UntrustedError
from fusecache.metadata.database import Database
from fusecache.metadata.record import Transaction
from tests.unit.places import BLOCK, CACHE_BLOCKS, CLEAN, DIRTY, IMAGE, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# What a first mount makes


def test_the_first_mount_makes_cache_and_metadata_and_says_so(place: Place) -> None:
    with place.bound() as binding:
        assert binding.was_clean
        assert binding.geometry.cache_blocks == CACHE_BLOCKS
        assert binding.geometry.image_bytes == IMAGE
        assert binding.cache.size == CACHE_BLOCKS * BLOCK
        assert [note.split()[:2] for note in binding.notes] == [["created", "cache"], ["created", "metadata"]]
    assert place.cache.stat().st_size == DATA_START + CACHE_BLOCKS * BLOCK
    assert {path.stat().st_mode & 0o777 for path in (place.cache, place.metadata)} == {0o600}
    assert place.origin.read_bytes() == b"o" * IMAGE
    assert sorted(place.contents()) == ["cache", "metadata", "origin"]


def test_to_look_changes_nothing(place: Place) -> None:
    before = place.contents()
    inspect(place.config, environ={}).resources.close()
    assert place.contents() == before
    place.mount(rows=CLEAN)
    before = place.contents()
    inspect(place.config, environ={}).resources.close()
    assert place.contents() == before


def test_the_next_mount_finds_what_the_first_one_made(place: Place) -> None:
    place.mount(rows=CLEAN)
    with place.bound(cache_size=None, block_size=None) as binding:
        assert binding.geometry.block_size == BLOCK
        assert binding.geometry.cache_blocks == CACHE_BLOCKS
        assert binding.was_clean
        assert not binding.notes
    assert place.blocks() == list(CLEAN)


def test_a_mount_that_was_killed_was_not_clean(place: Place) -> None:
    place.mount(rows=DIRTY, clean=False)
    with place.bound() as binding:
        assert not binding.was_clean
    assert place.blocks() == list(DIRTY)


def test_a_mount_that_never_began_leaves_the_clean_mark(place: Place) -> None:
    place.mount(rows=CLEAN)
    before = place.contents()
    with place.bound(begin=False):
        pass
    assert place.contents() == before
    with place.bound() as binding:
        assert binding.was_clean


@pytest.mark.parametrize("empty", [False, True])
def test_a_first_mount_that_never_began_leaves_nothing(place: Place, empty: bool) -> None:
    if empty:
        place.cache.touch()
    before = place.contents()
    with place.bound(begin=False):
        assert place.contents() != before
    assert place.contents() == before


def test_by_default_things_go_to_the_state_directory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = replace(place.config, cache=None, metadata=None, cache_size=None)
    plan = inspect(config, environ={"XDG_STATE_HOME": str(place.directory / "xdg"), "HOME": str(place.directory)})
    with plan.resources:
        binding = plan.carry_out()
        binding.begin()
        assert binding.geometry.cache_blocks == 2  # a tenth of the image
    made = sorted(path.suffix for path in (place.directory / "xdg" / "fusecache").iterdir())
    assert made == [".cache", ".metadata"]
    assert (place.directory / "xdg" / "fusecache").stat().st_mode & 0o777 == 0o700


def test_whoever_names_both_needs_no_home(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with place.bound():
        pass


def test_a_cache_of_no_stated_size_has_at_least_one_block(place: Place) -> None:
    with place.bound(cache_size=None, block_size=MIB) as binding:
        assert binding.geometry.cache_blocks == 1


def test_a_file_of_zeroes_becomes_the_cache_as_large_as_it_is(place: Place) -> None:
    place.cache.write_bytes(bytes(DATA_START + 5 * BLOCK + 100))
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == 5
    assert place.cache.stat().st_size == DATA_START + 5 * BLOCK + 100


def test_the_stamp_comes_before_the_blocks(place: Place) -> None:
    with place.bound() as binding:
        uuid = binding.database.values()["uuid"]
        trio.run(binding.cache.write, 0, b"first block")
    content = place.cache.read_bytes()
    assert content.startswith(b"fusecache cache\n")
    assert uuid.encode() in content[:DATA_START]
    assert content[DATA_START:].startswith(b"first block")


# Origins


def test_a_missing_origin(place: Place) -> None:
    place.origin.unlink()
    assert str(place.origin) in place.refused(StoreError, "No such file")


def test_an_origin_that_is_a_directory(place: Place) -> None:
    place.refused(StoreError, "neither a file nor a block device", origin=str(place.directory))


def test_an_empty_origin(place: Place) -> None:
    place.origin.write_bytes(b"")
    place.refused(FusecacheError, "empty")


@pytest.mark.parametrize("rows", [CLEAN, DIRTY])
def test_a_shrunken_origin(place: Place, rows: tuple[tuple[int, int, bool], ...]) -> None:
    place.mount(rows=rows)
    os.truncate(place.origin, IMAGE - 1)
    place.refused(RefusedError, f"shrunk from {IMAGE} to {IMAGE - 1}")


def test_a_grown_origin_is_served_whole(place: Place) -> None:
    place.mount(rows=CLEAN)
    status = place.origin.stat()
    os.truncate(place.origin, IMAGE + 5 * BLOCK)
    os.utime(place.origin, ns=(status.st_atime_ns, status.st_mtime_ns))
    place.untouched()
    with place.bound() as binding:
        assert binding.geometry.image_bytes == IMAGE + 5 * BLOCK
        binding.database.set_values(binding.end_values())
    assert place.blocks() == list(CLEAN)
    os.truncate(place.origin, IMAGE)
    place.refused(RefusedError, "shrunk")


def test_a_table_that_wants_more_than_there_is(place: Place) -> None:
    place.refused(RefusedError, "fewer than", image_size=IMAGE + 512)


def test_a_table_may_expose_less(place: Place) -> None:
    with place.bound(image_size=10 * BLOCK) as binding:
        assert binding.geometry.image_bytes == binding.origin.size == 10 * BLOCK


def test_an_origin_that_moved_is_known_by_its_inode(place: Place) -> None:
    place.mount(rows=DIRTY)
    moved = place.origin.rename(place.directory / "elsewhere")
    with place.bound(origin=str(moved)) as binding:
        assert binding.database.values()["origin_path"] == str(moved)
    assert place.blocks() == list(DIRTY)


def test_an_origin_behind_a_link_is_the_same(place: Place) -> None:
    place.mount(rows=DIRTY)
    link = place.directory / "link"
    link.symlink_to(place.origin)
    with place.bound(origin=str(link)) as binding:
        assert binding.origin_address == str(place.origin)


@pytest.mark.parametrize("rows", [(), CLEAN, DIRTY])
@pytest.mark.parametrize("clean", [True, False])
def test_the_cache_of_another_origin(place: Place, rows: tuple[tuple[int, int, bool], ...], clean: bool) -> None:
    place.mount(rows=rows, clean=clean)
    other = place.directory / "other"
    other.write_bytes(b"x" * IMAGE)
    before = place.contents()
    message = place.refused(RefusedError, "belongs to another origin", origin=str(other))
    assert str(place.origin) in message
    assert before.keys() == place.contents().keys()


def change_outside(place: Place) -> None:
    with place.origin.open("r+b") as file:
        file.write(b"changed by others")
    later = place.origin.stat().st_mtime_ns + 1
    os.utime(place.origin, ns=(later, later))


def test_a_clean_cache_of_an_origin_that_others_changed_is_emptied_with_a_note(place: Place) -> None:
    place.mount(rows=CLEAN)
    change_outside(place)
    with place.bound() as binding:
        assert [note for note in binding.notes if "changed outside" in note and "2 cached blocks" in note]
        assert binding.database.count(dirty_only=False) == 0
    assert place.blocks() == []


def test_a_dirty_cache_of_an_origin_that_others_changed_is_refused(place: Place) -> None:
    place.mount(rows=DIRTY)
    change_outside(place)
    assert "1 newer block" in place.refused(RefusedError, "changed by others")
    assert place.blocks() == list(DIRTY)


def test_an_origin_that_our_own_mount_changed_is_not_changed_by_others(place: Place) -> None:
    with place.bound() as binding:
        trio.run(binding.database.commit, Transaction(mapped=[(*row, None, None) for row in DIRTY]))
        trio.run(binding.origin.write, 0, b"by us")
        binding.database.set_values(binding.end_values())
    with place.bound() as binding:
        assert not binding.notes
    assert place.blocks() == list(DIRTY)


# Caches


def test_no_room_for_one_block(place: Place) -> None:
    place.refused(FusecacheError, "too small for one block", cache_size=BLOCK - 1)
    place.refused(FusecacheError, "too small for one block", cache_size=0)
    place.cache.write_bytes(bytes(DATA_START + BLOCK - 1))
    place.refused(FusecacheError, "too small for one block", cache_size=None)
    place.cache.write_bytes(b"\0")
    place.refused(FusecacheError, "too small for one block", cache_size=None)


def test_an_empty_file_grows_to_what_was_asked_for(place: Place) -> None:
    """As a mount leaves it that is killed while it makes the file."""
    place.cache.write_bytes(bytes(DATA_START + BLOCK // 2))
    with place.bound(cache_size=2 * BLOCK) as binding:
        assert binding.geometry.cache_blocks == 2
        assert place.cache.stat().st_size == DATA_START + 2 * BLOCK


def test_a_file_that_is_something_else_is_not_overwritten_unless_told_so(place: Place) -> None:
    place.cache.write_bytes(b"my thesis" + bytes(DATA_START + 3 * BLOCK))
    place.refused(RefusedError, "not a fusecache cache", cache_size=None)
    with place.bound(cache_size=None, format=1) as binding:
        assert binding.geometry.cache_blocks == 3


@pytest.mark.parametrize("offset", [64 * KIB, 4096])
def test_data_behind_a_blank_first_page_is_data(place: Place, offset: int) -> None:
    """Btrfs begins at 64 KiB, an md member (1.2) at 4 KiB."""
    place.cache.write_bytes(bytes(offset) + b"_BHRfS_M" + bytes(1 * MIB))
    place.refused(RefusedError, "not a fusecache cache", cache_size=None)


def test_f21_a_disk_that_holds_data_in_its_middle_alone_is_not_overwritten(place: Place) -> None:
    with place.cache.open("wb") as file:
        file.truncate(300 * MIB)
        file.seek(150 * MIB)
        file.write(b"my thesis")
    before = place.cache.stat().st_blocks
    place.refused(RefusedError, "holds data in its middle .*; --format to overwrite it", cache_size=None)
    assert place.cache.stat().st_blocks == before
    with place.bound(cache_size=None, format=1):
        pass


def test_f21_what_would_be_overwritten_is_named(place: Place) -> None:
    with place.cache.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", place.cache], check=True, timeout=60)
    place.refused(RefusedError, "holds an ext2, ext3 or ext4 file system; --format to overwrite it", cache_size=None)


def test_an_empty_file_that_was_there_stays_there_on_failure(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int, offset: int, length: int) -> None:
        os.ftruncate(fd, length // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    place.cache.touch()
    place.metadata.touch()
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    place.refused(StoreError, "no space")


@pytest.mark.parametrize("lost", ["cache", "metadata"])
@pytest.mark.parametrize("rows", [CLEAN, DIRTY])
def test_one_without_the_other(place: Place, lost: str, rows: tuple[tuple[int, int, bool], ...]) -> None:
    place.mount(rows=rows)
    (place.directory / lost).unlink()
    if lost == "cache":
        place.refused(RefusedError, "missing.*mount --format twice" if rows is DIRTY else "missing.*mount --format$")
    else:
        place.refused(RefusedError, "belongs to metadata that is not here")
        place.refused(RefusedError, "belongs to metadata that is not here", format=1)


def test_a_cache_of_other_metadata(place: Place) -> None:
    place.mount(rows=CLEAN)
    ours = place.cache.read_bytes()
    place.cache.unlink()
    place.mount(rows=DIRTY, metadata=place.directory / "metadata 2")
    place.refused(RefusedError, "does not belong to metadata")
    place.cache.write_bytes(ours)
    place.refused(RefusedError, "does not belong to metadata", metadata=place.directory / "metadata 2")


def test_a_stamp_that_was_wiped_with_blocks_behind_it(place: Place) -> None:
    place.mount(rows=CLEAN)
    with place.cache.open("r+b") as file:
        file.write(bytes(DATA_START))
    place.refused(RefusedError, "does not belong")


@pytest.mark.parametrize(
    "text",
    [
        b"fusecache cache\n{not json",
        b"fusecache cache\n{}",
        b"fusecache cache\n[1]",
        pytest.param(b"fusecache cache\n" + b"[" * 4000, id="nested (F19)"),
        pytest.param(b'fusecache cache\n{"uuid": ' + b"[" * 900 + b"]" * 900 + b"}", id="nested within (F19)"),
    ],
)
def test_a_damaged_stamp(place: Place, text: bytes) -> None:
    place.mount(rows=CLEAN)
    with place.cache.open("r+b") as file:
        file.write(text.ljust(DATA_START, b"\0"))
    place.refused(RefusedError, "does not belong")


def test_data_is_not_overwritten_for_the_sake_of_metadata_that_knows_no_blocks(place: Place) -> None:
    place.mount()
    place.cache.write_bytes(b"my thesis" * 10000)
    place.refused(RefusedError, "not a fusecache cache|does not belong")


def test_another_block_size_than_it_was_made_with(place: Place) -> None:
    place.mount(rows=CLEAN)
    place.refused(RefusedError, "blocks of 4096 bytes, not 8192", block_size=2 * BLOCK)


def test_a_cache_that_is_a_directory(place: Place) -> None:
    place.cache.mkdir()
    place.refused(StoreError, "neither a file nor a block device")


def test_a_directory_that_cannot_be_made(place: Place) -> None:
    place.refused(StoreError, "cannot create cache", cache=place.origin / "sub" / "cache")
    place.refused(MetadataError, "cannot create", metadata=place.origin / "sub" / "metadata")


def test_no_space_for_the_cache(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(fd: int, offset: int, length: int) -> None:
        os.ftruncate(fd, length // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    place.refused(StoreError, "no space for a cache of 36KiB .*No space left")


def test_no_space_for_the_metadata_takes_the_cache_away_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(path: Path, values: dict[str, str], *, replace: bool) -> Database:
        msg = f"metadata {path}: database or disk is full"
        raise MetadataError(msg)

    monkeypatch.setattr(Database, "create", no_space)
    place.refused(MetadataError, "disk is full")


# Metadata


def corrupt_header(place: Place) -> None:
    place.metadata.write_bytes(b"X" + place.metadata.read_bytes()[1:])


def corrupt_pages(place: Place) -> None:
    content = place.metadata.read_bytes()
    place.metadata.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def corrupt_schema(place: Place) -> None:
    content = place.metadata.read_bytes()
    place.metadata.write_bytes(content[:100] + b"\xa5" * 3996 + content[4096:])


def truncate(place: Place) -> None:
    os.truncate(place.metadata, 4096)


def truncate_in_the_header(place: Place) -> None:
    os.truncate(place.metadata, 50)


def lose_a_table(place: Place) -> None:
    place.sql("DROP TABLE regions")


def other_version(place: Place) -> None:
    place.sql("PRAGMA user_version = 99")


def foreign_database(place: Place) -> None:
    place.metadata.unlink()
    place.sql("CREATE TABLE diary (day TEXT)")


def text_file(place: Place) -> None:
    place.metadata.write_bytes(b"Dear diary, " * 100)


def needs_check(place: Place) -> None:
    place.sql("UPDATE meta SET value = '1' WHERE name = 'needs_check'")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (corrupt_header, "not fusecache metadata"),
        (corrupt_pages, "metadata .*malformed|damaged"),
        (corrupt_schema, "metadata .*malformed|damaged"),
        (truncate, "metadata .*malformed|damaged"),
        (truncate_in_the_header, "not fusecache metadata"),
        (lose_a_table, "damaged: tables are missing"),
        (other_version, "format 99"),
        (foreign_database, "not fusecache metadata"),
        (text_file, "not fusecache metadata"),
        (needs_check, "needs a check"),
    ],
)
def test_metadata_that_cannot_be_used(place: Place, damage: Callable[[Place], None], words: str) -> None:
    place.mount(rows=DIRTY)
    damage(place)
    assert str(place.metadata) in place.refused(MetadataError, words)
    if damage is not needs_check:
        place.refused(MetadataError, "--format twice", format=1)


META = [
    "uuid",
    "block_size",
    "cache_blocks",
    "region_blocks",
    "clean_shutdown",
    "needs_check",
    "image_bytes",
    "origin_path",
    "origin_inode",
    "origin_mtime_ns",
]


@pytest.mark.parametrize("name", META)
def test_a_value_that_is_missing(place: Place, name: str) -> None:
    place.mount(rows=CLEAN)
    place.sql("DELETE FROM meta WHERE name = ?", name)
    place.refused(FusecacheError, str(place.metadata))


@pytest.mark.parametrize("name", ["block_size", "cache_blocks", "region_blocks", "image_bytes"])
@pytest.mark.parametrize("value", ["", "many", "0", "-4096"])
def test_a_number_that_is_none(place: Place, name: str, value: str) -> None:
    place.mount(rows=CLEAN)
    place.sql("UPDATE meta SET value = ? WHERE name = ?", value, name)
    place.refused(FusecacheError, ".", block_size=None, cache_size=None)


def test_metadata_that_is_a_directory(place: Place) -> None:
    place.metadata.mkdir()
    place.refused(MetadataError, str(place.metadata))


def test_metadata_that_is_a_fifo_is_no_hang(place: Place) -> None:
    os.mkfifo(place.metadata)
    place.refused(MetadataError, str(place.metadata))


# The same file twice


def test_the_origin_as_its_own_cache(place: Place) -> None:
    place.refused(FusecacheError, "origin and cache are the same", cache=place.origin)
    link = place.directory / "hard link"
    os.link(place.origin, link)
    place.refused(FusecacheError, "origin and cache are the same", cache=link)


def test_the_origin_as_its_own_metadata(place: Place) -> None:
    place.refused(FusecacheError, "the same|not fusecache metadata", metadata=place.origin)
    place.refused(FusecacheError, "the same|not fusecache metadata", metadata=place.origin, format=2)


def test_one_file_for_cache_and_metadata(place: Place) -> None:
    place.refused(FusecacheError, "the same", metadata=place.cache)
    place.cache.write_bytes(bytes(DATA_START + 3 * BLOCK))
    place.refused(FusecacheError, "the same", metadata=place.cache, cache_size=None)
    place.refused(FusecacheError, "the same", metadata=place.cache, cache_size=None, format=2)


# Paths


@pytest.mark.parametrize("role", ["origin", "cache", "metadata"])
def test_paths_that_cannot_be_looked_at(place: Place, role: str) -> None:
    loop = place.directory / "loop"
    loop.symlink_to(loop)
    long = place.directory / ("n" * 300)
    place.refused(FusecacheError, "loop", **{role: str(loop) if role == "origin" else loop})
    place.refused(FusecacheError, "too long", **{role: str(long) if role == "origin" else long})


@pytest.mark.skipif(os.geteuid() != 0, reason="to be somebody else takes root")
@pytest.mark.parametrize("role", ["origin", "cache", "metadata"])
def test_directories_that_may_not_be_entered(place: Place, role: str) -> None:
    private = place.directory / "private"
    private.mkdir(mode=0o700)
    for parent in [place.directory, *place.directory.parents][:3]:
        parent.chmod(0o777)
    place.origin.chmod(0o666)
    file = private / "file"
    changes: dict[str, Any] = {role: str(file) if role == "origin" else file}
    os.seteuid(65534)
    try:
        with (
            pytest.raises(FusecacheError, match="Permission denied") as caught,
            place.bound(**changes),
        ):
            pass
    finally:
        os.seteuid(0)
    assert "\n" not in str(caught.value)


# Two mounts


def test_a_second_mount_of_the_same_is_refused_and_the_first_goes_on(place: Place) -> None:
    with place.bound() as binding:
        with pytest.raises(BusyError, match="in use by another mount"), place.bound():
            pass
        trio.run(binding.database.commit, Transaction(mapped=[(*row, None, None) for row in CLEAN]))
    assert place.blocks() == list(CLEAN)
    with place.bound():
        pass


def test_f20_files_that_a_cleaner_deleted_let_nobody_in(place: Place) -> None:
    """What systemd-tmpfiles and the like do to files in use; the names are free then, and the origin is not."""
    with place.bound():
        place.cache.unlink()
        place.metadata.unlink()
        place.refused(BusyError, "in use by another mount")


@pytest.mark.parametrize("name", ["cache", "metadata", "metadata-wal", "metadata-journal"])
@pytest.mark.parametrize("exists", [False, True])
def test_f16_what_others_may_have_made_is_refused(place: Place, name: str, exists: bool) -> None:
    if exists:
        place.mount(rows=DIRTY)
    path = place.directory / name
    path.touch()
    path.chmod(0o666)
    place.refused(UntrustedError, rf"others may write to .*{name} \(mode 0666\)")


def test_f16_a_directory_where_others_may_replace_files(place: Place) -> None:
    place.directory.chmod(0o775)
    place.refused(UntrustedError, "others may replace files in directory")


def test_f16_an_origin_may_be_anybodys(place: Place) -> None:
    place.origin.chmod(0o666)
    with place.bound():
        pass


def test_f05_the_mount_says_where_an_earlier_version_left_its_cache(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = replace(place.config, cache=None, metadata=None)
    environ = {"XDG_STATE_HOME": str(place.directory / "cache-home")}
    plan = inspect(config, environ=environ)
    with plan.resources:
        plan.carry_out().begin()
    environ = {"XDG_STATE_HOME": str(place.directory / "state"), "XDG_CACHE_HOME": str(place.directory / "cache-home")}
    plan = inspect(config, environ=environ)
    with plan.resources:
        assert plan.cache_path.parent == place.directory / "cache-home" / "fusecache"
        assert plan.database is not None
        assert [note for note in plan.notes if "people and cleaners empty" in note]
    assert not (place.directory / "state").exists()


@pytest.mark.parametrize("shared", ["origin", "cache", "metadata"])
def test_any_one_file_in_common_is_refused(place: Place, shared: str) -> None:
    other = replace(
        place.config,
        origin=str(place.directory / "origin 2"),
        cache=place.directory / "cache 2",
        metadata=place.directory / "metadata 2",
    )
    (place.directory / "origin 2").write_bytes(b"2" * IMAGE)
    other = replace(other, **{shared: getattr(place.config, shared)})
    with place.bound(), pytest.raises(BusyError, match="in use by another mount"):
        inspect(other, environ={})
    assert sorted(place.contents()) == ["cache", "metadata", "origin", "origin 2"]


@pytest.mark.parametrize("shared", ["cache", "metadata"])
def test_two_mounts_that_create_the_same_file_at_the_same_time(place: Place, shared: str) -> None:
    (place.directory / "origin 2").write_bytes(b"2" * IMAGE)
    other = replace(
        place.config,
        origin=str(place.directory / "origin 2"),
        cache=place.directory / "cache 2",
        metadata=place.directory / "metadata 2",
    )
    other = replace(other, **{shared: getattr(place.config, shared)})
    first, second = inspect(place.config, environ={}), inspect(other, environ={})
    with first.resources, second.resources:
        first.carry_out().begin()
        before = place.contents()
        with pytest.raises(BusyError, match="in use"):
            second.carry_out()
        assert place.contents() == before
    with place.bound():
        pass


# --format


def test_format_makes_a_clean_cache_anew(place: Place) -> None:
    place.mount(rows=CLEAN)
    with place.bound(format=1, block_size=2 * BLOCK, cache_size=6 * BLOCK) as binding:
        assert binding.geometry.block_size == 2 * BLOCK
        assert binding.geometry.cache_blocks == 3
        assert binding.database.count(dirty_only=False) == 0
    with place.bound(block_size=None, cache_size=None) as binding:
        assert binding.geometry.cache_blocks == 3


def test_format_once_does_not_throw_away_dirty_data(place: Place) -> None:
    place.mount(rows=DIRTY)
    assert "1 block" in place.refused(RefusedError, "dirty.*a second time", format=1)
    assert place.blocks() == list(DIRTY)


def test_format_once_does_not_throw_away_what_may_be_dirty(place: Place) -> None:
    with place.bound() as binding:
        trio.run(binding.database.commit, Transaction(mapped=[(*row, None, None) for row in CLEAN], opened=[0]))
    place.refused(RefusedError, "dirty", format=1)


def test_format_twice_throws_it_away(place: Place) -> None:
    place.mount(rows=DIRTY, clean=False)
    with place.bound(format=2) as binding:
        assert binding.was_clean
        assert binding.database.count(dirty_only=False) == 0
    assert place.blocks() == []


def test_format_twice_takes_any_cache_and_any_metadata(place: Place) -> None:
    place.cache.write_bytes(b"my thesis" + bytes(DATA_START + 3 * BLOCK))
    place.metadata.write_bytes(b"Dear diary, " * 100)
    with place.bound(cache_size=None, format=2) as binding:
        assert binding.geometry.cache_blocks == 3
    with place.bound(cache_size=None):
        pass


def test_format_where_there_is_nothing_yet_is_a_first_mount(place: Place) -> None:
    with place.bound(format=1) as binding:
        assert binding.geometry.cache_blocks == CACHE_BLOCKS


def test_format_never_touches_the_origin(place: Place) -> None:
    place.mount(rows=DIRTY)
    place.mount(format=2)
    assert place.origin.read_bytes() == b"o" * IMAGE


@pytest.mark.parametrize("times", [1, 2])
def test_formatting_a_cache_in_use_is_refused(place: Place, times: int) -> None:
    with place.bound(), pytest.raises(BusyError, match="in use"), place.bound(format=times):
        pass


def test_format_that_fails_keeps_the_old_cache_usable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.mount(rows=CLEAN)

    def no_space(path: Path, values: dict[str, str], *, replace: bool) -> Database:
        msg = f"metadata {path}: database or disk is full"
        raise MetadataError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "create", no_space)
        place.refused(MetadataError, "disk is full", format=1)
    with place.bound():
        pass


def test_a_stamp_that_cannot_be_written_is_one_line(place: Place) -> None:
    place.cache.touch()
    fd = os.open(place.cache, os.O_RDONLY)
    try:
        with pytest.raises(StoreError, match="cannot write the stamp of the cache: Bad file descriptor"):
            write_stamp(fd, Stamp("u"))
    finally:
        os.close(fd)
