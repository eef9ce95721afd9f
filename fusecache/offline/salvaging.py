"""What can still be read of metadata that is damaged.

Theory of operation
-------------------
All of it works on a copy.  SQLite finds a row by its number from the root of
a tree; a page that is damaged hides the rows in it, and no others.  So rows are read in ranges, and a range that
fails is halved until the rows are found that cannot be read.  What only a scan of the whole tree shows, and no
look-up finds, is where it should not be: then the number of the row is in doubt itself.

The first page holds no rows, but without it nothing opens.  It says on which pages the tables begin: that is the same
in all metadata, so a new one can stand in for it.  But ``partial`` may begin anywhere, if the file was of an older
format; ``meta`` has a note of the page.  If that is lost too nothing is known of partial blocks but that they are.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fusecache.errors import MetadataError
from fusecache.metadata import (
    NAMES,
    PARTIAL,
    PARTIAL_PAGE,
    SELECT_WHOLE,
    SQLITE_ERRORS,
    bounded,
    connect,
    is_sqlite,
    new_record,
    schema_complaint,
    strays,
)
from fusecache.offline.facts import RawRow, read_regions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAGE: Final = 4096
"""Of all metadata that fusecache makes: SQLite's own choice."""
_AT_ONCE: Final = 1024
_COMPLAINTS: Final = 100
_ORPHAN: Final = "never used"
"""In SQLite's complaint about a page that nothing leads to: it may hold rows."""
_ROWS_PER_PAGE: Final = _PAGE // 8
_LEAST_NUMBER: Final = -(2**63)
_COUNT_AT: Final = 28
_FREE_AT: Final = 32
_COUNTER_AT: Final = 24
_VALID_FOR_AT: Final = 92
"""Where SQLite's header has the number of pages, the free ones (two numbers), and its two counters of changes."""


@dataclass(slots=True)
class Salvage:
    """What of damaged metadata can be read at all."""

    values: dict[str, str] = field(default_factory=dict)
    regions: set[int] | None = None
    """None: not to be read, so that any block may have been written."""
    damage: list[str] = field(default_factory=list)
    """What SQLite complains of; nothing, if all that there is could be read."""
    is_complete: bool = True
    """Whether a cache block without a row is surely free."""
    connection: sqlite3.Connection | None = None
    _failures_left: int = 0

    def rows(self, cache_blocks: int) -> Iterator[RawRow]:
        """Yield the rows that are found by their number."""
        query = f"{SELECT_WHOLE} WHERE cblock >= ? ORDER BY cblock LIMIT ?"
        yield from self._rows_in(range(_LEAST_NUMBER, 0))
        start = 0
        while self.connection is not None and start < cache_blocks:
            try:
                found = [self._raw(row) for row in self.connection.execute(query, (start, _AT_ONCE)).fetchall()]
            except SQLITE_ERRORS:
                following = min(start + _AT_ONCE, cache_blocks)
                yield from self._rows_in(range(start, following))
                start = following if self._failures_left >= 0 else cache_blocks
            else:
                yield from found
                last = found[-1].cblock if len(found) == _AT_ONCE else cache_blocks
                start = last + 1 if isinstance(last, int) and last >= start else cache_blocks

    def misplaced(self) -> Iterator[RawRow]:
        """Yield rows that are found only by looking through everything, as far as that goes."""
        if self.connection is None or not self.damage:
            return
        seen: set[object] = set()
        for order in ("", " DESC"):
            try:
                for row in self.connection.execute(f"{SELECT_WHOLE} ORDER BY cblock{order}"):
                    if row[0] not in seen and not self._is_found(row[0]):
                        seen.add(row[0])
                        yield self._raw(row)
            except SQLITE_ERRORS:
                continue

    def strays(self) -> set[object]:
        """Return the cblocks of which only one of two tables says that they are partial, as far as that can be read."""
        found: set[object] = set()
        if self.connection is not None:
            with suppress(*SQLITE_ERRORS):
                # Where the table itself is not where it should be, there are rows of another.
                found.update(cblock for cblock, bitmap in strays(self.connection) if isinstance(bitmap, bytes))
        return found

    def _raw(self, row: tuple[object, ...]) -> RawRow:
        """Add to a row which sectors of the block count; if that cannot be read, it is missing."""
        raw = RawRow(*row)
        if raw.crc != PARTIAL or self.connection is None:
            return raw
        try:
            found = self.connection.execute("SELECT valid FROM partial WHERE cblock = ?", (raw.cblock,)).fetchone()
        except SQLITE_ERRORS:
            return raw
        return raw._replace(bitmap=found and found[0])

    def _is_found(self, cblock: object) -> bool:
        assert self.connection is not None
        try:
            return self.connection.execute("SELECT 1 FROM blocks WHERE cblock = ?", (cblock,)).fetchone() is not None
        except SQLITE_ERRORS:
            return False

    def _rows_in(self, cblocks: range) -> Iterator[RawRow]:
        assert self.connection is not None
        query = f"{SELECT_WHOLE} WHERE cblock BETWEEN ? AND ? ORDER BY cblock"
        try:
            found = self.connection.execute(query, (cblocks.start, cblocks.stop - 1)).fetchall()
        except SQLITE_ERRORS:
            self._failures_left -= 1
            is_single = cblocks.stop - cblocks.start == 1
            if cblocks.start < 0 or is_single or self._failures_left < 0:  # no block has a number below 0
                return
            middle = (cblocks.start + cblocks.stop) // 2
            yield from self._rows_in(range(cblocks.start, middle))
            yield from self._rows_in(range(middle, cblocks.stop))
        else:
            yield from map(self._raw, found)


