"""Scenario 26: whatever is damaged, dirty is not taken for clean, no block for another; what is missing is named."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from copy import copy
from dataclasses import replace
from io import StringIO
from pathlib import Path
from time import monotonic

import pytest

from fusecache.attach.stamp import DATA_START
from fusecache.errors import BusyError, FusecacheError, MetadataError, RefusedError
from fusecache.metadata import UNKNOWN_TIMES
from fusecache.metadata.record import Row
from fusecache.offline.checking import check
from fusecache.offline.dumping import dump
from fusecache.offline.opening import Files
from fusecache.offline.repairing import Repaired, describe_repair, repair
from tests.unit.offline.places import BLOCK, MIXED, PARTS, Place

PAGE = 4096
MANY = {cblock: (cblock * 5 % 1024, cblock % 3 == 0) for cblock in range(1000)}
MANY_PARTS = {cblock: 1 + cblock % 254 for cblock in range(0, 1000, 5)}


@pytest.fixture
def output(place: Place) -> Path:
    return place.directory / "repaired"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Metadata of many pages."""
    place = Place(tmp_path_factory.mktemp("large"), origin_blocks=1024, cache_blocks=1100)
    place.fill(MANY, parts=MANY_PARTS)
    return place


@pytest.fixture
def upgraded(tmp_path: Path) -> Place:
    """Metadata in which the table of partial blocks was added to those of an older format."""
    (tmp_path / "upgraded").mkdir()
    place = Place(tmp_path / "upgraded", origin_blocks=1024, cache_blocks=1100)
    place.fill({cblock: MANY[cblock] for cblock in range(500)})
    as_format_3(place)
    place.fill({cblock: MANY[cblock] for cblock in range(500, 1000)}, parts={501: 5, 510: 9, 513: 17})
    return place


def as_format_3(place: Place) -> None:
    place.sql("DROP TABLE partial", "UPDATE blocks SET crc = NULL WHERE crc = -1")
    place.sql("DELETE FROM meta WHERE name = 'partial_page'", "PRAGMA user_version = 3", "VACUUM")


def replace_metadata(place: Place, metadata: Path) -> Place:
    """The same place with other metadata."""
    other = copy(place)
    other.metadata = metadata
    return other


