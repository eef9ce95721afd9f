from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusecache.errors import MetadataError
from fusecache.metadata import FORMAT
from fusecache.metadata.database import Database
from fusecache.metadata.record import Row, Transaction
from tests.unit.worlds import threaded, virtual

VALUES = {"uuid": "u-1", "clean_shutdown": "1"}
SIZES = {
    "block_size": "4096",
    "cache_blocks": "1000",
    "region_blocks": "1",
    "image_bytes": "4096000",
    "needs_check": "0",
    "origin_path": "/o",
    "origin_inode": "1:2",
    "origin_mtime_ns": "1",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database.create(path, VALUES)
    yield database
    database.close()


def commit(database: Database, **changes: object) -> None:
    trio.run(database.commit, Transaction(**changes))  # type: ignore[arg-type]  # any field of it


def values_of(path: Path) -> dict[str, str]:
    with closing(Database.open(path)) as database:
        return database.values()


def rows_of(path: Path) -> list[Row]:
    with closing(Database.open(path)) as database:
        return list(database.rows())


# Making and opening


def test_a_new_one_is_empty_but_for_its_values(database: Database) -> None:
    assert database.values() == VALUES
    assert list(database.rows()) == []
    assert database.regions() == set()
    assert database.count(dirty_only=False) == database.count(dirty_only=True) == 0


def test_it_can_be_opened_again_and_leaves_one_file(database: Database, path: Path) -> None:
    commit(database, mapped=[(1, 10, True, None, None)])
    database.close()
    assert [file.name for file in path.parent.iterdir()] == ["metadata"]
    assert rows_of(path) == [Row(1, 10, dirty=True, hint=None)]
    assert [file.name for file in path.parent.iterdir()] == ["metadata"]


def test_it_is_ours_by_application_id_and_version_and_durable_by_wal_and_full(database: Database, path: Path) -> None:
    header = path.read_bytes()[:100]
    assert header[68:72] == b"FUCA"
    assert int.from_bytes(header[60:64], "big") == FORMAT
    ask = database._connection.execute
    assert ask("PRAGMA journal_mode").fetchone() == ("delete",)
    assert ask("PRAGMA synchronous").fetchone() == (2,)
    commit(database, mapped=[(1, 10, True, None, None)])
    assert ask("PRAGMA journal_mode").fetchone() == ("wal",)


def test_creating_replaces_what_was_there_with_its_log_if_told_so(path: Path) -> None:
    path.write_bytes(b"something else")
    for suffix in ("-wal", "-shm"):
        path.with_name(f"metadata{suffix}").write_bytes(b"of something else")
    with closing(Database.create(path, VALUES, replace=True)) as database:
        assert database.values() == VALUES
    assert [file.name for file in path.parent.iterdir()] == ["metadata"]


def test_creating_replaces_nothing_unless_told_so(path: Path) -> None:
    path.write_bytes(b"something else")
    with pytest.raises(FileExistsError):
        Database.create(path, VALUES)
    assert path.read_bytes() == b"something else"
    assert [file.name for file in path.parent.iterdir()] == ["metadata"]


def test_creating_that_fails_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database.create(path, {"uuid": "old"}).close()

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        Database.create(path, {"uuid": "new"}, replace=True)
    assert values_of(path) == {"uuid": "old"}
    assert [file.name for file in path.parent.iterdir()] == ["metadata"]


def test_creating_where_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Database.create(tmp_path / "none" / "metadata", VALUES)


def test_only_its_owner_can_read_it(database: Database, path: Path) -> None:
    commit(database, mapped=[(0, 0, False, None, None)])
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_one_that_is_missing(path: Path) -> None:
    with pytest.raises(MetadataError, match=f"{path}: No such file"):
        Database.open(path)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(84), bytes(8192)])
def test_what_is_no_metadata_is_refused_and_not_written_to(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(MetadataError, match="not fusecache metadata"):
        Database.open(path)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["metadata"]


def test_other_peoples_databases_are_refused_and_not_written_to(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE meta (name, value)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(MetadataError, match="SQLite file of something else"):
        Database.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, 1, 1000])
