"""Reading metadata that is not mounted, and leaving it as it is.

Theory of operation
-------------------
Whoever reads has the metadata locked, or knows that its daemon has ended; SQLite's own locks do not matter
then.  A file without a write-ahead log is opened as ``immutable``: SQLite creates nothing beside it.  With a log in
it, SQLite would have to write an index of the log, and at the end the log's content into the file; so both are copied,
and the copy is read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from fusecache.errors import MetadataError, StoreError
from fusecache.linux import open_trusted
from fusecache.metadata.schema import bounded, harden, schema_complaint
from fusecache.metadata.superblock import HEADER_BYTES, header_fault
from fusecache.metadata.trusted import require_trusted_metadata
from fusecache.metadata.write_ahead_log import log_fault, log_size, side_files

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDLESS: Final = "it takes more steps to be read than all that a sound file of its size can hold"
MOST_VALUES: Final = 1000
SQLITE_ERRORS: Final = (sqlite3.Error, OverflowError, UnicodeDecodeError, MemoryError)
"""What reading a damaged database raises: SQLite may quote a damaged name in its complaint, or take a number for the
size of a record, and ask for that much memory."""


def require_metadata(path: Path) -> None:
    """Refuse what is not fusecache's metadata in the format that this version reads; raises MetadataError."""
    if complaint := header_complaint(path):
        raise MetadataError(complaint)


def header_complaint(path: Path) -> str:
    """Say what is wrong with the first bytes of a metadata file; nothing if they are right.

    :raises UntrustedError: others decide what it says, and nothing of it was read.
    """
    try:
        require_trusted_metadata(path)
        with os.fdopen(open_trusted(path, os.O_RDONLY), "rb") as file:
            fault = header_fault(file.read(HEADER_BYTES))
    except OSError as exc:
        return f"cannot open metadata {path}: {exc.strerror}"
    if fault.startswith("has format"):
        return f"metadata {path} {fault}"
    return fault and f"{path} {fault}"


def log_complaint(path: Path) -> str:
    """Say what is wrong with the log of a metadata file; nothing if all of its commits are there.

    :raises MetadataError: SQLite's complaints.
    """
    with sqlite_errors(path):
        try:
            return log_fault(path, _values_in_file, _values_with_log)
        except OSError as exc:
            return f"cannot look at metadata {path}: {exc.strerror}"


def require_whole(path: Path) -> None:
    """Refuse metadata that lacks some of its commits, or has another's; raises MetadataError."""
    if complaint := log_complaint(path):
        raise MetadataError(complaint)


def _values_in_file(path: Path) -> dict[str, str]:
    with _pages(path) as connection:
        return _values(connection, path)


def _values(connection: sqlite3.Connection, path: Path) -> dict[str, str]:
    with bounded(connection, path.stat().st_size + log_size(path)):
        if complaint := schema_complaint(connection):
            raise sqlite3.DatabaseError(complaint)
        return dict(connection.execute("SELECT name, value FROM meta LIMIT ?", (MOST_VALUES,)))


def _values_with_log(path: Path) -> dict[str, str]:
    with copied(path) as copy, closing(connect(copy)) as connection:
        return _values_by(connection, path)


def _values_by(connection: sqlite3.Connection, path: Path) -> dict[str, str]:
    """Read what a copy says; nothing if no commit is in its log, which goes into its file here."""
    connection.execute("PRAGMA synchronous = OFF")
    values = _values(connection, path)
    _, commits, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return values if commits > 0 else {}


@contextmanager
def _pages(path: Path) -> Iterator[sqlite3.Connection]:
    """Open what is in the file itself; SQLite looks at nothing beside it, and creates nothing."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, isolation_level=None, uri=True)) as connection:
        harden(connection)
        yield connection


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a metadata file for reading only; its log counts, and nothing changes on the disk.

    It has our tables and nothing else.

    :raises MetadataError: it lacks some of its commits, or has another's; SQLite's complaints, also inside the block.
    """
    with sqlite_errors(path), ExitStack() as opened:
        if log_size(path):
            copy = opened.enter_context(copied(path))
            connection = opened.enter_context(closing(connect(copy)))
            complaint = log_fault(path, _values_in_file, lambda _: _values_by(connection, path))
        else:
            connection = opened.enter_context(_pages(path))
            complaint = log_fault(path, _values_in_file, _values_with_log)
        if complaint:
            raise MetadataError(complaint)
        opened.enter_context(verified(connection, path))
        yield connection


@contextmanager
def verified(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Have our tables in a file and nothing else, and nothing that takes for ever to be read; raises MetadataError."""
    with bounded(connection, path.stat().st_size + log_size(path)):
        if complaint := schema_complaint(connection):
            msg = f"metadata {path} is damaged: {complaint}"
            raise MetadataError(msg)
        yield


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Copy a metadata file with its log, for as long as the block lasts."""
    with TemporaryDirectory(prefix="fusecache-") as directory:
        copy = Path(directory, "metadata")
        try:
            _copy(path, copy)
            for file, its_copy in zip(side_files(path), side_files(copy), strict=True):
                if not file.name.endswith("-shm") and file.exists():  # SQLite makes an index itself
                    _copy(file, its_copy)
        except OSError as exc:
            msg = f"cannot copy metadata {path} to {directory}: {exc.strerror}"
            raise StoreError(msg) from exc  # that is no damage
        yield copy


def connect(path: Path, *, in_one_thread: bool = True) -> sqlite3.Connection:
    """Open a file in any state of damage; raises one of ``SQLITE_ERRORS``."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=in_one_thread)
    harden(connection)
    return connection


def _copy(source: Path, target: Path) -> None:
    """Copy a file that is trusted; raises OSError."""
    with os.fdopen(open_trusted(source, os.O_RDONLY), "rb") as original, target.open("xb") as copy:
        shutil.copyfileobj(original, copy)


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into MetadataError, with the file named."""
    try:
        yield
    except SQLITE_ERRORS as exc:
        # SQLite quotes what it cannot read, in several lines, and asks for the memory that damaged sizes name.
        reason = " ".join(str(exc).split()) or "it asks for too much memory"
        holder = " (another program has it open: a shell with a transaction, perhaps)" if "locked" in reason else ""
        msg = f"metadata {path}: {_ENDLESS if reason == 'interrupted' else reason}{holder}"
        raise MetadataError(msg) from exc
