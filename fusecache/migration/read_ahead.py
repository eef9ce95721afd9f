"""Read-ahead: blocks that nobody has asked for yet, in memory beside the cache, for origins that do not do that.

Theory of operation
-------------------
Misses in order (:mod:`fusecache.streams`) have the blocks read that come next, several in one read of the
origin, while whoever reads is busy with what he has.  They lie in memory of a bounded size, so no block leaves the
cache for them.  A miss takes its bytes from there, and so does a block that the policy wants: then the origin is not
read again.  Who misses a block that is just being read waits for that read.

*What is found here is what a read of the origin would give.*
  What must hold: a block can be found here only if it is not cached, and only as long as nobody has begun to write to
  it since the read of it began.
  Why it holds: a read begins only for blocks that are not cached and that nobody holds, and from that moment on they
  can be found.  There are three ways to change such a block, and each takes it out (:meth:`ReadAhead.forget`) before
  anything is written: whoever writes holds the block for writing, and the locks tell us (``on_write``); a write that
  promotes its block has it exclusively and tells us itself (:mod:`fusecache.migration.steps`); a block that is mapped
  is taken out by the switch.  A block that was taken out while it was being read is not put back when the read ends,
  and who waits for it reads it himself.  Nobody has to be waited for: nothing is locked here.
  When the origin has lost what was written (``origin_lost``), what memory has of it is not what it has.

*What it costs others.*  One read ahead is under way for a stream, so a request of somebody else waits behind one
such read at most.  Only a stream that has the origin for itself has a second one wait there.  A read ahead counts as a
user's I/O, since users are about to wait for it: writebacks let it go first.  If it fails, nobody hears of it: who
needs these blocks reads them himself.

*Room.*  What was read together leaves together: first what has been read to its end, then the oldest.
"""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.block import UNMAPPED
from fusecache.config import KIB
from fusecache.errors import StoreError
from fusecache.streams import Stream, Streams, Thrift, first_free
from fusecache.volume import OriginIO

if TYPE_CHECKING:
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_UNIT: Final = 64 * KIB
"""Bytes in which steps are counted, where blocks are smaller."""
_LEAST: Final = 2
_MOST: Final = 8
"""Units, or blocks where they are larger, of the first and of the largest step."""
_SHARE: Final = 4
"""No step takes more than this part of the room: a quarter."""
_MOST_UNDER_WAY: Final = 4
"""Reads ahead of streams, one for each."""
_MOST_ALONE: Final = 2
"""Reads ahead of a stream that has the origin for itself: while one is done, the next one is there already."""


class _Run:
    """Neighbours that are, or were, read ahead together.

    :ivar blocks: their numbers; ``view``: their bytes.
    :ivar was_read: set when the bytes are there, or cannot be had.
    :ivar kept: the blocks that can be found here.
    :ivar unwanted: those of them that nobody has had yet; ``unread``: of which nobody has had the end.
    """

    __slots__ = ("blocks", "kept", "unread", "unwanted", "view", "was_read")

    def __init__(self, blocks: range, view: memoryview) -> None:
        self.blocks = blocks
        self.view = view
        self.was_read = trio.Event()
        self.kept = set(blocks)
        self.unwanted = set(blocks)
        self.unread = set(blocks)


