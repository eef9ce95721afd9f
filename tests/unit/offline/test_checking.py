from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache.attach.lease import lock
from fusecache.attach.stamp import Stamp, write_stamp
from fusecache.errors import BusyError, FusecacheError, RefusedError, StoreError
from fusecache.offline.checking import (
    Report,
    check,
    clear_needs_check,
    describe_check,
    put_stamp,
    require_no_problems,
)
from tests.unit.offline.places import MIXED, Place


def only_problem(place: Place) -> tuple[str, str, str]:
    """What is wrong, what it means and what to type; looking changed nothing."""
    before = place.contents()
    report = check(place.files)
    assert place.contents() == before
    (problem,) = report.problems
    with pytest.raises(FusecacheError, match="1 problem found"):
        require_no_problems(report)
    assert list(describe_check(report, place.files))[-3:] == [
        f"problem: {problem.what}",
        f"  means: {problem.meaning}",
        f"  next:  {problem.command}",
    ]
    return problem.what, problem.meaning, problem.command


def told(place: Place, report: Report) -> str:
    return "\n".join(describe_check(report, place.files))


def test_a_sound_cache(place: Place) -> None:
    place.fill(MIXED)
    before = place.contents()
    report = check(place.files)
    require_no_problems(report)
    assert (report.blocks, report.dirty, report.suspects) == (20, 5, 0)
    assert "the last mount ended cleanly" in report.facts
    assert "20 blocks are cached, 5 of them dirty (20KiB that the origin lacks)" in report.facts
    assert told(place, report).endswith("no problems found")
    assert place.contents() == before


NOTHING_LOST = "nothing is lost: no block is dirty, so the origin has everything"


@pytest.mark.parametrize("clean", [True, False])
def test_g09_without_dirty_blocks_it_says_first_that_nothing_is_lost(place: Place, clean: bool) -> None:
    """G09: "the last mount did not end cleanly" was what frightened people read first."""
    place.fill({0: (3, False)}, clean=clean)
    assert told(place, check(place.files)).startswith(NOTHING_LOST)


def test_g09_nothing_is_lost_with_a_cache_without_dirty_blocks(place: Place) -> None:
    place.fill({0: (3, False)})
    place.cache.unlink()
    report = check(place.files)
    assert told(place, report).startswith(NOTHING_LOST)
    assert report.problems[0].meaning == "no block in it is dirty"


def test_g09_another_cache_that_was_used_since_is_named(place: Place) -> None:
    """G09: whoever forgets ``--cache`` asks about another cache, and is told that all is well with that one."""
    place.fill({0: (3, False)})
    ours = place.files
    place.config = replace(place.config, cache=place.directory / "other", metadata=place.directory / "other.metadata")
    place.fill({0: (3, False)})
    assert f"last used: {place.directory}/other, which has nothing that the origin lacks" in told(place, check(ours))


@pytest.mark.parametrize("damage", ["dirty", "suspect", "metadata", "origin"])
def test_g09_it_says_so_only_where_it_is_known(place: Place, damage: str) -> None:
    place.fill({0: (3, damage == "dirty")}, regions=[0] if damage == "suspect" else [], clean=damage != "suspect")
    if damage == "metadata":
        place.sql("UPDATE blocks SET oblock = 5000")
    elif damage == "origin":
        os.truncate(place.origin, 4096)
    assert "nothing is lost" not in told(place, check(place.files))


def test_a_crash_is_no_problem_and_what_it_left_in_doubt_is_counted(place: Place) -> None:
    place.fill(MIXED, regions=[1, 2, 4], clean=False)
    report = check(place.files)
    require_no_problems(report)
    assert (report.blocks, report.dirty, report.suspects) == (20, 7, 2)
    assert "the last mount did not end cleanly: the next one will recover" in report.facts


