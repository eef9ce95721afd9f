"""Whether metadata has all of its commits: its write-ahead log is as much a part of it as the file itself.

Theory of operation
-------------------
SQLite believes any log that lies beside a database, and misses none that is gone.  So metadata that was copied without
its log would read as it was some time before, perhaps as ended cleanly; and a log of another time, put beside it, would
replace what it says.  The value ``in_use`` makes that show, by being one thing in the file and another in the log:

*At rest* the file is in SQLite's rollback mode, which its header says, says ``complete``, and has no log.

*Whoever writes* switches it to WAL mode, commits a new *token*, and has that in the file itself.  Only then, into the
log, goes ``complete`` with that token, and whatever is committed after it.  We have the log in the file, now and then,
by doing the same again with another token; SQLite never does by itself.  So the file alone says that it needs a log,
and the two together that they are whole.

*Whoever has all of the log in the file* gets ``complete`` there with the rest: we do at an end, in order, and so does
any other program of SQLite that looks at metadata after a crash, and takes the log away when it goes.

What no crash leaves is a log beside a file at rest, a file with a token and no log that ever had a commit, and a file
whose token the log does not know.  These are named and refused.

Metadata of an older format becomes ours between the first two: one commit, into the log, has the new version and the
tables that were missing.  Whoever is killed leaves it as it was, or as it is to be.

That writers hold the file for themselves alone (``locking_mode = EXCLUSIVE``) also keeps other programs from making a
commit wait, or fail.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from fusecache.errors import MetadataError
from fusecache.metadata.schema import NOTE_PAGE, added_since, version_of
from fusecache.metadata.superblock import FORMAT, HEADER_BYTES, IN_USE, is_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_MODE_AT: Final = 18
"""Where SQLite's header says who may write: 1 for rollback mode, 2 for WAL mode."""
_WAL: Final = 2
_PAGE_SIZE_AT: Final = 16
_LOG_MAGIC: Final = b"\x37\x7f\x06"
_COMPLETE: Final = "complete"
_TOKEN_BYTES: Final = 6


def side_files(path: Path) -> list[Path]:
    """Return what SQLite may have beside a database: the write-ahead log, its index, and the journal of a switch."""
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")]


def log_size(path: Path) -> int:
    """Return how many bytes of commits lie beside a metadata file that may not be in it yet."""
    log, _, journal = side_files(path)
    return sum(file.stat().st_size for file in (log, journal) if file.exists())


def log_fault(
    path: Path, values_in_file: Callable[[Path], dict[str, str]], values_with_log: Callable[[Path], dict[str, str]]
) -> str:
    """Say what is wrong with the log of a metadata file; nothing if it is the file's own, or needs none.

    :param values_in_file: reads what the file itself says, whatever its log says.
    :param values_with_log: reads what both say together; nothing if there is no commit in the log.
    :raises OSError: it cannot be looked at.
    """
    log, _, journal = side_files(path)
    if journal.exists() and journal.stat().st_size:
        return ""  # it is in the middle of a switch
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if not is_sqlite(header):
        return ""  # that is another fault
    has_log = _was_written(log, page_size=int.from_bytes(header[_PAGE_SIZE_AT : _PAGE_SIZE_AT + 2], "big"))
    if header[_MODE_AT] != _WAL:
        return _foreign(log, f"metadata {path}, which ended in order and has none") if has_log else ""
    try:
        alone = values_in_file(path).get(IN_USE, _COMPLETE).split()
    except sqlite3.Error:
        if has_log:  # half of it may be in the file
            return ""
        raise
    together = values_with_log(path).get(IN_USE, "").split() if has_log else []
    if not together:  # where there is a log, it is as a crash leaves it that falls on the first commit after a token
        return "" if has_log or alone[0] == _COMPLETE else _missing(path, log)
    knows_it = ({*alone} & {*together}) - {_COMPLETE}
    return "" if knows_it or len(alone) == 1 else _foreign(log, f"metadata {path} as it is now")


def _was_written(log: Path, page_size: int) -> bool:
    """Tell whether a log has, or once had, a commit in it."""
    if not log.exists() or log.stat().st_size < page_size:
        return False
    with log.open("rb") as file:
        return file.read(len(_LOG_MAGIC)) == _LOG_MAGIC


def _missing(path: Path, log: Path) -> str:
    return (
        f"metadata {path} was in use, and its log {log.name} is missing, or is not whole: what was recorded last is "
        "not in it; bring the log back, or throw away what the cache holds with --format twice"
    )


def _foreign(log: Path, of: str) -> str:
    command = shlex.join(["mv", "--no-clobber", "--", str(log), f"{log}.foreign"])
    return (
        f"{log} is no log of {of}: one of the two was put there, or is an older copy; bring both back of one moment, "
        f"or, if the metadata alone is what you want: {command}"
    )


def begin_writing(connection: sqlite3.Connection) -> None:
    """Have all commits in the file itself, and let it say that it needs its log from now on.

    :raises sqlite3.Error: it cannot be, or others are in it.
    :raises MetadataError: others read it.
    """
    connection.execute("PRAGMA journal_mode = WAL")
    _upgrade(connection)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    token = os.urandom(_TOKEN_BYTES).hex()
    before = [word for word in _said(connection).split() if word != _COMPLETE][:1]
    _say(connection, " ".join([token, *before]))
    (is_blocked, _, _) = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    _say(connection, f"{_COMPLETE} {token}")
    if is_blocked:
        msg = "another program reads it"
        raise MetadataError(msg)


@contextmanager
def one_transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit at the end, durably; roll back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _upgrade(connection: sqlite3.Connection) -> None:
    """Make our format of an older one: its version and the tables that it lacks, or neither."""
    if (version := version_of(connection)) != FORMAT:
        with one_transaction(connection):
            for statement in added_since(version):
                connection.execute(statement)
            connection.execute(NOTE_PAGE)
            connection.execute(f"PRAGMA user_version = {FORMAT}")


def is_in_wal_mode(connection: sqlite3.Connection) -> bool:
    """Tell whether somebody writes, or has been killed while he did; raises sqlite3.Error."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return bool(mode == "wal")


def end_writing(connection: sqlite3.Connection) -> None:
    """Have all commits in the file itself, and let it say that it needs no log; raises sqlite3.Error."""
    if not (said := _said(connection)).startswith(_COMPLETE):
        _say(connection, f"{_COMPLETE} {said}".strip())
    connection.execute("PRAGMA journal_mode = DELETE")


def _said(connection: sqlite3.Connection) -> str:
    found = connection.execute("SELECT value FROM meta WHERE name = ?", (IN_USE,)).fetchone()
    return str(found[0]) if found else ""


def _say(connection: sqlite3.Connection, text: str) -> None:
    connection.execute("REPLACE INTO meta VALUES (?, ?)", (IN_USE, text))