class ReadAhead:
    """What is read ahead of the misses of one volume.

    :ivar nursery: where reads run; None if there can be none.
    :ivar usual_size: what ``auto`` means for this origin, in bytes.
    """

    __slots__ = (
        "_block_size",
        "_found",
        "_origin",
        "_runs",
        "_size",
        "_spare",
        "_streams",
        "_taken",
        "_thrift",
        "_under_way",
        "_volume",
        "nursery",
        "usual_size",
    )

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._block_size = volume.geometry.block_size
        self._origin = OriginIO(volume)
        self._size = 0
        self._streams = Streams(self._blocks_of(_LEAST), 0)
        self._thrift = Thrift()
        self._found: dict[int, _Run] = {}
        """Where a block can be found."""
        self._runs: dict[_Run, None] = {}
        """Those that take room, the oldest first."""
        self._taken = 0
        """Bytes that they take."""
        self._spare: memoryview | None = None
        self._under_way = 0
        self.nursery: trio.Nursery | None = None
        self.usual_size = 0
        volume.locks.on_write = self.forget

    def _blocks_of(self, units: int) -> int:
        return units * max(1, _UNIT // self._block_size)

    @property
    def size(self) -> int:
        """Bytes of memory that may be taken; 0 if nothing is read ahead."""
        return self._size

    def set_size(self, size: int | None) -> None:
        """Take so much memory at most from now on; 0 for none, None for what is usual."""
        self._size = self.usual_size if size is None else size
        self._streams.most = min(self._blocks_of(_MOST), self._size // _SHARE // self._block_size)
        self.clear()

    def clear(self) -> None:
        """Drop everything."""
        for oblock in list(self._found):
            self.forget(oblock)

    def forget(self, oblock: int) -> None:
        """Drop a block, because it is about to change or to be mapped, or for want of room."""
        run = self._found.pop(oblock, None)
        if run is None:
            return
        run.kept.remove(oblock)
        if oblock in run.unwanted:
            run.unwanted.remove(oblock)
            self._volume.counters.read_ahead_wasted += 1
            self._thrift.judge(wanted=False)
        if not run.kept and run.was_read.is_set():
            self._remove(run)

    def _remove(self, run: _Run) -> None:
        del self._runs[run]
        self._taken -= len(run.view)
        self._spare = run.view  # who still waits for it finds nothing kept there, and does not look at the bytes

    def _memory(self, size: int) -> memoryview:
        """Return memory for a read; it is used again, since the kernel has to clear fresh memory page by page."""
        spare, self._spare = self._spare, None
        if spare is not None and len(spare) == size:
            return spare
        return memoryview(mmap(-1, size))  # begins at a page, as unbuffered stores need it

    # What can be had

    async def read(self, position: int, into: memoryview) -> None:
        """Fill ``into`` from a position of the image, of which the cache has nothing; raises StoreError."""
        if not self._size:
            await self._origin.read(position, into)
            return
        if self._volume.health.origin_lost:
            self.clear()
        end = position + len(into)
        missing_begin, missing_end = end, position
        awaited: list[tuple[_Run, int, int, int]] = []
        for oblock in range(position // self._block_size, -(-end // self._block_size)):
            begin = max(position, oblock * self._block_size)
            stop = min(end, (oblock + 1) * self._block_size)
            run = self._found.get(oblock)
            if run is None:
                missing_begin, missing_end = min(missing_begin, begin), stop
            elif run.was_read.is_set():
                self._take(run, oblock, begin, into[begin - position : stop - position])
            else:
                awaited.append((run, oblock, begin, stop))
        stream = self._look_ahead(position, end)
        if missing_begin < missing_end:
            with stream.reading():
                await self._origin.read(missing_begin, into[missing_begin - position : missing_end - position])
        for run, oblock, begin, stop in awaited:
            if missing_begin <= begin < missing_end:
                continue  # it came with the rest
            part = into[begin - position : stop - position]
            await run.was_read.wait()
            if oblock in run.kept:
                self._take(run, oblock, begin, part)
            else:
                await self._origin.read(begin, part)

    def read_now(self, position: int, into: memoryview) -> bool:
        """Do what :meth:`read` does if that needs no waiting; returns whether it was done."""
        if not self.copy(position, into):
            return False
        self._look_ahead(position, position + len(into))
        return True

    def copy(self, position: int, into: memoryview) -> bool:
        """Fill ``into`` from a position of the image if all of that is in memory; returns whether it was done."""
        if not self._found:
            return False
        if self._volume.health.origin_lost:
            self.clear()
        size, end = self._block_size, position + len(into)
        oblocks = range(position // size, -(-end // size))
        for oblock in oblocks:
            run = self._found.get(oblock)
            if run is None or not run.was_read.is_set():
                return False
        for oblock in oblocks:
            begin, stop = max(position, oblock * size), min(end, (oblock + 1) * size)
            self._take(self._found[oblock], oblock, begin, into[begin - position : stop - position])
        return True

    def _take(self, run: _Run, oblock: int, position: int, into: memoryview) -> None:
        """Copy a part of one block."""
        start = position - run.blocks.start * self._block_size
        into[:] = run.view[start : start + len(into)]
        if oblock in run.unwanted:
            run.unwanted.remove(oblock)
            self._volume.counters.read_ahead_used += 1
            self._thrift.judge(wanted=True)
        if (position + len(into)) % self._block_size == 0:
            run.unread.discard(oblock)

    # Reading ahead

    def _look_ahead(self, begin: int, end: int) -> Stream:
        """Note a miss, and begin to read what comes after it, if that is to be done; returns its stream."""
        stream = self._streams.missed(begin // self._block_size, -(-end // self._block_size))
        if self.nursery is not None and (run := self._begin(stream)) is not None:
            self.nursery.start_soon(self._follow, stream, run)
        return stream

    async def _follow(self, stream: Stream, run: _Run | None) -> None:
        """Read ahead of a stream for as long as it comes after us."""
        while run is not None:
            try:
                await self._read_run(run)
            finally:
                stream.under_way -= 1
                self._under_way -= 1
            run = self._begin(stream)

    def _may_begin(self, stream: Stream) -> bool:
        """Tell whether one more read may be under way ahead of a stream."""
        if not stream.under_way:
            return self._under_way < _MOST_UNDER_WAY
        alone = self._volume.activity.in_flight <= self._under_way == stream.under_way
        return alone and stream.under_way < _MOST_ALONE

    def _begin(self, stream: Stream) -> _Run | None:
        """Begin the next step of a stream, if there is one to take now."""
        if not self._may_begin(stream):
            return None
        wanted = stream.step(self._streams.most)
        wanted = wanted[: max(0, self._volume.geometry.origin_blocks - wanted.start)]
        if not wanted or self._volume.health.origin_lost or not self._thrift.allows():
            return None
        blocks = first_free(wanted, self._is_free)
        stream.stepped(blocks.stop)
        size = len(blocks) * self._block_size
        if not (blocks and self._make_room(size)):
            return None
        run = _Run(blocks, self._memory(size))
        self._runs[run] = None
        self._taken += size
        self._found.update(dict.fromkeys(blocks, run))
        stream.under_way += 1
        self._under_way += 1
        self._volume.counters.read_aheads += 1
        self._volume.counters.read_ahead_blocks += len(blocks)
        return run

    def _is_free(self, oblock: int) -> bool:
        """Tell whether nobody has a block: not the cache, not we, and nobody who reads, writes or migrates it."""
        volume = self._volume
        return oblock not in self._found and oblock not in volume.locks.held and volume.mapping.find(oblock) == UNMAPPED

    def _make_room(self, size: int) -> bool:
        """Drop what was read ahead until so many bytes fit in; returns whether they do."""
        if self._taken + size > self._size:
            ended = [run for run in self._runs if run.was_read.is_set()]
            for run in sorted(ended, key=lambda run: bool(run.unread & run.kept)):
                for oblock in list(run.kept):
                    self.forget(oblock)
                if self._taken + size <= self._size:
                    break
        return self._taken + size <= self._size

    async def _read_run(self, run: _Run) -> None:
        try:
            await self._origin.read_ahead(run.blocks.start * self._block_size, run.view)
        except BaseException as exc:
            for oblock in list(run.kept):
                self.forget(oblock)
            if not isinstance(exc, StoreError):
                raise
            log.warning("read-ahead failed", oblock=run.blocks.start, blocks=len(run.blocks), error=str(exc))
        finally:
            run.was_read.set()
            if not run.kept:
                self._remove(run)

    def check(self) -> None:
        """Assert that nothing is here that is cached or being written, and that everything is counted."""
        volume, counters = self._volume, self._volume.counters
        for oblock, run in self._found.items():
            assert volume.mapping.find(oblock) == UNMAPPED, f"oblock {oblock} is cached and read ahead"
            assert not volume.locks.is_writing(oblock), f"oblock {oblock} is read ahead while it is written"
            assert oblock in run.kept
            assert run in self._runs
            assert oblock < volume.geometry.origin_blocks
        assert len(self._found) == sum(len(run.kept) for run in self._runs)
        assert all(run.unwanted <= run.kept <= set(run.blocks) for run in self._runs)
        assert all(run.kept or not run.was_read.is_set() for run in self._runs)
        assert self._taken == sum(len(run.view) for run in self._runs)
        assert 0 <= self._under_way <= _MOST_UNDER_WAY
        judged = counters.read_ahead_used + counters.read_ahead_wasted
        assert counters.read_ahead_blocks == judged + sum(len(run.unwanted) for run in self._runs)
        self._streams.check()
        self._thrift.check()
