"""SMQ: facts about the kernel's policy, observed on it, each in a conversation of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work, create_policy
from policies.structures.tracker import MAX_WORK
from tests.unit.policies.driving import Driver
from tests.unit.policies.replaying import play

HEADER = "policy=smq cache_blocks={} origin_blocks=4096 block_sectors=128 start_ms=1000"
LIFTED_TICK_MS = 1100


def eager(cache_blocks: int, origin_blocks: int = 64) -> Driver:
    """Make an empty cache that promotes the first blocks of its origin at their next miss."""
    driver = Driver("smq", cache_blocks, origin_blocks)
    for oblock in range(cache_blocks):
        driver.bio(oblock, write=False)
    driver.tick(LIFTED_TICK_MS)
    return driver


def filled(cache_blocks: int, *, hint: int, dirty: bool = False, origin_blocks: int = 64) -> Driver:
    """Make a full cache, loaded with blocks from the end of the origin."""
    driver = Driver("smq", cache_blocks, origin_blocks)
    for cblock in range(cache_blocks):
        driver.load(origin_blocks - 1 - cblock, cblock, dirty, hint)
    for oblock in range(8):
        driver.bio(oblock, write=False)
    driver.policy.tick(driver.now_ms + LIFTED_TICK_MS)
    return driver


@pytest.mark.parametrize(
    ("bios_per_block", "bios_per_tick", "ms_per_tick", "promoted"),
    [(1, 1, 2, 1533), (1, 8, 2, 0), (1, 50, 100, 0), (2, 4, 2, 0), (8, 1, 1, 2685), (8, 8, 1, 1310), (64, 32, 2, 1684)],
)
def test_what_a_scan_promotes_depends_on_ticks(
    bios_per_block: int, bios_per_tick: int, ms_per_tick: int, promoted: int
) -> None:
    policy = create_policy("smq", cache_blocks=4096, origin_blocks=65536, block_size=256 * 1024)
    policy.tick(1)  # that of the cache's timer as it starts
    bios, now_ms = 0, 1
    for oblock in range(3000):
        for _ in range(bios_per_block):
            policy.lookup(oblock, write=False, fast_copy=False)
            while (work := policy.get_background_work(idle=False)) is not None:
                policy.complete_background_work(work, success=True)
                policy.clear_dirty(work.cblock)
            bios += 1
            if bios % bios_per_tick == 0:
                now_ms += ms_per_tick
                policy.tick(now_ms)
    assert policy.residency() == promoted


def test_levels_without_hints_are_scattered_by_cblock() -> None:
    policy = create_policy("smq", cache_blocks=6, origin_blocks=64, block_size=65536)
    for cblock in range(6):
        policy.load_mapping(cblock, cblock, dirty=False, hint=None)
    assert [policy.get_hint(cblock) for cblock in range(6)] == [0, 3, 7, 10, 14, 17]


def test_hints_are_levels_as_high_as_levels_go() -> None:
    assert play(HEADER.format(4), "O 9 0 0 17 1\nO 8 1 1 4000000000 1\nG 0 -> 17\nG 1 -> 63\nG 2 -> 0") == 3


def test_nothing_promotes_before_the_first_tick_but_whole_writes_into_free_blocks() -> None:
    conversation = (
        "L 5 r 0 -> M 0\nL 5 w 0 -> M 0\nX 5 r 1 -> M -\nX 5 w 1 -> M P 5 0\nX 6 w 1 -> M P 6 1\nX 7 w 1 -> M -"
    )
    assert play(HEADER.format(2), conversation + "\nN -> 2") == 7


def test_a_block_under_promotion_is_reserved_but_not_found() -> None:
    assert (
        play(HEADER.format(4), "X 5 w 1 -> M P 5 0\nN -> 1\nL 5 r 0 -> M 0\nG 0 -> 0\nC 5 1\nG 0 -> 63\nL 5 r 0 -> H 0")
        == 6
    )


def test_freed_blocks_are_used_again_oldest_first_after_all_others() -> None:
    conversation = """
        X 5 w 1 -> M P 5 0
        X 6 w 1 -> M P 6 1
        X 7 w 1 -> M P 7 2
        C 6 0
        C 5 0
        X 8 w 1 -> M P 8 3
        X 9 w 1 -> M P 9 1
        X 10 w 1 -> M P 10 0
        X 11 w 1 -> M -
        N -> 4"""
    assert play(HEADER.format(4), conversation) == 8


def test_a_hit_lifts_by_one_level_once_a_minute() -> None:
    conversation = """
        O 9 0 0 10 1
        T 1001
        L 9 r 0 -> H 0
        L 9 r 0 -> H 0
        G 0 -> 1
        T 60000
        L 9 r 0 -> H 0
        G 0 -> 1
        T 61002
        L 9 r 0 -> H 0
        G 0 -> 1"""
    # The only block falls to level 0 when levels are made even, at 1001 and 61002.
    assert play(HEADER.format(4), conversation) == 7


def test_a_hit_changes_places_with_the_oldest_of_the_level_above() -> None:
    conversation = """
        O 9 0 0 10 1
        O 8 1 0 11 1
        O 7 2 0 11 1
        L 9 r 0 -> H 0
        G 0 -> 11
        G 1 -> 11
        G 2 -> 10"""
    # Loaded blocks go to the front: the one loaded last is the oldest.
    assert play(HEADER.format(4), conversation) == 4


def test_a_full_cache_demotes_a_cold_clean_block_instead_of_promoting() -> None:
    driver = filled(8, hint=0)
    assert driver.bio(3, write=False) == MISS_QUEUED
    demotion = driver.ask(idle=False)
    assert demotion is not None
    assert demotion.op is Op.DEMOTE
    assert driver.bio(demotion.oblock, write=False) == demotion.cblock
    driver.complete(demotion, success=True)
    assert driver.bio(3, write=False) == MISS_QUEUED
    promotion = driver.ask(idle=False)
    assert promotion is not None
    assert (promotion.op, promotion.oblock, promotion.cblock) == (Op.PROMOTE, 3, demotion.cblock)
    driver.check()


def test_no_more_than_a_quarter_of_the_cache_is_demoted_at_once() -> None:
    driver = filled(11, hint=0)
    for oblock in range(8):
        assert driver.bio(oblock, write=False) == MISS_QUEUED
    assert [work and work.op for work in (driver.ask(idle=False) for _ in range(3))] == [Op.DEMOTE, Op.DEMOTE, None]


def test_a_cache_too_small_for_a_quarter_never_demotes() -> None:
    driver = filled(3, hint=0)
    assert driver.bio(3, write=False) == MISS_QUEUED
    assert driver.ask(idle=False) is None


def test_hot_clean_blocks_are_not_demoted() -> None:
    driver = Driver("smq", 8, 64)
    driver.tick(1)
    for cblock in range(8):
        driver.load(56 + cblock, cblock, dirty=False, hint=32)
    for oblock in (0, 0):
        driver.bio(oblock, write=False)
        driver.tick(LIFTED_TICK_MS)
    assert driver.bio(0, write=False) == MISS_QUEUED
    assert driver.ask(idle=False) is None


def test_a_full_dirty_cache_writes_back_instead_of_promoting() -> None:
    driver = filled(8, hint=0, dirty=True)
    assert driver.bio(3, write=False) == MISS_QUEUED
    work = driver.ask(idle=False)
    assert work is not None
    assert work.op is Op.WRITEBACK
    driver.complete(work, success=False)
    driver.check()
    assert driver.ask(idle=False) is None


def test_a_failed_demotion_returns_to_the_queue_of_its_dirty_flag() -> None:
    driver = filled(8, hint=0)
    driver.bio(3, write=False)
    work = driver.ask(idle=False)
    assert work is not None
    driver.bio(work.oblock, write=True)
    driver.complete(work, success=False)
    driver.check()
    again = driver.ask(idle=True)
    assert again is not None
    assert (again.op, again.oblock) == (Op.WRITEBACK, work.oblock)


def test_a_busy_origin_gets_no_writebacks_of_its_own_accord() -> None:
    driver = Driver("smq", 4, 64)
    driver.load(5, 0, dirty=True, hint=0)
    assert driver.ask(idle=False) is None
    work = driver.ask(idle=True)
    assert work is not None
    assert work.op is Op.WRITEBACK


def test_no_migrations_while_they_are_forbidden() -> None:
    driver = eager(4)
    driver.policy.allow_migrations(False)
    assert driver.bio(3, write=False) == MISS_QUEUED
    assert driver.bio(4, write=True, fast_copy=True) == MISS_QUEUED
    assert driver.ask(idle=True) is None
    driver.policy.allow_migrations(True)
    driver.bio(3, write=False)
    assert driver.ask(idle=False) is not None


def test_invalidating_a_block_with_work_outstanding_is_refused() -> None:
    driver = Driver("smq", 4, 64)
    driver.load(5, 2, dirty=True, hint=0)
    work = driver.ask(idle=True)
    assert work is not None
    with pytest.raises(PolicyError, match="work is outstanding"):
        driver.policy.invalidate_mapping(2)
    driver.complete(work, success=True)
    assert driver.policy.invalidate_mapping(2)
    assert not driver.policy.invalidate_mapping(2)
    assert driver.policy.lookup(5, write=False, fast_copy=False) == MISS
    driver.policy.check()


def test_at_most_4096_items_are_outstanding_and_refused_ones_change_nothing() -> None:
    driver = Driver("smq", 5000, 5000)
    for oblock in range(MAX_WORK):
        driver.bio(oblock, write=True, fast_copy=True)
    assert len(driver.outstanding) == driver.policy.residency() == MAX_WORK
    assert driver.bio(MAX_WORK, write=True, fast_copy=True) == MISS_QUEUED
    assert driver.policy.residency() == MAX_WORK
    driver.complete(driver.outstanding[0], success=True, dirty=True)
    driver.bio(MAX_WORK, write=True, fast_copy=True)
    assert driver.policy.residency() == MAX_WORK + 1
    driver.policy.check()


def test_a_refused_writeback_stays_where_it_was() -> None:
    driver = Driver("smq", 5000, 5000)
    driver.load(4999, 4999, dirty=True, hint=7)
    for oblock in range(MAX_WORK):
        driver.bio(oblock, write=True, fast_copy=True)
    assert driver.ask(idle=True) is None
    assert driver.policy.get_hint(4999) == 7
    driver.policy.check()


@pytest.mark.parametrize("name", ["smq", "mq"])
def test_callers_mistakes_are_answered_in_one_line(name: str) -> None:
    policy: Policy = create_policy(name, cache_blocks=4, origin_blocks=64, block_size=65536)
    policy.load_mapping(5, 2, dirty=False, hint=None)
    for oblock, cblock in ((5, 1), (6, 2), (64, 1), (-1, 1), (6, 4), (6, -1)):
        with pytest.raises(PolicyError):
            policy.load_mapping(oblock, cblock, dirty=False, hint=None)
    for cblock in (0, -2, 4):
        with pytest.raises(PolicyError, match=f"nothing is mapped at cache block {cblock}"):
            policy.set_dirty(cblock)
        assert not policy.invalidate_mapping(cblock)
    with pytest.raises(PolicyError, match="has not been handed out"):
        policy.complete_background_work(Work(Op.DEMOTE, 5, 2), success=True)
    policy.check()


@pytest.mark.parametrize("name", ["smq", "mq", "cleaner"])
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 19), st.booleans(), st.none() | st.integers(0, 70)),
        unique_by=(lambda known: known[0], lambda known: known[1]),
    ),
    st.integers(1, 5),
)
def test_many_blocks_are_loaded_as_one_after_the_other(
    name: str, known: list[tuple[int, int, bool, int | None]], at_once: int
) -> None:
    one, many = Driver(name, 20, 100), Driver(name, 20, 100)
    for block in known:
        one.load(*block)
    for start in range(0, len(known), at_once):
        many.load_all(known[start : start + at_once])
    many.check()
    for milliseconds in (1, 70_000, 70_000):
        works = []
        for side in (one, many):
            side.tick(milliseconds)
            for oblock in (*range(0, 100, 7), *range(100)):
                side.bio(oblock, write=oblock % 3 == 0)
            works.append([(work.op, work.oblock, work.cblock) for work in side.drain(idle=True)])
        assert works[0] == works[1]
        assert one.cached == many.cached
        assert [one.policy.get_hint(n) for n in range(20)] == [many.policy.get_hint(n) for n in range(20)]


@pytest.mark.parametrize(
    "wrong", [(5, 1), (6, 2), (64, 1), (-1, 1), (6, 4), (6, -1)], ids=lambda wrong: f"{wrong[0]} at {wrong[1]}"
)
@pytest.mark.parametrize("name", ["smq", "mq"])
def test_loading_many_blocks_ends_at_one_that_cannot_be(name: str, wrong: tuple[int, int]) -> None:
    policy = create_policy(name, cache_blocks=4, origin_blocks=64, block_size=65536)
    with pytest.raises(PolicyError) as caught:
        policy.load_mappings([(5, 2, False, None), (*wrong, True, 3), (7, 3, False, None)])
    assert "\n" not in str(caught.value)


def test_the_smallest_cache_works() -> None:
    driver = eager(1, origin_blocks=1)
    driver.bio(0, write=False)
    assert [work.op for work in driver.drain(idle=True)] == [Op.PROMOTE]
    assert driver.bio(0, write=False) == 0
    driver.check()


def test_block_numbers_beyond_32_bits() -> None:
    policy = create_policy("smq", cache_blocks=4, origin_blocks=2**50, block_size=65536)
    policy.load_mapping(2**50 - 1, 3, dirty=True, hint=1)
    policy.load_mapping(2**18 - 1, 2, dirty=True, hint=1)
    assert policy.lookup(2**50 - 1, write=False, fast_copy=False) == 3
    assert policy.lookup(2**49, write=False, fast_copy=False) == MISS
    policy.check()