def test_another_format_is_named(database: Database, path: Path, version: int) -> None:
    database._connection.execute(f"PRAGMA user_version = {version}")
    database.close()
    with pytest.raises(MetadataError, match=f"has format {version}; .* reads formats 2 to {FORMAT}"):
        Database.open(path)


@pytest.mark.parametrize("table", ["blocks", "regions", "meta"])
def test_a_missing_table(database: Database, path: Path, table: str) -> None:
    database._connection.execute(f"DROP TABLE {table}")
    database.close()
    with pytest.raises(MetadataError, match=table if table == "meta" else "tables are missing"):
        Database.open(path)


def read_all(path: Path) -> str:
    """Read everything; returns why it could not be."""
    try:
        with closing(Database.open(path)) as opened:
            list(opened.rows())
            opened.regions()
    except MetadataError as exc:
        return str(exc)
    return ""


def test_every_damaged_page_ends_in_one_clear_line_or_in_no_harm(database: Database, path: Path) -> None:
    commit(database, mapped=[(number, number, False, None, None) for number in range(2000)])
    database.close()
    content = path.read_bytes()
    failures = 0
    for start in range(100, len(content), 1024):
        path.write_bytes(content[:start] + b"\xa5" * 512 + content[start + 512 :])
        message = read_all(path)
        assert "\n" not in message
        assert not message or str(path) in message
        failures += bool(message)
    assert failures > len(content) // 1024 // 2


@pytest.mark.parametrize("size", [50, 99, 100, 4095, 4096, 8192])
def test_a_truncated_file(database: Database, path: Path, size: int) -> None:
    commit(database, mapped=[(number, number, False, None, None) for number in range(2000)])
    database.close()
    os.truncate(path, size)
    with pytest.raises(MetadataError, match=str(path)), closing(Database.open(path)) as opened:
        list(opened.rows())


@pytest.mark.parametrize(
    ("oblock", "dirty", "hint"),
    [("x", 0, 0), (1.5, 0, 0), (5, 2, 0), (5, -1, 0), (5, "yes", 0), (5, 0, "x"), (5, 0, -1), (5, 0, 2**32)],
)
def test_rows_that_make_no_sense(database: Database, oblock: object, dirty: object, hint: object) -> None:
    database._connection.execute("INSERT INTO blocks VALUES (3, ?, ?, ?, NULL)", (oblock, dirty, hint))
    with pytest.raises(MetadataError, match=r"damaged.* 3 "):
        list(database.rows())


@pytest.mark.parametrize("name", ["a?mode=rw", "100%41", "a#b", "ünï code", ":memory:"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Database.create(path, VALUES).close()
    assert values_of(path) == VALUES
    assert [file.name for file in tmp_path.iterdir()] == [name]


# Changing


BATCHES = st.builds(
    Transaction,
    unmapped=st.lists(st.integers(0, 9), unique=True, max_size=4),
    mapped=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 2**40),
            st.booleans(),
            st.none() | st.integers(0, 2**32 - 1),
            st.none() | st.integers(1, 254),
        ),
        unique_by=lambda row: row[0],
        max_size=4,
    ),
    opened=st.lists(st.integers(0, 5), max_size=3),
    closed=st.lists(st.integers(0, 5), max_size=3),
    values=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(max_size=3), max_size=2),
)


@given(batches=st.lists(BATCHES, max_size=6))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_add_up(path: Path, batches: list[Transaction]) -> None:
    rows: dict[int, Row] = {}
    regions: set[int] = set()
    values = VALUES | SIZES
    with closing(Database.create(path, values, replace=True)) as database:
        for transaction in batches:
            trio.run(database.commit, transaction)
            for cblock in transaction.unmapped:
                rows.pop(cblock, None)
            rows |= {
                cblock: Row(cblock, oblock, dirty, None, crc if valid is None else None, valid)
                for cblock, oblock, dirty, crc, valid in transaction.mapped
            }
            regions = (regions | set(transaction.opened)) - set(transaction.closed)
            values |= transaction.values
            assert list(database.rows()) == [rows[cblock] for cblock in sorted(rows)]
            assert database.regions() == regions
            assert database.values() == values
            assert database.count(dirty_only=False) == len(rows)
            assert database.count(dirty_only=True) == sum(row.dirty for row in rows.values())
    assert rows_of(path) == [rows[cblock] for cblock in sorted(rows)]


