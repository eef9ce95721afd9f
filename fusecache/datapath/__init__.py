"""Reads, writes and flushes of the image."""

from fusecache.datapath.disk import Cache

__all__ = [
    "Cache",
]
