"""Adaptive: what it keeps, what it lets pass, how much it does at once, and what it knows after a restart."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import MISS, Policy, create_policy
from policies.adaptive import AdaptivePolicy
from policies.structures.ghosts import Ghosts
from policies.structures.lifetimes import BLANK, CLASSES, OLD, SLOTS
from policies.structures.reuse import ReuseTables
from tests.unit.policies.playing import ORIGIN_BLOCKS, Play, scan


def adaptive(play: Play) -> AdaptivePolicy:
    return cast("AdaptivePolicy", play.policy)


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), max_size=60))
def test_tiny_caches_keep_their_books(cache_blocks: int, bursts: list[tuple[int, int]]) -> None:
    play = Play("adaptive", cache_blocks)
    for first, count in bursts:
        play.read(*scan(first, count % 7), first)
        play.policy.check()
        play.read(*[first] * count)  # hits of a marked block: no time passes
        play.policy.check()


@pytest.mark.parametrize("cache_blocks", [1, 2, 5, 17, 300])
def test_no_age_is_too_old_to_be_told(cache_blocks: int) -> None:
    play = Play("adaptive", cache_blocks)
    policy, rng = adaptive(play), random.Random(cache_blocks)
    last: dict[int, int] = {}
    for _ in range(15 * cache_blocks + 500):
        oblock = rng.randrange(6 * cache_blocks)
        before = policy._tables.now
        play.read(oblock)
        if policy._tables.now > before:
            last[oblock] = policy._tables.now
        for cached in play.cached() if rng.random() * cache_blocks < 20 else ():
            cblock = policy._index.find(cached)
            age = (policy.get_hint(cblock) - 1) // CLASSES
            passed = (policy._tables.now - last[cached]) * 32 / cache_blocks
            assert age < SLOTS
            assert age == pytest.approx(passed, abs=1.01 + 32 / cache_blocks) or age >= min(OLD, passed - 1)


def test_a_loop_larger_than_the_cache_is_kept_in_part() -> None:
    play = Play("adaptive", 100)
    for _ in range(30):
        play.read(*range(200))
    play.hits = 0
    play.read(*range(200))
    assert play.hits > 70, "LRU has none"


def test_a_loop_far_longer_than_the_memory_is_not_taken_for_something_else() -> None:
    play = Play("adaptive", 40)
    for _ in range(8):
        play.hits = 0
        play.read(*range(ORIGIN_BLOCKS))
    assert play.hits >= 36, "nearly all that fit"


def test_a_scan_passes_once_it_is_known_to_be_one() -> None:
    play, rng = Play("adaptive", 100), random.Random(1)
    for part in range(60):
        play.read(*(rng.randrange(80) for _ in range(100)), *scan(100 + 60 * part, 60))
    hot = sum(oblock < 80 for oblock in play.cached())
    assert hot > 72
    play.policy.check()


def test_it_is_the_same_every_time() -> None:
    plays = [Play("adaptive", 50), Play("adaptive", 50)]
    rng = random.Random(4)
    for oblock in (rng.randrange(10 + int(200 * rng.random() ** 3)) for _ in range(8000)):
        assert plays[0].read(oblock) == plays[1].read(oblock)
    assert plays[0].order() == plays[1].order()
    assert plays[0].policy.memory() == plays[1].policy.memory()


def test_hits_of_marked_blocks_teach_nothing() -> None:
    play = Play("adaptive", 64)
    play.read(*range(10))
    before = adaptive(play)._tables.now
    for _ in range(50):
        play.read(*range(10))
    assert adaptive(play)._tables.now - before == 10
    assert play.hits == 500


def test_a_newcomer_worth_less_than_all_bypasses_and_is_remembered() -> None:
    play = Play("adaptive", 16)
    for _ in range(60):
        play.read(*range(14))
        play.read(*(random.Random(0).randrange(20, ORIGIN_BLOCKS) for _ in range(3)))
    for oblock in range(100, 160):  # never seen again
        play.read(oblock)
    assert play.policy.lookup(160, False, False) == MISS, "the next of a stream"
    assert adaptive(play)._ghosts.take(160) != BLANK


def steps_of(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> list[int]:
    """Note how much of each thing is done from now on: blocks and places swept, steps of learning."""
    done: list[int] = []

    def noting(sweep: Callable[[int], None]) -> Callable[[int], None]:
        def noted(count: int) -> None:
            done.append(count)
            sweep(count)

        return noted

    for name in ("_sweep_blocks", "_sweep_ghosts"):
        monkeypatch.setattr(policy, name, noting(getattr(policy, name)))
    learn = ReuseTables.learn

    def learn_noted(tables: ReuseTables) -> None:
        done.append(1)
        learn(tables)

    monkeypatch.setattr(ReuseTables, "learn", learn_noted)
    return done


def test_no_call_does_much(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = create_policy("adaptive", cache_blocks=20_000, origin_blocks=10**6, block_size=65536)
    policy.load_mappings((block, block, False, None) for block in range(19_000))
    done = steps_of(monkeypatch, policy)
    rng = random.Random(5)
    learned = 0
    for _ in range(30_000):
        del done[:]
        policy.lookup(rng.randrange(10**6), False, False)
        while (work := policy.get_background_work(False)) is not None:
            policy.complete_background_work(work, True)
        assert sum(done) <= 20_000 // 200 + 60_000 // 200 + 50
        learned += 1 in done
    assert learned >= 2 * CLASSES


def test_what_was_learned_is_worth_something_after_a_restart() -> None:
    def reads(seed: int, count: int) -> list[int]:
        rng = random.Random(seed)
        return [oblock for _ in range(count) for oblock in (rng.randrange(60), rng.randrange(100, ORIGIN_BLOCKS))]

    play = Play("adaptive", 64)
    play.read(*reads(1, 5000))
    taught, untaught = Play("adaptive", 64), Play("adaptive", 64)
    assert taught.policy.remember(play.policy.memory())
    for later in (taught, untaught):
        later.read(*reads(2, 150))
    assert taught.hits > untaught.hits
    taught.policy.check()


def test_other_policies_remember_nothing() -> None:
    policy = create_policy("smq", cache_blocks=8, origin_blocks=64, block_size=65536)
    assert policy.memory() == b""
    assert not policy.remember(Play("adaptive", 8).policy.memory())


def test_ghosts_are_three_times_the_cache() -> None:
    play = Play("adaptive", 160)
    play.read(*scan(0, ORIGIN_BLOCKS))
    ghosts: Ghosts = adaptive(play)._ghosts
    assert 300 < len(ghosts) <= 480
