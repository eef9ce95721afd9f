"""Metadata and its log, apart, together, and of different times."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fusecache.errors import MetadataError
from fusecache.metadata.database import Database
from fusecache.metadata.record import Transaction
from fusecache.metadata.superblock import APPLICATION_ID, FORMAT

SCRIPT = """
import os, sys
from pathlib import Path
import fusecache.metadata.database as module
from fusecache.metadata.record import Transaction

module._TURN = 4  # so that the log comes into the file several times
for directory in map(Path, sys.argv[1:]):
    die_at = int(directory.name)
    if os.fork() == 0:
        steps = 0
        def step(*args):
            global steps
            steps += 1
            if steps == die_at:
                os._exit(7)
        database = module.Database.open(directory / "metadata")
        database._connection.set_trace_callback(step)
        for number in (1, 2, 3):
            database.apply(Transaction(mapped=[(number, number, True, None, None)], values={"done": str(number)}))
            (directory / "done").write_text(str(number))
        if die_at < 1000:
            database.close()
        os._exit(0)
    os.wait()
"""
REFUSED = "refused"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metadata"
    Database.create(path, {"uuid": "u", "done": "0"}).close()
    return path


def killed_at(directory: Path, steps: range) -> Iterator[tuple[Path, int]]:
    """Have children commit three times and close, and die, each at another step; yields how much had returned."""
    directories = [directory / str(number) for number in steps]
    for each in directories:
        each.mkdir()
        Database.create(each / "metadata", {"uuid": "u", "done": "0"}).close()
    subprocess.run([sys.executable, "-c", SCRIPT, *map(str, directories)], timeout=100, check=True)
    for each in directories:
        done = each / "done"
        yield each / "metadata", int(done.read_text()) if done.exists() else 0


def killed(directory: Path) -> Path:
    """Be killed after three commits, with the log there."""
    ((path, done),) = killed_at(directory, range(1000, 1001))
    assert done == 3
    return path


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def done_in(path: Path) -> str:
    """Read the last commit there is, as another mount would look for it, and open it; or say that it is refused."""
    try:
        with Database.read_only(path) as database:
            seen = database.values()["done"]
    except MetadataError:
        return REFUSED
    with closing(Database.open(path)) as database:
        assert database.values()["done"] == seen
        assert [row.cblock for row in database.rows()] == list(range(1, int(seen) + 1))
    return seen


def copied(path: Path, name: str, *, log: bool) -> Path:
    directory = path.parent / name
    directory.mkdir()
    copy = Path(shutil.copy(path, directory))
    if log and log_of(path).exists():
        shutil.copy(log_of(path), directory)
    return copy


@contextmanager
def other_program(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """Be another program that knows SQLite and nothing of us."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()
        yield connection


def test_f03_wherever_it_is_killed_nothing_that_returned_is_missed(tmp_path: Path) -> None:
    """F03: all parts together have it; a file without its log, or one that others looked at, has it or is refused."""
    outcomes = set()
    for path, done in killed_at(tmp_path, range(1, 70)):
        alone = done_in(copied(path, "alone", log=False))
        looked_at = copied(path, "looked at", log=True)
        with other_program(looked_at, "SELECT * FROM blocks"):
            pass
        by_others = done_in(looked_at)
        outcomes |= {("alone", alone), ("by others", by_others)}
        assert alone == REFUSED or int(alone) >= done
        assert by_others == REFUSED or int(by_others) >= done
        assert int(done_in(path)) >= done
        assert not log_of(path).exists()
    assert ("alone", REFUSED) in outcomes
    assert {("by others", str(number)) for number in range(4)} <= outcomes


def test_f03_another_program_that_looks_at_it_after_a_crash_takes_nothing(tmp_path: Path) -> None:
    """F03: SQLite's shell has the log in the file when it goes, and removes it: that is no loss."""
    path = killed(tmp_path)
    with other_program(path) as connection:
        assert len(connection.execute("SELECT * FROM blocks").fetchall()) == 3
    assert not log_of(path).exists()
    assert done_in(path) == "3"


