"""What all policies that admit at once have in common."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from policies import MISS, MISS_QUEUED, BadTunableError, Op, PolicyError, Work, create_policy
from tests.unit.policies.playing import ADMITTING, ORIGIN_BLOCKS, Play

every = pytest.mark.parametrize("name", ADMITTING)
every_eager_one = pytest.mark.parametrize("name", [name for name in ADMITTING if name != "adaptive"])
"""Those that let in what they have never seen, whatever they have learned."""


def zipf(rng: random.Random, count: int, blocks: int = 2000) -> list[int]:
    return [int(blocks ** rng.random()) - 1 for _ in range(count)]


def promoted(play: Play, oblock: int) -> Work:
    assert play.policy.lookup(oblock, False, False) == MISS_QUEUED
    work = play.policy.get_background_work(False)
    assert work is not None
    assert (work.op, work.oblock) == (Op.PROMOTE, oblock)
    return work


@every
def test_the_newest_miss_is_promoted_first(name: str) -> None:
    policy = Play(name, 16).policy
    for oblock in (1, 2, 3):
        assert policy.lookup(oblock, False, False) == MISS_QUEUED
    assert policy.lookup(2, False, False) == MISS_QUEUED
    order = [work.oblock for _ in range(3) if (work := policy.get_background_work(False))]
    assert order == [2, 3, 1]
    assert policy.lookup(1, False, False) == MISS, "its promotion is on the way, nothing is wanted"
    policy.check()


@every
def test_a_promotion_is_handed_out_with_the_write(name: str) -> None:
    policy = Play(name, 16).policy
    answer, work = policy.lookup_with_work(7, True, False)
    assert answer == MISS
    assert work is not None
    assert policy.lookup_with_work(7, True, False) == (MISS, None)
    policy.complete_background_work(work, True)
    policy.set_dirty(work.cblock)
    assert policy.lookup_with_work(7, True, False) == (work.cblock, None)
    policy.check()


@every
@pytest.mark.parametrize(("cache_blocks", "reserve"), [(1, 0), (2, 1), (255, 1), (512, 2), (2560, 10)])
def test_the_reserve_is_kept_free(name: str, cache_blocks: int, reserve: int) -> None:
    play = Play(name, cache_blocks)
    rng = random.Random(1)
    for oblock in [*range(cache_blocks + 20), *zipf(rng, 300, ORIGIN_BLOCKS)]:
        play.read(oblock)
        if cache_blocks > 1:
            assert play.policy.residency() <= cache_blocks - reserve
    assert play.policy.residency() >= cache_blocks - reserve - 1
    play.policy.check()


def test_the_reserve_has_an_end() -> None:
    assert Play("lru", 10**6).policy._reserve == 1024


@every
def test_when_nothing_is_free_a_miss_goes_past_the_cache_until_a_demotion_is_done(name: str) -> None:
    play = Play(name, 2)
    play.read(1)
    work = promoted(play, 2)
    demotion = play.policy.get_background_work(False)
    assert demotion is not None
    assert demotion.op is Op.DEMOTE
    assert play.policy.lookup(3, False, False) == MISS_QUEUED
    assert play.policy.get_background_work(False) is None, "what is wanted is under way"
    play.policy.complete_background_work(work, True)
    play.policy.complete_background_work(demotion, True)
    play.policy.check()
    assert play.read(3, 3) == [False, True]


def unfinished(play: Play, oblocks: range) -> list[Work]:
    """Let blocks miss; returns what is ordered because of them, of which nothing is done yet."""
    ordered = list[Work]()
    for oblock in oblocks:
        play.policy.lookup(oblock, False, False)
        ordered += iter(lambda: play.policy.get_background_work(False), None)
    play.policy.check()
    return ordered


@every_eager_one
def test_a_burst_of_misses_has_more_kept_free_for_a_while(name: str) -> None:
    play = Play(name, 1024)
    play.read(*range(1100))
    assert play.policy.residency() == 1024 - 4
    burst = unfinished(play, range(2000, 2008))
    kinds = Counter(work.op for work in burst)
    assert kinds == {Op.PROMOTE: 4, Op.DEMOTE: 26}, "four find room, and then 7, 11, 17, 26 are wanted"
    for work in burst:
        play.policy.complete_background_work(work, True)
    assert play.policy.residency() == 1024 - 26
    for oblock in range(3000, 3352):
        play.read(oblock)
        play.policy.check()
    assert play.policy.residency() == 1024 - 4, "it is one less for each sixteen that find room"


@every_eager_one
def test_misses_without_room_do_not_ask_for_ever_more(name: str) -> None:
    play = Play(name, 64)
    play.read(*range(200))
    kinds = Counter(work.op for work in unfinished(play, range(1000, 1200)))
    assert kinds == {Op.PROMOTE: 1, Op.DEMOTE: 4}, "a sixteenth of the cache"


@every
def test_a_failed_promotion_frees_the_cache_block(name: str) -> None:
    play = Play(name, 16)
    work = promoted(play, 5)
    assert play.policy.residency() == 1
    play.policy.complete_background_work(work, False)
    assert play.policy.residency() == 0
    play.policy.check()
    assert play.read(5, 5) == [False, True]


@every
def test_a_failed_demotion_puts_the_block_back_behind_others(name: str) -> None:
    play = Play(name, 16)
    play.read(*range(15))
    play.policy.complete_background_work(promoted(play, 20), True)
    failed = []
    for _ in range(3):
        work = play.policy.get_background_work(False)
        assert work is not None
        assert work.op is Op.DEMOTE
        assert play.policy.lookup(work.oblock, False, False) == work.cblock
        failed.append(work.oblock)
        play.policy.complete_background_work(work, False)
        play.policy.check()
    assert len(set(failed)) == 3
    assert play.cached() == {*range(15), 20}


@every_eager_one
def test_a_block_that_is_leaving_is_found_and_no_victim_again(name: str) -> None:
    play = Play(name, 600)  # a reserve of two
    play.read(*range(597))
    promotions = [promoted(play, 1000), promoted(play, 1001)]
    for work in promotions:
        play.policy.complete_background_work(work, True)
    assert play.policy.lookup(1002, False, False) == MISS_QUEUED
    out = iter(lambda: play.policy.get_background_work(False), None)
    victims = [work for work in out if work.op is Op.DEMOTE]
    assert len(victims) == len({work.oblock for work in victims}) == 2
    for work in victims:
        for _ in range(5):
            assert play.policy.lookup(work.oblock, True, False) == work.cblock
        play.policy.set_dirty(work.cblock)
        with pytest.raises(PolicyError, match="work is outstanding"):
            play.policy.invalidate_mapping(work.cblock)
    play.policy.check()


@every
def test_nothing_is_wanted_while_migrations_are_forbidden(name: str) -> None:
    play = Play(name, 4)
    play.read(1, 2, 3)
    play.policy.allow_migrations(False)
    assert play.policy.lookup(9, False, False) == MISS
    assert play.policy.lookup_with_work(9, True, True) == (MISS, None)
    play.policy.load_mapping(8, next(c for c in range(4) if not play.policy._flags[c]), False, None)
    assert play.policy.get_background_work(True) is None, "although the reserve is short"
    play.policy.allow_migrations(True)
    work = play.policy.get_background_work(True)
    assert work is not None
    assert work.op is Op.DEMOTE


@every
def test_ghosts_are_bounded_and_never_cached(name: str) -> None:
    play = Play(name, 64)
    rng = random.Random(2)
    for number in range(60):
        play.read(*zipf(rng, 50, ORIGIN_BLOCKS), *range(40 * number, 40 * number + 40))
        play.policy.check()
        ghosts = getattr(play.policy, "_ghosts", None)
        assert ghosts is None or name == "adaptive" or sum(ghosts.size) <= 64


@every
def test_what_was_learned_survives_a_restart_roughly(name: str) -> None:
    play = Play(name, 400)
    rng = random.Random(3)
    play.read(*zipf(rng, 6000))
    fresh = Play(name, 400)
    later = play.restarted()
    assert later.cached() == play.cached()
    for cblock in range(400):
        assert later.policy.get_hint(cblock) == play.policy.get_hint(cblock)
    places = {oblock: place for place, oblock in enumerate(play.order())}
    away = [abs(places[oblock] - place) for place, oblock in enumerate(later.order())]
    assert sum(away) / len(away) < 0.1 * len(away), "a tenth of the cache from where it was, on average"
    reads = zipf(rng, 1000)
    for one in (play, later, fresh):
        one.hits = 0
        one.read(*reads)
    assert later.hits > 0.97 * play.hits > 1.05 * fresh.hits


@every
def test_absorbing_can_be_switched(name: str) -> None:
    policy = Play(name, 4).policy
    assert (policy.absorbs, policy.config_values()) == (True, {"absorb": "on"})
    policy.set_config_value("ABSORB", "Off")
    assert (policy.absorbs, policy.config_values()) == (False, {"absorb": "off"})
    for key, value in (("absorb", "1"), ("absorb", ""), ("window", "5")):
        with pytest.raises(BadTunableError, match="absorb"):
            policy.set_config_value(key, value)
    assert policy.config_values() == {"absorb": "off"}


@pytest.mark.parametrize("name", ["smq", "mq"])
def test_policies_of_dm_cache_absorb_only_when_told(name: str) -> None:
    policy = create_policy(name, cache_blocks=8, origin_blocks=64, block_size=65536)
    before = policy.config_values()
    assert "absorb" not in before
    assert not policy.absorbs
    policy.set_config_value("Absorb", "ON")
    assert (policy.absorbs, policy.config_values()) == (True, before | {"absorb": "on"})
    with pytest.raises(BadTunableError, match="absorb must be on or off, not 'yes'"):
        policy.set_config_value("absorb", "yes")
    policy.set_config_value("absorb", "off")
    assert (policy.absorbs, policy.config_values()) == (False, before)


def test_the_cleaner_absorbs_nothing() -> None:
    policy = create_policy("cleaner", cache_blocks=8, origin_blocks=64, block_size=65536)
    with pytest.raises(BadTunableError, match="no tunable 'absorb'"):
        policy.set_config_value("absorb", "on")
    assert not policy.absorbs


def test_mq_hands_out_the_promotion_with_the_write_that_it_absorbs() -> None:
    policy = create_policy("mq", cache_blocks=8, origin_blocks=64, block_size=65536)
    policy.set_config_value("write_promote_adjustment", "0")
    assert policy.lookup_with_work(1, True, False) == (MISS_QUEUED, None), "as ever, if it does not absorb"
    policy.set_config_value("absorb", "on")
    answer, work = policy.lookup_with_work(2, True, False)
    assert answer == MISS
    assert work is not None
    assert (work.op, work.oblock) == (Op.PROMOTE, 2)
    policy.complete_background_work(work, True)
    assert policy.lookup(2, True, False) == work.cblock
    other = policy.get_background_work(False)
    assert other is not None
    assert other.oblock == 1
    policy.check()


@every
def test_hits_of_a_block_many_times_over_ask_for_nothing(name: str) -> None:
    play = Play(name, 16)
    play.read(1, 2, 3)
    for _ in range(100):
        assert play.read(1, 3) == [True, True]
        assert play.policy.get_background_work(True) is None
    play.policy.check()