@contextmanager
def salvaged(copy: Path) -> Iterator[Salvage]:
    """Open a copy of damaged metadata, which may be changed.

    :raises MetadataError: it is somebody else's, or nothing in it is to be recognised.
    """
    damage: list[str] = []
    with ExitStack() as opened:
        connection = _open(copy)
        if connection is None:
            damage.append("the first page is damaged")
            connection = _open_without_first_page(copy)
        if connection is None:
            msg = "nothing in it is to be recognised"
            raise MetadataError(msg)
        opened.callback(connection.close)
        opened.enter_context(bounded(connection, copy.stat().st_size))
        complaints = _complaints(connection, _COMPLAINTS)
        has_orphans = len(complaints) >= _COMPLAINTS or any(_ORPHAN in complaint for complaint in complaints)
        pages = copy.stat().st_size // _PAGE + 1
        yield Salvage(
            values=_values(connection),
            regions=_regions(connection),
            damage=damage + complaints,
            is_complete=not has_orphans and not _complaints(connection, "blocks"),
            connection=connection,
            _failures_left=2 * pages * _ROWS_PER_PAGE,
        )


def _open(copy: Path) -> sqlite3.Connection | None:
    """Open a copy if SQLite finds our tables in it, and nothing else."""
    if not is_sqlite(copy.read_bytes()[:_PAGE]):
        return None
    connection = connect(copy)
    try:
        if not schema_complaint(connection):
            return connection
    except SQLITE_ERRORS:
        pass
    connection.close()
    return None


def _open_without_first_page(copy: Path) -> sqlite3.Connection | None:
    """Open a copy by means of another first page, if there are our tables behind it."""
    _lend_first_page(copy)
    connection = _open(copy)
    if connection is None:
        return None
    noted = _values(connection).get(PARTIAL_PAGE, "")
    if noted.isdecimal() and 1 < int(noted) <= copy.stat().st_size // _PAGE:
        connection.close()
        _lend_first_page(copy, int(noted))
        connection = _open(copy)
    return connection


def _lend_first_page(copy: Path, partial_page: int = 0) -> None:
    """Put the first page of new metadata in the place of this one's.

    :param partial_page: where the table of partial blocks begins; without it, there is none.
    """
    model = copy.with_name("model")
    model.write_bytes(b"")
    with new_record(model, {}) as connection:
        if partial_page:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = 'partial'", (partial_page,))
        else:
            connection.execute("DROP TABLE partial")
            connection.execute("PRAGMA user_version = 3")
    page = bytearray(model.read_bytes()[:_PAGE])
    pages = max(1, copy.stat().st_size // _PAGE)
    page[_COUNT_AT : _COUNT_AT + 4] = pages.to_bytes(4, "big")
    page[_FREE_AT : _FREE_AT + 8] = bytes(8)
    page[_VALID_FOR_AT : _VALID_FOR_AT + 4] = page[_COUNTER_AT : _COUNTER_AT + 4]
    with copy.open("r+b") as file:
        file.truncate(pages * _PAGE)
        file.write(page)


def _complaints(connection: sqlite3.Connection, what: int | str) -> list[str]:
    """Let SQLite look for damage, in the table of this name or everywhere up to a number of complaints."""
    try:
        found = [str(text) for (text,) in connection.execute(f"PRAGMA integrity_check({what})")]
    except SQLITE_ERRORS as exc:
        return [" ".join(str(exc).split()) or type(exc).__name__]
    return [line for text in found for line in text.splitlines() if line != "ok" and not line.startswith("***")]


def _values(connection: sqlite3.Connection) -> dict[str, str]:
    values = {}
    for name in NAMES:
        try:
            row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        except SQLITE_ERRORS:
            continue
        if row is not None and isinstance(row[0], str):
            values[name] = row[0]
    return values


def _regions(connection: sqlite3.Connection) -> set[int] | None:
    try:
        return read_regions(connection)
    except (*SQLITE_ERRORS, MetadataError):
        return None
