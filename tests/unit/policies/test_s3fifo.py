"""S3-FIFO: who is not used twice in small leaves soon; main goes round."""

from __future__ import annotations

from typing import cast

from policies.s3fifo import S3FifoPolicy
from tests.unit.policies.playing import Play


def filled() -> Play:
    """Return a play of a cache of 41 blocks: 4 are in small, 36 in main."""
    play = Play("s3fifo", 41)
    play.read(*range(40))
    assert cast("S3FifoPolicy", play.policy)._queues.size == [4, 36]
    return play


def test_until_the_first_victim_main_takes_what_small_has_no_share_for() -> None:
    play = filled()
    play.read(100)
    assert 4 not in play.cached(), "main has more than its share, and this is its oldest"
    play.read(101)
    assert 0 not in play.cached(), "from now on small takes what is new"


def test_two_hits_in_small_lead_to_main() -> None:
    play = filled()
    play.read(1, 1, 2)
    play.read(*range(100, 110))
    assert 1 in play.cached()
    assert 2 not in play.cached()


def test_a_remembered_block_enters_main() -> None:
    play = filled()
    play.read(*range(100, 110))
    assert play.read(0) == [False]
    assert play.order()[-1] == 0


def test_who_was_hit_goes_round_main_as_often_as_it_was_hit() -> None:
    play = filled()
    play.read(4)  # main's oldest
    for oblock in range(4):
        play.read(oblock, oblock)
    play.read(100, 101, 102, 103)  # all of small goes on to main
    assert 4 in play.cached()
    assert {5, 6, 7, 8} & play.cached() != {5, 6, 7, 8}
    play.policy.check()


def test_all_hit_three_times_still_has_a_victim() -> None:
    play = filled()
    for _ in range(3):
        play.read(*range(40))
    play.read(100)
    assert len(play.cached()) == 40
    play.policy.check()
