"""Blocks that leave the cache because somebody says so, and not for want of room: dropped, or discarded.

Theory of operation
-------------------
A *discarded* block is to read as zeros, and nobody needs what it held.  So it leaves the cache without being copied,
and the origin gets a hole.  What must hold: a crash never brings back an older content than one that was durable, and
nothing that counts as clean differs from the origin.  So a discard keeps writers and migrations out of its blocks, and
does three things in this order:

1. Blocks that are *clean* are unmapped, durably.  The origin has what they held, so nothing changes by that.
2. The origin gets its hole.  A crash finds either the content there, or zeros, sector by sector.  It finds *dirty*
   blocks still mapped and suspect, so the cache's copy counts, which is everything that was ever durable.
3. Dirty blocks count as clean from here on, and are unmapped, durably.  They are safe to write to, so the round that
   removes their rows flushes the origin first (rule 3 of :mod:`fusecache.durability.durability`).

If the second fails, dirty blocks are as they were.  If the third fails, they are mapped and dirty again: the discard
has failed, and what they held counts.  So when a discard has returned, no durable row names a block that was cached,
and the next fsync has nothing to do for it but to flush the origin, as after any write there.

*Many blocks.*  A discard goes on from slice to slice, so that it never has many blocks at a time, and each slice shares
its commits.  In a slice it takes the blocks that are free, and waits only for users of blocks that it has; then it
takes those one by one that somebody was migrating.  So nobody waits in a circle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusecache.block import ALL_OUT, UNMAPPED, WRITERS_OUT
from fusecache.config import MIB
from fusecache.migration.batches import Held
from fusecache.volume import OriginIO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from fusecache.migration.read_ahead import ReadAhead
    from fusecache.migration.steps import Steps
    from fusecache.volume import Volume

SLICE: Final = 512
"""Blocks that a discard has at a time, at most."""
SLICE_BYTES: Final = 64 * MIB
"""Bytes of them, unless one block has more: an origin that takes no holes is written full of zeros."""


class Removal:
    """What takes blocks out of one volume's cache without the policy's asking.

    :param unpaused: waits for the end of a pause; the next one waits for the end of its block.
    :param forget: has the policy forget a cache block that was unmapped.
    """

    __slots__ = ("_forget", "_origin", "_read_ahead", "_steps", "_unpaused", "_volume")

    def __init__(
        self,
        volume: Volume,
        steps: Steps,
        read_ahead: ReadAhead,
        unpaused: Callable[[], AbstractAsyncContextManager[None]],
        forget: Callable[[int], Awaitable[None]],
    ) -> None:
        self._volume = volume
        self._steps = steps
        self._read_ahead = read_ahead
        self._unpaused = unpaused
        self._forget = forget
        self._origin = OriginIO(volume)

    async def invalidate(self, oblock: int) -> bool:
        """Drop a block's cached copy; returns whether there was one, which is durably gone now.

        What only the cache has is written back first.
        """
        async with self._unpaused():
            with Held(self._volume) as held:
                await held.take_when_free(oblock, ALL_OUT)
                cblock = self._volume.mapping.find(oblock)
                if cblock == UNMAPPED:
                    return False
                await self._steps.copy_back(oblock, cblock)
                await self._steps.unmap([cblock])
                await self._forget(cblock)
                return True

    async def discard(self, oblocks: range) -> None:
        """Have whole blocks read as zeros, and drop what the cache has of them.

        :raises FusecacheError: some of it could not be done; sectors of these blocks may be zero, or as they were.
        """
        step = max(1, min(SLICE, SLICE_BYTES // self._volume.geometry.block_size))
        for begin in range(oblocks.start, oblocks.stop, step):
            some = range(begin, min(begin + step, oblocks.stop))
            async with self._unpaused():
                with Held(self._volume) as held:
                    free = await held.take_free(some, WRITERS_OUT)
                    await self._discard_held(free)
                for oblock in sorted({*some}.difference(free)):
                    with Held(self._volume) as held:
                        await held.take_when_free(oblock, WRITERS_OUT)
                        await self._discard_held([oblock])

    async def _discard_held(self, oblocks: Sequence[int]) -> None:
        """Discard some blocks, out of which the caller keeps writers."""
        volume = self._volume
        size, find = volume.geometry.block_size, volume.mapping.find
        for oblock in oblocks:
            self._read_ahead.forget(oblock)
        cached = [cblock for oblock in oblocks if (cblock := find(oblock)) != UNMAPPED]
        clean = [cblock for cblock in cached if not volume.is_dirty(cblock)]
        dirty = [cblock for cblock in cached if volume.is_dirty(cblock)]
        await self._unmap(clean)
        for run in _runs(oblocks):
            await self._origin.discard(run.start * size, len(run) * size)
        await self._unmap(dirty)

    async def _unmap(self, cblocks: Sequence[int]) -> None:
        """Unmap blocks, what only the cache has included."""
        volume = self._volume
        oblocks = [volume.mapping.oblock_of[cblock] for cblock in cblocks]
        for oblock in oblocks:
            await volume.locks.raise_level(oblock)
        for cblock in cblocks:
            if volume.is_dirty(cblock):
                volume.discarded(cblock)
        if cblocks:
            await self._steps.unmap(cblocks)
        for oblock in oblocks:
            volume.health.settled(oblock, volume.geometry.block_size)
        for cblock in cblocks:
            await self._forget(cblock)


def _runs(oblocks: Sequence[int]) -> Iterator[range]:
    """Yield the runs of neighbours among blocks, which are in order."""
    begin = 0
    for number in range(1, len(oblocks) + 1):
        if number == len(oblocks) or oblocks[number] != oblocks[number - 1] + 1:
            yield range(oblocks[begin], oblocks[number - 1] + 1)
            begin = number
