"""The durable record: which block lies where in the cache, and what is known of it after a crash."""

from fusecache.metadata.database import Database
from fusecache.metadata.identity import TOUCHED, Identity
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
from fusecache.metadata.record import Record, Row, Transaction
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
from fusecache.metadata.write_ahead_log import side_files

__all__ = [
    "FORMAT",
    "IDENTITY",
    "NAMES",
    "SIZES",
    "SQLITE_ERRORS",
    "TOUCHED",
    "Database",
    "Identity",
    "Record",
    "Row",
    "Superblock",
    "Suspects",
    "Transaction",
    "connect",
    "copied",
    "faults",
    "header_complaint",
    "is_sqlite",
    "log_complaint",
    "packed",
    "reading",
    "region_blocks_for",
    "require_metadata",
    "side_files",
    "sqlite_errors",
]
