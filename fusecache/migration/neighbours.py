"""Which dirty blocks go to the origin together: one write there costs as much as many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.block import UNMAPPED
from fusecache.config import COPY_SIZE
from policies import Op, Work

if TYPE_CHECKING:
    from collections.abc import Container

    from fusecache.volume import Volume


def dirty_around(volume: Volume, oblock: int, but: Container[int] = ()) -> list[Work]:
    """List a cached block and its dirty neighbours at the origin, as many as go into one write.

    :param but: blocks to leave out; those that somebody migrates are left out in any case.
    """
    most = max(1, COPY_SIZE // volume.geometry.block_size)
    first, last = oblock, oblock
    while last + 1 - first < most and first - 1 not in but and _may_join(volume, first - 1):
        first -= 1
    while last + 1 - first < most and last + 1 not in but and _may_join(volume, last + 1):
        last += 1
    find = volume.mapping.find
    return [Work(Op.WRITEBACK, neighbour, find(neighbour)) for neighbour in range(first, last + 1)]


def _may_join(volume: Volume, oblock: int) -> bool:
    """Tell whether a block is dirty, and free."""
    cblock = volume.mapping.find(oblock) if oblock >= 0 else UNMAPPED
    return cblock != UNMAPPED and volume.is_dirty(cblock) and volume.locks.may_migrate(oblock)
