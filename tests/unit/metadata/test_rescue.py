"""F06: metadata whose file was removed while it is in use."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusecache.errors import MetadataError
from fusecache.metadata import Database, Identity, Superblock, Transaction, put_back, side_files
from fusecache.metadata.schema import NOTE_PAGE


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    superblock = Superblock(
        uuid="u",
        block_size=4096,
        cache_blocks=16,
        region_blocks=1,
        image_bytes=1 << 20,
        origin=Identity("/origin", "1:2", "3", 1 << 20),
        clean_shutdown=True,
    )
    database = Database.create(tmp_path / "metadata", superblock.pack())
    database.apply(Transaction(mapped=[(n, n + 5, n < 3, n, 5 if n == 7 else None) for n in range(10)]))
    yield database
    database.close()


def holds_it_all(path: Path) -> bool:
    with Database.read_only(path) as database:
        ask = database._connection.execute
        (noted,) = ask("SELECT value FROM meta WHERE name = 'partial_page'").fetchone()
        assert [(int(noted),)] == ask("SELECT rootpage FROM sqlite_master WHERE name = 'partial'").fetchall()
        rows = list(database.rows())
        return (
            database.superblock().uuid == "u"
            and [row.cblock for row in rows if row.dirty] == [0, 1, 2]
            and [row.cblock for row in rows if row.valid == 5] == [7]
        )


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_f06_it_is_written_anew(database: Database, tmp_path: Path) -> None:
    database.path.unlink()
    assert put_back(database) == database.path
    assert names_in(tmp_path) == ["metadata"]
    assert holds_it_all(database.path)
    assert database.path.stat().st_mode & 0o777 == 0o600


def test_f06_where_partial_blocks_are_told_is_noted_anew(database: Database) -> None:
    """F06: what was added to a file of an older format begins elsewhere in the one that is written."""
    ask = database._connection.execute
    rows = ask("SELECT * FROM partial").fetchall()
    ask("DROP TABLE partial")
    database.apply(Transaction(opened=list(range(3000))))
    ask("CREATE TABLE partial (cblock INTEGER PRIMARY KEY, valid BLOB NOT NULL)")
    database._connection.executemany("INSERT INTO partial VALUES (?, ?)", rows)
    ask(NOTE_PAGE)
    assert holds_it_all(put_back(database))


def test_f06_a_log_that_is_left_is_not_taken_for_that_of_the_new_one(database: Database, tmp_path: Path) -> None:
    log, *_ = side_files(database.path)
    database.path.unlink()
    log.unlink()
    log.write_bytes(b"something else")
    assert put_back(database) == database.path
    assert not log.exists()
    assert holds_it_all(database.path)


def test_f06_what_has_its_name_now_is_left_alone(database: Database, tmp_path: Path) -> None:
    database.path.unlink()
    database.path.write_text("precious")
    (tmp_path / "metadata.rescued").write_text("precious, too")
    log, *_ = side_files(database.path)
    log.unlink()
    log.write_text("its log")
    place = put_back(database)
    assert place == tmp_path / "metadata.rescued1"
    assert holds_it_all(place)
    assert database.path.read_text() == "precious"
    assert log.read_text() == "its log"
    assert names_in(tmp_path) == ["metadata", "metadata-wal", "metadata.rescued", "metadata.rescued1"]


def test_f06_where_there_is_no_place_for_it_that_is_told(tmp_path: Path, database: Database) -> None:
    database.path = tmp_path / "nowhere" / "metadata"
    with pytest.raises(MetadataError, match="cannot be written anew: No such file"):
        put_back(database)


def test_f06_it_is_written_anew_where_there_are_no_hard_links(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    database.path.unlink()
    assert put_back(database) == database.path
    assert names_in(database.path.parent) == ["metadata"]
    assert holds_it_all(database.path)
