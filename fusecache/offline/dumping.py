"""Metadata as dm-cache's XML.

What may be dirty after a crash is dumped as dirty: the XML knows no suspicion, and whoever restores it must not take
dirty data for clean.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from fusecache.attach import Identity
from fusecache.errors import FusecacheError, MetadataError, RefusedError
from fusecache.offline.facts import Facts, read_values, sound_blocks
from fusecache.offline.interchange import HintItem, MappingItem, Superblock, write_xml
from fusecache.offline.opening import open_locked, reading, require_metadata

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

    from fusecache.offline.opening import Files

KEPT: Final = (
    "image_bytes",
    "cache_bytes",
    "origin_bytes",
    "origin_path",
    "origin_inode",
    "origin_mtime_ns",
    "clean_shutdown",
    "hints",
    "stats",
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
            extras[CACHE_TIME] = Identity.of(files.cache, open_locked(files.cache, resources)).mtime_ns
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
        values = read_values(connection)
        facts = Facts.of(values)
        superblock = Superblock(
            uuid=facts.uuid,
            block_size=facts.geometry.block_size,
            cache_blocks=facts.geometry.cache_blocks,
            policy=values.get("hints", _DEFAULT_POLICY).partition(" ")[0] or _DEFAULT_POLICY,
            extras=extras | {name: values[name] for name in KEPT if name in values},
        )
        mappings = (MappingItem(block.cblock, block.oblock, block.dirty) for block in sound_blocks(connection, facts))
        hints = (
            HintItem(block.cblock, block.hint) for block in sound_blocks(connection, facts) if block.hint is not None
        )
        yield from write_xml(superblock, mappings, hints)
    except MetadataError as exc:
        msg = f"metadata {files.metadata} is damaged: {exc}; `fusecache check` says what can be done"
        raise MetadataError(msg) from exc