def test_metadata_alone_can_be_checked(place: Place) -> None:
    place.fill(MIXED)
    place.origin.unlink()
    place.cache.unlink()
    require_no_problems(check(replace(place.files, cache=None, origin=None)))


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE blocks SET oblock = 64 WHERE cblock = 2", "holds block 64, outside the image's 64 blocks"),
        ("UPDATE blocks SET oblock = -1 WHERE cblock = 2", "holds block -1, outside"),
        ("UPDATE blocks SET cblock = 32 WHERE cblock = 2", "cache block 32 lies outside the cache's 32 blocks"),
        ("UPDATE blocks SET cblock = -1 WHERE cblock = 2", "cache block -1 lies outside"),
        ("UPDATE blocks SET oblock = 'x' WHERE cblock = 2", "holds block 'x', which is none"),
        ("UPDATE blocks SET dirty = 2 WHERE cblock = 2", "whether cache block 2 is dirty is 2"),
        ("UPDATE blocks SET hint = 4294967296 WHERE cblock = 2", "hint and sum of cache block 2 are 4294967296"),
        ("UPDATE blocks SET crc = 1.5 WHERE cblock = 2", "hint and sum of cache block 2 are None and 1.5"),
        ("INSERT INTO regions VALUES (32)", "region 32 lies outside the cache"),
        ("INSERT INTO regions VALUES (-5)", "region -5 cannot be"),
        ("DELETE FROM meta WHERE name = 'region_blocks'", "it does not say region_blocks"),
        ("UPDATE meta SET value = '-1' WHERE name = 'image_bytes'", "image_bytes is '-1'"),
        ("DROP TABLE blocks", "tables are missing: blocks"),
    ],
)
def test_rows_and_values_that_cannot_be(place: Place, statement: str, complaint: str) -> None:
    place.fill(MIXED)
    place.sql(statement)
    what, _, command = only_problem(place)
    assert complaint in what
    assert command.startswith("fusecache repair ")
    assert f"--metadata {place.metadata} -o {place.metadata}.repaired" in command


def test_rows_that_contradict_each_other(place: Place) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET oblock = 3 WHERE cblock = 2")
    assert [problem.what for problem in check(place.files).problems] == [
        "block 3 of the image is in the cache more than once, in cache block 1 too",
        "block 3 of the image is in the cache more than once, in cache block 2 too",
    ]


def test_of_many_problems_of_a_kind_some_are_told(place: Place) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET oblock = oblock + 1000")
    problems = check(place.files).problems
    assert len(problems) == 11
    assert problems[-1].what == "10 more rows are wrong"


def test_a_page_that_is_damaged(place: Place) -> None:
    place.fill(MIXED)
    with place.metadata.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(os.urandom(4096))
    assert check(place.files).problems[0].command.startswith("fusecache repair ")


def test_a_first_page_that_is_damaged(place: Place) -> None:
    place.fill(MIXED)
    with place.metadata.open("r+b") as file:
        file.write(bytes(4096))
    what, meaning, command = only_problem(place)
    assert "is not fusecache metadata, or its first page is damaged" in what
    assert "what can be read can be saved" in meaning
    assert command.startswith("fusecache repair ")


@pytest.mark.parametrize("length", [0, 50, 99])
def test_a_file_that_is_cut_short(place: Place, length: int) -> None:
    place.fill(MIXED)
    with place.metadata.open("r+b") as file:
        file.truncate(length)
    assert "is not fusecache metadata" in only_problem(place)[0]


@pytest.mark.parametrize("length", [100, 4095, 4096, 8192])
def test_a_file_that_has_lost_its_end(place: Place, length: int) -> None:
    place.fill(MIXED)
    with place.metadata.open("r+b") as file:
        file.truncate(length)
    assert check(place.files).problems


def test_another_version(place: Place) -> None:
    place.fill(MIXED)
    place.sql("PRAGMA user_version = 99")
    what, meaning, command = only_problem(place)
    assert "has format 99; this version of fusecache reads" in what
    assert meaning == "nothing is wrong with it: it is another version's"
    assert command == "fusecache --version"


def test_somebody_elses_database(place: Place) -> None:
    place.fill(MIXED)
    place.sql("PRAGMA application_id = 5")
    assert "an SQLite file of something else" in only_problem(place)[0]


# Cache and origin


def test_a_cache_that_is_missing(place: Place) -> None:
    place.fill(MIXED)
    place.cache.unlink()
    what, meaning, command = only_problem(place)
    assert what == f"cache {place.cache} is missing"
    assert meaning == "5 dirty blocks are in it, and nowhere else"
    assert command == f"fusecache check {place.origin} --cache FILE --metadata {place.metadata}"


def test_a_cache_that_is_missing_and_held_nothing_is_no_problem(place: Place) -> None:
    place.fill({})
    place.cache.unlink()
    require_no_problems(check(place.files))


def test_a_cache_that_has_lost_its_end(place: Place) -> None:
    place.fill(MIXED)
    with place.cache.open("r+b") as file:
        file.truncate(5000)
    assert only_problem(place)[0] == f"cache {place.cache} has 5000 bytes, fewer than the 135168 that it needs"


def test_a_cache_of_other_metadata(place: Place) -> None:
    place.fill(MIXED)
    with place.cache.open("r+b") as file:
        write_stamp(file.fileno(), Stamp("another"))
    assert only_problem(place)[0] == f"cache {place.cache} belongs to other metadata (uuid another)"


