"""Block requests: what a trace asks for, cut at block boundaries.

Each request of the trace becomes one block request for each block that it touches; policies and hit ratios know nothing
else.  Block requests come in portions, which are parallel lists: so a replay makes no object for each request, and a
long request needs no more memory than others do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import add
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
        oblocks, lasts = _first_and_last(offsets, lengths, block_size)
        if oblocks == lasts:  # the common case, and worth its own way
            kinds = [
                write + WHOLE if length == block_size else write for write, length in zip(writes, lengths, strict=True)
            ]
            yield Portion(start + len(writes), times_us, kinds, oblocks, offsets, lengths)
        else:
            yield from _cut(Portion(start, times_us, writes, oblocks, offsets, lengths), lasts, block_size)


def _cut(requests: Portion, lasts: list[int], block_size: int) -> Iterator[Portion]:
    """Cut some requests, whose kinds tell only whether they write, into portions of block requests."""
    done = requests.done
    portion = times, kinds, oblocks, offsets, lengths = _columns()
    for time_us, write, first, offset, length, last in zip(*requests[1:], lasts, strict=True):
        done += 1
        start, rest = offset, length
        for oblock in range(first, last + 1):
            size = rest if oblock == last else (oblock + 1) * block_size - start
            kind = write + WHOLE if size == block_size else write
            times.append(time_us)
            kinds.append(kind if oblock == last else kind + GOES_ON)
            oblocks.append(oblock)
            offsets.append(start)
            lengths.append(size)
            start += size
            rest -= size
            if len(oblocks) == PORTION:
                yield Portion(done, *portion)
                portion = times, kinds, oblocks, offsets, lengths = _columns()
    if oblocks:
        yield Portion(done, *portion)


def _columns() -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    return [], [], [], [], []


def count_unique(trace: Trace, block_size: int) -> int:
    """Count the different blocks that a trace touches.

    Works on ranges of blocks, not on blocks: a request may be of any length.
    """
    unique = reached = 0
    ranges: set[tuple[int, int]] = set()
    for firsts, lasts in _ranges(trace, block_size):
        ranges.update(zip(firsts, lasts, strict=True))
    for first, last in sorted(ranges):
        unique += max(last + 1 - max(first, reached), 0)
        reached = max(reached, last + 1)
    return unique


def count_requests(trace: Trace, block_size: int) -> int:
    """Count the block requests into which :func:`split` cuts a trace, without cutting it."""
    return sum(sum(lasts) - sum(firsts) + len(firsts) for firsts, lasts in _ranges(trace, block_size))


def count_origin(trace: Trace, block_size: int) -> int:
    """Count the blocks of the smallest origin that a trace fits."""
    end: int = max(map(add, trace.offsets, trace.lengths))
    return -(-end // block_size)


def _ranges(trace: Trace, block_size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Tell for some requests after the other the first block and the last one that each touches."""
    for start in range(0, len(trace.writes), PORTION):
        part = slice(start, start + PORTION)
        yield _first_and_last(trace.offsets[part], trace.lengths[part], block_size)


def _first_and_last(offsets: Sequence[int], lengths: Sequence[int], block_size: int) -> tuple[list[int], list[int]]:
    firsts = [offset // block_size for offset in offsets]
    return firsts, [(end - 1) // block_size for end in map(add, offsets, lengths)]
