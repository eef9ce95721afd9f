"""Which misses are streams, how far is read ahead of them, and when not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusecache import streams as module
from fusecache.streams import STREAMS, Stream, Streams, Thrift

MOST = 8


def sequential(first: int, *, streams: Streams | None = None, times: int = 3) -> Stream:
    """Return a stream of one block at a time, which has gone on often enough to count."""
    streams = streams or Streams(2, MOST)
    for oblock in range(first, first + times - 1):
        streams.missed(oblock, oblock + 1)
    return streams.missed(first + times - 1, first + times)


def steps_of(stream: Stream, times: int) -> list[range]:
    """Let a stream go on to the end of what was read ahead of it, so many times; returns the steps that are taken."""
    taken = []
    for _ in range(times):
        step = stream.step(MOST)
        taken.append(step)
        stream.stepped(step.stop)
        stream.goes_on(stream.next, step.stop, MOST)
    return taken


def test_two_misses_side_by_side_are_no_stream_three_are() -> None:
    assert sequential(100, times=2).step(MOST) == range(0)
    assert sequential(100, times=3).step(MOST) == range(103, 105)


def test_steps_double_up_to_the_bound() -> None:
    assert [len(step) for step in steps_of(sequential(0), 5)] == [2, 4, 8, 8, 8]


def test_steps_follow_one_another_without_a_gap() -> None:
    taken = steps_of(sequential(0), 5)
    assert [step.start for step in taken[1:]] == [step.stop for step in taken[:-1]]


def test_no_step_is_taken_until_the_stream_has_gone_on() -> None:
    stream = sequential(0)
    stream.stepped(stream.step(MOST).stop)
    assert stream.step(MOST) == range(0)
    assert stream.goes_on(stream.next, stream.next + 1, MOST)
    assert stream.step(MOST)


def test_no_step_is_taken_while_more_than_one_is_in_store() -> None:
    stream = sequential(0)
    steps_of(stream, 4)
    stored = stream.next + MOST + 2
    stream.stepped(stored)
    assert stream.goes_on(stream.next, stream.next + 1, MOST)
    assert stream.step(MOST) == range(0)
    assert stream.goes_on(stream.next, stream.next + 1, MOST)
    assert stream.step(MOST) == range(stored, stored + MOST)


def test_large_requests_have_large_steps_at_once() -> None:
    streams = Streams(2, MOST)
    for first in (0, 4):
        streams.missed(first, first + 4)
    assert streams.missed(8, 12).step(MOST) == range(12, 16)


def test_a_stream_with_reads_enough_of_its_own_is_left_alone() -> None:
    stream = sequential(0)
    with stream.reading():
        with stream.reading():
            assert stream.step(MOST) == range(0)
        assert stream.step(MOST)


def test_requests_within_a_block_are_no_progress() -> None:
    streams = Streams(2, MOST)
    for _ in range(5):
        assert streams.missed(7, 8).step(MOST) == range(0)
    assert sequential(8, streams=streams, times=2).step(MOST) == range(10, 12)


def test_a_stream_may_leave_out_what_is_cached_and_come_in_disorder() -> None:
    streams = Streams(2, MOST)
    stream = sequential(0, streams=streams)
    assert streams.missed(7, 8) is stream
    assert streams.missed(5, 6) is stream
    assert stream.next == 8
    assert streams.missed(8 + MOST + 1, 8 + MOST + 2) is not stream


def test_several_streams_are_told_apart() -> None:
    streams = Streams(2, MOST)
    for number in range(4):
        for start in (0, 1000, 2000):
            stream = streams.missed(start + number, start + number + 1)
            assert stream.next == start + number + 1
    for start in (0, 1000, 2000):
        assert streams.missed(start + 4, start + 5).step(MOST).start == start + 5


def test_the_stream_that_has_rested_longest_is_forgotten() -> None:
    streams = Streams(2, MOST)
    old, young = (streams.missed(start, start + 1) for start in (0, 10**6))
    assert streams.missed(1, 2) is old
    for number in range(2, STREAMS + 1):
        streams.missed(1000 * number, 1000 * number + 1)
    assert streams.missed(2, 3) is old
    assert streams.missed(10**6 + 1, 10**6 + 2) is not young
    streams.check()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 5)), max_size=200))
def test_whatever_is_missed_steps_lie_ahead_and_are_bounded(misses: list[tuple[int, int]]) -> None:
    streams = Streams(2, MOST)
    for first, count in misses:
        stream = streams.missed(first, first + count)
        streams.check()
        step = stream.step(MOST)
        assert not step or (step.start >= stream.next >= first + count)
        assert len(step) <= MOST
        if step:
            stream.stepped(step.stop)
            assert stream.step(MOST) == range(0)


def judged(thrift: Thrift, *outcomes: bool) -> None:
    for wanted in outcomes:
        thrift.judge(wanted=wanted)
        thrift.check()


def test_steps_are_left_out_where_most_is_wasted() -> None:
    thrift = Thrift()
    judged(thrift, *[False] * (module._LEAST_JUDGED - 1))
    assert thrift.allows()
    judged(thrift, False)
    assert not thrift.allows()


def test_what_was_wanted_for_the_greater_part_goes_on() -> None:
    thrift = Thrift()
    judged(thrift, *[False, True] * module._JUDGED)
    assert thrift.allows()


def test_where_it_wastes_one_step_in_so_many_is_tried() -> None:
    thrift = Thrift()
    judged(thrift, *[False] * module._JUDGED)
    allowed = [thrift.allows() for _ in range(3 * (module._LEFT_OUT + 1))]
    assert allowed.count(True) == 3
    assert allowed.index(True) == module._LEFT_OUT


def test_a_block_that_is_wanted_after_all_ends_the_pause() -> None:
    thrift = Thrift()
    judged(thrift, *[False] * module._JUDGED, True)
    assert all(thrift.allows() for _ in range(10))
