"""The tables of the record, and how a file is held to have these and nothing else.

Theory of operation
-------------------
What is in an SQLite file may be code: views, triggers, generated columns and virtual tables run when a table is used,
and a view may run for ever.  The record is data.  So before anything else is asked of a file, the list of what is in it
must be what our own statements make of an empty one, word for word; in that list nothing runs.  Which statements, the
format of the file says: older ones have fewer tables.  Besides, a connection takes no text longer than any of ours, and
what reads a file that nobody has verified yet gets so many steps as a sound file of that size would take.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SINCE_FORMAT_2: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE blocks (
        cblock INTEGER PRIMARY KEY, oblock INTEGER NOT NULL, dirty INTEGER NOT NULL, hint INTEGER, crc INTEGER
    )""",
    "CREATE TABLE regions (region INTEGER PRIMARY KEY)",
)
_SINCE_FORMAT_4: Final = ("CREATE TABLE partial (cblock INTEGER PRIMARY KEY, valid BLOB NOT NULL)",)
SCHEMA: Final = (*_SINCE_FORMAT_2, *_SINCE_FORMAT_4)
_WITH_PARTIAL: Final = 4
PARTIAL_PAGE: Final = "partial_page"
"""The name under which ``meta`` says on which page ``partial`` begins.

The other tables begin on the same pages in every file, this one does not, once it was added to a file of an older
format.  The first page says it too; without that page it would not be found any more.
"""
NOTE_PAGE: Final = """
    REPLACE INTO meta SELECT 'partial_page', CAST(rootpage AS TEXT) FROM sqlite_master WHERE name = 'partial'
"""
PUT_VALUE: Final = "REPLACE INTO meta VALUES (?, CAST(? AS TEXT))"
"""With a pair of :func:`text_values`."""
_LIST: Final = "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 16"
_LONGEST: Final = 1 << 16
"""Bytes of the longest text, row or statement; but for a bitmap, see :func:`allow_bitmaps`."""
_ROW_BESIDES: Final = 64
"""Bytes of a row besides its bitmap, at most."""
_STEPS_PER_BYTE: Final = 16
"""Ten times what any command takes to read a file."""
_LEAST_STEPS: Final = 10_000_000
_STEPS_AT_ONCE: Final = 100_000


def harden(connection: sqlite3.Connection) -> None:
    """Prepare a new connection for a file in any state; raises sqlite3.Error."""
    connection.text_factory = _text
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def version_of(connection: sqlite3.Connection) -> int:
    """Read the format that the last commit says; the file itself may still say an older one.  Raises sqlite3.Error."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def added_since(version: int) -> tuple[str, ...]:
    """Return the statements that make the tables which a format lacks."""
    return _SINCE_FORMAT_4 if version < _WITH_PARTIAL else ()


def allow_bitmaps(connection: sqlite3.Connection, length: int) -> None:
    """Let rows have a bitmap of so many bytes: those of the largest blocks are longer than any text."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(_LONGEST, length + _ROW_BESIDES))


def schema_complaint(connection: sqlite3.Connection) -> str:
    """Say what else is in a file than our tables, or what is missing; nothing if it is right.  Raises sqlite3.Error."""
    ours, found = _ours(has_partial=not added_since(version_of(connection))), set(connection.execute(_LIST))
    names = {name for _, name, *_ in found}
    if missing := sorted(name for _, name, *_ in ours if name not in names):
        return f"tables are missing: {', '.join(missing)}"
    for kind, name, *_ in sorted(found - ours, key=repr):
        return f"there is a {kind} {name!r} in it that fusecache did not make"
    return ""


@contextmanager
def bounded(connection: sqlite3.Connection, size: int) -> Iterator[None]:
    """Let SQLite take no more steps within this block than reading a sound file of ``size`` bytes takes.

    Beyond that it raises sqlite3.OperationalError.
    """
    left = (_LEAST_STEPS + size * _STEPS_PER_BYTE) // _STEPS_AT_ONCE

    def is_too_long() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    connection.set_progress_handler(is_too_long, _STEPS_AT_ONCE)
    try:
        yield
    finally:
        connection.set_progress_handler(None, 0)


def text_values(values: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield names and values in a way that SQLite takes any file's name in them, also one that is not UTF-8."""
    for name, value in values.items():
        yield name, value.encode("utf-8", "surrogateescape")


def _text(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


@cache
def _ours(*, has_partial: bool) -> set[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in SCHEMA if has_partial else _SINCE_FORMAT_2:
            connection.execute(statement)
        return set(connection.execute(_LIST))
