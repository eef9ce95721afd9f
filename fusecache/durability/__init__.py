"""What must be durable before what, and what has to outlive this process only."""

from fusecache.durability.durability import Durability
from fusecache.durability.slate import Slate, read_slate, slate_bytes

__all__ = [
    "Durability",
    "Slate",
    "read_slate",
    "slate_bytes",
]
