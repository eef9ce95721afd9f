from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest

from fusecache.errors import MetadataError
from fusecache.metadata.database import Database
from fusecache.metadata.readonly import reading

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    path = tmp_path / "metadata"
    Database.create(path, {"uuid": "u"}).close()
    return path


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


FOREIGN = [
    (("CREATE VIEW v AS SELECT 1",), "a view 'v'"),
    (("CREATE TABLE other (x)",), "a table 'other'"),
    (("CREATE INDEX i ON blocks (oblock)",), "an? index 'i'"),
    (("CREATE TRIGGER t AFTER INSERT ON blocks BEGIN DELETE FROM meta; END",), "a trigger 't'"),
    (("ANALYZE",), "a table 'sqlite_stat1'"),
    (("ALTER TABLE blocks ADD COLUMN more INTEGER",), "a table 'blocks'"),
    (("ALTER TABLE blocks ADD COLUMN made AS (oblock + 1)",), "a table 'blocks'"),
    (("DROP TABLE regions",), "tables are missing: regions"),
    (("DROP TABLE regions", f"CREATE VIEW regions AS {ENDLESS} i AS region FROM n"), "a view 'regions'"),
    (
        ("DROP TABLE blocks", f"CREATE VIEW blocks AS {ENDLESS} i AS cblock, i AS oblock, 1 AS dirty FROM n"),
        "a view 'blocks'",
    ),
    (("DROP TABLE meta", f"CREATE VIEW meta AS {ENDLESS} 'n' || i AS name, 'x' AS value FROM n"), "a view 'meta'"),
    (
        ("DROP TABLE regions", "CREATE VIRTUAL TABLE regions USING rtree (region, a, b)"),
        "'regions",
    ),
]


@pytest.mark.parametrize(("statements", "complaint"), FOREIGN)
def test_f17_anything_but_our_tables_is_refused_at_once(
    metadata: Path, statements: tuple[str, ...], complaint: str
) -> None:
    change(metadata, *statements)
    began = monotonic()
    with pytest.raises(MetadataError, match=complaint):
        Database.open(metadata)
    with pytest.raises(MetadataError, match=complaint), Database.read_only(metadata):
        pass
    with pytest.raises(MetadataError, match=complaint), reading(metadata):
        pass
    assert monotonic() - began < 1


def test_f17_names_of_what_is_refused_may_be_anything(metadata: Path) -> None:
    change(metadata, 'CREATE TABLE "\x1b]0;owned\x07\n" (x)')
    with pytest.raises(MetadataError, match=r"\\x1b\]0;owned\\x07\\n"):
        Database.open(metadata)


def test_f17_what_a_schema_says_is_not_trusted(metadata: Path) -> None:
    with closing(Database.open(metadata)) as database:
        assert database._connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
    with reading(metadata) as connection:
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)


def test_f17_no_text_is_longer_than_ours(metadata: Path) -> None:
    change(metadata, "INSERT INTO meta VALUES ('origin_path', printf('%.*c', 100000000, 'x'))")
    with pytest.raises(MetadataError, match="too big"):
        Database.open(metadata)
    change(metadata, "UPDATE meta SET value = 'short'", "INSERT INTO blocks VALUES (1, zeroblob(100000000), 0, 0, 0)")
    with closing(Database.open(metadata)) as database, pytest.raises(MetadataError, match="too big"):
        list(database.rows())


def make_deep(path: Path) -> None:
    """Make a tree of pages that lead to the same page again and again: it has more rows than there are atoms."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO blocks VALUES (?, ?, 0, 0, 0)", ((i, i) for i in range(200_000)))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'blocks'").fetchone()
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    pages = [bytearray(data[start : start + size]) for start in range(0, len(data), size)]
    chain = [root - 1, *(number for number, page in enumerate(pages) if page[0] == 5 and number != root - 1)]
    assert len(chain) > 1
    deep = bytes(pages[chain[1]])
    spare = [number for number, page in enumerate(pages) if page[0] == 13][-6:]
    places = [chain[0], chain[1], *spare]
    for place, below in zip(places, [*places[1:], None], strict=True):
        page = bytearray(deep)
        count = int.from_bytes(page[3:5], "big")
        if below is not None:
            page[8:12] = (below + 1).to_bytes(4, "big")
            for cell in range(count):
                at = int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big")
                page[at : at + 4] = (below + 1).to_bytes(4, "big")
        pages[place] = page
    path.write_bytes(b"".join(pages))


def test_f17_a_tree_that_does_not_end_is_given_up(metadata: Path) -> None:
    make_deep(metadata)
    began = monotonic()
    with reading(metadata) as connection, pytest.raises(sqlite3.Error):
        for _ in connection.execute("SELECT cblock FROM blocks WHERE oblock < 0"):
            pass
    with pytest.raises(MetadataError, match=r"more steps|malformed"), closing(Database.open(metadata)) as database:
        list(database.rows())
    assert monotonic() - began < 20


def test_f17_a_sound_file_is_read_to_its_end(metadata: Path) -> None:
    with closing(sqlite3.connect(metadata, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO blocks VALUES (?, ?, 0, NULL, ?)", ((i, i, i) for i in range(500_000)))
        connection.execute("COMMIT")
    with reading(metadata) as connection:
        for _ in range(5):
            assert connection.execute("SELECT COUNT(*) FROM blocks WHERE oblock >= 0").fetchone() == (500_000,)
            twice = "SELECT oblock FROM blocks GROUP BY oblock HAVING COUNT(*) > 1"
            assert not connection.execute(f"SELECT * FROM blocks WHERE oblock IN ({twice})").fetchall()  # noqa: S608
        assert connection.execute("PRAGMA integrity_check(10)").fetchall() == [("ok",)]
    with closing(Database.open(metadata)) as database:
        assert sum(1 for _ in database.rows()) == 500_000


@pytest.mark.parametrize("name", ["Jürgen", "J\udcfcrgen", "a\nb", "\x1b[31m", "'\"; --"])
def test_f14_any_name_of_a_file_is_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    metadata = path / f"{name}?#%41.metadata"
    Database.create(metadata, {"origin_path": f"/{name}"}).close()
    with closing(Database.open(metadata)) as database:
        assert database.values() == {"origin_path": f"/{name}"}
        database.set_values({"other": name})
    with Database.read_only(metadata) as readonly:
        assert readonly.values() == {"origin_path": f"/{name}", "other": name}
        kinds = readonly._connection.execute("SELECT DISTINCT typeof(value) FROM meta").fetchall()
    assert kinds == [("text",)]
    assert sorted(entry.name for entry in path.iterdir()) == [metadata.name]
