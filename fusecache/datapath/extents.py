"""Neighbouring bios that are one I/O again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusecache.stores import Store


class Extent:
    """One I/O: ``length`` bytes from ``start`` of a request, at ``position`` of a store."""

    __slots__ = ("length", "oblocks", "position", "start", "store")

    def __init__(self, store: Store, position: int, start: int, length: int, oblocks: list[int]) -> None:
        self.store = store
        self.position = position
        self.start = start
        self.length = length
        self.oblocks = oblocks
        """The blocks that this I/O holds shared."""


def append_bio(extents: list[Extent], store: Store, position: int, start: int, length: int, oblock: int | None) -> None:
    """Add a bio to the last extent if it continues that in the request and in its store; else begin a new extent."""
    extent = extents[-1] if extents else None
    if (
        extent is None
        or extent.store is not store
        or extent.position + extent.length != position
        or extent.start + extent.length != start
    ):
        extent = Extent(store, position, start, 0, [])
        extents.append(extent)
    extent.length += length
    if oblock is not None:
        extent.oblocks.append(oblock)
