"""Blocks between cache and origin."""

from fusecache.migration.cleaning import Cleaning
from fusecache.migration.filling import Fill
from fusecache.migration.origin_order import in_origin_order
from fusecache.migration.worker import MigrationWorker

__all__ = [
    "Cleaning",
    "Fill",
    "MigrationWorker",
    "in_origin_order",
]
