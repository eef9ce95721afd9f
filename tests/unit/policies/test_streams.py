"""Streams: what a miss is told to be, whatever order the requests of a stream come in."""

from __future__ import annotations

import random

from policies.structures.streams import ALONE, FOLLOWS, LONG, STREAMS, Streams


def test_a_run_becomes_a_stream() -> None:
    streams = Streams()
    kinds = [streams.miss(oblock) for oblock in range(1000, 1000 + 3 * LONG)]
    assert kinds == [ALONE] + [FOLLOWS] * (LONG - 2) + [STREAMS] * (2 * LONG + 1)
    streams.check()


def test_streams_in_step_are_told_apart() -> None:
    streams = Streams()
    kinds = [streams.miss(first + number) for number in range(4 * LONG) for first in range(0, 8192, 1024)]
    assert kinds[8 * LONG :] == [STREAMS] * (8 * 3 * LONG)
    streams.check()


def test_requests_of_a_stream_that_take_turns_are_one_stream() -> None:
    streams = Streams()
    oblocks = [start + turn for start in range(0, 800, 8) for number in range(4) for turn in (number, number + 4)]
    kinds = [streams.miss(oblock) for oblock in oblocks]
    assert kinds[4 * LONG :] == [STREAMS] * (800 - 4 * LONG)
    streams.check()


def test_a_stream_goes_on_behind_cached_blocks() -> None:
    streams = Streams()
    kinds = [streams.miss(oblock) for oblock in range(2000) if oblock < LONG or oblock % 5 == 0]
    assert kinds[LONG:] == [STREAMS] * (len(kinds) - LONG)


def test_misses_anywhere_are_no_stream() -> None:
    streams, rng = Streams(), random.Random(1)
    assert STREAMS not in [streams.miss(rng.randrange(10**6)) for _ in range(20_000)]
    streams.check()


def test_the_same_two_missed_again_and_again_are_no_stream() -> None:
    streams = Streams()
    assert STREAMS not in [streams.miss(7 + number % 2) for number in range(100)]
