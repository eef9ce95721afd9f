"""Reads, writes and flushes of the image."""

from fusecache.datapath.disk import Disk

__all__ = [
    "Disk",
]