def test_f03_without_its_log_it_is_refused_and_not_written_to(tmp_path: Path) -> None:
    path = killed(tmp_path)
    log_of(path).unlink()
    before = path.read_bytes()
    with pytest.raises(MetadataError, match="was in use, and its log metadata-wal is missing"):
        Database.open(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if file.name.startswith("m")] == ["metadata"]


@pytest.mark.parametrize("content", [b"", b"x" * 10_000, bytes(10_000)])
def test_f03_something_else_in_the_place_of_the_log_is_none(tmp_path: Path, content: bytes) -> None:
    path = killed(tmp_path)
    log_of(path).write_bytes(content)
    assert done_in(path) == REFUSED


def test_f03_a_power_cut_at_the_first_commit_after_a_token_is_no_missing_log(path: Path) -> None:
    """F03: SQLite begins its log anew by writing its header; the commit behind it may not have come to the disk."""
    with closing(Database.open(path)) as database:
        database.set_values({"done": "0"})
        main, log = path.read_bytes(), log_of(path).read_bytes()
    path.write_bytes(main)
    log_of(path).write_bytes(log[:16] + b"new salt" + log[24:])
    assert done_in(path) == "0"


def test_f03_a_log_of_another_time_beside_a_file_at_rest(path: Path, tmp_path: Path) -> None:
    """F03: the command in the message puts it away, and then the file is as it was."""
    shutil.copy(log_of(killed(tmp_path)), log_of(path))
    before = path.read_bytes()
    with pytest.raises(MetadataError, match="is no log of metadata") as caught:
        Database.open(path)
    assert path.read_bytes() == before
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = str(caught.value).rpartition("what you want: ")[2]
    assert command.startswith("mv ")
    subprocess.run(shlex.split(command), check=True, cwd=elsewhere)
    assert done_in(path) == "0"
    assert log_of(path).with_name("metadata-wal.foreign").exists()


def test_f03_a_file_and_a_log_of_two_mounts(tmp_path: Path) -> None:
    """F03: each was in use, so each looks as it should; the log would put some of its pages over the file's."""
    path = killed(tmp_path)
    older = copied(path, "older", log=True)
    with closing(Database.open(path)) as database:
        database.set_values({"done": "3", "more": "x"})
    with closing(Database.open(path)) as database:
        database.set_values({"more": "y"})
        newer = copied(path, "newer", log=True)
    assert done_in(copied(older, "same", log=True)) == "3"
    for file, log in ((older, newer), (newer, older)):
        mixed = copied(file, f"{file.parent.name} file", log=False)
        shutil.copy(log_of(log), log_of(mixed))
        assert done_in(mixed) == REFUSED


def test_the_log_does_not_grow_for_ever(path: Path) -> None:
    with closing(Database.open(path)) as database:
        sizes = []
        for number in range(6):
            for cblock in range(300):
                row = (number * 3000 + 10 * cblock, cblock, True, None, None)
                database.apply(Transaction(mapped=[row], values={"done": "0"}))
            sizes.append(log_of(path).stat().st_size)
    assert sizes[-1] < 2.2 * sizes[2]


# Where it cannot be written


