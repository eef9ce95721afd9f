"""Blocks of which only some sectors are cached: how the tools that look at a cache count, compare and tell them."""

from __future__ import annotations

import io
import shlex
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from fusecache.attach.file_origin import FileOrigin
from fusecache.attach.findings import MANY, compare
from fusecache.attach.inspection import inspect
from fusecache.attach.stamp import DATA_START
from fusecache.errors import MetadataError, RefusedError, StoreError
from fusecache.metadata.database import Database
from fusecache.metadata.record import Row
from fusecache.offline.adopting import adopt
from fusecache.offline.checking import Report, check
from fusecache.offline.dumping import dump, dump_to_file
from fusecache.offline.restoring import restore
from fusecache.offline.verifying import verify
from fusecache.offline.writing_back import write_back
from tests.unit.offline.places import BLOCK, CACHE_BLOCKS, MIXED, PARTS, Place
from tests.unit.offline.test_commands import Extent, run, words
from tests.unit.offline.test_verifying import flip

__all__ = ["run"]

CLEAN_PARTS = {cblock: valid for cblock, valid in PARTS.items() if not MIXED[cblock][1]}
ALL_CLEAN = {cblock: (oblock, False) for cblock, (oblock, _) in MIXED.items()}


def verified(place: Place, *, heal: bool = False, heal_origin: bool = False, origin: bool = True) -> Report:
    files = place.files if origin else replace(place.files, origin=None)
    report = check(files)
    verify(files, report, heal=heal, heal_origin=heal_origin)
    return report


# Checking


def test_they_are_counted_and_what_the_origin_lacks_is_exact(place: Place) -> None:
    place.fill(MIXED, parts=PARTS)
    report = check(place.files)
    assert not report.problems
    assert (report.blocks, report.dirty, report.partial) == (20, 5, 6)
    newer = 2 * BLOCK + 512 * sum(PARTS[cblock].bit_count() for cblock in (0, 4, 8))
    assert report.dirty_bytes == newer
    assert "20 blocks are cached, 5 of them dirty (10.5KiB that the origin lacks)" in report.facts
    assert "6 of the blocks are partial: some of their sectors are cached, and the others are at the origin only" in (
        report.facts
    )


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE partial SET valid = x'' WHERE cblock = 4", "cache block 4 is partial, and what counts of it is no"),
        ("DELETE FROM partial WHERE cblock = 4", "cache block 4 is partial, and what counts of it is not to be found"),
        ("UPDATE blocks SET crc = NULL WHERE cblock = 4", "which sectors of cache block 4 count is told, though"),
        ("INSERT INTO partial VALUES (30, x'01')", "which sectors of cache block 30 count is told, though"),
    ],
)
def test_what_cannot_be_is_a_problem_and_nobody_uses_it(place: Place, statement: str, complaint: str) -> None:
    place.fill(ALL_CLEAN, parts=PARTS)
    place.sql(statement)
    (problem,) = check(place.files).problems
    assert complaint in problem.what
    assert "fusecache repair" in problem.command
    with pytest.raises(MetadataError, match="is damaged"):
        dump(place.files, io.StringIO())
    with pytest.raises(MetadataError, match="is damaged"):
        write_back(place.config, {}, lambda *_: None, retries=0)


# Comparing


def test_what_their_other_sectors_hold_is_compared_with_nothing(place: Place) -> None:
    place.fill(MIXED, parts=PARTS)
    report = verified(place)
    assert not report.problems
    assert "15 clean blocks were read and are right" in report.facts
    alone = verified(place, origin=False)
    assert not alone.problems
    assert (
        f"{15 - len(CLEAN_PARTS)} clean blocks were read and are right; {len(CLEAN_PARTS)} have no checksum"
        in (alone.facts[-1])
    )


@pytest.mark.parametrize("sector", range(8))
def test_a_sector_that_has_changed_counts_if_it_is_one_that_is_cached(place: Place, sector: int) -> None:
    place.fill(MIXED, parts=PARTS)
    flip(place.cache, DATA_START + 2 * BLOCK + sector * 512 + 100)
    counts = PARTS[2] >> sector & 1
    report = verified(place)
    assert len(report.problems) == counts
    if counts:
        assert "the cached copy differs" in report.problems[0].what
        assert not verified(place, heal=True).problems
        assert {row.cblock for row in place.rows()} == MIXED.keys() - {2}
    assert not verified(place).problems


