"""The example of docs/writing-policies.rst: found by its entry point, true to the contract, and worth its name."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from policies import MISS, MISS_QUEUED, BadTunableError, Op, PolicyError, Work, create_policy, policy_names
from policies.structures.tracker import MAX_WORK
from tests.unit.policies.driving import Driver
from tests.unit.policies.installing import EXAMPLE, installed
from tests.unit.policies.test_random_events import CBLOCKS, MAX_CACHE_BLOCKS, OBLOCKS, RandomEvents

PATIENCE_MS = 1000


@pytest.fixture(scope="module", autouse=True)
def _clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for path in installed(EXAMPLE, tmp_path_factory.mktemp("site")):
            patch.syspath_prepend(path)
        yield


class ClockEvents(RandomEvents):
    @initialize(
        name=st.just("clock"),
        cache_blocks=st.integers(1, MAX_CACHE_BLOCKS),
        mappings=st.lists(st.tuples(OBLOCKS, CBLOCKS, st.booleans(), st.sampled_from([None, 0, 1])), max_size=10),
        eager=st.booleans(),
    )
    def create(
        self, name: str, cache_blocks: int, mappings: list[tuple[int, int, bool, int | None]], eager: bool
    ) -> None:
        super().create(name, cache_blocks, mappings, eager)
        if eager:
            self.driver.policy.set_config_value("patience_ms", "0")

    @rule(cblock=CBLOCKS)
    def invalidate(self, cblock: int) -> None:
        super().invalidate(cblock % self.driver.cache_blocks)  # a cache asks for blocks that it has


TestClockEvents = ClockEvents.TestCase


def clock(cache_blocks: int) -> Driver:
    return Driver("clock", cache_blocks, 64)


def want(driver: Driver, oblock: int) -> int:
    """Miss a block, and after the patience of the policy once more; return the answer."""
    driver.bio(oblock, write=False)
    driver.tick(PATIENCE_MS)
    return driver.bio(oblock, write=False)


def full(cache_blocks: int) -> Driver:
    """Make a cache full of blocks without marks."""
    driver = clock(cache_blocks)
    for number in range(cache_blocks):
        driver.load(number, number, dirty=False, hint=None)
    return driver


def test_it_is_found_by_its_entry_point() -> None:
    policy = create_policy("clock", cache_blocks=4, origin_blocks=64, block_size=65536)
    assert (policy.name, type(policy).__module__) == ("clock", "fusecache_clock")
    assert "clock" in policy_names()


# begin: replay
def test_replaying_random_requests_breaks_nothing() -> None:
    rng = random.Random(1)
    policy = create_policy("clock", cache_blocks=8, origin_blocks=16, block_size=65536)
    cached: dict[int, int] = {}  # what a cache would know: oblock to cblock
    under_way: list[Work] = []
    for now_ms in range(0, 1_000_000, 200):
        oblock, is_write = rng.randrange(16), rng.random() < 0.3
        answer = policy.lookup(oblock, is_write, False)
        assert answer == cached[oblock] if oblock in cached else answer in {MISS, MISS_QUEUED}
        if is_write and answer >= 0:
            policy.set_dirty(answer)
        while rng.random() < 0.5 and (work := policy.get_background_work(rng.random() < 0.5)):
            under_way.append(work)
        while under_way and rng.random() < 0.5:
            work = under_way.pop(rng.randrange(len(under_way)))
            success = rng.random() < 0.9
            if success and work.op is not Op.PROMOTE:
                policy.clear_dirty(work.cblock)
            policy.complete_background_work(work, success)
            if success and work.op is Op.PROMOTE:
                cached[work.oblock] = work.cblock
            elif success and work.op is Op.DEMOTE:
                assert cached.pop(work.oblock) == work.cblock
        if now_ms % 1000 == 0:
            policy.tick(now_ms)
        policy.check()
    assert len(cached) > 4


# end: replay


def test_blocks_are_promoted_when_missed_again_after_a_while() -> None:
    driver = clock(4)
    assert [driver.bio(5, write=False) for _ in range(20)] == [MISS] * 20
    driver.tick(PATIENCE_MS - 1)
    assert driver.bio(5, write=False) == MISS
    driver.tick(1)
    assert driver.bio(5, write=False) == MISS_QUEUED
    assert driver.bio(5, write=False) == MISS, "it is on its way"
    assert [work.op for work in driver.drain(idle=False)] == [Op.PROMOTE]
    assert driver.bio(5, write=False) >= 0


def test_what_is_read_once_passes_by() -> None:
    driver = full(4)
    for oblock in range(10, 64):
        driver.bio(oblock, write=False)
        driver.tick(PATIENCE_MS)
    assert list(driver.drain(idle=True)) == []


def test_the_waiting_list_is_no_longer_than_the_cache() -> None:
    driver = clock(4)
    for oblock in (5, 10, 11, 12, 13):
        driver.bio(oblock, write=False)
    driver.tick(PATIENCE_MS)
    assert driver.bio(5, write=False) == MISS
    assert driver.bio(13, write=False) == MISS_QUEUED


def test_the_hand_passes_over_marked_blocks_once() -> None:
    driver = full(4)
    for oblock in (0, 1, 3):
        driver.bio(oblock, write=False)
    victims = []
    for wanted in (10, 11, 12, 13, 14):
        assert want(driver, wanted) == MISS_QUEUED
        demotions = list(driver.drain(idle=False))
        victims += [work.oblock for work in demotions]
        assert driver.bio(wanted, write=False) == MISS_QUEUED
        assert [work.oblock for work in driver.drain(idle=False)] == [wanted]
    assert victims == [2, 0, 1, 10, 3]


def test_what_is_hit_all_the_time_stays() -> None:
    driver = full(4)
    for oblock in range(10, 60):
        driver.bio(0, write=False)
        want(driver, oblock)
        list(driver.drain(idle=False))
        driver.bio(oblock, write=False)
        list(driver.drain(idle=False))
    assert 0 in driver.cached
    assert not {1, 2, 3} & driver.cached.keys()


def test_the_hand_takes_no_longer_for_a_large_cache() -> None:
    driver = Driver("clock", 10_000, 20_000)
    for number in range(10_000):
        driver.load(number, number, dirty=False, hint=1)
    assert want(driver, 15_000) == MISS, "256 steps were not enough"
    answers = [driver.bio(15_000, write=False) for _ in range(40)]
    assert answers.index(MISS_QUEUED) == 10_000 // 256 - 1


def test_dirty_blocks_are_written_back_when_idle_oldest_first() -> None:
    driver = full(4)
    for oblock in (2, 0, 3):
        driver.bio(oblock, write=True)
    assert driver.ask(idle=False) is None
    assert [work.oblock for work in driver.drain(idle=True)] == [2, 0, 3]


def test_a_failed_writeback_lets_others_go_first() -> None:
    driver = full(4)
    for oblock in (2, 0):
        driver.bio(oblock, write=True)
    work = driver.ask(idle=True)
    assert work is not None
    driver.complete(work, success=False)
    assert [work.oblock for work in driver.drain(idle=True)] == [0, 2]


def test_a_refused_promotion_keeps_no_block() -> None:
    driver = Driver("clock", MAX_WORK + 10, 2 * MAX_WORK)
    driver.policy.set_config_value("patience_ms", "0")
    answers = [driver.bio(oblock, write=False) for oblock in range(MAX_WORK + 1)]
    assert answers == [MISS_QUEUED] * MAX_WORK + [MISS]
    assert driver.policy.residency() == MAX_WORK
    driver.policy.check()


def test_a_block_on_its_way_makes_no_room_for_itself() -> None:
    driver = full(4)
    assert want(driver, 10) == MISS_QUEUED
    list(driver.drain(idle=False))
    driver.policy.set_config_value("patience_ms", "0")
    assert [driver.bio(10, write=False) for _ in range(3)] == [MISS_QUEUED, MISS, MISS]
    assert [work.op for work in driver.drain(idle=False)] == [Op.PROMOTE]


def test_marks_are_hints() -> None:
    driver = clock(4)
    for cblock, hint in enumerate((None, 0, 1, 1)):
        driver.load(cblock, cblock, dirty=False, hint=hint)
    driver.bio(0, write=False)
    assert [driver.policy.get_hint(cblock) for cblock in range(4)] == [1, 0, 1, 1]


def test_nothing_is_promoted_while_that_is_forbidden() -> None:
    driver = clock(4)
    driver.policy.allow_migrations(False)
    assert want(driver, 5) == MISS
    assert driver.ask(idle=True) is None


def test_invalidating_waits_for_the_work_on_a_block() -> None:
    driver = full(4)
    want(driver, 10)
    demotion = driver.ask(idle=False)
    assert demotion is not None
    with pytest.raises(PolicyError, match="work is outstanding"):
        driver.policy.invalidate_mapping(demotion.cblock)
    driver.complete(demotion, success=False)
    assert driver.policy.invalidate_mapping(demotion.cblock)
    assert not driver.policy.invalidate_mapping(demotion.cblock)


def test_its_tunable() -> None:
    policy = clock(4).policy
    assert policy.config_values() == {"patience_ms": "1000"}
    with pytest.raises(BadTunableError, match="patience_ms must be a whole number"):
        policy.set_config_value("patience_ms", "soon")
    policy.set_config_value("patience_ms", "0")
    assert policy.lookup(5, False, False) == MISS_QUEUED