def test_a_batch_that_fails_changes_nothing(database: Database) -> None:
    commit(database, mapped=[(1, 10, False, None, None)], opened=[3])
    bad = Transaction(unmapped=[1], mapped=[(2, None, True, None, None)], opened=[4], values={"uuid": "x"})  # type: ignore[list-item]
    with pytest.raises(MetadataError, match="NOT NULL"):
        trio.run(database.commit, bad)
    assert [row.cblock for row in database.rows()] == [1]
    assert database.regions() == {3}
    assert database.values() == VALUES
    commit(database, unmapped=[1])
    assert list(database.rows()) == []


def test_what_cannot_be_written_is_one_clear_line(database: Database, path: Path) -> None:
    database._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(MetadataError, match=f"metadata {path}: attempt to write a readonly database"):
        commit(database, mapped=[(1, 10, False, None, None)])


@threaded
async def test_commits_side_by_side_all_arrive(database: Database) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(database.commit, Transaction(mapped=[(number, number, True, None, None)]))
        nursery.start_soon(database.save_hints, [(0, 7)])
    assert database.count(dirty_only=True) == 20


@virtual
async def test_where_there_is_no_thread_a_commit_waits_for_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 3

    async def run_sync(function: Callable[[], None], *, limiter: trio.CapacityLimiter) -> None:
        nonlocal refused
        if refused:
            refused -= 1
            msg = "can't start new thread"
            raise RuntimeError(msg)
        async with limiter:
            function()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    await database.commit(Transaction(mapped=[(1, 10, True, None, None)]))
    assert database.count(dirty_only=True) == 1
    assert 1 < trio.current_time() < 10
    refused = 1000
    with pytest.raises(MetadataError, match="no thread to be had"):
        await database.commit(Transaction(mapped=[(2, 20, True, None, None)]))
    assert database.count(dirty_only=True) == 1
    assert trio.current_time() < 60


def test_hints_are_kept_until_the_block_is_recorded_anew(database: Database) -> None:
    commit(database, mapped=[(1, 10, False, None, None), (2, 20, False, None, None), (3, 30, True, None, None)])
    trio.run(database.save_hints, [(1, 2**32 - 1), (2, 0), (99, 5)])
    assert [row.hint for row in database.rows()] == [2**32 - 1, 0, None]
    trio.run(database.save_hints, [(3, 4)])
    assert [row.hint for row in database.rows()] == [2**32 - 1, 0, 4]
    commit(database, mapped=[(1, 11, False, None, None)])
    assert [row.hint for row in database.rows()] == [None, 0, 4]


def test_what_is_applied_is_there_at_once_as_a_whole(database: Database) -> None:
    commit(database, mapped=[(1, 10, True, None, None), (2, 20, False, None, None)], opened=[1, 2])
    database.apply(Transaction(unmapped=[1], closed=[2], values={"cache_blocks": "2"}))
    assert [row.cblock for row in database.rows()] == [2]
    assert database.regions() == {1}
    assert database.values() == {**VALUES, "cache_blocks": "2"}


def test_set_values_adds_and_replaces(database: Database, path: Path) -> None:
    database.set_values({"clean_shutdown": "0", "new": "ünïcode"})
    assert database.values() == {**VALUES, "clean_shutdown": "0", "new": "ünïcode"}
    database.close()
    assert values_of(path)["new"] == "ünïcode"


def test_sizes(database: Database, path: Path) -> None:
    assert database.size() >= path.stat().st_size
    before = database.used_size()
    commit(database, mapped=[(number, number, False, None, None) for number in range(5000)])
    assert before < database.used_size() <= database.size()
    commit(database, unmapped=list(range(5000)))
    assert database.used_size() < database.size()


