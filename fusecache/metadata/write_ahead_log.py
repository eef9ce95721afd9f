"""Whether metadata has all of its commits: its write-ahead log is as much a part of it as the file itself.

Theory of operation
-------------------
SQLite believes any log that lies beside a database, and misses none that is gone.  So metadata that was copied without
its log would read as it was some time before, perhaps as ended cleanly; and a log of another time, put beside metadata
that has none, would replace what it says.  We make the file itself say whether a log belongs to it:

*At rest* it is in SQLite's rollback mode, which its header says, and has no log; ``in_use`` is 0.

*Whoever writes* switches it to WAL mode, commits ``in_use = 1``, has that in the file itself, and commits
``in_use = 2`` before anything else.  So as long as commits are in the log, the file itself says 1 and the log says 2.
When the log has become long, its content is brought into the file in the same way (:func:`empty_log`).

*Whoever ends in order* commits ``in_use = 0``, and has the whole log in the file; then the log goes, and the header
says rollback mode.

*Any other SQLite tool* that opens the file after a crash brings all of the log into it, and removes the log.  Then the
file says 2: it is complete.

A crash leaves WAL mode and a log, or ``in_use = 0`` in the file.  What none leaves is a log beside a file at rest, and
a file that says 1 without a log.  Both are named and refused.

That writers hold the file for themselves alone (``locking_mode = EXCLUSIVE``) also keeps other programs from making a
commit wait, or fail.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from fusecache.errors import MetadataError
from fusecache.metadata.superblock import FORMAT, HEADER_BYTES, IN_USE, is_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MODE_AT: Final = 18
"""Where SQLite's header says who may write: 1 for rollback mode, 2 for WAL mode."""
_WAL: Final = 2
_AT_REST: Final = "0"
_IN_LOG_TOO: Final = "1"
_COMPLETE: Final = "2"
LONG_LOG: Final = 4 << 20
"""Bytes of a log that is long enough to be emptied: about the 1000 pages of SQLite's own choice."""


def side_files(path: Path) -> list[Path]:
    """Return what SQLite may have beside a database: the write-ahead log, its index, and the journal of a switch."""
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")]


def log_size(path: Path) -> int:
    """Return how many bytes of commits lie beside a metadata file that may not be in it yet."""
    log, _, journal = side_files(path)
    return sum(file.stat().st_size for file in (log, journal) if file.exists())


def log_fault(path: Path, values_in_file: Callable[[Path], dict[str, str]]) -> str:
    """Say what is wrong with the log of a metadata file; nothing if it is the file's own, or needs none.

    :param values_in_file: reads what the file itself says, whatever its log says.
    :raises OSError: it cannot be looked at.
    """
    log, _, journal = side_files(path)
    if journal.exists() and journal.stat().st_size:
        return ""  # it is in the middle of a switch
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if not is_sqlite(header):
        return ""  # that is another fault
    is_in_wal_mode = header[_MODE_AT] == _WAL
    has_log = log.exists() and log.stat().st_size > 0
    if has_log and not is_in_wal_mode:
        return (
            f"{log} is no log of metadata {path}, which ended in order and has none: it was put there, or the metadata "
            f"was replaced by an older copy; if that copy is what you want: mv {log.name} {log.name}.foreign"
        )
    if not has_log and is_in_wal_mode and values_in_file(path).get(IN_USE) == _IN_LOG_TOO:
        return (
            f"metadata {path} was in use, and its log {log.name} is missing: it was copied without it, or removed, and "
            "what was recorded last is not in it; bring the log back, or throw away what the cache holds with "
            "--format twice"
        )
    return ""


def begin_writing(connection: sqlite3.Connection) -> None:
    """Have the file itself say that a log belongs to it; raises sqlite3.Error, or MetadataError if others are in it."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA journal_size_limit = 0")  # a log that begins anew is as short as it looks
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    if not empty_log(connection):
        msg = "another program reads it"
        raise MetadataError(msg)


def empty_log(connection: sqlite3.Connection) -> bool:
    """Bring all commits into the file itself; those that follow begin the log anew.

    Returns whether that could be done; if others read the file, it cannot.  Raises sqlite3.Error.
    """
    _say(connection, _IN_LOG_TOO)
    (is_blocked, _, _) = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    _say(connection, _COMPLETE)
    return not is_blocked


def is_in_wal_mode(connection: sqlite3.Connection) -> bool:
    """Tell whether somebody writes, or has been killed while he did; raises sqlite3.Error."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return bool(mode == "wal")


def end_writing(connection: sqlite3.Connection) -> None:
    """Have all commits in the file itself, and let it say that it needs no log; raises sqlite3.Error."""
    try:
        _say(connection, _AT_REST)
    except sqlite3.Error:  # on a full disk there is room again once the log is empty
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _say(connection, _AT_REST)
    connection.execute("PRAGMA journal_mode = DELETE")


def _say(connection: sqlite3.Connection, state: str) -> None:
    connection.execute("REPLACE INTO meta VALUES (?, ?)", (IN_USE, state))
