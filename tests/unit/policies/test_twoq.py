"""2Q: uses in a row are one use; who comes back after it has left is main."""

from __future__ import annotations

from tests.unit.policies.playing import Play


def test_hits_in_a_row_do_not_save_a_block() -> None:
    play = Play("twoq", 17)
    play.read(*[1] * 10, *range(100, 120))
    assert 1 not in play.cached()


def test_who_is_missed_again_soon_enters_main_and_outlives_scans() -> None:
    play = Play("twoq", 17)
    play.read(1, *range(100, 120))
    assert play.read(1) == [False]
    assert play.order()[-1] == 1
    play.read(*range(200, 300))
    assert play.read(1) == [True]


def test_who_is_missed_again_late_is_new() -> None:
    play = Play("twoq", 17)
    play.read(1, *range(100, 150))
    assert play.read(1) == [False]
    policy = play.policy
    assert policy._kind[policy._index.find(1)] == 0, "it is in recent"


def test_main_is_an_lru() -> None:
    play = Play("twoq", 17)
    play.read(1, 2, *range(100, 116), 1, 2)
    assert play.order()[-2:] == [1, 2]
    play.read(1)
    assert play.order()[-2:] == [2, 1]
