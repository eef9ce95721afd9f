from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fusecache.errors import MetadataError
from fusecache.metadata.database import Database
from fusecache.metadata.record import Row, Transaction, bitmap_bytes, packed_bitmap, unpacked_bitmap

VALUES = {
    "uuid": "u",
    "block_size": "65536",
    "cache_blocks": "1000",
    "region_blocks": "1",
    "image_bytes": "65536000",
    "origin_path": "/o",
    "origin_inode": "1:2",
    "origin_mtime_ns": "1",
    "clean_shutdown": "1",
    "needs_check": "0",
}
SECTORS = 128


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database.create(path, VALUES)
    yield database
    database.close()


def sql(database: Database, statement: str, *values: object) -> list[tuple[object, ...]]:
    return database._connection.execute(statement, values).fetchall()


# Bitmaps


@given(pages=st.integers(1, 2**18), data=st.data())
def test_what_is_packed_is_unpacked_again(pages: int, data: st.DataObject) -> None:
    size, sectors = 4096 * pages, 8 * pages
    bits = data.draw(st.sets(st.integers(0, sectors - 1), min_size=1, max_size=min(7, sectors)))
    valid = sum(1 << bit for bit in bits)
    packed = packed_bitmap(valid)
    assert len(packed) <= bitmap_bytes(size) == pages
    assert packed[max(bits) // 8] >> max(bits) % 8 == 1
    assert unpacked_bitmap(packed, size) == valid


def test_all_sectors_are_a_whole_block() -> None:
    assert unpacked_bitmap(b"\xff", 4096) is None
    assert unpacked_bitmap(b"\xff" * 16, 65536) is None
    assert unpacked_bitmap(b"\xff", 8192) == 255


@pytest.mark.parametrize(("bitmap", "complaint"), [(b"", "no sector"), (b"\0", "no sector"), (b"\1\0", "beyond")])
def test_bitmaps_that_cannot_be(bitmap: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        unpacked_bitmap(bitmap, 4096)


@pytest.mark.parametrize("valid", [0, -1])
def test_a_block_of_which_nothing_counts_is_not_recorded(valid: int) -> None:
    with pytest.raises(AssertionError):
        packed_bitmap(valid)


# Rows

ROWS = st.lists(
    st.tuples(
        st.integers(0, 999),
        st.integers(0, 2**40),
        st.booleans(),
        st.none() | st.integers(0, 2**32 - 1),
        st.none() | st.integers(1, 2**SECTORS - 2),
    ),
    unique_by=lambda row: row[0],
    max_size=30,
)


@given(first=ROWS, second=ROWS, unmapped=st.sets(st.integers(0, 999), max_size=10))
def test_rows_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[tuple[int, int, bool, int | None, int | None]],
    second: list[tuple[int, int, bool, int | None, int | None]],
    unmapped: set[int],
) -> None:
    path = tmp_path_factory.mktemp("rows") / "metadata"
    expected: dict[int, Row] = {}
    with closing(Database.create(path, VALUES)) as database:
        for rows, gone in ((first, set[int]()), (second, unmapped)):
            trio.run(database.commit, Transaction(mapped=rows, unmapped=list(gone)))
            expected = {cblock: row for cblock, row in expected.items() if cblock not in gone}
            expected |= {
                cblock: Row(cblock, oblock, dirty, None, None if valid else crc, valid)
                for cblock, oblock, dirty, crc, valid in rows
            }
            assert list(database.rows()) == [expected[cblock] for cblock in sorted(expected)]
    partial = [cblock for cblock, row in sorted(expected.items()) if row.valid is not None]
    with closing(Database.open(path)) as database, Database.read_only(path) as readonly:
        assert list(readonly.rows()) == list(database.rows()) == [expected[cblock] for cblock in sorted(expected)]
        assert [cblock for (cblock,) in sql(database, "SELECT cblock FROM partial")] == partial
        assert [cblock for (cblock,) in sql(database, "SELECT cblock FROM blocks WHERE crc = -1")] == partial


def test_whole_partial_whole_and_gone(database: Database) -> None:
    for valid in (None, 5, 4, None):
        database.apply(Transaction(mapped=[(3, 7, True, None, valid)]))
        assert list(database.rows()) == [Row(3, 7, dirty=True, hint=None, valid=valid)]
        assert len(sql(database, "SELECT * FROM partial")) == (valid is not None)
    database.apply(Transaction(mapped=[(3, 7, False, None, 5)]))
    database.apply(Transaction(unmapped=[3]))
    assert not list(database.rows())
    assert not sql(database, "SELECT * FROM partial")


def test_a_hint_of_a_partial_block_is_kept_beside_its_sectors(database: Database) -> None:
    database.apply(Transaction(mapped=[(3, 7, True, None, 5), (4, 8, False, 9, None)]))
    trio.run(database.save_hints, [(3, 1), (4, 2)])
    assert list(database.rows()) == [Row(3, 7, True, 1, None, 5), Row(4, 8, False, 2, 9)]


def test_the_sectors_of_the_largest_block(path: Path) -> None:
    """They take more room than any text may."""
    valid = 1 << (1 << 30) // 512 - 1
    with closing(Database.create(path, VALUES | {"block_size": str(1 << 30)})) as database:
        database.apply(Transaction(mapped=[(3, 7, True, None, valid), (4, 8, True, None, None)]))
        assert [row.valid for row in database.rows()] == [valid, None]
    with closing(Database.open(path)) as database:
        assert [row.valid for row in database.rows()] == [valid, None]
        database.apply(Transaction(mapped=[(3, 7, True, None, None)]))
        assert [row.valid for row in database.rows()] == [None, None]


def test_no_partial_block_has_a_sum(database: Database) -> None:
    database.apply(Transaction(mapped=[(1, 1, False, 7, None), (2, 2, False, 8, 5), (3, 3, False, None, None)]))
    for leave_out in (-1, 0, 6):
        assert list(database.sums(leave_out=leave_out)) == list(database.sums(2, leave_out=leave_out)) == [(1, 7)]


@pytest.mark.parametrize("oblock", ["x", "\u0663", 1.5, -1, 2**62, b"\1"])
def test_a_row_that_cannot_be_has_no_sum(database: Database, oblock: object) -> None:
    database.apply(Transaction(mapped=[(1, 1, False, 7, None), (2, 2, False, 8, None)]))
    sql(database, "UPDATE blocks SET oblock = ? WHERE cblock = 2", oblock)
    assert list(database.sums()) == list(database.sums(1)) == [(1, 7)]


# Damage


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE partial SET valid = x''", "cblock 3 are blob of length 0"),
        ("UPDATE partial SET valid = zeroblob(16)", "cblock 3 are blob of length 16"),
        ("UPDATE partial SET valid = zeroblob(16) || x'01'", "cblock 3 are text of length"),
        ("UPDATE partial SET valid = x'0000000000000000000000000000000001'", "cblock 3 are blob of length 17"),
        ("UPDATE partial SET valid = 'x'", "cblock 3 are text of length 1"),
        ("UPDATE partial SET valid = 1", "cblock 3 are integer of length 1"),
        ("UPDATE partial SET valid = 1.5", "cblock 3 are real of length 3"),
        ("DELETE FROM partial", "cblock 3 has 7, 1, None, -1"),
        ("DELETE FROM partial WHERE cblock = 3", "cblock 3 is partial, and which of its sectors count is missing"),
        ("DELETE FROM blocks WHERE cblock = 3", "it names sectors of cblock 3, which is no partial block"),
        ("UPDATE blocks SET crc = NULL WHERE cblock = 3", "it names sectors of cblock 3, which is no partial block"),
        ("UPDATE blocks SET crc = 5 WHERE cblock = 3", "it names sectors of cblock 3, which is no partial block"),
        ("INSERT INTO partial VALUES (-5, x'01')", "it names sectors of cblock -5, which is no partial block"),
        ("UPDATE blocks SET crc = -2 WHERE cblock = 3", "cblock 3 has 7, 1, None, -2"),
    ],
)
def test_what_cannot_be_is_named_before_any_row_is_given(database: Database, statement: str, complaint: str) -> None:
    database.apply(Transaction(mapped=[(1, 1, True, None, None), (3, 7, True, None, 5)]))
    if statement.startswith("DELETE") and "WHERE" in statement:
        database.apply(Transaction(mapped=[(9, 9, True, None, 1)]))
    sql(database, statement)
    with pytest.raises(MetadataError, match=f"is damaged: .*{complaint}"):
        next(database.rows())


def test_sectors_that_are_all_there_are_a_whole_block(database: Database) -> None:
    database.apply(Transaction(mapped=[(3, 7, True, None, 2**SECTORS - 1)]))
    assert list(database.rows()) == [Row(3, 7, dirty=True, hint=None)]


def test_sectors_need_a_block_size(path: Path) -> None:
    with closing(Database.create(path, {"uuid": "u"})) as database:
        database.apply(Transaction(mapped=[(3, 7, True, None, 5)]))
        with pytest.raises(MetadataError, match="does not say block_size"):
            list(database.rows())


def test_f19_sectors_that_are_a_bomb(path: Path) -> None:
    """F19: no more is read than the sectors of a block can take."""
    with closing(Database.create(path, VALUES)) as database:
        database.apply(Transaction(mapped=[(3, 7, True, None, 5)]))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE partial SET valid = zeroblob(100000000)")
    with closing(Database.open(path)) as database, pytest.raises(MetadataError, match="100000000, which cannot be"):
        list(database.rows())
