"""The durable record, in SQLite.

Theory of operation
-------------------
One file, in WAL mode with ``synchronous=FULL`` while it is written: a commit is durable when it returns, and SQLite
answers for its being whole after any crash.  Which log belongs to it, :mod:`fusecache.metadata.write_ahead_log` says.
Four tables, readable with any SQLite tool:

``blocks``
    a row per cached block: cblock, oblock, whether it is known to be dirty, the policy's hint, and the CRC-32C of its
    content.  Only a clean block outside of open regions has one that counts.
``partial``
    a row per block of which only some sectors count: cblock, and a bit a sector; see :mod:`fusecache.metadata.blocks`.
``regions``
    the write-intent record: a row per *region* (a run of ``region_blocks`` cblocks) in which clean blocks may be
    written before their rows say dirty.  After a crash every block in such a region counts as dirty.
``meta``
    names and values as text: see :mod:`fusecache.metadata.superblock`.

``application_id`` and ``user_version`` tell our files from others' before anything is read.  All access while
mounted goes through one thread at a time.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import structlog
import trio

from fusecache.errors import MetadataError, UntrustedError
from fusecache.metadata.blocks import damage, has_partial, read_rows, write_rows
from fusecache.metadata.creation import create_record
from fusecache.metadata.readonly import MOST_VALUES, connect, reading, require_metadata, require_whole, sqlite_errors
from fusecache.metadata.schema import NOTE_PAGE, PARTIAL_PAGE, PUT_VALUE, bounded, schema_complaint, text_values
from fusecache.metadata.superblock import IN_USE, Superblock
from fusecache.metadata.trusted import names_held
from fusecache.metadata.write_ahead_log import (
    begin_writing,
    end_writing,
    is_in_wal_mode,
    log_size,
    one_transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fusecache.metadata.record import Row, Transaction

log = structlog.get_logger(__name__)

_PAUSES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Seconds to wait where the system gives no thread."""
_TURN: Final = 2000
"""Commits and changed rows; each may take a page of the log."""
_SUMS: Final = """
    SELECT cblock, oblock, crc FROM blocks
    WHERE cblock BETWEEN ? AND ? AND NOT dirty AND crc >= 0 AND crc <> ?
        AND typeof(oblock) = 'integer' AND oblock BETWEEN 0 AND ?
        AND cblock / ? NOT IN (SELECT region FROM regions)
    ORDER BY cblock
"""


