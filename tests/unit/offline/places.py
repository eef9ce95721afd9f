"""An origin, a cache and metadata as mounts leave them, for the offline tools to work on."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import trio
from crc32c import crc32c

from fusecache.attach.binding import Binding
from fusecache.attach.inspection import inspect
from fusecache.attach.stamp import DATA_START
from fusecache.config import KIB, MountConfig
from fusecache.metadata.database import Database
from fusecache.metadata.record import Row, Transaction
from fusecache.offline.opening import Files
from fusecache.units import SECTOR

BLOCK = 4 * KIB
ORIGIN_BLOCKS = 64
TAIL = 512
CACHE_BLOCKS = 32

Blocks = dict[int, tuple[int, bool]]
"""By cblock: the oblock, and whether it is dirty."""
Parts = dict[int, int]
"""By cblock: which sectors of a partial block count."""


class Place:
    """A directory with the three files, made by the same code that mounts use."""

    def __init__(
        self, directory: Path, *, origin_blocks: int = ORIGIN_BLOCKS, cache_blocks: int = CACHE_BLOCKS
    ) -> None:
        self.directory = directory
        self.origin = directory / "origin"
        self.cache = directory / "cache"
        self.metadata = directory / "metadata"
        self.origin_blocks = origin_blocks
        self.content = {oblock: pattern("origin", oblock) for oblock in range(origin_blocks)}
        """What a reader of the image sees, by oblock."""
        self.origin.write_bytes(b"".join(self.content.values()) + b"t" * TAIL)
        self.config = MountConfig(
            origin=str(self.origin),
            mountpoint=directory / "mnt",
            cache=self.cache,
            metadata=self.metadata,
            cache_size=cache_blocks * BLOCK,
            block_size=BLOCK,
        )

    @property
    def files(self) -> Files:
        return Files(self.metadata, self.cache, str(self.origin))

    @contextmanager
    def bound(self) -> Iterator[Binding]:
        """Bind and begin, as a mount does, and end as if killed."""
        plan = inspect(self.config, environ={})
        with plan.resources:
            binding = plan.carry_out()
            binding.begin()
            yield binding

    def fill(
        self, blocks: Blocks, *, regions: Iterable[int] = (), clean: bool = True, parts: Parts | None = None
    ) -> None:
        """Be mounted: cache blocks, dirty ones with newer data than the origin's, and end, cleanly or not.

        Blocks in open ``regions`` (of one block each) have newer data too, though their rows say clean.

        :param parts: which sectors of partial blocks count; in the others the cache has rubbish.
        """
        with self.bound() as binding:
            self.fill_open(binding, blocks, regions=regions, clean=clean, parts=parts)

    def fill_open(
        self,
        binding: Binding,
        blocks: Blocks,
        *,
        regions: Iterable[int] = (),
        clean: bool = False,
        parts: Parts | None = None,
    ) -> None:
        """Do the same in a mount that goes on."""
        suspects = set(regions)
        bitmaps = parts or {}
        rows: list[tuple[int, int, bool, int | None, int | None]] = []
        for cblock, (oblock, dirty) in blocks.items():
            valid = bitmaps.get(cblock)
            if dirty or cblock in suspects:
                self.content[oblock] = composed(pattern("newer", oblock), valid, self.content[oblock])
            data = composed(self.content[oblock], valid, pattern("rubbish", oblock))
            with self.cache.open("r+b") as file:
                file.seek(DATA_START + cblock * BLOCK)
                file.write(data)
            rows.append((cblock, oblock, dirty, None if dirty or valid is not None else crc32c(data), valid))
        values = {"hints": "smq 2 4"} | (binding.end_values() if clean else {})
        binding.database.apply(Transaction(mapped=rows, opened=sorted(suspects), values=values))
        if clean:
            binding.end(dirty=sum(row[2] for row in rows), cached=len(rows))

    def hint(self, hints: dict[int, int]) -> None:
        """Note hints, by cblock."""
        with closing(Database.open(self.metadata)) as database:
            trio.run(database.save_hints, hints.items())

    def sql(self, *statements: str) -> None:
        """Change the metadata behind our back."""
        with closing(sqlite3.connect(self.metadata, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, metadata: Path | None = None) -> list[Row]:
        with closing(Database.open(metadata or self.metadata)) as database:
            return list(database.rows())

    def values(self, metadata: Path | None = None) -> dict[str, str]:
        with closing(Database.open(metadata or self.metadata)) as database:
            return database.values()

    def dirty(self, metadata: Path | None = None) -> set[int]:
        """cblocks that a mount would take for dirty."""
        with closing(Database.open(metadata or self.metadata)) as database:
            regions = database.regions()
            return {row.cblock for row in database.rows() if row.dirty or row.cblock in regions}

    def image(self, metadata: Path | None = None) -> dict[int, bytes]:
        """What a reader of the image would see, by oblock."""
        origin, cache = self.origin.read_bytes(), self.cache.read_bytes()
        seen = {oblock: origin[oblock * BLOCK :][:BLOCK] for oblock in range(self.origin_blocks)}
        for row in self.rows(metadata):
            cached = cache[DATA_START + row.cblock * BLOCK :][:BLOCK]
            seen[row.oblock] = composed(cached, row.valid, seen[row.oblock])
        return seen

    def contents(self) -> dict[str, bytes]:
        """Everything that is there, byte for byte."""
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in sorted(self.directory.iterdir())}

    def mounts(self, metadata: Path | None = None) -> bool:
        """Whether a mount would take the three files as they are; raises FusecacheError if not."""
        config = replace(self.config, metadata=metadata or self.metadata, cache_size=None, block_size=None)
        inspect(config, environ={}).resources.close()
        return True


def composed(cached: bytes, valid: int | None, other: bytes) -> bytes:
    """A block of which these sectors are as cached, and the others not."""
    sectors = range(0, BLOCK, SECTOR)
    return b"".join(
        (cached if valid is None or valid >> number & 1 else other)[start : start + SECTOR]
        for number, start in enumerate(sectors)
    )


def pattern(kind: str, oblock: int) -> bytes:
    """A block's content, like no other's."""
    return random.Random(f"{kind} {oblock}").randbytes(BLOCK)


PARTS: Parts = {0: 0b1, 1: 0b10000000, 2: 0b1010_1010, 4: 0b0110_0001, 7: 0b1111_1110, 8: 0b0000_1000}
"""Of :data:`MIXED`: dirty ones and clean ones."""
MIXED: Blocks = {cblock: (3 * cblock % ORIGIN_BLOCKS, cblock % 4 == 0) for cblock in range(20)}
"""Twenty blocks, every fourth of them dirty."""
