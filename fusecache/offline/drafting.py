"""New metadata that appears whole or not at all.

Theory of operation
-------------------
A *draft*, ``NAME.draft``, is made beside the place where the metadata is to be; when it is complete and durable it gets
the name, which fails if something has come to be there meanwhile.  The draft is locked: one at a time.  Whoever is
killed leaves at most a draft, which the next one makes anew.

What is replaced is never removed: it is put aside as ``NAME.old``, with its write-ahead log.  That is more than
politeness: a log that stayed behind would be taken for the new file's.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn

from fusecache.errors import MetadataError, RefusedError
from fusecache.linux import rename_to_new, sync_directory
from fusecache.metadata import (
    PUT_VALUE,
    SELECT_WHOLE,
    Row,
    Suspects,
    insert_row,
    new_record,
    remove_row,
    require_trusted_metadata,
    side_files,
    text_values,
)
from fusecache.offline.facts import contested, geometry_of
from fusecache.offline.opening import exists_already, open_draft, open_locked
from fusecache.offline.visiting import Visitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fusecache.metadata import Superblock
    from fusecache.offline.facts import RawRow


class Draft(Visitor):
    """Metadata under construction: a visitor who takes down what it hears, and refuses what contradicts itself."""

    def __init__(self, source: str, connection: sqlite3.Connection) -> None:
        self._source = source
        self._connection = connection
        self._cache_blocks = self._origin_blocks = self._region_blocks = 0
        self._regions: set[int] = set()

    def superblock(self, superblock: Superblock) -> None:
        """See the visitor."""
        geometry = geometry_of(superblock)
        self._cache_blocks, self._origin_blocks = geometry.cache_blocks, geometry.origin_blocks
        self._region_blocks = superblock.region_blocks
        self._connection.executemany(PUT_VALUE, text_values(superblock.pack()))

    def regions(self, regions: set[int]) -> None:
        """Take down the regions that may have been written."""
        self._regions = regions
        self._connection.executemany("INSERT INTO regions VALUES (?)", ((region,) for region in sorted(regions)))

    def row(self, row: Row) -> None:
        """See the visitor."""
        if row.cblock >= self._cache_blocks:
            self._refuse(f"cache block {row.cblock} lies outside the cache's {self._cache_blocks} blocks")
        if row.oblock >= self._origin_blocks:
            self._refuse(f"block {row.oblock} lies outside the image's {self._origin_blocks} blocks")
        try:
            insert_row(self._connection, row)
        except sqlite3.IntegrityError:
            self._refuse(f"cache block {row.cblock} is mapped twice")

    def hint(self, cblock: int, hint: int) -> None:
        """See the visitor."""
        if not self._connection.execute("UPDATE blocks SET hint = ? WHERE cblock = ?", (hint, cblock)).rowcount:
            self._refuse(f"a hint for cache block {cblock}, which is not mapped before it")

    def end(self) -> None:
        """See the visitor."""
        for row in self.contested():
            self._refuse(f"block {row.oblock} of the image is mapped twice")

    def remove(self, cblock: object) -> None:
        """Take back what was said of a block."""
        remove_row(self._connection, cblock)

    def contested(self) -> list[RawRow]:
        """Return the rows of blocks that are in the cache more than once."""
        return list(contested(self._connection))

    def gaps(self) -> Iterator[range]:
        """Yield runs of cblocks for which there is no row."""
        following = 0
        for (cblock,) in self._connection.execute("SELECT cblock FROM blocks ORDER BY cblock"):
            if cblock > following:
                yield range(following, cblock)
            following = cblock + 1
        if following < self._cache_blocks:
            yield range(following, self._cache_blocks)

    def count(self) -> tuple[int, int]:
        """Count the blocks, and those among them that count as dirty."""
        suspects = Suspects(self._regions, self._region_blocks)
        blocks = dirty = 0
        for row in self._connection.execute(SELECT_WHOLE):
            blocks += 1
            dirty += suspects.count_as_dirty(Row(*row))
        return blocks, dirty

    def _refuse(self, complaint: str) -> NoReturn:
        msg = f"{self._source}: {complaint}"
        raise MetadataError(msg)


@contextmanager
def drafted(path: Path, source: str, *, replace: bool = False) -> Iterator[Draft]:
    """Make metadata that is at ``path`` when the block ends, and is nowhere if it raises.

    :param source: what messages call that of which it is made.
    :param replace: put aside what is there.
    :raises RefusedError: something is there, and is not to be replaced, or is in use.
    :raises MetadataError: it cannot be written.
    """
    with ExitStack() as resources:
        try:
            require_trusted_metadata(path)
            draft_path = open_draft(path, resources)
            is_there = path.exists()
            if is_there:
                if not replace:
                    raise exists_already(path)
                open_locked(path, resources)
            with new_record(draft_path, {}) as connection:
                yield Draft(source, connection)
            with draft_path.open("r+b") as file:
                os.fsync(file.fileno())
            _put_aside(path, with_file=is_there)
            rename_to_new(draft_path, path)
            sync_directory(path.parent)
        except FileExistsError as exc:
            raise exists_already(path) from exc
        except OSError as exc:
            msg = f"cannot write metadata {path}: {exc.strerror}"
            raise MetadataError(msg) from exc


def _put_aside(path: Path, *, with_file: bool) -> None:
    """Move what is at ``path`` out of the way; a log goes too, even if its file went already when this was killed."""
    old = path.with_name(f"{path.name}.old")
    places = zip([path, *side_files(path)], [old, *side_files(old)], strict=True)
    moves = [(source, target) for source, target in places if source.exists() and (with_file or source != path)]
    for _, target in moves:
        if target.exists():
            msg = f"{target} is in the way, and nothing was changed: move it elsewhere"
            raise RefusedError(msg)
    for source, target in moves:
        source.rename(target)
