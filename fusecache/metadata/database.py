"""The durable record, in SQLite.

Theory of operation
-------------------
One file, in WAL mode with ``synchronous=FULL``: a commit is durable when it returns, and SQLite answers for its being
whole after any crash.  Three tables, readable with any SQLite tool:

``blocks``
    a row per cached block: cblock, oblock, whether it is known to be dirty, the policy's hint, and the CRC-32C of its
    content.  Only a clean block outside of open regions has one that counts.
``regions``
    the write-intent record: a row per *region* (a run of ``region_blocks`` cblocks) in which clean blocks may be
    written before their rows say dirty.  After a crash every block in such a region counts as dirty.
``meta``
    names and values as text: format, identity, sizes, ``clean_shutdown``, ``needs_check``, counters.

``application_id`` and ``user_version`` tell our files from others' before anything is read.  All access while
mounted goes through one thread at a time.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import structlog
import trio

from fusecache.errors import MetadataError
from fusecache.linux import sync_directory
from fusecache.metadata.record import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fusecache.metadata.record import Transaction

log = structlog.get_logger(__name__)

APPLICATION_ID: Final = 0x46554341  # "FUCA"
FORMAT: Final = 2
_PAUSES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds to wait where the system gives no thread."""
_HEADER: Final = 100
"""Bytes of SQLite's file header."""
_SCHEMA: Final = """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE blocks (
        cblock INTEGER PRIMARY KEY, oblock INTEGER NOT NULL, dirty INTEGER NOT NULL, hint INTEGER, crc INTEGER
    );
    CREATE TABLE regions (region INTEGER PRIMARY KEY);
"""
# SQLite keeps whatever it is given; asking it is faster by far than looking at each value here.
_DAMAGED_ROW: Final = """
    SELECT * FROM blocks
    WHERE typeof(oblock) <> 'integer' OR typeof(dirty) <> 'integer' OR dirty NOT IN (0, 1)
        OR typeof(hint) NOT IN ('integer', 'null') OR hint NOT BETWEEN 0 AND 4294967295
        OR typeof(crc) NOT IN ('integer', 'null') OR crc NOT BETWEEN 0 AND 4294967295
    LIMIT 1
"""