@pytest.mark.parametrize("page", [bytes(4096), b"fusecache cache\n{" + bytes(4079)])
def test_a_stamp_that_is_missing_can_be_written_if_all_else_is_sound(place: Place, page: bytes) -> None:
    place.fill(MIXED)
    stamped = place.contents()
    with place.cache.open("r+b") as file:
        file.write(page)
    report = check(place.files)
    assert not report.problems
    assert f"next:  fusecache check --write-stamp {place.origin}" in told(place, report)
    with pytest.raises(FusecacheError, match="1 problem found"):
        require_no_problems(report)
    put_stamp(place.files, report)
    assert place.contents() == stamped
    place.sql("UPDATE blocks SET dirty = 2")
    with place.cache.open("r+b") as file:
        file.write(page)
    before = place.contents()
    with pytest.raises(RefusedError, match="nothing was changed: there are other problems"):
        put_stamp(place.files, check(place.files))
    assert place.contents() == before


def test_a_stamp_that_is_there_is_not_written(place: Place) -> None:
    place.fill(MIXED)
    with pytest.raises(RefusedError, match="nothing to write"):
        put_stamp(place.files, check(place.files))


def test_an_origin_that_is_shorter(place: Place) -> None:
    place.fill(MIXED, clean=False)
    with place.origin.open("r+b") as file:
        file.truncate(8192)
    what, _, command = only_problem(place)
    assert what == f"origin {place.origin} has 8192 bytes, fewer than the image's 262656"
    assert command == f"truncate --size=262656 -- {place.origin}"


def test_another_origin(place: Place, tmp_path: Path) -> None:
    place.fill(MIXED)
    other = tmp_path / "other"
    other.write_bytes(place.origin.read_bytes())
    problems = check(replace(place.files, origin=str(other))).problems
    assert problems[0].what.startswith(
        f"the cache belongs to another origin, {place.origin}, not to {other} (its inode"
    )
    assert problems[0].command.startswith(f"fusecache adopt {other} ")


def test_an_origin_that_others_have_changed(place: Place) -> None:
    place.fill(MIXED)
    os.utime(place.origin, ns=(0, 0))
    what, meaning, command = only_problem(place)
    assert what.startswith(f"origin {place.origin} was changed by others while 5 newer blocks of it are in the cache")
    assert f"`fusecache writeback --force {place.origin} " in meaning
    assert command.startswith(f"fusecache check --data {place.origin} ")


def test_an_origin_that_others_have_changed_under_a_clean_cache(place: Place) -> None:
    place.fill({1: (1, False)})
    os.utime(place.origin, ns=(0, 0))
    report = check(place.files)
    require_no_problems(report)
    assert "the next mount drops what is clean" in report.facts[-1]


def test_newer_data_in_another_cache(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    other.fill(MIXED)
    place.fill({1: (1, False)})
    other.config = replace(other.config, origin=str(place.origin), format=2)
    other.fill(MIXED, clean=False)
    if not os.listxattr(place.origin):
        pytest.skip("this file system has no extended attributes")
    what, _, command = only_problem(place)
    assert what.startswith(f"newer data of origin {place.origin} may be in the cache that metadata {other.metadata}")
    assert command == f"fusecache check --metadata {other.metadata}"


# The mark


def test_the_mark_is_cleared_if_all_else_is_sound(place: Place) -> None:
    place.fill(MIXED)
    place.sql("UPDATE meta SET value = '1' WHERE name = 'needs_check'")
    report = check(place.files)
    assert report.needs_check
    assert f"next:  fusecache check --clear-needs-check {place.origin}" in told(place, report)
    with pytest.raises(FusecacheError, match="1 problem found"):
        require_no_problems(report)
    clear_needs_check(place.files, report)
    assert place.values()["needs_check"] == "0"
    assert place.mounts()


def test_the_mark_stays_if_anything_else_is_wrong(place: Place) -> None:
    place.fill(MIXED)
    place.sql("UPDATE meta SET value = '1' WHERE name = 'needs_check'", "UPDATE blocks SET oblock = 5000")
    before = place.contents()
    with pytest.raises(RefusedError, match=r"nothing was changed: there are other problems \(cache block 0 holds"):
        clear_needs_check(place.files, check(place.files))
    assert place.contents() == before


# What cannot be looked at


@pytest.mark.parametrize("name", ["metadata", "cache", "origin"])
def test_what_is_in_use_is_refused(place: Place, name: str) -> None:
    place.fill(MIXED)
    with ExitStack() as resources:
        fd = os.open(place.directory / name, os.O_RDWR)
        resources.callback(os.close, fd)
        lock(fd, place.directory / name, resources)
        with pytest.raises(BusyError, match=f"{name} is in use: unmount it first"):
            check(place.files)


def test_metadata_that_is_missing(place: Place) -> None:
    with pytest.raises(RefusedError, match=r"there is no metadata .*metadata: .*name --metadata and --cache"):
        check(place.files)


def test_metadata_that_is_a_directory(place: Place) -> None:
    with pytest.raises(StoreError, match="is neither a file nor a block device"):
        check(replace(place.files, metadata=place.directory))
