"""The first page of a cache file: whose it is, and of which generation.

One line of magic, then a JSON object with the uuid of the metadata that the cache belongs to and the generation that
both were of when it was written (:mod:`fusecache.attach.bond`), then zeros.  The blocks follow it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Final

from fusecache.errors import StoreError

DATA_START: Final = 4096
"""Where the blocks begin in the cache, behind the stamp."""

_MAGIC: Final = "fusecache cache"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a stamp says."""

    uuid: str
    """Of the metadata that the cache belongs to."""
    generation: str = ""
    """Empty in stamps of versions that knew none."""


DAMAGED: Final = Stamp("damaged")
"""What :func:`read_stamp` returns for a stamp that says nothing readable."""


def read_stamp(fd: int) -> Stamp | None:
    """Return the stamp of a cache; None if it has none."""
    head, _, rest = os.pread(fd, DATA_START, 0).partition(b"\n")
    if head.decode("ascii", "replace") != _MAGIC:
        return None
    try:
        found = json.loads(rest.rstrip(b"\0"))
        return Stamp(str(found["uuid"]), str(found.get("generation", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return DAMAGED


def write_stamp(fd: int, stamp: Stamp) -> None:
    """Write a stamp, durable when this returns; raises StoreError."""
    fields = {"uuid": stamp.uuid, "generation": stamp.generation, "data_start": DATA_START}
    # Short enough for one sector, which a power cut leaves old or new, unless somebody else has chosen the uuid.
    text = f"{_MAGIC}\n{json.dumps(fields)}\n".encode()
    assert len(text) <= DATA_START, text
    try:
        os.pwrite(fd, text.ljust(DATA_START, b"\0"), 0)
        os.fsync(fd)
    except OSError as exc:
        msg = f"cannot write the stamp of the cache: {exc.strerror}"
        raise StoreError(msg) from exc
