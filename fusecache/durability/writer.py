"""Commits to the durable record: one at a time, and none after one that failed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import trio

from fusecache.errors import MetadataError
from fusecache.metadata import Transaction, packed
from fusecache.tasks import QuickLock

if TYPE_CHECKING:
    from fusecache.block import Health
    from fusecache.metadata import Record

log = structlog.get_logger(__name__)


class RecordWriter:
    """Commits to the record of one mount.

    :ivar lock: hold it while you decide what to commit, and until it is committed.
    """

    __slots__ = ("_health", "_record", "lock")

    def __init__(self, record: Record, health: Health) -> None:
        self._record = record
        self._health = health
        self.lock = QuickLock()

    async def write(self, transaction: Transaction) -> None:
        """Commit, while the caller holds the lock; an empty transaction is no commit.

        After a failure nothing more is written than that a check is needed.  A commit that has begun goes on to its
        end even if the caller is cancelled: nobody would know whether it was made.

        :raises MetadataError: it cannot be written, now or since an earlier failure.
        """
        if not transaction:
            return
        health = self._health
        if health.read_only:
            raise MetadataError(health.read_only)
        try:
            with trio.CancelScope(shield=True):
                await self._record.commit(transaction)
        except MetadataError as exc:
            health.read_only = str(exc)
            log.error("the metadata cannot be written: read-only from here on", error=str(exc))
            await self.write_needs_check()
            raise

    async def write_needs_check(self) -> None:
        """Record that a check is needed, if that can be done."""
        with suppress(MetadataError):
            await self._record.commit(Transaction(values=packed(needs_check=True)))
