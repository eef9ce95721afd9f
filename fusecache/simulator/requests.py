"""Block requests: what a trace asks for, cut at block boundaries.

Each request of the trace becomes one block request for each block that it touches; policies and hit ratios know nothing
else.  Block requests come in portions, which are parallel lists: so a replay makes no object for each request, and a
long request needs no more memory than others do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from fusecache.simulator.trace import Trace

Progress = Callable[[int, int], None]
"""Called now and then with how many requests of the trace have been replayed, and how many there are."""

PORTION: Final = 20_000
"""Most requests of the trace, and most block requests, in one portion."""

WRITES: Final = 1
"""Bit of a kind: the request writes."""
WHOLE: Final = 2
"""Bit of a kind: the request covers the whole block."""
GOES_ON: Final = 4
"""Bit of a kind: the request goes on in the next block, which the next block request is for."""


class Portion(NamedTuple):
    """Some block requests in a row: a list for each of their properties."""

    done: int
    """Requests of the trace that are begun by the end of this portion."""
    times_us: Sequence[int]
    kinds: Sequence[int]
    """``WRITES``, ``WHOLE`` and ``GOES_ON``, added up."""
    oblocks: Sequence[int]
    offsets: Sequence[int]
    """Where they begin, in bytes of the image."""
    lengths: Sequence[int]
    """Bytes, at least 1."""


def split(trace: Trace, block_size: int) -> Iterator[Portion]:
    """Cut the requests of a trace at block boundaries; in order, none left out."""
    for start in range(0, len(trace.writes), PORTION):
        part = slice(start, start + PORTION)
        times_us, writes = trace.times_us[part], trace.writes[part]
        offsets, lengths = trace.offsets[part], trace.lengths[part]
        oblocks = [offset // block_size for offset in offsets]
        ends = [(offset + length - 1) // block_size for offset, length in zip(offsets, lengths, strict=True)]
        if oblocks == ends:  # the common case, and worth its own way
            kinds = [
                write + WHOLE if length == block_size else write for write, length in zip(writes, lengths, strict=True)
            ]
            yield Portion(start + len(writes), times_us, kinds, oblocks, offsets, lengths)
        else:
            yield from _cut(Portion(start, times_us, writes, oblocks, offsets, lengths), block_size)


def _cut(requests: Portion, block_size: int) -> Iterator[Portion]:
    """Cut some requests, whose kinds tell only whether they write, into portions of block requests."""
    done = requests.done
    portion = times, kinds, oblocks, offsets, lengths = _columns()
    for time_us, write, first, offset, length in zip(*requests[1:], strict=True):
        done += 1
        end = offset + length
        start = offset
        oblock = first
        while start < end:
            stop = min((oblock + 1) * block_size, end)
            times.append(time_us)
            kinds.append(write + WHOLE * (stop - start == block_size) + GOES_ON * (stop < end))
            oblocks.append(oblock)
            offsets.append(start)
            lengths.append(stop - start)
            if len(oblocks) == PORTION:
                yield Portion(done, *portion)
                portion = times, kinds, oblocks, offsets, lengths = _columns()
            start = stop
            oblock += 1
    if oblocks:
        yield Portion(done, *portion)


def _columns() -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    return [], [], [], [], []


def count_unique(trace: Trace, block_size: int) -> int:
    """Count the different blocks that a trace touches.

    Works on ranges of blocks, not on blocks: a request may be of any length.
    """
    unique = reached = 0
    for first, last in sorted(set(_ranges(trace, block_size))):
        unique += max(last + 1 - max(first, reached), 0)
        reached = max(reached, last + 1)
    return unique


def count_requests(trace: Trace, block_size: int) -> int:
    """Count the block requests into which :func:`split` cuts a trace, without cutting it."""
    return sum(last + 1 - first for first, last in _ranges(trace, block_size))


def count_origin(trace: Trace, block_size: int) -> int:
    """Count the blocks of the smallest origin that a trace fits."""
    return max(last for _, last in _ranges(trace, block_size)) + 1


def _ranges(trace: Trace, block_size: int) -> Iterator[tuple[int, int]]:
    """Tell for each request the first block and the last one that it touches."""
    for offset, length in zip(trace.offsets, trace.lengths, strict=True):
        yield offset // block_size, (offset + length - 1) // block_size