def test_a_part_that_only_the_cache_can_read_counts_as_dirty_as_a_part(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.fill(MIXED, parts=PARTS)
    read_now = FileOrigin.read_now

    def fail_within_block_6(self: FileOrigin, offset: int, length: int) -> bytes:
        if 6 * BLOCK <= offset < 7 * BLOCK:
            assert length == 512, "only what counts is read"
            msg = "Input/output error"
            raise StoreError(msg)
        return read_now(self, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(FileOrigin, "read_now", fail_within_block_6)
        (problem,) = verified(place).problems
        assert "the origin's copy has changed or cannot be read" in problem.what
        assert not verified(place, heal_origin=True).problems
    assert place.rows()[2] == Row(2, 6, dirty=True, hint=None, valid=PARTS[2])
    assert write_back(place.config, {}, lambda *_: None, retries=0).written == 6
    assert place.origin.read_bytes()[: len(place.content) * BLOCK] == b"".join(place.content.values())


def test_no_sample_and_no_adoption_takes_them_for_whole(place: Place) -> None:
    place.fill(ALL_CLEAN, parts=PARTS)
    plan = inspect(place.config, environ={})
    with plan.resources:
        assert plan.database is not None
        assert compare(plan.origin, plan.database, MANY) == (len(MIXED) - len(PARTS), 0)
        sums = dict(plan.database.sums())
    assert sums.keys() == {oblock for cblock, (oblock, _) in MIXED.items() if cblock not in PARTS}
    assert all(crc == crc32c(place.content[oblock]) for oblock, crc in sums.items())
    adopted = adopt(place.files, {}, lambda *_: None)
    assert (adopted.compared, adopted.newer) == (len(MIXED) - len(PARTS), 0)
    assert {row.cblock: row.valid for row in place.rows() if row.valid is not None} == PARTS


# Dumping


def dumped_blocks(text: str) -> set[int]:
    return {int(line.split('"')[1]) for line in text.splitlines() if "<mapping " in line}


def test_clean_ones_are_left_out_of_a_dump(place: Place) -> None:
    place.fill(MIXED, parts=CLEAN_PARTS)
    place.hint({cblock: cblock for cblock in MIXED})
    output = io.StringIO()
    assert dump(place.files, output) == len(CLEAN_PARTS)
    assert dumped_blocks(output.getvalue()) == MIXED.keys() - CLEAN_PARTS.keys()
    assert output.getvalue().count("<hint ") == len(MIXED) - len(CLEAN_PARTS)
    image = place.image()
    restore(io.BytesIO(output.getvalue().encode()), "xml", place.files, replace=True)
    assert place.image() == image
    assert place.mounts()


@pytest.mark.parametrize("is_named", [True, False])
def test_a_dirty_one_is_refused_before_anything_is_written(place: Place, run: Extent, is_named: bool) -> None:
    place.fill(MIXED, parts=PARTS)
    arguments: list[str | Path] = words(place) if is_named else words(place)[1:]
    before = place.contents()
    refused = run("dump", *arguments)
    assert (refused.code, refused.out) == (1, "")
    (line,) = refused.err.splitlines()
    assert "cache block 0 is dirty, and only some of its sectors are cached" in line
    command = shlex.split(line.partition("first run: ")[2])
    assert place.contents() == before
    xml = place.directory / "xml"
    with pytest.raises(RefusedError):
        dump_to_file(place.files, xml)
    assert not xml.exists()
    assert command[0] == "fusecache"
    assert run(*command[1:]).code == 0
    ran = run("dump", *arguments, "-o", xml)
    assert (ran.code, ran.out) == (0, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("fusecache: 6 clean blocks were left out")
    assert dumped_blocks(xml.read_text()) == MIXED.keys() - PARTS.keys()


def test_a_suspect_one_counts_as_dirty(place: Place) -> None:
    place.fill(MIXED, parts={1: 5}, regions=[1], clean=False)
    with pytest.raises(RefusedError, match="cache block 1 is dirty"):
        dump(place.files, io.StringIO())


# Other sizes


@pytest.mark.parametrize("blocks", [CACHE_BLOCKS + 9, 20, 10])
def test_a_mount_with_another_size_keeps_what_it_knows_of_them(place: Place, blocks: int) -> None:
    place.fill(ALL_CLEAN, parts=PARTS | {15: 3})
    place.config = replace(place.config, cache_size=blocks * BLOCK)
    with place.bound():
        pass
    kept = {cblock: (PARTS | {15: 3}).get(cblock) for cblock in MIXED if cblock < blocks}
    assert {row.cblock: row.valid for row in place.rows()} == kept
    assert place.image() == place.content
    with closing(Database.open(place.metadata)) as database:
        found = database._connection.execute("SELECT cblock FROM partial ORDER BY cblock").fetchall()
    assert [cblock for (cblock,) in found] == [cblock for cblock, valid in kept.items() if valid is not None]


def test_hints_are_kept_beside_their_sectors(place: Place) -> None:
    place.fill(MIXED, parts=PARTS)
    place.hint({cblock: cblock + 7 for cblock in MIXED})
    assert write_back(place.config, {}, lambda *_: None, retries=0).written == 5
    assert [(row.hint, row.valid) for row in place.rows()] == [(cblock + 7, PARTS.get(cblock)) for cblock in MIXED]
