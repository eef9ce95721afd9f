"""``fusecache``, but broken in one way: ``python -m tests.integration.sabotage NAME mount ...``.

For the proof that the power cuts of :mod:`tests.integration.power` find what they are there to find.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

from fusecache.cli import main
from fusecache.metadata import database
from fusecache.stores.file import FileStore


def _skip_flushes_of(what: str) -> None:
    """Have one store call everything durable that it was given."""
    real = FileStore.flush

    async def flush(self: FileStore) -> None:
        if not self.name.startswith(what):
            await real(self)

    FileStore.flush = flush  # type: ignore[method-assign]


def _commit_without_sync() -> None:
    """Have SQLite call everything committed that it has written."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *arguments)

    real = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return real(*arguments, **options, factory=Connection)

    database.sqlite3.connect = connect  # type: ignore[attr-defined]


SABOTAGES = {
    "cache-never-flushed": lambda: _skip_flushes_of("cache "),
    "origin-never-flushed": lambda: _skip_flushes_of("origin "),
    "commits-not-synced": _commit_without_sync,
}

if __name__ == "__main__":
    SABOTAGES[sys.argv.pop(1)]()
    main()
