"""What must be durable before what."""

from fusecache.durability.durability import Durability

__all__ = [
    "Durability",
]
