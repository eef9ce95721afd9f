"""Adaptive and scans: a hot set outlives what is read once in sequence; what is read again in sequence is learned."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest

from tests.unit.policies.playing import Play, scan

CACHE_BLOCKS = 1024
ELSEWHERE = CACHE_BLOCKS


def warmed(hot: int, seed: int = 1) -> Play:
    """Return a cache in which a hot set was read six times over, each time in another order, and then hit for long."""
    play, rng = Play("adaptive", CACHE_BLOCKS), random.Random(seed)
    for _ in range(6):
        play.read(*rng.sample(range(hot), hot))
    play.read(*(rng.randrange(hot) for _ in range(40_000)))
    return play


def kept(play: Play, hot: int) -> float:
    """Tell how much of the hot set is cached."""
    return sum(oblock < hot for oblock in play.cached()) / hot


def in_turns(blocks: Sequence[int], request: int) -> Iterable[int]:
    """Return the blocks as two requests at once ask for them, whose blocks come in turns."""
    for start in range(0, len(blocks), 2 * request):
        for number in range(start, start + request):
            yield from blocks[number : start + 2 * request : request]


@pytest.mark.parametrize("request_blocks", [1, 4, 16])
@pytest.mark.parametrize("hot", [CACHE_BLOCKS // 2, CACHE_BLOCKS * 9 // 10])
def test_a_hot_set_outlives_a_scan(hot: int, request_blocks: int) -> None:
    play = warmed(hot)
    play.read(*in_turns(scan(ELSEWHERE, 3 * CACHE_BLOCKS), request_blocks))
    assert kept(play, hot) >= 0.95
    play.policy.check()


@pytest.mark.parametrize("pieces", [2, 16])
def test_a_scan_in_small_pieces_costs_no_more(pieces: int) -> None:
    play = warmed(CACHE_BLOCKS // 2)
    play.read(*(block for block in scan(ELSEWHERE, 3 * CACHE_BLOCKS) for _ in range(pieces)))
    assert kept(play, CACHE_BLOCKS // 2) >= 0.95


def test_a_scan_of_half_a_cache_hits_when_it_is_repeated() -> None:
    play = warmed(CACHE_BLOCKS // 2)
    passes = [sum(play.read(*scan(ELSEWHERE, CACHE_BLOCKS // 2))) for _ in range(3)]
    assert passes[1] >= 0.95 * CACHE_BLOCKS // 2 <= passes[2]
    assert kept(play, CACHE_BLOCKS // 2) >= 0.95


def test_a_scan_is_learned_in_place_of_what_is_read_no_more() -> None:
    play = warmed(CACHE_BLOCKS)
    passes = [sum(play.read(*scan(ELSEWHERE, CACHE_BLOCKS // 2))) for _ in range(6)]
    assert passes[5] >= 0.9 * CACHE_BLOCKS // 2, passes


def test_a_scan_of_three_caches_that_is_repeated_is_kept_in_part() -> None:
    play = warmed(CACHE_BLOCKS // 2)
    passes = [sum(play.read(*scan(ELSEWHERE, 3 * CACHE_BLOCKS))) for _ in range(5)]
    assert passes[4] >= 0.4 * CACHE_BLOCKS, passes


@pytest.mark.parametrize("after_scan", [False, True])
def test_a_hot_set_that_moves_is_learned_at_once(after_scan: bool) -> None:
    half, rng = CACHE_BLOCKS // 2, random.Random(2)
    play = warmed(half)
    if after_scan:
        play.read(*scan(ELSEWHERE, 3 * CACHE_BLOCKS))
    for first in (2 * CACHE_BLOCKS, 3 * CACHE_BLOCKS, half):
        play.read(*(first + rng.randrange(half) for _ in range(4 * half)))
        assert sum(play.read(*scan(first, half))) >= 0.9 * half, first
