from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache.attach.stamp import DATA_START
from fusecache.errors import RefusedError
from fusecache.metadata import TOUCHED
from fusecache.offline.checking import Report, check
from fusecache.offline.verifying import verify
from fusecache.offline.writing_back import write_back
from tests.unit.offline.places import BLOCK, MIXED, Place

CLEAN, DIRTY = 1, 0
OBLOCK = MIXED[CLEAN][0]
WHERE = "image bytes 12288-16383 (cache bytes 8192-12287)"


def flip(path: Path, offset: int) -> None:
    """Let one bit rot."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def rot_in_cache(place: Place, cblock: int) -> None:
    flip(place.cache, DATA_START + cblock * BLOCK + 1000)


def rot_in_origin(place: Place, oblock: int) -> None:
    times = place.origin.stat()
    flip(place.origin, oblock * BLOCK + 1000)
    os.utime(place.origin, ns=(times.st_atime_ns, times.st_mtime_ns))  # a disk that forgets moves no times
    place.sql(f"UPDATE meta SET value = '{place.origin.stat().st_ctime_ns}' WHERE name = '{TOUCHED}'")  # noqa: S608


def verified(place: Place, *, heal: bool = False, origin: bool = True) -> Report:
    files = place.files if origin else replace(place.files, origin=None)
    report = check(files)
    verify(files, report, heal=heal)
    return report


@pytest.mark.parametrize("origin", [True, False])
def test_what_is_right_is_counted(place: Place, origin: bool) -> None:
    place.fill(MIXED)
    before = place.contents()
    report = verified(place, origin=origin)
    assert report.facts[-1] == "15 clean blocks were read and are right"
    assert not report.problems
    assert place.contents() == before


@pytest.mark.parametrize("origin", [True, False])
def test_rot_in_a_clean_block_of_the_cache_is_healed_by_forgetting_it(place: Place, origin: bool) -> None:
    place.fill(MIXED)
    image = place.image()
    rot_in_cache(place, CLEAN)
    (problem,) = verified(place, origin=origin).problems
    assert problem.what.startswith(f"{WHERE}: the cached copy ")
    assert problem.meaning.startswith("nothing is lost")
    assert problem.command.startswith("fusecache check --data --heal ")
    report = verified(place, origin=origin, heal=True)
    assert not report.problems
    assert report.facts[-2] == "1 blocks were forgotten; the origin has them"
    assert place.image() == image
    assert len(place.rows()) == 19
    assert place.mounts()


def test_f04_rot_in_the_origin_is_shown_by_the_command_that_is_told_and_mended_if_that_is_asked_for(
    place: Place,
) -> None:
    place.fill(MIXED)
    before, contents = place.origin.read_bytes(), place.contents()
    rot_in_origin(place, OBLOCK)
    rotten = place.contents()
    (problem,) = verified(place).problems
    assert problem.what == f"{WHERE}: the origin's copy has changed or cannot be read"
    shown = subprocess.run(shlex.split(problem.command), check=False, capture_output=True, text=True)
    assert shown.returncode == 1
    assert shown.stdout
    assert place.contents() == rotten
    report = check(place.files)
    verify(place.files, report, heal_origin=True)
    assert not report.problems
    assert "1 blocks count as dirty now" in report.facts[-2]
    write_back(place.config, {}, lambda *_: None, retries=0)
    assert place.origin.read_bytes()[OBLOCK * BLOCK :][:BLOCK] == before[OBLOCK * BLOCK :][:BLOCK]
    assert contents.keys() == place.contents().keys()


def test_f04_over_an_origin_that_is_newer_nothing_is_to_be_copied(place: Place) -> None:
    place.fill({cblock: (cblock, False) for cblock in range(8)})
    with place.origin.open("r+b") as file:
        file.write(b"newer" * 1000)
    report = verified(place)
    assert not report.problems
    assert "the next mount drops what is clean" in " ".join(report.facts)
    place.fill({cblock: (cblock, cblock == 0) for cblock in range(8)})
    with place.origin.open("r+b") as file:
        file.write(b"newest" * 1000)
    (problem,) = check(place.files).problems
    before = place.contents()
    subprocess.run(
        [sys.executable, "-P", "-m", *shlex.split(problem.command)], check=False, capture_output=True, timeout=60
    )
    assert place.contents() == before


def test_rot_in_both_copies_is_told(place: Place) -> None:
    place.fill(MIXED)
    rot_in_cache(place, CLEAN)
    rot_in_origin(place, OBLOCK)
    (problem,) = verified(place, heal=True).problems
    assert problem.what == f"{WHERE}: both copies have changed or cannot be read"
    assert len(place.rows()) == 20


def test_without_a_sum_the_two_copies_are_compared(place: Place) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET crc = NULL")
    assert (
        verified(place, origin=False)
        .facts[-1]
        .startswith("0 clean blocks were read and are right; 15 have no checksum")
    )
    assert verified(place).facts[-1] == "15 clean blocks were read and are right"
    rot_in_cache(place, CLEAN)
    (problem,) = verified(place).problems
    assert problem.what == f"{WHERE}: the cached copy differs"


def test_dirty_and_suspect_blocks_have_no_sum_that_counts(place: Place) -> None:
    place.fill(MIXED, regions=[CLEAN], clean=False)
    rot_in_cache(place, CLEAN)
    rot_in_cache(place, DIRTY)
    assert not verified(place, heal=True).problems
    assert len(place.rows()) == 20


def test_a_cache_that_has_lost_its_end(place: Place) -> None:
    place.fill(MIXED)
    with place.cache.open("r+b") as file:
        file.truncate(DATA_START + 10 * BLOCK)
    report = Report(may_compare=True)
    verify(place.files, report)
    assert len(report.problems) == sum(not dirty for cblock, (_, dirty) in MIXED.items() if cblock >= 10)
    assert "the cached copy cannot be read" in report.problems[0].what


def test_of_many_problems_some_are_told(place: Place) -> None:
    place.fill({cblock: (cblock, False) for cblock in range(25)})
    for cblock in range(25):
        rot_in_cache(place, cblock)
    problems = verified(place).problems
    assert len(problems) == 21
    assert problems[-1].what == "5 more blocks are wrong"


def test_there_has_to_be_a_cache(place: Place) -> None:
    place.fill({})
    place.cache.unlink()
    for files in (place.files, replace(place.files, cache=None)):
        with pytest.raises(RefusedError, match="--data needs the cache"):
            verify(files, Report())
