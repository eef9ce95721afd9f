"""The process that serves a mount.  What serves is imported in that process only."""

from fusecache.daemon.spawn import start

__all__ = [
    "start",
]
