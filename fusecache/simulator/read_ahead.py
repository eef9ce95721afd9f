"""Reading ahead as mounts do it: what comes next in order waits in a small memory beside the cache.

Theory of operation
-------------------
Which misses are a stream, how far to read ahead of it, and when not to, is decided by what decides it in a mount
(:mod:`fusecache.streams`): every read that misses is noted there, whether the memory has its block or not.  A step
is one operation of the origin, after that of the miss: of the blocks that are wanted, the first neighbours that are
neither cached nor here.  It is done at once, so no stream ever waits for one.

The memory has room for 64 blocks, or for four of the largest steps if that is more.  What was read together leaves
together: first what has been read to its end, then the oldest.  A block leaves alone when it is promoted or written.
The room of a step is free again when all of its blocks have left.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from fusecache.config import KIB
from fusecache.simulator.counts import Counts
from fusecache.streams import Streams, Thrift, first_free

ROOM: Final = 64
"""Blocks."""

_UNIT: Final = 64 * KIB
_LEAST_UNITS: Final = 2
_STEPS_IN_ROOM: Final = 4


class _Step:
    """Neighbours that were read together; of those still here, who has not been wanted, and not read to his end."""

    __slots__ = ("kept", "size", "unread", "unwanted")

    def __init__(self, blocks: range) -> None:
        self.size = len(blocks)
        self.kept = set(blocks)
        self.unwanted = set(blocks)
        self.unread = set(blocks)


class ReadAhead:
    """What is read ahead of the misses of one replay.

    :param most: blocks of the largest step, at least 1.
    """

    def __init__(self, most: int, block_size: int, origin_blocks: int, cached: Container[int], counts: Counts) -> None:
        self._most = most
        self._room = max(ROOM, _STEPS_IN_ROOM * most)
        self._block_size = block_size
        self._origin_blocks = origin_blocks
        self._cached = cached
        self._counts = counts
        self._streams = Streams(min(_LEAST_UNITS * max(1, _UNIT // block_size), most), most)
        self._thrift = Thrift()
        self._steps: dict[_Step, None] = {}  # the oldest first
        self._found: dict[int, _Step] = {}
        self._taken = 0  # blocks of room

    def take(self, oblock: int, end: int) -> bool:
        """Read a block up to byte ``end`` of the image; False if it is not here."""
        step = self._found.get(oblock)
        if step is None:
            return False
        if oblock in step.unwanted:
            step.unwanted.remove(oblock)
            self._counts.read_ahead_used += 1
            self._thrift.judge(wanted=True)
        if end % self._block_size == 0:
            step.unread.discard(oblock)
        return True

    def look(self, first: int, after: int) -> range:
        """Note that blocks ``first`` up to ``after`` were read and missed; return what to read ahead, if anything."""
        stream = self._streams.missed(first, after)
        wanted = stream.step(self._most)
        wanted = wanted[: max(0, self._origin_blocks - wanted.start)]
        if not wanted or not self._thrift.allows():
            return range(0)
        blocks = first_free(wanted, self._is_free)
        stream.stepped(blocks.stop)
        if not blocks:
            return blocks
        self._make_room(len(blocks))
        step = _Step(blocks)
        self._steps[step] = None
        self._taken += step.size
        self._found.update(dict.fromkeys(blocks, step))
        self._counts.read_ahead += step.size
        return blocks

    def _is_free(self, oblock: int) -> bool:
        return oblock not in self._cached and oblock not in self._found

    def _make_room(self, blocks: int) -> None:
        if self._taken + blocks > self._room:
            for step in sorted(self._steps, key=lambda step: bool(step.unread & step.kept)):
                for oblock in list(step.kept):
                    self.drop(oblock)
                if self._taken + blocks <= self._room:
                    break

    def drop(self, oblock: int) -> None:
        """Take a block out, if it is here: it is cached now, or is older than the origin's, or there is no room."""
        step = self._found.pop(oblock, None)
        if step is None:
            return
        step.kept.remove(oblock)
        if oblock in step.unwanted:
            step.unwanted.remove(oblock)
            self._thrift.judge(wanted=False)
        if not step.kept:
            del self._steps[step]
            self._taken -= step.size

    def check(self) -> None:
        """Assert that nothing is here that is cached, that it fits in, and that the sums are right."""
        assert not any(oblock in self._cached for oblock in self._found)
        assert all(oblock in step.kept for oblock, step in self._found.items())
        assert len(self._found) == sum(len(step.kept) for step in self._steps)
        assert all(step.kept and step.unwanted <= step.kept for step in self._steps)
        assert self._taken == sum(step.size for step in self._steps) <= self._room
        unwanted = sum(len(step.unwanted) for step in self._steps)
        assert self._counts.read_ahead_used + unwanted <= self._counts.read_ahead
        self._streams.check()
        self._thrift.check()
