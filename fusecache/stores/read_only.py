"""A store that is only read."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, final

from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusecache.stores.base import Data, Store


@final
class ReadOnlyStore:
    """Another store, of which nothing is ever changed.

    :param reason: why not, for messages.
    """

    __slots__ = ("_reason", "_store", "size")

    def __init__(self, store: Store, reason: str) -> None:
        self._store = store
        self._reason = reason
        self.size = store.size

    @property
    def unflushed(self) -> bool:
        """See :class:`fusecache.stores.base.Store`."""
        return self._store.unflushed

    @unflushed.setter
    def unflushed(self, value: bool) -> None:
        self._store.unflushed = value

    def read_nowait(self, offset: int, into: bytearray | memoryview) -> bool:
        """See :class:`fusecache.stores.base.Store`."""
        return self._store.read_nowait(offset, into)

    async def read(self, offset: int, into: bytearray | memoryview) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        await self._store.read(offset, into)

    def write_nowait(self, offset: int, data: Data) -> bool:
        """Decline."""
        del offset, data
        return False

    async def write(self, offset: int, data: Data) -> None:
        """Refuse."""
        del offset, data
        self._refuse()

    async def holes(self, offset: int, length: int) -> Sequence[tuple[int, int]]:
        """See :class:`fusecache.stores.base.Store`."""
        return await self._store.holes(offset, length)

    async def flush(self) -> None:
        """Have on the disk what a process that was killed may have left; that it cannot be is nobody's loss now."""
        with suppress(StoreError):
            await self._store.flush()

    async def discard(self, offset: int, length: int) -> None:
        """Refuse."""
        del offset, length
        self._refuse()

    async def forget(self, offset: int, length: int) -> None:
        """See :class:`fusecache.stores.base.Store`."""
        await self._store.forget(offset, length)

    def _refuse(self) -> NoReturn:
        msg = f"nothing is written to the origin: {self._reason}"
        raise StoreError(msg)
