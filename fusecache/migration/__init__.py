"""Blocks between cache and origin."""

from fusecache.migration.batches import Order
from fusecache.migration.traffic import ASKED_FOR, Traffic
from fusecache.migration.worker import Migrations

__all__ = [
    "ASKED_FOR",
    "Migrations",
    "Order",
    "Traffic",
]
