"""Blocks between cache and origin."""

from fusecache.migration.batches import Batch
from fusecache.migration.traffic import ASKED_FOR, Traffic
from fusecache.migration.worker import MigrationWorker

__all__ = [
    "ASKED_FOR",
    "Batch",
    "MigrationWorker",
    "Traffic",
]
