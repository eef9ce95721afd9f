"""Finding, locking and reading the files of a cache that is not mounted.

Theory of operation
-------------------
A mount holds ``flock`` on origin, cache and metadata (:mod:`fusecache.attach.binding`), and so does every offline tool:
whoever comes second is refused.  SQLite's own locks do not matter then.

To read metadata is to leave it alone.  A file without a write-ahead log is opened as ``immutable``: SQLite creates
nothing beside it.  With a log in it, SQLite would have to write an index of the log, and at the end the log's content
into the file; so both are copied, and the copy is read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from fusecache.attach import lock
from fusecache.errors import BusyError, MetadataError, UsageError
from fusecache.metadata import APPLICATION_ID, FORMAT
from fusecache.paths import defaults_for
from fusecache.stores import open_for_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import ExitStack

MAGIC: Final = b"SQLite format 3\0"
HEADER_BYTES: Final = 100
"""Of SQLite's file header."""
SQLITE_ERRORS: Final = (sqlite3.Error, OverflowError, UnicodeDecodeError, MemoryError)
"""What reading a damaged database raises: SQLite may quote a damaged name in its complaint, or take a number for the
size of a record, and ask for that much memory."""
SIDE_FILES: Final = ("-wal", "-shm")
"""What SQLite may have beside a database; the first one holds commits."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the parts of one cache are; which of them exist is not known yet.  None: not said."""

    metadata: Path
    cache: Path | None
    origin: Path | None

    def words(self) -> list[str]:
        """Return them as arguments of an offline command."""
        words = [] if self.origin is None else [str(self.origin)]
        if self.cache is not None:
            words += ["--cache", str(self.cache)]
        return [*words, "--metadata", str(self.metadata)]


def find_files(
    origin: Path | None, *, cache: Path | None = None, metadata: Path | None = None, environ: Mapping[str, str]
) -> Files:
    """Name the files as ``fusecache mount ORIGIN`` would; without an origin, those that are named.

    :raises UsageError: neither origin nor metadata is given.
    """
    if origin is None:
        if metadata is None:
            msg = "name the cache: by its ORIGIN, or by --metadata FILE"
            raise UsageError(msg)
        return Files(metadata.resolve(), cache and cache.resolve(), None)
    origin = origin.resolve()
    if cache is None or metadata is None:
        defaults = defaults_for(origin, environ=environ, is_root=os.geteuid() == 0)
        cache, metadata = cache or defaults.cache, metadata or defaults.metadata
    return Files(metadata.resolve(), cache.resolve(), origin)


def open_locked(path: Path, resources: ExitStack) -> int:
    """Open a file or block device for reading, and lock it until ``resources`` are closed.

    :raises BusyError: a mount or another command has it.
    :raises StoreError: it is missing, not permitted, or neither a file nor a block device.
    """
    try:
        fd = open_for_store(path, os.O_RDONLY)
        resources.callback(os.close, fd)
        lock(fd, path)
    except BusyError as exc:
        msg = f"{path} is in use: unmount it first (or wait for the other command)"
        raise BusyError(msg) from exc
    return fd


def require_metadata(path: Path) -> None:
    """Refuse what is not fusecache's metadata in a format that this version reads; raises MetadataError."""
    if complaint := header_complaint(path):
        raise MetadataError(complaint)


def header_complaint(path: Path) -> str:
    """Say what is wrong with the first bytes of a metadata file; nothing if they are right."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as exc:
        return f"cannot read metadata {path}: {exc.strerror}"
    if not is_sqlite(header):
        return f"{path} is not fusecache metadata, or its first page is damaged"
    application, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
    if application != APPLICATION_ID:
        return f"{path} is not fusecache metadata (an SQLite file of something else)"
    if not 1 <= version <= FORMAT:
        return f"metadata {path} has format {version}; this version of fusecache reads format {FORMAT}"
    return ""


def is_sqlite(header: bytes) -> bool:
    """Tell whether a file that begins so says that it is SQLite's."""
    return len(header) >= HEADER_BYTES and header.startswith(MAGIC)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a metadata file for reading only; its log counts, and nothing changes on the disk.

    :raises MetadataError: SQLite's complaints, here and inside the block.
    """
    with sqlite_errors(path):
        if has_log(path):
            with copied(path) as copy, closing(_connect(str(copy))) as connection:
                yield connection
        else:
            with closing(_connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
                yield connection


def has_log(path: Path) -> bool:
    """Tell whether there are commits beside a metadata file that are not in it yet."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Copy a metadata file with its log, for as long as the block lasts."""
    with TemporaryDirectory(prefix="fusecache-") as directory:
        copy = Path(directory, "metadata")
        try:
            shutil.copyfile(path, copy)
            if has_log(path):
                shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        except OSError as exc:
            msg = f"cannot copy metadata {path} to {directory}: {exc.strerror}"
            raise MetadataError(msg) from exc
        yield copy


def _connect(database: str, *, uri: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(database, isolation_level=None, uri=uri)
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def open_copy(copy: Path) -> sqlite3.Connection:
    """Open what :func:`copied` made, in any state of damage; raises one of ``SQLITE_ERRORS``."""
    return _connect(str(copy))


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into MetadataError, with the file named."""
    try:
        yield
    except SQLITE_ERRORS as exc:
        said = " ".join(str(exc).split()) or type(exc).__name__  # it may quote damaged text
        msg = f"metadata {path}: {said}"
        raise MetadataError(msg) from exc
