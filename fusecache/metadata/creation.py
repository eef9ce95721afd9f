"""Making metadata: it appears whole or not at all, wherever a crash falls."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fusecache.linux import rename_to_new, require_trusted_directory, sync_directory
from fusecache.metadata.readonly import connect, sqlite_errors
from fusecache.metadata.schema import NOTE_PAGE, PUT_VALUE, SCHEMA, text_values
from fusecache.metadata.superblock import APPLICATION_ID, FORMAT
from fusecache.metadata.trusted import names_held, require_trusted_metadata
from fusecache.metadata.write_ahead_log import end_writing, side_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def create_record(path: Path, values: Mapping[str, str], *, replace: bool) -> None:
    """Make a new metadata file with these values, durable when this returns; only its owner can read it.

    :param replace: put it in the place of what is there.
    :raises FileExistsError: something is there, and is not to be replaced.
    :raises UntrustedError: others could put another one in its place.
    :raises OSError: the directory cannot be written.
    """
    require_trusted_directory(path.parent)
    require_trusted_metadata(path)
    fd, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with new_record(draft, values):
            pass
        os.fsync(fd)
        if replace:
            _end_log(path)
            draft.replace(path)
        else:
            if not path.exists():
                _put_log_aside(path)
            rename_to_new(draft, path)
        sync_directory(path.parent)
    finally:
        os.close(fd)
        draft.unlink(missing_ok=True)


@contextmanager
def new_record(path: Path, values: Mapping[str, str]) -> Iterator[sqlite3.Connection]:
    """Make a record with these values in an empty file, which nobody sees yet; at the end of the block it is whole.

    Durable it is not.

    :return: for more that is to go into it.
    """
    with sqlite_errors(path), closing(connect(path)) as connection:
        # SQLite believes a journal beside a file, whosever it is, when it locks the file: so that is done once, while
        # the file is empty and none counts.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(NOTE_PAGE)
        connection.executemany(PUT_VALUE, text_values(values))
        yield connection
        connection.execute("COMMIT")


def _end_log(path: Path) -> None:
    """Have all of a metadata file in that file, so that nothing is lost if a crash leaves it without its log."""
    with suppress(sqlite3.Error), names_held(path), closing(connect(path)) as connection:
        end_writing(connection)
    for name in side_files(path):
        name.unlink(missing_ok=True)
    sync_directory(path.parent)


def _put_log_aside(path: Path) -> None:
    """Keep the log of a metadata file that is gone from being taken for that of the next one; raises OSError."""
    for name in side_files(path):
        if name.exists():
            name.replace(name.with_name(f"{name.name}.old"))
    sync_directory(path.parent)
