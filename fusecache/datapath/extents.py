"""Neighbouring bios that are one I/O again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusecache.stores import Store


class Run:
    """One I/O: ``length`` bytes from ``start`` of a request, at ``position`` of a store."""

    __slots__ = ("length", "oblocks", "position", "start", "store")

    def __init__(self, store: Store, position: int, start: int, length: int, oblocks: list[int]) -> None:
        self.store = store
        self.position = position
        self.start = start
        self.length = length
        self.oblocks = oblocks
        """The blocks whose shared locks this I/O holds."""


def extend(runs: list[Run], store: Store, position: int, start: int, length: int, oblock: int | None) -> None:
    """Add a bio to the last run if it continues it, in the request and in its store; else begin a new one."""
    run = runs[-1] if runs else None
    if (
        run is None
        or run.store is not store
        or run.position + run.length != position
        or run.start + run.length != start
    ):
        run = Run(store, position, start, 0, [])
        runs.append(run)
    run.length += length
    if oblock is not None:
        run.oblocks.append(oblock)
