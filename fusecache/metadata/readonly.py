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
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from fusecache.errors import MetadataError, StoreError
from fusecache.linux import open_trusted
from fusecache.metadata.schema import bounded, harden, schema_complaint
from fusecache.metadata.superblock import HEADER_BYTES, header_fault
from fusecache.metadata.trusted import require_trusted_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDLESS: Final = "it takes more steps to be read than all that a sound file of its size can hold"
SQLITE_ERRORS: Final = (sqlite3.Error, OverflowError, UnicodeDecodeError, MemoryError)
"""What reading a damaged database raises: SQLite may quote a damaged name in its complaint, or take a number for the
size of a record, and ask for that much memory."""


def side_files(path: Path) -> list[Path]:
    """Return what SQLite may have beside a database: the write-ahead log, which holds commits, and its index."""
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]


def log_size(path: Path) -> int:
    """Return how many bytes of commits lie beside a metadata file that may not be in it yet."""
    log, _ = side_files(path)
    return log.stat().st_size if log.exists() else 0


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


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a metadata file for reading only; its log counts, and nothing changes on the disk.

    It has our tables and nothing else.

    :raises MetadataError: SQLite's complaints, here and inside the block.
    """
    with sqlite_errors(path):
        if log_size(path):
            with copied(path) as copy, closing(connect(copy)) as connection, verified(connection, path):
                yield connection
        else:
            uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, isolation_level=None, uri=True)) as connection:
                harden(connection)
                with verified(connection, path):
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
            if log_size(path):
                _copy(side_files(path)[0], side_files(copy)[0])
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
        text = " ".join(str(exc).split()) or "it asks for too much memory"
        msg = f"metadata {path}: {_ENDLESS if text == 'interrupted' else text}"
        raise MetadataError(msg) from exc
