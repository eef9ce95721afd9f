"""Cache blocks in the order of the origin, of which there may be millions."""

from __future__ import annotations

from array import array
from heapq import merge
from itertools import compress
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fusecache.block import Mapping

SORTED_AT_ONCE: Final = 8192
"""Cache blocks that are put in order before other tasks may run: a few milliseconds."""


async def in_origin_order(mapping: Mapping, wanted: Callable[[slice], bytearray]) -> Iterator[int]:
    """List cache blocks in the order of the origin; others run meanwhile, and the list takes 4 bytes a block.

    :param wanted: tells of each part of the cache which blocks are meant, 1 for each that is, and 0 for the others.
    :return: what they hold may have changed by the time at which they come.
    """
    oblock_of = mapping.oblock_of.__getitem__
    parts: list[array[int]] = []
    for start in range(0, mapping.cache_blocks, SORTED_AT_ONCE):
        part = slice(start, min(start + SORTED_AT_ONCE, mapping.cache_blocks))
        flags = wanted(part)
        if flags.count(1):
            parts.append(array("I", sorted(compress(range(part.start, part.stop), flags), key=oblock_of)))
        await trio.lowlevel.checkpoint()
    return merge(*parts, key=oblock_of)
