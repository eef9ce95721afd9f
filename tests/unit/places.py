"""A place with an origin, a cache and metadata: real files, for tests of what a mount makes of them."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from fusecache.attach.binding import Binding
from fusecache.attach.inspection import inspect
from fusecache.config import KIB, MountConfig
from fusecache.errors import FusecacheError
from fusecache.metadata import TOUCHED
from fusecache.metadata.database import Database
from fusecache.metadata.record import Transaction

BLOCK = 4 * KIB
IMAGE = 20 * BLOCK + 512
CACHE_BLOCKS = 8

CLEAN = ((0, 3, False), (1, 4, False))
DIRTY = ((0, 3, True), (1, 4, False))

Contents = dict[str, tuple[int, bytes]]


class Place:
    """A directory with an origin in it, and what a mount of it would be told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.origin = directory / "origin"
        self.cache = directory / "cache"
        self.metadata = directory / "metadata"
        self.origin.write_bytes(b"o" * IMAGE)
        self.config = MountConfig(
            origin=str(self.origin),
            mountpoint=directory / "mnt",
            cache=self.cache,
            metadata=self.metadata,
            cache_size=CACHE_BLOCKS * BLOCK,
            block_size=BLOCK,
        )

    def lengthen(self, blocks: int) -> None:
        """Make the origin so long that it has more blocks than such a cache; what is added is a hole."""
        os.truncate(self.origin, (blocks + 1) * BLOCK)

    def contents(self) -> Contents:
        """Everything that is there, byte for byte."""
        return {
            str(path.relative_to(self.directory)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in sorted(self.directory.rglob("*"))
        }

    @contextmanager
    def bound(self, *, begin: bool = True, **changes: Any) -> Iterator[Binding]:
        """Bind and begin, as a mount does, and end as if killed."""
        plan = inspect(replace(self.config, **changes), environ={})
        with plan.resources:
            binding = plan.carry_out()
            if begin:
                binding.begin()
            yield binding

    def mount(self, *, rows: tuple[tuple[int, int, bool], ...] = (), clean: bool = True, **changes: Any) -> Binding:
        """Bind, record some blocks, and end."""
        with self.bound(**changes) as binding:
            trio.run(binding.database.commit, Transaction(mapped=[(*row, None, None) for row in rows]))
            if clean:
                binding.database.set_values(binding.end_values())
                dirty, cached = (binding.database.count(dirty_only=only) for only in (True, False))
                binding.end(dirty=dirty, cached=cached)
        return binding

    def refused(self, kind: type[FusecacheError], words: str, **changes: Any) -> str:
        """A mount is refused in one clear line, and nothing is changed; returns that line."""
        before = self.contents()
        with pytest.raises(FusecacheError) as caught, self.bound(**changes):
            pass
        message = str(caught.value)
        assert self.contents() == before
        assert isinstance(caught.value, kind)
        assert re.search(words, message), message
        assert "\n" not in message
        return message

    def blocks(self) -> list[tuple[int, int, bool]]:
        """Read what is recorded."""
        with closing(Database.open(self.metadata)) as database:
            return [(row.cblock, row.oblock, row.dirty) for row in database.rows()]

    def untouched(self) -> None:
        """Have the metadata know no better than the origin's time of modification."""
        self.sql("DELETE FROM meta WHERE name = ?", TOUCHED)

    def sql(self, statement: str, *values: str) -> None:
        """Change the metadata behind our back."""
        with closing(sqlite3.connect(self.metadata, isolation_level=None)) as connection:
            connection.execute(statement, values)