def test_an_empty_batch_is_false() -> None:
    assert not Transaction()
    assert Transaction(unmapped=[0])
    assert Transaction(mapped=[(0, 0, False, None, None)])
    assert Transaction(opened=[0])
    assert Transaction(closed=[0])
    assert Transaction(values={"a": ""})


def test_sums_are_of_so_many_clean_blocks_spread_over_the_cache(database: Database) -> None:
    database.set_values(SIZES)
    rows = [(cblock, cblock + 1, cblock % 2 == 0, 7 if cblock % 4 == 1 else cblock, None) for cblock in range(500, 900)]
    commit(database, mapped=rows, opened=[600])
    wanted = [(cblock + 1, cblock) for cblock in range(503, 900, 4)]
    assert list(database.sums(leave_out=7)) == wanted
    assert list(database.sums(1000, leave_out=7)) == wanted
    chosen = set()
    for most in (1, 3, 16, 99, 100, 101):
        for turn in (0, 1, 50, 10**18):
            some = list(database.sums(most, turn=turn, leave_out=7))
            assert len(set(some)) == len(some) == min(most, len(wanted))
            assert set(some) <= set(wanted)
            if most == 16:
                chosen.add(tuple(some))
                assert max(some)[0] - min(some)[0] > 300
    assert len(chosen) > 1
    commit(database, unmapped=list(range(500, 900)))
    assert list(database.sums(5)) == []


# Crashes

SCRIPT = """
import os, sys, trio
from pathlib import Path
from fusecache.metadata.database import Database
from fusecache.metadata.record import Transaction

steps = 0
def step(*args):
    global steps
    steps += 1
    if steps == die_at:
        os._exit(7)

def crash(path):
{crash}

for directory in map(Path, sys.argv[1:]):
    die_at = int(directory.name)
    if (child := os.fork()) == 0:
        crash(directory / "metadata")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in {{0, 7}}
"""
TWO_COMMITS = """
    database = Database.open(path)
    database._connection.set_trace_callback(step)
    for number in (1, 2):
        rows = [(cblock, number, number == 2, None, None) for cblock in range(50)]
        transaction = Transaction(mapped=rows, opened=[number], closed=[number - 1], values={"done": str(number)})
        trio.run(database.commit, transaction)
"""
CREATION = """
    import sqlite3
    class Connection(sqlite3.Connection):
        def execute(self, *args):
            step()
            return super().execute(*args)
        def executemany(self, *args):
            step()
            return super().executemany(*args)
        def executescript(self, *args):
            step()
            return super().executescript(*args)
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=Connection, **options)
    def with_steps(real):
        def stepping(*args, **options):
            step()
            real(*args, **options)
            step()
        return stepping
    for name in ("replace", "hardlink_to", "unlink"):
        setattr(Path, name, with_steps(getattr(Path, name)))
    Database.create(path, {"uuid": "new", "done": "yes"}, replace=path.exists())
"""


def die_at(directory: Path, steps: range, script: str, *, old: bool) -> list[Path]:
    """Have children die, each at another step; returns the metadata files, of which ``old`` existed before."""
    directories = [directory / str(number) for number in steps]
    for each in directories:
        each.mkdir()
        if old:
            Database.create(each / "metadata", {"uuid": "old"}).close()
    command = [sys.executable, "-c", SCRIPT.format(crash=script), *map(str, directories)]
    subprocess.run(command, cwd=Path(__file__).parents[3], timeout=100, check=True)
    return [each / "metadata" for each in directories]


def test_whoever_dies_in_a_commit_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    seen = []
    for path in die_at(tmp_path, range(1, 150, 5), TWO_COMMITS, old=True):
        with closing(Database.open(path)) as opened:
            done = int(opened.values().get("done", "0"))
            seen.append(done)
            assert {row.oblock for row in opened.rows()} == ({done} if done else set())
            assert opened.count(dirty_only=True) == (50 if done == 2 else 0)
            assert opened.regions() == ({done} if done else set())
            commit(opened, mapped=[(99, 99, False, None, None)])
        assert len(rows_of(path)) == (51 if done else 1)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2}


