"""Metadata as dm-cache's XML.

What may be dirty after a crash is dumped as dirty: the XML knows no suspicion, and whoever restores it must not take
dirty data for clean.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from fusecache.attach import changed_at
from fusecache.errors import FusecacheError, MetadataError, RefusedError
from fusecache.metadata import NAMES, Superblock, reading, require_metadata
from fusecache.offline.facts import read_values, sound_rows
from fusecache.offline.interchange import Head, HintItem, MappingItem, write_xml
from fusecache.offline.opening import open_locked

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

    from fusecache.offline.opening import Files

KEPT: Final = tuple(
    name for name in NAMES if name not in {"uuid", "block_size", "cache_blocks", "region_blocks", "needs_check"}
)
"""Values that have no place in dm-cache's format, and are kept in a comment."""
CACHE_TIME: Final = "cache_mtime_ns"
"""When the cache was written last: by this a dump is known to be out of date."""
_DEFAULT_POLICY: Final = "smq"


def dump(files: Files, output: TextIO) -> None:
    """Write the XML to ``output``.

    :raises FusecacheError: after part of it, for damage that shows late or when there is no more room.
    :raises BrokenPipeError: nobody reads it any more.
    """
    with ExitStack() as resources:
        open_locked(files.metadata, resources)
        extras = {}
        if files.cache is not None and files.cache.exists():
            extras[CACHE_TIME] = changed_at(open_locked(files.cache, resources))
        require_metadata(files.metadata)
        connection = resources.enter_context(reading(files.metadata))
        try:
            output.writelines(_lines(files, connection, extras))
            output.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            msg = f"cannot write the dump: {exc.strerror}"
            raise FusecacheError(msg) from exc


def dump_to_file(files: Files, path: Path) -> None:
    """Write the XML to a new file, which appears whole or not at all.

    :raises RefusedError: there is something at ``path``.
    """
    if path.exists():
        raise _exists(path)
    draft = path.with_name(f"{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as output:
            dump(files, output)
            os.fsync(output.fileno())
        path.hardlink_to(draft)
    except FileExistsError as exc:
        raise _exists(path) from exc
    except OSError as exc:
        msg = f"cannot write {path}: {exc.strerror}"
        raise FusecacheError(msg) from exc
    finally:
        draft.unlink(missing_ok=True)


def _exists(path: Path) -> RefusedError:
    return RefusedError(f"{path} exists already, and nothing was changed")


def _lines(files: Files, connection: sqlite3.Connection, extras: dict[str, str]) -> Iterator[str]:
    try:
        superblock = Superblock.unpack(read_values(connection))
        values = superblock.pack()
        head = Head(
            uuid=superblock.uuid,
            block_size=superblock.block_size,
            cache_blocks=superblock.cache_blocks,
            policy=(superblock.hints or "").partition(" ")[0] or _DEFAULT_POLICY,
            extras=extras | {name: values[name] for name in KEPT if name in values},
        )
        mappings = (MappingItem(row.cblock, row.oblock, row.dirty) for row in sound_rows(connection, superblock))
        hints = (HintItem(row.cblock, row.hint) for row in sound_rows(connection, superblock) if row.hint is not None)
        yield from write_xml(head, mappings, hints)
    except MetadataError as exc:
        msg = f"metadata {files.metadata} is damaged: {exc}; `fusecache check` says what can be done"
        raise MetadataError(msg) from exc
