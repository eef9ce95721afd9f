"""Zeros: writing to a store without filling its holes with them, and writing nothing else.

Theory of operation
-------------------
A block of the cache is written back as a whole, though perhaps a few kilobytes of it were ever written.  Where the
origin has a hole, the rest of the block is zeros that it had better not store: an image of holes would swell.

So of what is to be written, pages of zeros are left out where the store says that it may have a hole, and reads as
zeros.  What must hold: nobody can tell that from a write of these zeros at the moment of the read.  Where the holes
are is only a hint, which saves reading: file systems have been wrong about data on its way to the disk.  And what the
store reads as may not be durable, so it counts as unflushed, as after a write.

A run of zeros within the data is left out only if it is long: each one that is left out costs another write.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from fusecache.config import COPY_SIZE
from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusecache.stores.base import Store

    Range = tuple[int, int]
    """Begin and end, the end excluded."""

_PAGE: Final = 4096
_ZEROS: Final = bytes(_PAGE)
ZEROS: Final = memoryview(bytearray(COPY_SIZE))
"""Nobody writes into it; it is no read-only memory, so that it can be pinned."""
_LEAST_WITHIN: Final = 16384
"""Bytes of the shortest run that is left out between others; at either end, a page will do."""


async def write_sparsely(store: Store, offset: int, data: memoryview) -> None:
    """Write ``data`` at ``offset``, without what is zero there already and takes no space."""
    end = offset + len(data)
    spared: list[Range] = []
    if (zeros := list(_zero_runs(offset, data))) and (holes := await store.holes(offset, len(data))):
        for begin, stop in _in_both(zeros, holes):
            at_an_end = begin == offset or stop == end
            content = data[begin - offset : stop - offset]
            if (at_an_end or len(content) >= _LEAST_WITHIN) and await _reads_as(store, begin, content):
                spared.append((begin, stop))
    for (_, begin), (stop, _) in pairwise([(offset, offset), *spared, (end, end)]):
        if begin < stop:
            await store.write(begin, data[begin - offset : stop - offset])
    if spared:
        store.unflushed = True


async def write_zeros(store: Store, offset: int, length: int) -> None:
    """Write ``length`` zeros at ``offset``, whatever space they take."""
    while length > 0:
        piece = ZEROS[:length]
        await store.write(offset, piece)
        offset += len(piece)
        length -= len(piece)


def _zero_runs(offset: int, data: memoryview) -> Iterator[Range]:
    """Yield the runs of pages that are zero; pages are those of the store."""
    begin = None
    whole = len(data) - (offset + len(data)) % _PAGE
    for at in range(-offset % _PAGE, whole, _PAGE):
        if not data[at] and bytes(data[at : at + _PAGE]) == _ZEROS:
            begin = at if begin is None else begin
        elif begin is not None:
            yield offset + begin, offset + at
            begin = None
    if begin is not None:
        yield offset + begin, offset + whole


def _in_both(some: Iterable[Range], others: Iterable[Range]) -> Iterator[Range]:
    """Yield the whole pages that are in both, in order; each of the two is in order, and apart."""
    for begin, stop in some:
        for other_begin, other_stop in others:
            first = -(-max(begin, other_begin) // _PAGE) * _PAGE
            after = min(stop, other_stop) // _PAGE * _PAGE
            if first < after:
                yield first, after


async def _reads_as(store: Store, position: int, content: memoryview) -> bool:
    """Tell whether the store has this content already; to read takes no disk where there is a hole."""
    there = bytearray(len(content))
    try:
        await store.read(position, there)
    except StoreError:
        return False
    return there == content