def test_a_commit_that_returned_is_found_in_the_log(tmp_path: Path) -> None:
    (path,) = die_at(tmp_path, range(1000, 1001), TWO_COMMITS, old=True)
    assert path.with_name("metadata-wal").stat().st_size > 0
    assert {row.oblock for row in rows_of(path)} == {2}


def test_a_torn_log_loses_whole_commits_only(tmp_path: Path) -> None:
    (path,) = die_at(tmp_path, range(1000, 1001), TWO_COMMITS, old=True)
    log = path.with_name("metadata-wal")
    main, whole = path.read_bytes(), log.read_bytes()
    seen = []
    for size in range(5000, len(whole) + 1, 1000):
        for leftover in path.parent.iterdir():
            leftover.unlink()
        path.write_bytes(main)
        log.write_bytes(whole[:size])
        with closing(Database.open(path)) as opened:
            seen.append(int(opened.values().get("done", "0")))
            assert {row.oblock for row in opened.rows()} == ({seen[-1]} if seen[-1] else set())
    assert seen == sorted(seen)
    assert {0, 1} <= set(seen)
    path.write_bytes(main)
    for size in (0, 1000):
        log.write_bytes(whole[:size])
        with pytest.raises(MetadataError, match="its log metadata-wal is missing"):
            Database.open(path)


@pytest.mark.parametrize("old", [False, True])
def test_creating_is_all_or_nothing(tmp_path: Path, old: bool) -> None:
    seen = []
    for path in die_at(tmp_path, range(1, 30), CREATION, old=old):
        seen.append(values_of(path) if path.exists() else {})
        # Whatever was left behind does not hinder the next one.
        Database.create(path, VALUES, replace=path.exists()).close()
    before = {"uuid": "old"} if old else {}
    after = {"uuid": "new", "done": "yes"}
    created = seen.index(after)
    assert created > 5
    assert seen == [before] * created + [after] * (len(seen) - created)


def test_a_log_that_was_left_behind_is_not_the_next_files(tmp_path: Path) -> None:
    path = tmp_path / "metadata"
    database = Database.create(path, {**VALUES, "uuid": "old"})
    commit(database, mapped=[(3, 7, True, None, None)])
    log = path.with_name("metadata-wal")
    kept = log.read_bytes()  # as if the process had been killed
    database.close()
    log.write_bytes(kept)
    path.unlink()
    with closing(Database.create(path, VALUES)) as database:
        assert database.values()["uuid"] == VALUES["uuid"]
        assert not list(database.rows())
    assert path.with_name("metadata-wal.old").read_bytes() == kept


def test_what_is_replaced_is_whole_without_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metadata"
    database = Database.create(path, VALUES)
    commit(database, mapped=[(3, 7, True, None, None)])
    log = path.with_name("metadata-wal")
    before = (path.read_bytes(), log.read_bytes())
    database.close()
    path.write_bytes(before[0])
    log.write_bytes(before[1])

    def fail(*_: object) -> None:
        msg = "killed"
        raise OSError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="killed"):
            Database.create(path, VALUES, replace=True)
    log.unlink(missing_ok=True)
    assert rows_of(path) == [Row(3, 7, dirty=True, hint=None)]


@pytest.mark.parametrize("value", [b"1", 1, None])
def test_values_that_are_no_text(database: Database, value: object) -> None:
    database._connection.execute("CREATE TABLE odd (name PRIMARY KEY, value)")
    database._connection.execute("INSERT INTO odd VALUES ('uuid', ?)", (value,))
    database._connection.execute("DROP TABLE meta")
    database._connection.execute("ALTER TABLE odd RENAME TO meta")
    with pytest.raises(MetadataError, match="is damaged: 'uuid' is"):
        database.values()


def test_regions_that_are_no_numbers(database: Database) -> None:
    database._connection.execute("CREATE TABLE odd (region)")
    database._connection.execute("INSERT INTO odd VALUES (NULL)")
    database._connection.execute("DROP TABLE regions")
    database._connection.execute("ALTER TABLE odd RENAME TO regions")
    with pytest.raises(MetadataError, match="regions that can be none"):
        database.regions()
