"""Blocks between cache and origin."""

from fusecache.migration.worker import MigrationWorker

__all__ = [
    "MigrationWorker",
]
