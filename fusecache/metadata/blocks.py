"""The cached blocks in the record: the tables ``blocks`` and ``partial``, written, and read with suspicion.

Theory of operation
-------------------
A *partial* block, of which only some sectors count, has a row in both tables, and ``blocks`` itself says that it is
one: where others have their sum, it has :data:`PARTIAL`.  So if its row in ``partial`` is lost that is noticed, and no
damage there makes of a partial block one that counts as a whole.  That would write what the cache never had over what
the origin has.

Few blocks are partial, and most records have none.  Those are written and read without a look at ``partial``, but for
the question whether there is anything in it.  A file of an older format does not have that table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusecache.metadata.record import Row, bitmap_bytes, packed_bitmap, unpacked_bitmap
from fusecache.metadata.schema import added_since, allow_bitmaps, version_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from fusecache.metadata.record import Transaction

PARTIAL: Final = -1
"""In the place of a sum: the block is partial.  The statements below say -1."""
_PUT: Final = "REPLACE INTO blocks VALUES (?1, ?2, ?3, NULL, coalesce(?4, ?5))"
_ROWS: Final = "SELECT cblock, oblock, dirty, hint, crc FROM blocks ORDER BY cblock"
SELECT_WHOLE: Final = "SELECT cblock, oblock, dirty, hint, crc, NULL FROM blocks"
"""Without a look at ``partial``: no row has a bitmap."""
_SELECT: Final = """
    SELECT cblock, oblock, dirty, hint, crc,
        CASE crc WHEN -1 THEN (SELECT valid FROM partial WHERE partial.cblock = blocks.cblock) END
    FROM blocks
"""
# SQLite keeps whatever it is given; asking it is faster by far than looking at each value here.
_DAMAGED_ROW: Final = """
    SELECT * FROM blocks
    WHERE typeof(oblock) <> 'integer' OR typeof(dirty) <> 'integer' OR dirty NOT IN (0, 1)
        OR typeof(hint) NOT IN ('integer', 'null') OR hint NOT BETWEEN 0 AND 4294967295
        OR typeof(crc) NOT IN ('integer', 'null') OR crc NOT BETWEEN ? AND 4294967295
    LIMIT 1
"""
_DAMAGED_BITMAP: Final = """
    SELECT cblock, typeof(valid), length(valid) FROM partial
    WHERE typeof(valid) <> 'blob' OR length(valid) NOT BETWEEN 1 AND ? OR valid = zeroblob(length(valid))
    LIMIT 1
"""
_WITHOUT_BITMAP: Final = """
    SELECT cblock FROM blocks
    WHERE crc = -1 AND NOT EXISTS (SELECT 1 FROM partial WHERE partial.cblock = blocks.cblock)
    LIMIT 1
"""
_WITHOUT_BLOCK: Final = """
    SELECT cblock, valid FROM partial
    WHERE NOT EXISTS (SELECT 1 FROM blocks WHERE blocks.cblock = partial.cblock AND crc = -1)
    ORDER BY cblock
"""


def has_partial(connection: sqlite3.Connection) -> bool:
    """Tell whether anything is recorded of partial blocks; raises sqlite3.Error."""
    return not added_since(version_of(connection)) and _is_any_partial(connection)


def _is_any_partial(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM partial LIMIT 1").fetchone() is not None


def write_rows(connection: sqlite3.Connection, transaction: Transaction) -> None:
    """Make the rows of a transaction what it says, in a file of our own format; raises sqlite3.Error."""
    unmapped, mapped = transaction.unmapped, transaction.mapped
    connection.executemany("DELETE FROM blocks WHERE cblock = ?", ((cblock,) for cblock in unmapped))
    if (unmapped or mapped) and _is_any_partial(connection):
        gone = (*((cblock,) for cblock in unmapped), *((row[0],) for row in mapped))
        connection.executemany("DELETE FROM partial WHERE cblock = ?", gone)
    bitmaps = [(cblock, packed_bitmap(valid)) for cblock, _, _, _, valid in mapped if valid is not None]
    if bitmaps:
        allow_bitmaps(connection, max(len(bitmap) for _, bitmap in bitmaps))
        connection.executemany("REPLACE INTO partial VALUES (?, ?)", bitmaps)
        mapped = [row if row[4] is None else (*row[:3], None, PARTIAL) for row in mapped]
    connection.executemany(_PUT, mapped)


def damage(connection: sqlite3.Connection, block_size: int) -> str:
    """Name a row that cannot be read; nothing if all can.  Raises sqlite3.Error.

    :param block_size: counts only if there are partial blocks.
    """
    is_any_partial = has_partial(connection)
    found = connection.execute(_DAMAGED_ROW, (PARTIAL if is_any_partial else 0,)).fetchone()
    if found is not None:
        cblock, *values = found
        return f"cblock {cblock!r} has {', '.join(map(repr, values))}"
    if not is_any_partial:
        return ""
    most = bitmap_bytes(block_size)
    allow_bitmaps(connection, most)
    if (found := connection.execute(_DAMAGED_BITMAP, (most,)).fetchone()) is not None:
        cblock, kind, length = found
        return f"the sectors of partial cblock {cblock!r} are {kind} of length {length}, which cannot be"
    if (found := connection.execute(_WITHOUT_BITMAP).fetchone()) is not None:
        return f"cblock {found[0]!r} is partial, and which of its sectors count is missing"
    for cblock, _ in strays(connection):
        return f"it names sectors of cblock {cblock!r}, which is no partial block"
    return ""


def select_rows(connection: sqlite3.Connection) -> str:
    """Return the statement that reads rows with the bitmaps of partial blocks, as they are; raises sqlite3.Error."""
    return SELECT_WHOLE if added_since(version_of(connection)) else _SELECT


def strays(connection: sqlite3.Connection) -> Iterator[tuple[object, object]]:
    """Yield the rows of ``partial`` of which ``blocks`` does not say that the block is partial.

    :raises sqlite3.Error: it cannot be read.
    """
    if has_partial(connection):
        yield from connection.execute(_WITHOUT_BLOCK)


def insert_row(connection: sqlite3.Connection, row: Row) -> None:
    """Add the row of a block to a draft; raises sqlite3.IntegrityError if there is one for the same cache block."""
    *values, crc, valid = row
    if valid is not None:
        bitmap = packed_bitmap(valid)
        allow_bitmaps(connection, len(bitmap))
        connection.execute("INSERT INTO partial VALUES (?, ?)", (row.cblock, bitmap))
        crc = PARTIAL
    connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", (*values, crc))


def remove_row(connection: sqlite3.Connection, cblock: object) -> None:
    """Take the row of a block out of a draft again, if there is one."""
    connection.execute("DELETE FROM blocks WHERE cblock = ?", (cblock,))
    connection.execute("DELETE FROM partial WHERE cblock = ?", (cblock,))


def read_rows(connection: sqlite3.Connection, block_size: int) -> Iterator[Row]:
    """Read all cached blocks in cblock order, of which :func:`damage` has found nothing; raises sqlite3.Error."""
    if not has_partial(connection):
        for cblock, oblock, dirty, hint, crc in connection.execute(_ROWS):
            yield Row(cblock, oblock, bool(dirty), hint, crc)
        return
    for cblock, oblock, dirty, hint, crc, bitmap in connection.execute(f"{_SELECT} ORDER BY cblock"):
        if bitmap is None:
            yield Row(cblock, oblock, bool(dirty), hint, crc)
        else:
            yield Row(cblock, oblock, bool(dirty), hint, None, unpacked_bitmap(bitmap, block_size))
