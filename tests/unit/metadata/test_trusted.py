from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fusecache.errors import MetadataError, UntrustedError
from fusecache.metadata.creation import new_record
from fusecache.metadata.database import Database
from fusecache.metadata.readonly import copied, reading, require_metadata
from fusecache.metadata.record import Transaction

STRANGER = 65534
ENDINGS = ("-wal", "-shm", "-journal")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    tmp_path.chmod(0o1777)
    path = tmp_path / "metadata"
    with closing(Database.create(path, {"uuid": "ours"})) as database:
        database.apply(Transaction(mapped=[(0, 3, True, None, None)]))
    return path


def values(path: Path) -> dict[str, str]:
    with closing(Database.open(path)) as database:
        return database.values()


def forged_log(path: Path) -> bytes:
    """Return a log which, beside this metadata, says that nothing is cached."""
    forged = path.with_name("forged")
    shutil.copyfile(path, forged)
    with closing(sqlite3.connect(forged, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("DELETE FROM blocks")
        log = forged.with_name("forged-wal").read_bytes()
    forged.unlink()
    return log


@needs_root
@pytest.mark.parametrize("ending", ENDINGS)
def test_f16_what_others_put_beside_metadata_is_refused(metadata: Path, ending: str) -> None:
    beside = metadata.with_name(f"metadata{ending}")
    beside.write_bytes(forged_log(metadata))
    os.chown(beside, STRANGER, STRANGER)
    before = metadata.read_bytes()
    with pytest.raises(UntrustedError, match=rf"{ending} belongs to user {STRANGER}"):
        Database.open(metadata)
    with pytest.raises(UntrustedError, match="belongs to"), Database.read_only(metadata):
        pass
    assert metadata.read_bytes() == before
    beside.unlink()
    with closing(Database.open(metadata)) as database:
        assert [row.oblock for row in database.rows()] == [3]


@pytest.mark.parametrize("ending", ENDINGS)
def test_f16_links_and_fifos_beside_metadata_are_refused(metadata: Path, ending: str) -> None:
    beside = metadata.with_name(f"metadata{ending}")
    os.mkfifo(beside, 0o600)
    with pytest.raises(UntrustedError, match="is not a file"):
        Database.open(metadata)
    beside.unlink()
    beside.symlink_to(metadata.with_name("elsewhere"))
    with pytest.raises(UntrustedError):
        Database.open(metadata)
    assert not metadata.with_name("elsewhere").exists()


@needs_root
def test_f16_a_log_that_comes_between_look_and_use_is_refused(metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = forged_log(metadata)

    def look_and_be_overtaken(path: Path) -> None:
        require_metadata(path)
        beside = path.with_name("metadata-wal")
        beside.write_bytes(log)
        os.chown(beside, STRANGER, STRANGER)

    monkeypatch.setattr("fusecache.metadata.database.require_metadata", look_and_be_overtaken)
    with pytest.raises(MetadataError, match="-wal is no log of"):
        Database.open(metadata)


@needs_root
def test_f16_a_log_that_comes_late_is_not_copied(metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = metadata.with_name("metadata-wal")
    beside.write_bytes(forged_log(metadata))
    os.chown(beside, STRANGER, STRANGER)
    with pytest.raises(UntrustedError), copied(metadata):
        pass
    with pytest.raises(UntrustedError), reading(metadata):
        pass


def test_f16_the_names_beside_it_are_ours_while_it_is_open(metadata: Path) -> None:
    with closing(Database.open(metadata)) as database:
        database.set_values({"other": "value"})
        made = {path.name: path.stat().st_mode & 0o777 for path in metadata.parent.iterdir()}
        assert made == dict.fromkeys(["metadata", "metadata-wal"], 0o600)
    assert [path.name for path in metadata.parent.iterdir()] == ["metadata"]
    assert values(metadata) == {"uuid": "ours", "other": "value"}


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_f16_metadata_that_others_could_replace(metadata: Path, mode: int) -> None:
    metadata.parent.chmod(mode)
    with pytest.raises(UntrustedError, match="others may replace files"):
        Database.open(metadata)
    with pytest.raises(UntrustedError, match="others may replace files"):
        Database.create(metadata.with_name("new"), {})
    assert [path.name for path in metadata.parent.iterdir()] == ["metadata"]


def test_f16_metadata_that_others_can_write(metadata: Path) -> None:
    metadata.chmod(0o664)
    with pytest.raises(UntrustedError, match=r"others may write to .*0664.*chmod go-w"):
        Database.open(metadata)


def test_f16_a_record_is_made_under_one_lock(tmp_path: Path) -> None:
    """Whenever SQLite takes a lock it looks for a journal, and it believes anybody's; so it must not take another."""
    path = tmp_path / "draft"
    path.touch()
    with new_record(path, {"uuid": "ours"}) as connection:
        assert connection.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)
        with (
            closing(sqlite3.connect(path, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("SELECT * FROM meta")
        assert [entry.name for entry in tmp_path.iterdir()] == ["draft"]
    path.chmod(0o600)
    assert values(path) == {"uuid": "ours"}


def test_where_names_cannot_be_held(metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("fusecache.metadata.trusted.create_trusted", refuse)
    with pytest.raises(MetadataError, match="Read-only file system"):
        Database.open(metadata)


@needs_root
@pytest.mark.parametrize("ending", ["-shm", "-journal"])
def test_f16_what_others_put_beside_metadata_in_use_makes_no_commit_fail(
    metadata: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusecache.metadata.database._TURN", 3)
    with closing(Database.open(metadata)) as database:
        database.apply(Transaction(mapped=[(1, 4, True, None, None)]))
        beside = metadata.with_name(f"metadata{ending}")
        beside.write_bytes(b"theirs")
        os.chown(beside, STRANGER, STRANGER)
        for number in range(2, 10):
            database.apply(Transaction(mapped=[(number, number + 3, True, None, None)]))
    assert beside.read_bytes() == b"theirs"
    beside.unlink()
    with closing(Database.open(metadata)) as database:
        assert [row.oblock for row in database.rows()] == list(range(3, 13))
