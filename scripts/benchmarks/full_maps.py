"""Large caches that are full, made in seconds: sparse files, and metadata that says what lies where."""

from __future__ import annotations

import os
import random
import uuid
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fusecache.attach import DATA_START, locate, write_stamp
from fusecache.metadata import Database, Superblock, Transaction, region_blocks_for

_AT_ONCE: Final = 100_000
_SPREAD: Final = 0x9E3779B1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What to make.

    :ivar image_bytes: size of the origin.
    :ivar blocks: how many blocks the cache has.
    :ivar used: how many of them are mapped: all of them, or none.
    :ivar dirty_every: every how manyth is dirty; 0 for none.
    """

    image_bytes: int
    block_size: int
    blocks: int
    used: int
    dirty_every: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of a mount are, and the directory that it is mounted on.

    :ivar cache: the cache file, which may lie on another file system.
    """

    directory: Path
    cache: Path

    @property
    def origin(self) -> Path:
        """The image to be cached."""
        return self.directory / "origin"

    @property
    def metadata(self) -> Path:
        """What lies where in it."""
        return self.directory / "metadata"

    @property
    def mountpoint(self) -> Path:
        """Where the image is to appear."""
        return self.directory / "mnt"


def make_place(directory: Path, cache: Path, layout: Layout) -> tuple[Place, array[int]]:
    """Make a place as an unmounted cache leaves it; returns it, and the block of the origin in each block in use."""
    place = Place(directory, cache)
    place.mountpoint.mkdir(parents=True)
    identity = str(uuid.uuid4())
    cache_bytes = DATA_START + layout.blocks * layout.block_size
    with place.origin.open("w+b") as origin, place.cache.open("w+b") as data:
        origin.truncate(layout.image_bytes)
        os.fsync(origin.fileno())
        data.truncate(cache_bytes)
        write_stamp(data.fileno(), identity)
    with ExitStack() as resources:
        origin_is = locate(str(place.origin)).open(resources).identity()
    superblock = Superblock(
        uuid=identity,
        block_size=layout.block_size,
        cache_blocks=layout.blocks,
        cache_bytes=cache_bytes,
        region_blocks=region_blocks_for(layout.blocks),
        image_bytes=layout.image_bytes,
        origin=origin_is,
        clean_shutdown=True,
    )
    oblocks = array("q", random.Random(1).sample(range(layout.image_bytes // layout.block_size), layout.used))
    database = Database.create(place.metadata, superblock.pack())
    try:
        for start in range(0, layout.used, _AT_ONCE):
            database.apply(
                Transaction(mapped=list(_rows(oblocks, range(start, min(start + _AT_ONCE, layout.used)), layout)))
            )
    finally:
        database.close()
    return place, oblocks


def _rows(oblocks: array[int], cblocks: range, layout: Layout) -> Iterator[tuple[int, int, bool, int | None]]:
    for cblock in cblocks:
        dirty = bool(layout.dirty_every) and cblock % layout.dirty_every == 0
        yield cblock, oblocks[cblock], dirty, None if dirty else cblock * _SPREAD % 2**32
