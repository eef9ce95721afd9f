"""Which misses come in order, how far to read ahead of them, and when not to: decisions only.

Theory of operation
-------------------
A *stream* is misses of which each begins where one before it has ended, or a little further on: what lies between may
be cached, and requests that are under way together may come in another order.  Several of them are known at a time.
Two misses side by side may be chance, so a stream counts only when it has gone on twice.

It is read ahead of in steps that double, from a few blocks to a bound.  There is another step only if the stream has
gone on since the last one, and only while no more than one step is in store.  So a stream that ends costs at most two
steps, and one that was none the smallest step.  A stream that has several reads under way anyway needs nobody who
reads ahead: the origin does these side by side, or one right after the other.

*Waste.*  Of the last blocks that were read ahead it is known whether anybody has wanted them.  If most were wanted by
nobody, steps are left out, all but one in so many, which finds out whether it pays again.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STREAMS: Final = 16
"""Streams that are known at a time; the one that has rested longest goes first."""
_STEPS: Final = 2
"""How often misses have to go on until they count as a stream."""
_KEEPS_BUSY: Final = 2
"""Reads by which a stream has enough under way by itself."""
_JUDGED: Final = 64
"""Blocks of which is known whether they were wanted."""
_LEAST_JUDGED: Final = 16
_LEFT_OUT: Final = 64
"""Steps that are left out, where they waste, before one is tried."""


class Stream:
    """Misses in order; all numbers are blocks.

    :ivar next: the block after the last one that was missed.
    :ivar under_way: reads ahead of it that are under way; the caller's.
    """

    __slots__ = ("_depth", "_end", "_mark", "_own_reads", "_steps", "next", "under_way")

    def __init__(self, first: int, after: int, least: int) -> None:
        self.next = after
        self.under_way = 0
        self._own_reads = 0
        self._steps = 0
        self._depth = max(least, after - first)
        self._end = after
        self._mark = -1
        """Where the stream was when the last step was taken."""

    def goes_on(self, first: int, after: int, most: int) -> bool:
        """Tell whether a miss of blocks ``first`` up to ``after`` belongs to it, and note how far it is then.

        :param most: blocks of the largest step.
        """
        slack = most if self._steps >= _STEPS else 0
        if not self.next - max(1, slack) <= first <= self.next + slack:
            return False
        if after > self.next:
            self.next = after
            self._steps += 1
        return True

    def step(self, most: int) -> range:
        """Return what to read ahead now; perhaps nothing."""
        depth = min(self._depth, most)
        begin = max(self._end, self.next)
        if self._steps < _STEPS or self._own_reads >= _KEEPS_BUSY or not self._mark < self.next >= begin - depth:
            return range(0)
        return range(begin, begin + depth)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Note that within this block a read of the origin is under way that is its own, and not ahead of it."""
        self._own_reads += 1
        try:
            yield
        finally:
            self._own_reads -= 1

    def stepped(self, end: int) -> None:
        """Note that what was wanted is read, or need not be, up to ``end``."""
        self._end = end
        self._mark = self.next
        self._depth *= 2

    def check(self) -> None:
        """Assert that it is possible."""
        assert self._mark <= self.next, (self._mark, self.next)
        assert self._depth >= 1
        assert self._own_reads >= 0
        assert self.under_way >= 0


class Streams:
    """The streams of one volume.

    :ivar least: blocks of the first step ahead of a stream; ``most``: of the largest, 0 for none.
    """

    __slots__ = ("_streams", "least", "most")

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most
        self._streams: list[Stream] = []
        """The one that has rested longest first."""

    def missed(self, first: int, after: int) -> Stream:
        """Note a miss of blocks ``first`` up to ``after``; returns the stream that it belongs to."""
        for number in range(len(self._streams) - 1, -1, -1):
            stream = self._streams[number]
            if stream.goes_on(first, after, self.most):
                del self._streams[number]
                break
        else:
            stream = Stream(first, after, self.least)
            if len(self._streams) == STREAMS:
                del self._streams[0]
        self._streams.append(stream)
        return stream

    def check(self) -> None:
        """Assert that there are not too many, and that each is possible."""
        assert len(self._streams) <= STREAMS
        for stream in self._streams:
            stream.check()


def first_free(wanted: range, is_free: Callable[[int], bool]) -> range:
    """Return the first neighbours among these blocks that can be read ahead; if none, nothing after all of them.

    :param is_free: tells whether nobody has a block.
    """
    begin = wanted.start
    while begin < wanted.stop and not is_free(begin):
        begin += 1
    end = begin
    while end < wanted.stop and is_free(end):
        end += 1
    return range(begin, end)


class Thrift:
    """Whether to read ahead is worthwhile, by what became of the last blocks."""

    __slots__ = ("_left_out", "_wanted")

    def __init__(self) -> None:
        self._wanted: deque[bool] = deque(maxlen=_JUDGED)
        self._left_out = 0

    def judge(self, *, wanted: bool) -> None:
        """Note what became of a block: somebody wanted it, or it was dropped before anybody did.

        A block that was wanted after all ends a pause.
        """
        if wanted and self.wastes:
            self._wanted.clear()
        self._wanted.append(wanted)

    @property
    def wastes(self) -> bool:
        """Whether most of the last blocks were wanted by nobody."""
        return len(self._wanted) >= _LEAST_JUDGED and 2 * sum(self._wanted) < len(self._wanted)

    def allows(self) -> bool:
        """Tell whether to take a step that could be taken now."""
        if not self.wastes:
            self._left_out = 0
            return True
        self._left_out += 1
        if self._left_out <= _LEFT_OUT:
            return False
        self._left_out = 0
        return True

    def check(self) -> None:
        """Assert that the count is possible."""
        assert 0 <= self._left_out <= _LEFT_OUT
