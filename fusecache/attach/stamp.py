"""The first page of a cache file: whose it is.

One line of magic, then a JSON object with the uuid of the metadata that the cache belongs to, then zeros.  The blocks
follow it.
"""

from __future__ import annotations

import json
import os
from typing import Final

DATA_START: Final = 4096
"""Where the blocks begin in the cache, behind the stamp."""

DAMAGED: Final = "damaged"
"""What :func:`read_stamp` returns for a stamp that says nothing readable."""

_MAGIC: Final = "fusecache cache"


def read_stamp(fd: int) -> str:
    """Return the uuid in a cache's stamp, or an empty string if it has none."""
    head, _, rest = os.pread(fd, DATA_START, 0).partition(b"\n")
    if head.decode("ascii", "replace") != _MAGIC:
        return ""
    try:
        return str(json.loads(rest.rstrip(b"\0"))["uuid"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return DAMAGED


def write_stamp(fd: int, identity: str) -> None:
    """Write a stamp with this uuid, durable when this returns."""
    text = f"{_MAGIC}\n{json.dumps({'uuid': identity, 'data_start': DATA_START})}\n".encode()
    os.pwrite(fd, text.ljust(DATA_START, b"\0"), 0)
    os.fsync(fd)
