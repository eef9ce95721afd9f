"""Reads, writes, discards and flushes of the image, and where it has data."""

from fusecache.datapath.disk import Disk

__all__ = [
    "Disk",
]
