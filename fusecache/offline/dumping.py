"""Metadata as dm-cache's XML.

What may be dirty after a crash is dumped as dirty: the XML knows no suspicion, and whoever restores it must not take
dirty data for clean.

Nor does it know partial blocks.  Those that are clean are left out, since the origin has all of them.  If one is dirty
nothing is dumped: it would be lost.
"""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from fusecache.attach import changed_at
from fusecache.errors import FusecacheError, MetadataError, RefusedError
from fusecache.linux import rename_to_new, sync_directory
from fusecache.metadata import has_partial, reading, require_metadata
from fusecache.offline.interchange import XmlWriter
from fusecache.offline.opening import exists_already, open_draft, open_locked, open_metadata
from fusecache.offline.visiting import Visitor, visit

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from fusecache.metadata import Row, Superblock
    from fusecache.offline.opening import Files

CACHE_TIME: Final = "cache_mtime_ns"
"""When the cache was written last: by this a dump is known to be out of date."""


def dump(files: Files, output: TextIO) -> int:
    """Write the XML to ``output``.

    :return: how many partial blocks were left out.
    :raises RefusedError: before any of it, for a partial block that is dirty.
    :raises FusecacheError: after part of it, for damage that shows late or when there is no more room.
    :raises BrokenPipeError: nobody reads it any more.
    """
    with ExitStack() as resources:
        open_metadata(files, resources)
        notes = {}
        if files.cache is not None and files.cache.exists():
            notes[CACHE_TIME] = changed_at(open_locked(files.cache, resources))
        require_metadata(files.metadata)
        connection = resources.enter_context(reading(files.metadata))
        try:
            if has_partial(connection):
                visit(connection, _RefusePartial(files))
            writer = XmlWriter(output, notes)
            visit(connection, writer)
            output.flush()
        except MetadataError as exc:
            msg = f"metadata {files.metadata} is damaged: {exc}; `fusecache check` says what can be done"
            raise MetadataError(msg) from exc
        except BrokenPipeError:
            raise
        except OSError as exc:
            msg = f"cannot write the dump: {exc.strerror}"
            raise FusecacheError(msg) from exc
        return writer.left_out


class _RefusePartial(Visitor):
    """A visitor who refuses a dirty block of which only some sectors count."""

    def __init__(self, files: Files) -> None:
        self._words = files.words()
        self._is_named = files.origin is not None

    def superblock(self, superblock: Superblock) -> None:
        if not self._is_named:
            self._words.insert(0, superblock.origin.address)

    def row(self, row: Row) -> None:
        if row.dirty and row.valid is not None:
            command = shlex.join(["fusecache", "writeback", *self._words])
            msg = (
                f"cache block {row.cblock} is dirty, and only some of its sectors are cached, which XML cannot say: "
                f"first run: {command}"
            )
            raise RefusedError(msg)


def dump_to_file(files: Files, path: Path) -> int:
    """Write the XML to a new file, which appears whole or not at all, and only its owner can read.

    :return: how many partial blocks were left out.
    :raises RefusedError: there is something at ``path``, or others could change it.
    """
    if os.path.lexists(path):
        raise exists_already(path)
    path = path.absolute()
    try:
        with ExitStack() as resources:
            draft = open_draft(path, resources)
            with draft.open("w", encoding="utf-8") as output:
                left_out = dump(files, output)
                os.fsync(output.fileno())
            rename_to_new(draft, path)
            sync_directory(path.parent)
            return left_out
    except FileExistsError as exc:
        raise exists_already(path) from exc
    except OSError as exc:
        msg = f"cannot write {path}: {exc.strerror}"
        raise FusecacheError(msg) from exc
