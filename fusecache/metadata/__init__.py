"""The durable record: which block lies where in the cache, and what is known of it after a crash."""

from fusecache.metadata.blocks import PARTIAL, SELECT_WHOLE, has_partial, insert_row, remove_row, select_rows, strays
from fusecache.metadata.creation import new_record
from fusecache.metadata.database import Database
from fusecache.metadata.identity import TOUCHED, Identity
from fusecache.metadata.image_times import UNKNOWN as UNKNOWN_TIMES
from fusecache.metadata.image_times import ImageTimes
from fusecache.metadata.readonly import (
    SQLITE_ERRORS,
    connect,
    copied,
    header_complaint,
    log_complaint,
    reading,
    require_metadata,
    sqlite_errors,
)
from fusecache.metadata.record import Record, Row, Transaction, bitmap_bytes, unpacked_bitmap
from fusecache.metadata.rescue import put_back
from fusecache.metadata.schema import PARTIAL_PAGE, PUT_VALUE, allow_bitmaps, bounded, schema_complaint, text_values
from fusecache.metadata.sizing import metadata_size
from fusecache.metadata.superblock import (
    FORMAT,
    IDENTITY,
    NAMES,
    SIZES,
    Superblock,
    faults,
    is_sqlite,
    packed,
    region_blocks_for,
)
from fusecache.metadata.suspects import Suspects
from fusecache.metadata.trusted import require_trusted_metadata
from fusecache.metadata.write_ahead_log import side_files

__all__ = [
    "FORMAT",
    "IDENTITY",
    "NAMES",
    "PARTIAL",
    "PARTIAL_PAGE",
    "PUT_VALUE",
    "SELECT_WHOLE",
    "SIZES",
    "SQLITE_ERRORS",
    "TOUCHED",
    "UNKNOWN_TIMES",
    "Database",
    "Identity",
    "ImageTimes",
    "Record",
    "Row",
    "Superblock",
    "Suspects",
    "Transaction",
    "allow_bitmaps",
    "bitmap_bytes",
    "bounded",
    "connect",
    "copied",
    "faults",
    "has_partial",
    "header_complaint",
    "insert_row",
    "is_sqlite",
    "log_complaint",
    "metadata_size",
    "new_record",
    "packed",
    "put_back",
    "reading",
    "region_blocks_for",
    "remove_row",
    "require_metadata",
    "require_trusted_metadata",
    "schema_complaint",
    "select_rows",
    "side_files",
    "sqlite_errors",
    "strays",
    "text_values",
    "unpacked_bitmap",
]