def damage_page(path: Path, page: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(content)


def named_cblocks(report: Repaired) -> set[int]:
    """cblocks that the report calls lost."""
    named = set()
    for line in report.lost:
        for start, end in re.findall(r"cache bytes (\d+)-(\d+)", line):
            named |= set(range((int(start) - DATA_START) // BLOCK, (int(end) - DATA_START) // BLOCK + 1))
    return named


def assert_conservative(place: Place, truth: list[Row], output: Path, report: Repaired) -> None:
    known = {row.cblock: row for row in truth}
    dirty = place.dirty(output)
    kept = {row.cblock: (row.oblock, row.valid) for row in place.rows(output)}
    for cblock, oblock_and_part in kept.items():
        assert (known[cblock].oblock, known[cblock].valid) == oblock_and_part
        assert cblock in dirty or not known[cblock].dirty
    missing = {row.cblock for row in truth if row.dirty} - kept.keys()
    assert missing <= named_cblocks(report)
    assert (report.blocks, report.dirty) == (len(kept), len(dirty))


def test_sound_metadata_stays_what_it_is(place: Place, output: Path) -> None:
    place.fill(MIXED, regions=[1, 2], clean=False, parts=PARTS)
    place.hint({1: 7})
    before = place.contents()
    report = repair(place.files, output)
    assert report == Repaired(20, 7)
    assert list(describe_repair(report)) == ["20 blocks, 7 of them count as dirty"]
    assert place.rows(output) == place.rows()
    assert place.values(output) == place.values() | {"image_times": UNKNOWN_TIMES}
    assert place.dirty(output) == place.dirty()
    assert place.mounts(output)
    output.unlink()
    assert place.contents() == before


@pytest.mark.parametrize("kind", ["zeros", "ones", "noise", "another page"])
def test_scenario_26_any_page_may_be_damaged(large: Place, tmp_path: Path, kind: str) -> None:
    sound = large.metadata.read_bytes()
    truth, image = large.rows(), large.image()
    pages = len(sound) // PAGE
    assert pages >= 8
    recovered = 0
    for page in range(pages):
        metadata = tmp_path / f"metadata-{page}"
        metadata.write_bytes(sound)
        content = {
            "zeros": bytes(PAGE),
            "ones": b"\xff" * PAGE,
            "noise": random.Random(page).randbytes(PAGE),
            "another page": sound[(page + 1) % pages * PAGE :][:PAGE],
        }[kind]
        damage_page(metadata, page, content)
        damaged = metadata.read_bytes()
        outputs = [tmp_path / f"repaired-{page}-{time}" for time in range(2)]
        reports = [repair(replace(large.files, metadata=metadata), path, block_size=BLOCK) for path in outputs]
        assert metadata.read_bytes() == damaged
        assert reports[0] == reports[1]
        assert large.rows(outputs[0]) == large.rows(outputs[1])
        assert large.values(outputs[0]) == large.values(outputs[1])
        assert_conservative(large, truth, outputs[0], reports[0])
        again = repair(replace(large.files, metadata=outputs[0]), tmp_path / f"again-{page}")
        assert not again.lost
        assert large.rows(tmp_path / f"again-{page}") == large.rows(outputs[0])
        if len(large.rows(outputs[0])) == len(truth):
            assert large.image(outputs[0]) == image
            assert large.mounts(outputs[0])
            recovered += 1
    assert recovered >= 2, "a first page, or one of values or of regions, costs no block"


def test_a_page_costs_its_own_rows_and_no_others(large: Place, tmp_path: Path) -> None:
    sound = large.metadata.read_bytes()
    kept = []
    for page in range(len(sound) // PAGE):
        metadata = tmp_path / f"metadata-{page}"
        metadata.write_bytes(sound)
        damage_page(metadata, page, bytes(PAGE))
        repair(replace(large.files, metadata=metadata), tmp_path / f"repaired-{page}", block_size=BLOCK)
        kept.append(len(large.rows(tmp_path / f"repaired-{page}")))
    assert min(kept) == 0, "without its root nothing is found"
    assert sorted(kept)[1] > 700


@pytest.mark.parametrize("seed", range(30))
def test_many_bytes_may_be_damaged(large: Place, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    damaged = bytearray(large.metadata.read_bytes())
    for _ in range(rng.choice([1, 10, 100])):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    metadata = tmp_path / "metadata"
    metadata.write_bytes(damaged)
    with suppress(FusecacheError):
        report = repair(replace(large.files, metadata=metadata), tmp_path / "repaired", block_size=BLOCK)
        assert report.blocks == len(large.rows(tmp_path / "repaired"))


def test_damage_makes_everything_count_as_dirty(place: Place, output: Path) -> None:
    place.fill(MIXED)
    damage_page(place.metadata, 0, bytes(PAGE))
    report = repair(place.files, output)
    assert report.damage == ["the first page is damaged"]
    assert place.dirty(output) == MIXED.keys()
    assert place.values(output)["clean_shutdown"] == "0"
    assert place.mounts(output)


@pytest.mark.parametrize("statement", ["UPDATE blocks SET dirty = 9 WHERE cblock = 3", "UPDATE blocks SET dirty = 'x'"])
def test_a_state_that_cannot_be_counts_as_dirty(place: Place, output: Path, statement: str) -> None:
    place.fill(MIXED)
    place.sql(statement)
    report = repair(place.files, output)
    assert not report.lost
    assert report.damage
    assert 3 in place.dirty(output)
    assert [row.oblock for row in place.rows(output)] == [oblock for oblock, _ in MIXED.values()]


@pytest.mark.parametrize("kind", ["new", "upgraded", "of format 3"])
def test_the_first_page_costs_no_partial_block(upgraded: Place, large: Place, output: Path, kind: str) -> None:
    place = large if kind == "new" else upgraded
    metadata = output.with_name("damaged")
    metadata.write_bytes(place.metadata.read_bytes())
    if kind == "of format 3":
        as_format_3(replace_metadata(place, metadata))
    truth = place.rows(metadata)
    damage_page(metadata, 0, bytes(PAGE))
    report = repair(replace(place.files, metadata=metadata), output, block_size=BLOCK)
    assert not report.lost
    assert_conservative(place, truth, output, report)
    assert len(place.rows(output)) == len(truth)


@pytest.mark.parametrize("page", [None, "0", "1", "2", "3", "4", "5", "6", "99999", "x", "-1"])
def test_a_wrong_note_of_where_partial_blocks_are_costs_no_more_than_these(
    upgraded: Place, output: Path, page: str | None
) -> None:
    truth = upgraded.rows()
    if page is None:
        upgraded.sql("DELETE FROM meta WHERE name = 'partial_page'")
    else:
        upgraded.sql(f"UPDATE meta SET value = '{page}' WHERE name = 'partial_page'")  # noqa: S608 - a test's own
    damage_page(upgraded.metadata, 0, bytes(PAGE))
    report = repair(upgraded.files, output, block_size=BLOCK)
    assert_conservative(upgraded, truth, output, report)
    assert {row.cblock for row in upgraded.rows(output)} == {row.cblock for row in truth} - {501, 510, 513}
    assert {501, 510, 513} <= named_cblocks(report)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("DELETE FROM partial WHERE cblock = {}", "is partial, and what counts of it is not to be found"),
        ("UPDATE partial SET valid = 'x' WHERE cblock = {}", "is partial, and what counts of it is a str"),
        ("UPDATE partial SET valid = x'00' WHERE cblock = {}", "is partial, and what counts of it is no sector at all"),
        ("UPDATE partial SET valid = x'0101' WHERE cblock = {}", "is partial, and what counts of it is sectors beyond"),
        ("UPDATE blocks SET crc = NULL WHERE cblock = {}", "whether it is partial is told in two ways"),
    ],
)
def test_a_partial_block_is_taken_over_with_its_sectors_or_not_at_all(
    place: Place, output: Path, statement: str, complaint: str
) -> None:
    place.fill(MIXED, parts=PARTS)
    place.sql(statement.format(4), statement.format(7))  # dirty, clean
    report = repair(place.files, output)
    assert [complaint in line for line in report.lost] == [True]
    assert named_cblocks(report) == {4}
    assert [complaint in line for line in report.dropped] == [True]
    assert {row.cblock: row.valid for row in place.rows(output)} == {
        cblock: PARTS.get(cblock) for cblock in MIXED if cblock not in {4, 7}
    }


def test_sectors_of_no_block_are_named_and_left_out(place: Place, output: Path) -> None:
    place.fill(MIXED, parts=PARTS)
    place.sql("INSERT INTO partial VALUES (31, x'01')")
    report = repair(place.files, output)
    assert report.damage == ["which sectors of cache block 31 count is told, though it is no partial block"]
    assert not report.lost
    assert {row.cblock for row in place.rows(output)} == MIXED.keys()


def test_hints_and_sums_that_cannot_be_are_dropped(place: Place, output: Path) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET hint = 'x', crc = -2 WHERE cblock = 3")
    repair(place.files, output)
    assert place.rows(output)[3] == Row(3, 9, dirty=False, hint=None)


@pytest.mark.parametrize(
    ("statement", "lost", "dropped"),
    [
        (
            "UPDATE blocks SET oblock = 64 WHERE cblock = 4",
            "cache bytes 20480-24575 (block 4): cache block 4 holds block 64, outside the image's 64 blocks",
            "",
        ),
        (
            "UPDATE blocks SET oblock = 64 WHERE cblock = 5",
            "",
            "cache bytes 24576-28671 (block 5): cache block 5 holds",
        ),
        (
            "UPDATE blocks SET cblock = 99 WHERE cblock = 4",
            "image bytes 49152-53247: cache block 99 lies outside the cache's 32 blocks",
            "",
        ),
        ("UPDATE blocks SET cblock = -9 WHERE cblock = 4", "image bytes 49152-53247: cache block -9 lies outside", ""),
        ("UPDATE blocks SET cblock = 99 WHERE cblock = 5", "", "image bytes 61440-65535: cache block 99 lies outside"),
        (
            "UPDATE blocks SET oblock = 'x' WHERE cblock = 4",
            "cache bytes 20480-24575 (block 4): cache block 4 holds block 'x'",
            "",
        ),
    ],
)
def test_a_row_that_cannot_be_is_lost_only_if_it_may_have_been_dirty(
    place: Place, output: Path, statement: str, lost: str, dropped: str
) -> None:
    place.fill(MIXED)
    truth = place.dirty()
    place.sql(statement)
    report = repair(place.files, output)
    assert [line[: len(lost)] for line in report.lost] == ([lost] if lost else [])
    assert [line[: len(dropped)] for line in report.dropped] == ([dropped] if dropped else [])
    assert len(place.rows(output)) == 19
    assert place.dirty(output) == truth & {row.cblock for row in place.rows(output)}


def test_rows_that_contradict_each_other_are_not_chosen_between(place: Place, output: Path) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET oblock = 12 WHERE cblock = 5")  # so says the dirty cblock 4 too
    report = repair(place.files, output)
    assert report.lost == [
        "image bytes 49152-53247, cache bytes 20480-24575 (block 4) is in the cache more than once",
        "image bytes 49152-53247, cache bytes 24576-28671 (block 5) is in the cache more than once",
    ]
    assert {4, 5}.isdisjoint(row.cblock for row in place.rows(output))
    assert len(list(describe_repair(report))) == 3


def test_clean_rows_that_contradict_each_other_cost_nothing(place: Place, output: Path) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET oblock = 15 WHERE cblock = 6")
    report = repair(place.files, output)
    assert not report.lost
    assert len(report.dropped) == 2


def test_regions_that_cannot_be_read_make_everything_count_as_dirty(place: Place, output: Path) -> None:
    place.fill(MIXED)
    place.sql("INSERT INTO regions VALUES (-1)")
    report = repair(place.files, output)
    assert report.damage == ["which regions may have been written cannot be read"]
    assert place.dirty(output) == MIXED.keys()


def test_a_log_that_was_left_by_a_crash_counts(place: Place, tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with place.bound() as binding:
        place.fill_open(binding, MIXED)
        for name in ("metadata", "metadata-wal"):
            (crashed / name).write_bytes((place.directory / name).read_bytes())
    damage_page(crashed / "metadata", 0, bytes(PAGE))
    before = {path.name: path.read_bytes() for path in crashed.iterdir()}
    report = repair(Files(crashed / "metadata", None, None), tmp_path / "repaired")
    assert {path.name: path.read_bytes() for path in crashed.iterdir()} == before
    assert report.blocks == 20
    assert place.dirty() <= place.dirty(tmp_path / "repaired")


@pytest.mark.parametrize("name", ["uuid", "block_size", "cache_blocks", "region_blocks", "image_bytes", "origin_inode"])
@pytest.mark.parametrize("how", ["DELETE FROM meta", "UPDATE meta SET value = ''", "UPDATE meta SET value = x'ff'"])
def test_values_that_are_missing_come_from_cache_and_origin(place: Place, output: Path, name: str, how: str) -> None:
    place.fill(MIXED)
    values, image = place.values(), place.image()
    place.sql(f"{how} WHERE name = '{name}'")
    report = repair(place.files, output, block_size=BLOCK)
    if how.startswith("DELETE"):
        assert f"it does not say {name}" in report.damage
    if name in {"block_size", "cache_blocks", "region_blocks", "image_bytes"} or how.startswith("DELETE"):
        assert place.values(output)[name] == values[name]
        assert place.image(output) == image
        assert place.mounts(output)


def test_values_that_nobody_knows_are_asked_for(place: Place, output: Path) -> None:
    place.fill(MIXED)
    place.sql("DELETE FROM meta WHERE name IN ('uuid', 'block_size', 'image_bytes')")
    with pytest.raises(
        MetadataError, match="does not say block_size, image_bytes, uuid any more: give --block-size and"
    ):
        repair(Files(place.metadata, None, None), output)
    assert not output.exists()


def test_only_what_was_not_given_is_asked_for(place: Place, output: Path) -> None:
    place.fill(MIXED)
    place.sql("DELETE FROM meta WHERE name IN ('block_size', 'cache_blocks', 'region_blocks')")
    with pytest.raises(MetadataError, match=r"does not say block_size, .* any more: give --block-size$"):
        repair(place.files, output)


@pytest.mark.parametrize("content", [b"", b"x", bytes(100000), b"SQLite format 3\0" + bytes(84)])
def test_what_never_was_metadata_is_refused(place: Place, output: Path, content: bytes) -> None:
    place.fill(MIXED)
    place.metadata.write_bytes(content)
    before = place.contents()
    with pytest.raises(MetadataError):
        repair(Files(place.metadata, None, None), output)
    assert place.contents() == before


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 99", "PRAGMA application_id = 7"])
def test_what_is_sound_but_not_ours_is_refused(place: Place, output: Path, statement: str) -> None:
    place.fill(MIXED)
    place.sql(statement)
    with pytest.raises(MetadataError, match=r"has format 99|something else"):
        repair(place.files, output)
    assert not output.exists()


def test_it_is_always_a_new_file(place: Place, output: Path) -> None:
    place.fill(MIXED)
    output.write_bytes(b"precious")
    for path in (output, place.metadata):
        with pytest.raises(RefusedError, match="exists already, and nothing was changed: repair makes a new file"):
            repair(place.files, path)
    assert output.read_bytes() == b"precious"


def test_a_mounted_cache_is_refused(place: Place, output: Path) -> None:
    with place.bound(), pytest.raises(BusyError, match="is in use"):
        repair(place.files, output)
    assert not output.exists()


# What is no record


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
CODE = [
    ("CREATE VIEW v AS SELECT 1",),
    ("CREATE TRIGGER t BEFORE INSERT ON blocks BEGIN SELECT RAISE(FAIL, 'no'); END",),
    ("CREATE INDEX i ON blocks (oblock)",),
    ("DROP TABLE regions", f"CREATE VIEW regions AS {ENDLESS} i AS region FROM n"),
    ("ALTER TABLE blocks RENAME TO hidden", f"CREATE VIEW blocks AS {ENDLESS} i AS cblock, i AS oblock FROM n"),
    ("DROP TABLE meta", f"CREATE VIEW meta AS {ENDLESS} 'n' || i AS name, 'x' AS value FROM n"),
]


@pytest.mark.parametrize("statements", CODE)
def test_f17_what_runs_is_told_and_not_run(place: Place, output: Path, statements: tuple[str, ...]) -> None:
    place.fill(MIXED)
    place.sql(*statements)
    began = monotonic()
    report = check(place.files)
    assert ["that fusecache did not make" in problem.what for problem in report.problems] == [True]
    assert "repair" in report.problems[0].command
    with pytest.raises(MetadataError, match="did not make"):
        dump(place.files, StringIO())
    with pytest.raises(MetadataError, match="did not make"):
        place.mounts()
    with suppress(MetadataError):
        repaired = repair(place.files, output, block_size=BLOCK)
        assert repaired.damage[0] == "the first page is damaged"
        assert place.dirty(output) == {row.cblock for row in place.rows(output)}
        assert not check(replace(place.files, metadata=output)).problems
    assert monotonic() - began < 5
