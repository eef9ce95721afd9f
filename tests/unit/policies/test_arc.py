"""ARC: what was used twice outlives a scan, and the target follows the ghosts."""

from __future__ import annotations

import random
from typing import cast

from policies.arc import ArcPolicy
from tests.unit.policies.playing import Play


def arc(play: Play) -> ArcPolicy:
    return cast("ArcPolicy", play.policy)


def test_what_was_used_twice_outlives_a_scan() -> None:
    play = Play("arc", 16)
    play.read(*[1, 2, 3] * 2, *range(100, 200))
    assert play.read(1, 2, 3) == [True] * 3


def test_the_target_grows_with_ghosts_of_once_and_falls_with_those_of_again() -> None:
    play = Play("arc", 16)
    play.read(*range(8), *range(8))  # these are in again
    play.read(*range(100, 110))
    once, _ = arc(play)._ghosts.check()
    assert once
    play.read(once[0])
    assert arc(play)._target == 1.0
    assert play.order()[-1] == once[0], "it is in again"
    rng = random.Random(1)
    for _ in range(60):
        play.read(*(rng.randrange(200, 220) for _ in range(5)))
    _, again = arc(play)._ghosts.check()
    assert again
    arc(play)._target = 5.0
    play.read(again[-1])
    assert arc(play)._target <= 4.0


def test_what_is_known_is_twice_the_room_at_most() -> None:
    play = Play("arc", 16)
    rng = random.Random(2)
    for _ in range(300):
        play.read(int(200 ** rng.random()))
        once, again = arc(play)._queues.size
        ghosts_once, ghosts_again = arc(play)._ghosts.size
        assert once + ghosts_once <= 15 + 1  # the block that has just come
        assert once + again + ghosts_once + ghosts_again <= 2 * 15 + 1


def test_a_ghost_that_finds_no_room_stays_a_ghost() -> None:
    play = Play("arc", 16)
    play.read(*[1, 2, 3] * 2, *range(100, 120))
    once, _ = arc(play)._ghosts.check()
    play.policy.allow_migrations(True)
    assert play.policy.lookup(once[0], False, False) == -2
    work = play.policy.get_background_work(False)
    assert work is not None
    play.policy.complete_background_work(work, False)
    assert once[0] in arc(play)._ghosts.check()[1]
    play.policy.check()