def test_a_full_disk_at_the_end_costs_nothing(path: Path) -> None:
    """F03: what the file has no room for stays in the log, and both are as they have to be."""
    if (child := os.fork()) == 0:
        database = Database.open(path)
        rows: list[tuple[int, int, bool, int | None, int | None]] = [(n, n, True, None, None) for n in range(1, 5001)]
        database.apply(Transaction(mapped=rows, values={"done": "5000"}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
        database.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert log_of(path).exists()
    assert done_in(copied(path, "alone", log=False)) == REFUSED
    assert done_in(path) == "5000"


@pytest.mark.parametrize("room", [0, 4096, 8192, 9000, 12_500])
def test_a_full_disk_at_the_beginning_is_refused_and_costs_nothing(path: Path, room: int) -> None:
    if (child := os.fork()) == 0:
        database = Database.open(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        try:
            database.set_values({"more": "x" * 20_000})
        except MetadataError:
            database.close()
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert done_in(path) == "0"


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "BEGIN"])
def test_f03_whoever_has_it_open_is_refused_first_and_not_in_the_middle(path: Path, statement: str) -> None:
    """F03: no program can make a commit of a mount fail: the mount does not begin, or the program is kept out."""

    def mount() -> None:
        with closing(Database.open(path)) as database:
            database._connection.execute("PRAGMA busy_timeout = 50")
            database.set_values({"done": "1"})

    with other_program(path, statement, "SELECT * FROM blocks"), pytest.raises(MetadataError, match="locked"):
        mount()
    with closing(Database.open(path)) as database:
        database.set_values({"done": "0", "more": "x"})
        with other_program(path) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("SELECT * FROM blocks")
        database.set_values({"more": "y"})
    assert done_in(path) == "0"


# Files of older versions


TABLES_OF_FORMATS_2_AND_3 = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE blocks (
        cblock INTEGER PRIMARY KEY, oblock INTEGER NOT NULL, dirty INTEGER NOT NULL, hint INTEGER, crc INTEGER
    )""",
    "CREATE TABLE regions (region INTEGER PRIMARY KEY)",
)
NUMBER = "0123456789ab"


@contextmanager
def of_format(version: int, path: Path) -> Iterator[sqlite3.Connection]:
    """Write metadata as older versions did, one block in it; the log is there for as long as the block lasts.

    Those of format 2 knew no token.
    """
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        for statement in TABLES_OF_FORMATS_2_AND_3:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('done', '0')")
        connection.execute("PRAGMA journal_mode = WAL")
        if version > 2:
            connection.execute("INSERT INTO meta VALUES ('in_use', ?)", (NUMBER,))
        connection.execute("PRAGMA wal_checkpoint(FULL)")
        if version > 2:
            connection.execute("REPLACE INTO meta VALUES ('in_use', ?)", (f"complete {NUMBER}",))
        connection.execute("INSERT INTO blocks VALUES (1, 1, 1, NULL, NULL)")
        connection.execute("REPLACE INTO meta VALUES ('done', '1')")
        yield connection
        if version > 2:
            connection.execute("PRAGMA journal_mode = DELETE")


def version_in(path: Path) -> int:
    """The format that the file itself says, whatever its log says."""
    return int.from_bytes(path.read_bytes()[60:64], "big")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("was_killed", [False, True])
def test_f03_metadata_of_older_formats_becomes_ours_with_the_first_commit(
    path: Path, version: int, was_killed: bool
) -> None:
    with of_format(version, path):
        crashed = copied(path, "crashed", log=True)
    found = crashed if was_killed else path
    assert done_in(found) == "1"
    assert version_in(found) == version
    with closing(Database.open(found)) as database:
        database.set_values({"more": "x"})
        alone = copied(found, "alone", log=False)
    assert version_in(found) == FORMAT
    assert done_in(alone) == REFUSED
    assert done_in(found) == "1"


UPGRADE = """
import os, sys
from pathlib import Path
from fusecache.metadata.database import Database
from fusecache.metadata.record import Transaction

for directory in map(Path, sys.argv[1:]):
    die_at = int(directory.name)
    if os.fork() == 0:
        steps = 0
        def step(*args):
            global steps
            steps += 1
            if steps == die_at:
                os._exit(7)
        database = Database.open(directory / "metadata")
        database._connection.set_trace_callback(step)
        sizes = {"block_size": "4096", "cache_blocks": "9", "region_blocks": "1", "image_bytes": "40960"}
        whose = {"uuid": "u", "origin_path": "/o", "origin_inode": "1", "origin_mtime_ns": "1"}
        values = sizes | whose | {"clean_shutdown": "0", "needs_check": "0", "done": "2"}
        database.apply(Transaction(mapped=[(2, 2, True, None, 5)], values=values))
        (directory / "returned").touch()
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("was_killed", [False, True])
def test_an_upgrade_that_is_killed_leaves_the_old_format_or_ours(
    tmp_path: Path, version: int, was_killed: bool
) -> None:
    """F03: at each step, with the log and without it, nothing that was recorded is missed."""
    directories = [tmp_path / str(number) for number in range(1, 40)]
    old = tmp_path / "old"
    with of_format(version, old):
        if was_killed:
            old = copied(old, "killed", log=True)
    for each in directories:
        each.mkdir()
        shutil.copy(old, each / "metadata")
        if was_killed:
            shutil.copy(log_of(old), log_of(each / "metadata"))
    subprocess.run([sys.executable, "-c", UPGRADE, *map(str, directories)], timeout=100, check=True)
    seen = []
    for each in directories:
        path = each / "metadata"
        alone = done_in(copied(path, "alone", log=False))
        # Of format 2 nobody can tell whether its log is missing.
        assert alone in {REFUSED, "1", "2"} | ({"0"} if version == 2 and was_killed else set())
        with other_program(copied(path, "looked at", log=True)) as other:
            assert len(other.execute("SELECT * FROM blocks").fetchall()) in {1, 2}
        with closing(Database.open(path)) as database:
            done = database.values()["done"]
            kept = [(row.cblock, row.valid) for row in database.rows()]
            database.set_values({"more": "x"})
            ask = database._connection.execute
            begins_at = ask("SELECT CAST(rootpage AS TEXT) FROM sqlite_master WHERE name = 'partial'").fetchall()
            assert begins_at == ask("SELECT value FROM meta WHERE name = 'partial_page'").fetchall()
        assert kept == [(1, None), (2, 5)][: int(done)]
        assert done == "2" or not (each / "returned").exists()
        assert len(begins_at) == 1
        assert version_in(path) == FORMAT
        seen.append(done)
    assert seen == sorted(seen)
    assert set(seen) == {"1", "2"}


def test_an_older_format_that_nobody_writes_to_stays_what_it_is(path: Path) -> None:
    with of_format(3, path):
        pass
    before = path.read_bytes()
    with closing(Database.open(path)) as database:
        assert [row.cblock for row in database.rows()] == [1]
    with Database.read_only(path) as database:
        assert [row.cblock for row in database.rows()] == [1]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "statement", "complaint"),
    [
        (3, "CREATE TABLE partial (cblock INTEGER PRIMARY KEY, valid BLOB NOT NULL)", "a table 'partial'"),
        (4, "CREATE TABLE regions (region INTEGER PRIMARY KEY)", "tables are missing: partial"),
    ],
)
def test_f17_each_format_has_its_own_tables_and_no_others(
    path: Path, version: int, statement: str, complaint: str
) -> None:
    with of_format(3, path) as connection:
        connection.execute("DROP TABLE regions")
        connection.execute(TABLES_OF_FORMATS_2_AND_3[2] if version == 3 else statement)
        if version == 3:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(MetadataError, match=complaint):
        Database.open(path)


def test_a_journal_of_a_switch_that_was_interrupted_is_rolled_back(path: Path) -> None:
    """F03: SQLite changes the mode, and format 2's version, by way of a journal."""
    with other_program(path, "PRAGMA cache_size = 1", "BEGIN IMMEDIATE") as other:
        other.execute("REPLACE INTO meta VALUES ('done', '9')")
        other.executemany("INSERT INTO blocks VALUES (?, 1, 1, NULL, NULL)", ((number,) for number in range(5000)))
        crashed = copied(path, "crashed", log=False)
        shutil.copy(path.with_name("metadata-journal"), crashed.parent)
    assert done_in(crashed) == "0"
