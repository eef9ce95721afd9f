from __future__ import annotations

from functools import cache, partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.simulator import limits
from fusecache.simulator.counts import Counts
from fusecache.simulator.limits import LIMITS, replay_limit
from fusecache.simulator.rules import DataPath, Rules
from tests.unit.simulator.making import BLOCK, blocks, make_trace

any_blocks = st.lists(st.integers(0, 5), min_size=1, max_size=14)


def nobody(_done: int, _total: int) -> None:
    """Report to nobody."""


def play(name: str, text: str, cache_blocks: int, data_path: DataPath = DataPath.COPY) -> Counts:
    trace = make_trace(blocks(text))
    counts = replay_limit(trace, LIMITS[name](trace, BLOCK, cache_blocks), BLOCK, data_path, Rules(), nobody)
    counts.check()
    return counts


lru = partial(play, "exact-lru")
opt = partial(play, "opt")


def reads(oblocks: list[int]) -> str:
    return " ".join(f"r{oblock}" for oblock in oblocks)


def most_hits(oblocks: list[int], cache_blocks: int) -> int:
    """Try everything that a cache can do."""

    @cache
    def best(index: int, cached: frozenset[int]) -> int:
        if index == len(oblocks):
            return 0
        oblock = oblocks[index]
        if oblock in cached:
            return 1 + best(index + 1, cached)
        choices = [cached]
        if len(cached) < cache_blocks:
            choices.append(cached | {oblock})
        else:
            choices.extend(cached - {victim} | {oblock} for victim in cached)
        return max(best(index + 1, choice) for choice in choices)

    return best(0, frozenset())


@given(any_blocks, st.integers(1, 4))
def test_opt_has_as_many_hits_as_can_be(oblocks: list[int], cache_blocks: int) -> None:
    assert opt(reads(oblocks), cache_blocks).hits == most_hits(oblocks, cache_blocks)


@given(any_blocks, st.integers(1, 4))
def test_opt_is_the_same_however_often_it_forgets_past_uses(oblocks: list[int], cache_blocks: int) -> None:
    usual = opt(reads(oblocks * 20), cache_blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_FEW", 0)
        patch.setattr(limits, "_PAST_PER_LIVE", 1)
        assert opt(reads(oblocks * 20), cache_blocks) == usual


def test_opt_bypasses_what_is_used_later_than_all_that_is_cached_or_never() -> None:
    counts = opt("r0 r1 r2 r0 r1 r3 r2 r2", 2)
    # 2 is used later than 0 and 1 at first; when it comes again, their places are free for it; 3 is never used again
    assert (counts.requests, counts.hits, counts.promotions, counts.demotions) == (8, 3, 3, 1)


def test_opt_of_a_loop_keeps_a_part_of_it() -> None:
    counts = opt(reads([*range(10)] * 5), 3)
    assert (counts.hits, counts.promotions, counts.demotions, counts.slow_ops()) == (12, 3, 0, 38)


def test_opt_writes_back_what_it_gives_up_dirty() -> None:
    counts = opt("w0 w0 r1 r1 w2 w2", 1)
    assert (counts.hits, counts.promotions, counts.demotions, counts.writebacks) == (3, 3, 2, 1)
    assert counts.slow_ops() == 3 + 1
    assert counts.cache_bytes_written(BLOCK) == 5 * BLOCK  # three promotions, and two writes of blocks that were there


def lru_hits(oblocks: list[int], cache_blocks: int) -> int:
    recent: list[int] = []
    hits = 0
    for oblock in oblocks:
        hits += oblock in recent
        recent = [oblock, *(other for other in recent if other != oblock)][:cache_blocks]
    return hits


@given(any_blocks, st.integers(1, 4))
def test_lru_is_lru(oblocks: list[int], cache_blocks: int) -> None:
    counts = lru(reads(oblocks), cache_blocks)
    assert counts.hits == lru_hits(oblocks, cache_blocks)
    assert counts.promotions == len(oblocks) - counts.hits
    assert counts.demotions == max(counts.promotions - cache_blocks, 0)
    assert counts.hits <= opt(reads(oblocks), cache_blocks).hits


def test_lru_writes_back_what_it_gives_up_dirty() -> None:
    counts = lru("r0 h0 r1 r2 r3 r4", 2)
    assert (counts.hits, counts.promotions, counts.demotions, counts.writebacks) == (1, 5, 3, 1)
    assert counts.slow_ops() == 5 + 1
    assert counts.cache_bytes_written(BLOCK) == 5 * BLOCK + BLOCK // 2


def test_a_write_of_half_a_block_is_made_after_the_rest_has_been_read() -> None:
    counts = lru("h0", 1)
    assert (counts.promotions, counts.fills, counts.slow_ops()) == (1, 0, 2)
    assert counts.cache_bytes_written(BLOCK) == BLOCK + BLOCK // 2


def operations(counts: Counts) -> tuple[int, int, int]:
    return counts.disk.reads, counts.disk.writes, counts.writebacks


@pytest.mark.parametrize(
    ("data_path", "expected"),
    [
        (DataPath.COPY, (4, 3, 1)),  # 1 is missed, read by itself, and written back
        (DataPath.FILL, (4, 1, 0)),  # 1 is written at the origin, and read by itself; 2 comes with its promotion
        (DataPath.ABSORB, (3, 2, 2)),  # 2 is written back with 1, of which only the first half is valid
    ],
)
def test_lru_by_each_data_path(data_path: DataPath, expected: tuple[int, int, int]) -> None:
    counts = lru("r0 h1 w2 r3 r4 r4", 3, data_path)
    assert (counts.hits, counts.promotions, counts.demotions) == (1, 5, 2)
    assert operations(counts) == expected


@pytest.mark.parametrize(
    ("data_path", "expected"), [(DataPath.COPY, (3, 4, 1)), (DataPath.FILL, (3, 4, 1)), (DataPath.ABSORB, (2, 3, 1))]
)
def test_opt_by_each_data_path(data_path: DataPath, expected: tuple[int, int, int]) -> None:
    counts = opt("h0 r1 h0 r1 w2 r1 h3", 1, data_path)  # 1 at first, 2 and 3 are bypassed
    assert (counts.hits, counts.promotions, counts.demotions) == (2, 2, 1)
    assert operations(counts) == expected


@given(any_blocks, st.integers(1, 4), st.sampled_from(DataPath))
def test_hits_are_the_same_by_every_data_path(oblocks: list[int], cache_blocks: int, data_path: DataPath) -> None:
    for limit in (lru, opt):
        assert limit(reads(oblocks), cache_blocks, data_path).hits == limit(reads(oblocks), cache_blocks).hits


def test_progress_ends_at_the_end() -> None:
    seen: list[tuple[int, int]] = []
    trace = make_trace(blocks(reads([*range(10)])))
    for make in LIMITS.values():
        for data_path in DataPath:
            limit = make(trace, BLOCK, 2)
            replay_limit(trace, limit, BLOCK, data_path, Rules(), lambda done, total: seen.append((done, total)))
    assert seen == [(10, 10)] * len(LIMITS) * len(DataPath)
