"""Reading ahead in a replay: as a mount does it, with what decides it there."""

from __future__ import annotations

import pytest

from fusecache.config import KIB
from fusecache.simulator.counts import Counts
from fusecache.simulator.read_ahead import ROOM, ReadAhead

BLOCK = 64 * KIB


class Reader:
    """Reads blocks that miss, one request each, through what was read ahead."""

    def __init__(self, most: int = 8, origin_blocks: int = 1_000_000) -> None:
        self.counts = Counts()
        self.cached: set[int] = set()
        self.ahead = ReadAhead(most, BLOCK, origin_blocks, self.cached, self.counts)

    def read(self, oblock: int) -> tuple[bool, list[int]]:
        """Return whether the block was there, and what is read ahead after it."""
        found = self.ahead.take(oblock, (oblock + 1) * BLOCK)
        ahead = self.ahead.look(oblock, oblock + 1)
        self.ahead.check()
        return found, list(ahead)

    def read_all(self, *oblocks: int) -> list[int]:
        """Return how many blocks are read ahead at each."""
        return [len(self.read(oblock)[1]) for oblock in oblocks]


def test_the_third_miss_in_order_makes_a_stream_whose_steps_double() -> None:
    reader = Reader()
    assert reader.read_all(0, 1) == [0, 0]
    assert reader.read(2) == (False, [3, 4])
    assert reader.read(3) == (True, [5, 6, 7, 8])
    assert reader.read(4) == (True, [*range(9, 17)])
    assert reader.read_all(5, 6, 7, 8) == [0, 0, 0, 8]  # no sooner: a step is in store
    assert (reader.counts.read_ahead, reader.counts.read_ahead_used) == (22, 6)


@pytest.mark.parametrize(("most", "steps"), [(1, [1, 1, 1]), (4, [2, 4, 4]), (16, [2, 4, 8])])
def test_the_largest_step_is_what_was_asked_for(most: int, steps: list[int]) -> None:
    assert Reader(most).read_all(*range(5))[2:] == steps


def test_steps_are_counted_in_units_of_64_kib_where_blocks_are_smaller() -> None:
    ahead = ReadAhead(64, 4 * KIB, 1_000_000, set(), Counts())
    assert [len(ahead.look(oblock, oblock + 1)) for oblock in range(4)] == [0, 0, 32, 64]


def test_misses_here_and_there_read_nothing_ahead() -> None:
    assert Reader().read_all(5, 50, 4, 70, 3, 90) == [0] * 6


def test_it_begins_where_nobody_has_the_blocks_and_ends_at_the_end_of_the_origin() -> None:
    reader = Reader(origin_blocks=20)
    reader.cached.update({3, 5})
    assert reader.read(0)[1] == reader.read(1)[1] == []
    assert reader.read(2)[1] == [4]
    reader = Reader(origin_blocks=20)
    assert [reader.read(oblock)[1] for oblock in (16, 17, 18)] == [[], [], [19]]
    assert reader.read(19) == (True, [])


def test_what_is_written_or_promoted_leaves_and_is_wasted_unless_it_was_used() -> None:
    reader = Reader()
    reader.read_all(0, 1, 2)
    reader.ahead.drop(3)
    reader.ahead.drop(3)
    reader.ahead.check()
    assert reader.read(3)[0] is False
    assert reader.read(4)[0] is True


def test_room_is_made_by_what_was_read_to_its_end_and_then_by_the_oldest() -> None:
    reader = Reader()
    streams = [1000 * number for number in range(1 + ROOM // 2)]
    for begin in streams[:-1]:
        reader.read_all(begin, begin + 1, begin + 2)
        assert reader.read(begin + 2)[1] == []
    for oblock in (streams[5] + 3, streams[5] + 4):
        assert reader.ahead.take(oblock, (oblock + 1) * BLOCK)
    assert reader.read_all(streams[-1], streams[-1] + 1, streams[-1] + 2) == [0, 0, 2]
    assert not reader.ahead.take(streams[5] + 3, BLOCK)
    assert reader.ahead.take(streams[0] + 3, BLOCK)
    reader.read_all(77_000, 77_001, 77_002)
    assert not reader.ahead.take(streams[0] + 4, BLOCK)


def test_where_most_is_wasted_steps_are_left_out() -> None:
    reader = Reader(most=2)
    steps = 0
    for begin in range(0, 100_000, 100):
        steps += sum(map(bool, reader.read_all(begin, begin + 1, begin + 2)))
    assert 40 < steps < 70  # until the room was full, and then one in 65
