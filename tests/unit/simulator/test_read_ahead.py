from __future__ import annotations

from fusecache.simulator.counts import Counts
from fusecache.simulator.read_ahead import BUFFER_BLOCKS, JUDGED_BLOCKS, LEAST_USED, PAUSE, REACH, ReadAhead


class Reader:
    """Reads blocks that miss, one request each, through a buffer."""

    def __init__(self, blocks: int = 4, origin_blocks: int = 1_000_000) -> None:
        self.counts = Counts()
        self.cached: set[int] = set()
        self.ahead = ReadAhead(blocks, origin_blocks, self.cached, self.counts)
        self._index = -1

    def skip(self, requests: int) -> None:
        self._index += requests

    def read(self, oblock: int) -> int | None:
        """Return by how many blocks was read ahead; None if the buffer had the block."""
        self._index += 1
        self.ahead.check()
        if self.ahead.meet(self._index, oblock):
            return None
        following = self.ahead.follow(self._index, oblock)
        self.ahead.check()
        return following


def test_the_second_of_two_neighbours_reads_ahead_and_so_does_the_first_beyond() -> None:
    reader = Reader()
    assert [reader.read(oblock) for oblock in range(12)] == [0, 4, *[None] * 4, 4, *[None] * 4, 4]
    assert (reader.counts.read_ahead, reader.counts.read_ahead_used) == (12, 8)


def test_what_is_not_sequential_reads_nothing_ahead() -> None:
    reader = Reader()
    assert [reader.read(oblock) for oblock in (5, 5, 4, 7, 3, 9)] == [0] * 6


def test_the_block_before_may_have_been_read_64_requests_ago_and_no_more() -> None:
    for between, following in ((REACH - 1, 4), (REACH, 0)):
        reader = Reader()
        assert reader.read(10) == 0
        reader.skip(between)
        assert reader.read(11) == following


def test_streams_side_by_side_each_have_their_own() -> None:
    reader = Reader()
    assert [reader.read(base + at) for at in range(3) for base in (0, 100, 200)] == [0] * 3 + [4] * 3 + [None] * 3


def test_it_ends_at_what_is_cached_or_there_already_and_at_the_end_of_the_origin() -> None:
    reader = Reader(origin_blocks=20)
    reader.cached.add(4)
    assert [reader.read(oblock) for oblock in (1, 2)] == [0, 1]
    assert [reader.read(oblock) for oblock in (10, 11)] == [0, 4]
    assert [reader.read(oblock) for oblock in (8, 9)] == [0, 2]  # 12 is there
    assert [reader.read(oblock) for oblock in (16, 17, 18, 19)] == [0, 2, None, None]


def test_a_block_stays_until_others_push_it_out_however_often_it_is_read() -> None:
    reader = Reader()
    assert [reader.read(oblock) for oblock in (1, 2, 3, 3, 3)] == [0, 4, None, None, None]
    assert reader.counts.read_ahead_used == 1
    for stream in range(1, BUFFER_BLOCKS // 4 + 1):
        assert [reader.read(100 * stream), reader.read(100 * stream + 1)] == [0, 4]
    assert reader.read(6) == 0


def test_a_block_that_is_cached_or_written_is_dropped() -> None:
    reader = Reader()
    assert [reader.read(oblock) for oblock in (1, 2)] == [0, 4]
    reader.ahead.drop(4)
    reader.ahead.drop(999)
    assert [reader.read(oblock) for oblock in (3, 4)] == [None, 0]  # 5 is in the buffer


def waste(reader: Reader, pairs: range, use: int = 0) -> list[int]:
    """Read pairs of neighbours, far from each other; then the ``use`` blocks that follow, of the four read ahead."""
    followed = []
    for pair in pairs:
        first = 100 * pair
        assert reader.read(first) == 0
        following = reader.read(first + 1)
        assert following is not None
        followed.append(following)
        for used in range(use if following else 0):
            assert reader.read(first + 2 + used) is None
    return followed


def test_it_stops_where_too_little_is_used_and_tries_again_after_a_thousand_chances() -> None:
    reader = Reader()
    before = (JUDGED_BLOCKS + BUFFER_BLOCKS) // 4
    assert waste(reader, range(before)) == [4] * before
    assert waste(reader, range(before, before + PAUSE + 1)) == [*[0] * (PAUSE - 1), 4, 4]


def test_a_quarter_is_enough() -> None:
    assert LEAST_USED * 4 == JUDGED_BLOCKS
    pairs = range(2 * JUDGED_BLOCKS)
    assert waste(Reader(), pairs, use=1) == [4] * len(pairs)


def test_what_was_missed_long_ago_is_forgotten() -> None:
    reader = Reader()
    for oblock in range(0, 20_000, 2):
        assert reader.read(oblock) == 0
    assert reader.read(19_999) == 4
