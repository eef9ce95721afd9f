"""Blocks between cache and origin."""

from fusecache.migration.filling import Fill
from fusecache.migration.worker import MigrationWorker

__all__ = [
    "Fill",
    "MigrationWorker",
]