@final
class Database:
    """An open metadata file; made by :meth:`create` or :meth:`open`, both of which raise MetadataError."""

    __slots__ = ("_commits", "_connection", "_free", "_limiter", "_turned_at", "path")

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._limiter = trio.CapacityLimiter(1)
        self._free = 0
        self._commits = 0
        self._turned_at = -_TURN
        """Of what :meth:`_turn` counts, how much there was when the log was last had in the file."""

    @classmethod
    def create(cls, path: Path, values: Mapping[str, str], *, replace: bool = False) -> Database:
        """Make a new metadata file with these values, durable when this returns, and open it.

        It appears whole or not at all, wherever a crash falls, and only its owner can read it.

        :param replace: put it in the place of what is there.
        :raises FileExistsError: something is there, and is not to be replaced.
        :raises UntrustedError: others could put another one in its place.
        :raises OSError: the directory cannot be written.
        """
        create_record(path, values, replace=replace)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open an existing metadata file; one that is not ours, damaged or of another version is refused.

        Nothing is changed before something is written.
        """
        require_metadata(path)
        require_whole(path)
        with ExitStack() as opened:
            with names_held(path):
                database = cls(path, _connect(path))
                opened.callback(database.close)
                database._require_tables()
            with sqlite_errors(path):
                database._measure()
            opened.pop_all()
        return database

    @classmethod
    @contextmanager
    def read_only(cls, path: Path) -> Iterator[Database]:
        """Open a metadata file that nobody writes to, without a change of anything; see :func:`open`.

        :raises StoreError: it has a write-ahead log, and there is no room for a copy of both.
        """
        require_metadata(path)
        with reading(path) as connection:
            database = cls(path, connection)
            database._require_tables()
            yield database

    def _require_tables(self) -> None:
        with self._unverified():
            complaint = schema_complaint(self._connection)
        if complaint:
            msg = f"metadata {self.path} is damaged: {complaint}"
            raise MetadataError(msg)
        self.values()

    @contextmanager
    def _unverified(self) -> Iterator[None]:
        """Read what may be anything."""
        size = self.size() if self.path.exists() else 0
        with sqlite_errors(self.path), bounded(self._connection, size):
            yield

    def superblock(self) -> Superblock:
        """Read what it says of the cache as a whole."""
        values = self.values()
        try:
            return Superblock.unpack(values)
        except MetadataError as exc:
            msg = f"metadata {self.path} is damaged: {exc}"
            raise MetadataError(msg) from exc

    def values(self) -> dict[str, str]:
        """Read all names and values of ``meta`` but its own."""
        with self._unverified():
            values = dict(self._connection.execute("SELECT name, value FROM meta LIMIT ?", (MOST_VALUES,)))
        for name, value in values.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                what = f"{name!r} is {value!r}" if isinstance(name, str) else "a value in it has no name"
                msg = f"metadata {self.path} is damaged: {what}"
                raise MetadataError(msg)
        values.pop(IN_USE, None)
        values.pop(PARTIAL_PAGE, None)
        return values

    def set_values(self, values: Mapping[str, str]) -> None:
        """Write names and values, durable when this returns."""
        with self._transaction() as connection:
            connection.executemany(PUT_VALUE, text_values(values))

    def rows(self) -> Iterator[Row]:
        """Read all cached blocks in cblock order; one that cannot be is named before any is given."""
        with self._unverified():
            is_any_partial = has_partial(self._connection)
        block_size = self.superblock().block_size if is_any_partial else 0
        with self._unverified():
            if complaint := damage(self._connection, block_size):
                msg = f"metadata {self.path} is damaged: {complaint}"
                raise MetadataError(msg)
            yield from read_rows(self._connection, block_size)
            self._connection.execute("PRAGMA shrink_memory")  # no row is read again

    def count(self, *, dirty_only: bool) -> int:
        """Count the recorded blocks, or the dirty ones among them."""
        with self._unverified():
            query = self._connection.execute("SELECT COUNT(*) FROM blocks WHERE dirty >= ?", (int(dirty_only),))
            (count,) = query.fetchone()
            return int(count)

    def count_newer(self) -> int:
        """Count the blocks that count as dirty; see :mod:`fusecache.metadata.suspects`."""
        query = "SELECT COUNT(*) FROM blocks WHERE dirty OR cblock / ? IN (SELECT region FROM regions)"
        with sqlite_errors(self.path):
            (count,) = self._connection.execute(query, (self.superblock().region_blocks,)).fetchone()
            return int(count)

    def sums(self, most: int | None = None, *, turn: int = 0, leave_out: int = -1) -> Iterator[tuple[int, int]]:
        """Read some clean blocks with their sums, as ``(oblock, CRC-32C)``, spread over the cache.

        Partial blocks have none.  A row that cannot be is left out: :meth:`rows` names it.

        :param most: how many, if there are as many; without it, all.
        :param turn: a number; another one chooses others.
        :param leave_out: a sum of no interest.
        """
        superblock = self.superblock()
        which = (leave_out, superblock.image_bytes // superblock.block_size, superblock.region_blocks)
        with sqlite_errors(self.path):
            first, last = self._connection.execute("SELECT min(cblock), max(cblock) FROM blocks").fetchone()
            if first is None:
                return
            if most is None or most > last - first:
                rows = self._connection.execute(_SUMS, (first, last, *which))
                yield from ((oblock, crc) for _, oblock, crc in rows)
                return
            span = (last + 1 - first) / most
            starts = [first + int(number * span) for number in range(most + 1)]
            offset = turn % max(1, int(span))
            spans = list(pairwise(starts))
            pieces = deque([(start + offset, end) for start, end in spans])
            pieces.extend((start, start + offset) for start, _ in spans)
            while most and pieces:
                start, end = pieces.popleft()
                row = self._connection.execute(f"{_SUMS} LIMIT 1", (start, end - 1, *which)).fetchone()
                if row is not None:
                    cblock, oblock, crc = row
                    pieces.append((cblock + 1, end))
                    most -= 1
                    yield oblock, crc

    def regions(self) -> set[int]:
        """Read the regions that may have been written."""
        with self._unverified():
            regions = {region for (region,) in self._connection.execute("SELECT region FROM regions")}
        if not all(isinstance(region, int) for region in regions):
            msg = f"metadata {self.path} is damaged: it names regions that can be none"
            raise MetadataError(msg)
        return regions

    def has_suspects(self) -> bool:
        """Tell whether any block counts as dirty; see :mod:`fusecache.metadata.suspects`."""
        return bool(self.count(dirty_only=True) or self.regions())

    def size(self) -> int:
        """Return how many bytes the metadata takes on disk, the write-ahead log included."""
        return self.path.stat().st_size + log_size(self.path)

    def used_size(self) -> int:
        """Return how many of those bytes held something at the last commit; waits for nothing."""
        return max(0, self.size() - self._free)

    async def commit(self, transaction: Transaction) -> None:
        """See :class:`fusecache.metadata.record.Record`."""
        await self._in_thread(partial(self.apply, transaction))

    async def save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        """See :class:`fusecache.metadata.record.Record`."""
        await self._in_thread(partial(self._save_hints, hints))

    def copy_to(self, path: Path) -> None:
        """Write all of it, as it was committed last, into an empty file."""
        with sqlite_errors(self.path):
            self._connection.execute("VACUUM INTO ?", (os.fspath(path),))
            with closing(connect(path)) as copy:
                copy.execute("PRAGMA journal_mode = OFF")
                copy.execute(NOTE_PAGE)  # tables begin elsewhere in it

    def close(self) -> None:
        """Close the file, in order: all commits are in it, and it needs no log any more, unless that cannot be done."""
        with suppress(sqlite3.Error, MetadataError, UntrustedError):
            if is_in_wal_mode(self._connection):
                with names_held(self.path):
                    end_writing(self._connection)
        self._connection.close()

    def let_go(self) -> None:
        """Close a file that has lost its name, with its log: what has these names now is somebody else's."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit at the end, durably; roll back on any exception, of which SQLite's become MetadataError."""
        with sqlite_errors(self.path):
            self._turn()
            with one_transaction(self._connection) as connection:
                yield connection

    def _turn(self) -> None:
        """Before the first commit, and whenever the log has grown long, have all of it in the file."""
        self._commits += 1
        written = self._commits + self._connection.total_changes
        if written - self._turned_at >= _TURN:
            # Later SQLite opens nothing any more: what others put beside the file meanwhile must make no commit fail.
            with nullcontext() if is_in_wal_mode(self._connection) else names_held(self.path):
                begin_writing(self._connection)
            self._turned_at = self._commits + self._connection.total_changes

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
        with self._transaction() as connection:
            write_rows(connection, transaction)
            # Rewriting a row that is there overwrites what a failed commit may have left in the write-ahead log.
            connection.executemany("REPLACE INTO regions VALUES (?)", ((region,) for region in transaction.opened))
            connection.executemany("DELETE FROM regions WHERE region = ?", ((region,) for region in transaction.closed))
            connection.executemany(PUT_VALUE, text_values(transaction.values))
            self._measure()

    def _measure(self) -> None:
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        (page,) = self._connection.execute("PRAGMA page_size").fetchone()
        self._free = int(free) * int(page)

    def _save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        with self._transaction() as connection:
            # What stays as it is need not be written.
            connection.executemany("UPDATE blocks SET hint = ?2 WHERE cblock = ?1 AND hint IS NOT ?2", hints)


def _connect(path: Path) -> sqlite3.Connection:
    with sqlite_errors(path), ExitStack() as opened:
        # One thread at a time uses it, but not always the same one.
        connection = connect(path, in_one_thread=False)
        opened.callback(connection.close)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        opened.pop_all()
        return connection
