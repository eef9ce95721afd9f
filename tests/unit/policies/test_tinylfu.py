"""W-TinyLFU: counts decide who stays, and the window climbs."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import pytest

from policies.tinylfu import TinyLfuPolicy
from tests.unit.policies.playing import Play


def tiny(play: Play) -> TinyLfuPolicy:
    return cast("TinyLfuPolicy", play.policy)


def test_what_is_used_often_outlives_a_scan() -> None:
    play = Play("tinylfu", 41)
    for _ in range(5):
        play.read(*range(20))
    play.read(*range(100, 200))
    assert sum(play.read(*range(20))) > 17


def test_a_candidate_used_more_often_takes_the_place_of_one_on_probation() -> None:
    play = Play("tinylfu", 41)
    play.read(*range(100, 140))
    for _ in range(6):
        play.read(1, *range(1000, 1045))  # 1 leaves the window each time, until its count is above theirs
    assert 1 in play.cached()


def test_the_window_climbs() -> None:
    policy = tiny(Play("tinylfu", 101))
    windows = [policy._window]
    for percent in (50, 52, 51, 51, 90, 20, 20):
        policy._hits, policy._misses = percent, 100 - percent
        policy._climb()
        windows.append(policy._window)
        assert policy._hits == policy._misses == 0
    steps = [after - before for before, after in pairwise(windows)]
    assert windows[0] == 20
    assert steps[0] == -6.25, "downwards at first"
    assert steps[1] == -6.25, "on, and by a whole step, as the ratio had changed much"
    assert steps[2] == pytest.approx(6.25 * 0.98), "it got worse: back, and less far"
    assert steps[3] == pytest.approx(6.25 * 0.98**2), "no worse: on"
    assert steps[4] == pytest.approx(6.25 * 0.98**3)
    assert steps[5] == -6.25, "much worse: back, and by a whole step"
    policy.check()


def test_the_window_stays_inside_the_cache() -> None:
    policy = tiny(Play("tinylfu", 101))
    for hits in range(100):
        policy._hits, policy._misses = hits, 100
        policy._climb()
    assert policy._window == 1
    policy._hits, policy._misses = 1, 100
    for _ in range(30):
        policy._climb()
        policy._hits, policy._misses = policy._hits + 1, 1
        policy.check()


def test_many_hits_in_a_row_are_one_use() -> None:
    play = Play("tinylfu", 801)
    play.read(*[1] * 50)
    assert tiny(play)._sketch.count(1) == 2, "the miss and a hit"
    for oblock in range(2, 110):
        play.read(oblock, oblock)
    play.read(1)
    assert tiny(play)._sketch.count(1) == 3, "all marks were dropped meanwhile"
