"""The durable record: which block lies where in the cache, and what is known of it after a crash."""

from fusecache.metadata.database import APPLICATION_ID, FORMAT, Database
from fusecache.metadata.record import Record, Row, Transaction
from fusecache.metadata.superblock import region_blocks_for

__all__ = [
    "APPLICATION_ID",
    "FORMAT",
    "Database",
    "Record",
    "Row",
    "Transaction",
    "region_blocks_for",
]
