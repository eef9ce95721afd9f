"""New metadata that appears whole or not at all.

Theory of operation
-------------------
A *draft*, ``NAME.draft``, is made beside the place where the metadata is to be; when it is complete and durable it is
linked there, which fails if something has come to be there meanwhile.  Whoever is killed leaves at most a draft, which
the next one makes anew.  The directory is locked: one draft at a time.

What is replaced is never removed: it is put aside as ``NAME.old``, with its write-ahead log.  That is more than
politeness: a log that stayed behind would be taken for the new file's.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from fusecache.attach import lock
from fusecache.errors import MetadataError, RefusedError
from fusecache.metadata import Database, side_files, sqlite_errors
from fusecache.offline.opening import open_locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from fusecache.metadata import Row


class Draft:
    """Metadata under construction."""

    __slots__ = ("connection", "path")

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        """Where it will be."""
        self.connection = connection

    def add(self, block: Row) -> None:
        """Add a block; raises MetadataError if its cache block is taken."""
        try:
            self.connection.execute(
                "INSERT INTO blocks (cblock, oblock, dirty, hint, crc) VALUES (?, ?, ?, ?, ?)", block
            )
        except sqlite3.IntegrityError as exc:
            msg = f"cache block {block.cblock} is mapped twice"
            raise MetadataError(msg) from exc

    def set_hint(self, cblock: int, hint: int) -> bool:
        """Note a hint; returns whether there is such a block."""
        return self.connection.execute("UPDATE blocks SET hint = ? WHERE cblock = ?", (hint, cblock)).rowcount > 0

    def open_regions(self, regions: Iterable[int]) -> None:
        """Note regions that may have been written."""
        self.connection.executemany("INSERT INTO regions VALUES (?)", ((region,) for region in regions))

    def set_values(self, values: Mapping[str, str]) -> None:
        """Note names and values."""
        self.connection.executemany("REPLACE INTO meta VALUES (?, ?)", values.items())


@contextmanager
def drafted(path: Path, *, replace: bool = False) -> Iterator[Draft]:
    """Make metadata that is at ``path`` when the block ends, and is nowhere if it raises.

    :param replace: put aside what is there.
    :raises RefusedError: something is there, and is not to be replaced, or is in use.
    :raises MetadataError: it cannot be written.
    """
    with ExitStack() as resources:
        _lock_directory(path, resources)
        if path.exists():
            if not replace:
                raise _exists(path)
            open_locked(path, resources)
        draft_path = path.with_name(f"{path.name}.draft")
        try:
            Database.create(draft_path, {}, replace=True).close()
            with sqlite_errors(draft_path), closing(sqlite3.connect(draft_path, isolation_level=None)) as connection:
                # Nobody sees it before it is complete.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("BEGIN")
                yield Draft(path, connection)
                connection.execute("COMMIT")
            _publish(draft_path, path)
        except OSError as exc:
            msg = f"cannot write metadata {path}: {exc.strerror}"
            raise MetadataError(msg) from exc
        finally:
            draft_path.unlink(missing_ok=True)


def _lock_directory(path: Path, resources: ExitStack) -> None:
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        msg = f"cannot write to {path.parent}: {exc.strerror}"
        raise MetadataError(msg) from exc
    resources.callback(os.close, fd)
    lock(fd, path.parent)


def _publish(draft: Path, path: Path) -> None:
    _sync(draft, os.O_RDWR)
    _put_aside(path)
    try:
        path.hardlink_to(draft)
    except FileExistsError as exc:
        raise _exists(path) from exc
    draft.unlink()
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _put_aside(path: Path) -> None:
    """Move what is at ``path`` out of the way; a log goes too, even if its file went already when this was killed."""
    old = path.with_name(f"{path.name}.old")
    places = zip([path, *side_files(path)], [old, *side_files(old)], strict=True)
    moves = [(source, target) for source, target in places if source.exists()]
    for _, target in moves:
        if target.exists():
            msg = f"{target} is in the way, and nothing was changed: move it elsewhere"
            raise RefusedError(msg)
    for source, target in moves:
        source.rename(target)


def _exists(path: Path) -> RefusedError:
    return RefusedError(f"{path} exists already, and nothing was changed")