@final
class Database:
    """An open metadata file; made by :meth:`create` or :meth:`open`, both of which raise MetadataError."""

    __slots__ = ("_connection", "_free", "_limiter", "path")

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._limiter = trio.CapacityLimiter(1)
        self._free = 0

    @classmethod
    def create(cls, path: Path, values: Mapping[str, str], *, replace: bool = False) -> Database:
        """Make a new metadata file with these values, durable when this returns, and open it.

        It appears whole or not at all, wherever a crash falls, and only its owner can read it.

        :param replace: put it in the place of what is there.
        :raises FileExistsError: something is there, and is not to be replaced.
        :raises OSError: the directory cannot be written.
        """
        fd, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        os.close(fd)
        draft = Path(name)
        try:
            with _errors(path), closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.executescript(f"BEGIN; {_SCHEMA}; COMMIT;")
                with _transaction(connection):
                    connection.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
            if replace:
                _end_log(path)
                draft.replace(path)
            else:
                if not path.exists():
                    _put_log_aside(path)
                path.hardlink_to(draft)  # unlike a rename, this fails where something is there
            sync_directory(path.parent)
        finally:
            draft.unlink(missing_ok=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open an existing metadata file; one that is not ours, damaged or of another version is refused."""
        _require_ours(path)
        database = cls(path, _connect(path))
        try:
            with _errors(path):
                tables = {name for (name,) in database._connection.execute("SELECT name FROM sqlite_master")}
                database.values()
                database._measure()
        except BaseException:
            database.close()
            raise
        if not {"meta", "blocks", "regions"} <= tables:
            database.close()
            msg = f"metadata {path} is damaged: tables are missing"
            raise MetadataError(msg)
        return database

    def values(self) -> dict[str, str]:
        """Read all names and values of ``meta``."""
        with _errors(self.path):
            values = dict(self._connection.execute("SELECT name, value FROM meta"))
        for name, value in values.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                msg = f"metadata {self.path} is damaged: {name!r} is {value!r}"
                raise MetadataError(msg)
        return values

    def set_values(self, values: Mapping[str, str]) -> None:
        """Write names and values, durable when this returns."""
        with _errors(self.path), _transaction(self._connection) as connection:
            connection.executemany("REPLACE INTO meta VALUES (?, ?)", values.items())

    def rows(self) -> Iterator[Row]:
        """Read all cached blocks in cblock order; one that cannot be is named before any is given."""
        with _errors(self.path):
            damaged = self._connection.execute(_DAMAGED_ROW).fetchone()
            if damaged is not None:
                cblock, *found = damaged
                msg = f"metadata {self.path} is damaged: cblock {cblock!r} has {', '.join(map(repr, found))}"
                raise MetadataError(msg)
            query = self._connection.execute("SELECT cblock, oblock, dirty, hint, crc FROM blocks ORDER BY cblock")
            for cblock, oblock, dirty, hint, crc in query:
                yield Row(cblock, oblock, bool(dirty), hint, crc)
            self._connection.execute("PRAGMA shrink_memory")  # no row is read again

    def count(self, *, dirty_only: bool) -> int:
        """Count the recorded blocks, or the dirty ones among them."""
        with _errors(self.path):
            query = self._connection.execute("SELECT COUNT(*) FROM blocks WHERE dirty >= ?", (int(dirty_only),))
            (count,) = query.fetchone()
            return int(count)

    def regions(self) -> set[int]:
        """Read the regions that may have been written."""
        with _errors(self.path):
            regions = {region for (region,) in self._connection.execute("SELECT region FROM regions")}
        if not all(isinstance(region, int) for region in regions):
            msg = f"metadata {self.path} is damaged: it names regions that can be none"
            raise MetadataError(msg)
        return regions

    def size(self) -> int:
        """Return how many bytes the metadata takes on disk, the write-ahead log included."""
        wal = self.path.with_name(self.path.name + "-wal")
        return self.path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)

    def used_size(self) -> int:
        """Return how many of those bytes held something at the last commit; waits for nothing."""
        return max(0, self.size() - self._free)

    async def commit(self, transaction: Transaction) -> None:
        """See :class:`fusecache.metadata.record.Record`."""
        await self._in_thread(partial(self.apply, transaction))

    async def save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        """See :class:`fusecache.metadata.record.Record`."""
        await self._in_thread(partial(self._save_hints, hints))

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._connection.close()

    async def _in_thread(self, function: Callable[[], None]) -> None:
        for pause in _PAUSES:
            try:
                return await trio.to_thread.run_sync(function, limiter=self._limiter)
            except RuntimeError as exc:
                if "start new thread" not in str(exc):
                    raise
                log.warning("waiting for a thread", error=str(exc), seconds=pause)
                await trio.sleep(pause)
        msg = f"metadata {self.path}: no thread to be had for {sum(_PAUSES):.0f} seconds"
        raise MetadataError(msg)

    def apply(self, transaction: Transaction) -> None:
        """Make the changes durable together, at once: for the time when nothing runs yet."""
        with _errors(self.path), _transaction(self._connection) as connection:
            connection.executemany(
                "DELETE FROM blocks WHERE cblock = ?", ((cblock,) for cblock in transaction.unmapped)
            )
            connection.executemany("REPLACE INTO blocks VALUES (?, ?, ?, NULL, ?)", transaction.mapped)
            # Rewriting a row that is there overwrites what a failed commit may have left in the write-ahead log.
            connection.executemany("REPLACE INTO regions VALUES (?)", ((region,) for region in transaction.opened))
            connection.executemany("DELETE FROM regions WHERE region = ?", ((region,) for region in transaction.closed))
            connection.executemany("REPLACE INTO meta VALUES (?, ?)", transaction.values.items())
            self._measure()

    def _measure(self) -> None:
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        (page,) = self._connection.execute("PRAGMA page_size").fetchone()
        self._free = int(free) * int(page)

    def _save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        with _errors(self.path), _transaction(self._connection) as connection:
            # What stays as it is need not be written.
            connection.executemany("UPDATE blocks SET hint = ?2 WHERE cblock = ?1 AND hint IS NOT ?2", hints)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into MetadataError, with the file named."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, OverflowError, MemoryError) as exc:
        # SQLite quotes what it cannot read, in several lines, and asks for the memory that damaged sizes name.
        msg = f"metadata {path}: {' '.join(str(exc).split()) or 'it asks for too much memory'}"
        raise MetadataError(msg) from exc


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Commit at the end, durably; roll back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _end_log(path: Path) -> None:
    """Have all of a metadata file in that file, so that nothing is lost if a crash leaves it without its log."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for name in _log_names(path):
        name.unlink(missing_ok=True)
    sync_directory(path.parent)


def _put_log_aside(path: Path) -> None:
    """Keep the log of a metadata file that is gone from being taken for that of the next one; raises OSError."""
    for name in _log_names(path):
        if name.exists():
            name.replace(name.with_name(f"{name.name}.old"))
    sync_directory(path.parent)


def _log_names(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]


def _connect(path: Path) -> sqlite3.Connection:
    with _errors(path):
        # One thread at a time uses it, but not always the same one.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with ExitStack() as opened:
            opened.callback(connection.close)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cell_size_check = ON")
            opened.pop_all()
        return connection


def _require_ours(path: Path) -> None:
    """Refuse a file that is not our metadata in our format, without writing to it."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except OSError as exc:
        msg = f"cannot open metadata {path}: {exc.strerror}"
        raise MetadataError(msg) from exc
    if header[:16] != b"SQLite format 3\0" or len(header) < _HEADER:
        msg = f"{path} is not fusecache metadata"
        raise MetadataError(msg)
    application = int.from_bytes(header[68:72], "big")
    version = int.from_bytes(header[60:64], "big")
    if application != APPLICATION_ID:
        msg = f"{path} is not fusecache metadata (an SQLite file of something else)"
        raise MetadataError(msg)
    if version != FORMAT:
        msg = f"metadata {path} has format {version}; this version of fusecache reads format {FORMAT}"
        raise MetadataError(msg)
