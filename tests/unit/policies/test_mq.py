"""MQ: facts about the kernel's classic policy, and how its one-step decisions become work."""

from __future__ import annotations

import pytest

from policies import MISS, MISS_QUEUED, BadTunableError, Op, PolicyError, create_policy
from policies.structures.tracker import MAX_WORK
from tests.unit.policies.driving import BLOCK, Driver
from tests.unit.policies.replaying import play

HEADER = "policy=mq cache_blocks={} origin_blocks=4096 block_sectors=128 start_ms=1000"


def full(cache_blocks: int) -> Driver:
    """Make a full, clean cache of blocks that were hit once, and a policy that promotes what was missed twice."""
    driver = Driver("mq", cache_blocks, 64)
    for cblock in range(cache_blocks):
        driver.load(63 - cblock, cblock, dirty=False, hint=None)
    driver.policy.set_config_value("read_promote_adjustment", "1")
    return driver


def miss_until_wanted(driver: Driver, oblock: int) -> None:
    for _ in range(10):
        if driver.bio(oblock, write=False) == MISS_QUEUED:
            return
        driver.tick(1)
    pytest.fail("never promoted")


def test_reads_are_promoted_at_the_4th_write_at_the_8th_counted_hit() -> None:
    reads = "I 7 r 0 896 8 -> {}\nT 1000\n" * 5
    assert play(HEADER.format(4), reads.format("M", "M", "M", "P 3", "H 3")) == 5
    writes = "I 7 w 0 896 8 -> {}\nT 1000\n" * 9
    assert play(HEADER.format(4), writes.format(*"MMMMMMM", "P 3", "H 3")) == 9


def test_without_ticks_nothing_is_promoted() -> None:
    assert play(HEADER.format(4), "I 7 r 0 896 8 -> M\n" * 12) == 12


def test_of_two_blocks_read_by_turns_only_the_last_before_a_tick_counts() -> None:
    by_turns = "I 7 r 0 896 8 -> M\nI 9 r 0 1152 8 -> {}\nT 1000\n" * 4
    alone = "I 7 r 0 896 8 -> {}\nT 1000\n" * 4
    conversation = by_turns.format("M", "M", "M", "P 3") + alone.format("M", "M", "M", "P 2")
    assert play(HEADER.format(4), conversation) == 12


def test_writes_to_discarded_blocks_are_promoted_at_once() -> None:
    assert play(HEADER.format(4), "I 7 w 1 896 8 -> P 3\nI 8 w 0 1024 8 -> M\nI 7 r 0 896 8 -> H 3\nN -> 1") == 4


def test_free_blocks_are_used_from_the_highest_down() -> None:
    writes = "\n".join(f"I {oblock} w 1 {oblock * 128} 8 -> P {3 - oblock}" for oblock in range(4))
    assert play(HEADER.format(4), writes + "\nI 4 w 1 512 8 -> R 3 0") == 5


def test_in_a_sequential_run_nothing_is_promoted_and_nothing_learnt() -> None:
    run = "\n".join(f"I {oblock} r 0 {oblock * 8} 8 -> M\nT 1000" for oblock in range(6))
    elsewhere = "I 5 w 1 48 8 -> M\nI 900 w 1 9000 8 -> "
    assert play(HEADER.format(4), f"= sequential_threshold 4\n{run}\n{elsewhere}M") == 8
    assert play(HEADER.format(4), f"= sequential_threshold 4\n= random_threshold 1\n{run}\n{elsewhere}P 3") == 8


def test_a_write_waits_one_to_two_seconds_for_its_writeback() -> None:
    conversation = """
        I 7 w 1 896 8 -> P 7
        S 7
        V -> -
        @ 2001
        I 7 r 0 896 8 -> H 7
        V -> -
        @ 3002
        I 900 r 0 9000 8 -> M
        V -> -
        @ 4003
        I 900 r 0 9000 8 -> M
        V -> W 7 7
        S 7
        V -> -"""
    assert play(HEADER.format(8), conversation) == 9


def test_a_mostly_dirty_cache_writes_back_its_coldest_at_once() -> None:
    driver = Driver("mq", 4, 64)
    for cblock in range(4):
        driver.load(cblock, cblock, dirty=True, hint=4 - cblock)
    driver.tick(1001)
    driver.bio(0, write=False)
    assert [work.oblock for work in driver.drain(idle=False)] == [3]
    driver.check()


def test_old_dirt_is_written_back_whether_idle_or_not() -> None:
    driver = Driver("mq", 8, 64)
    for cblock in range(4):
        driver.load(cblock, cblock, dirty=True, hint=1)
    for _ in range(2):
        assert driver.ask(idle=True) is None
        driver.tick(1001)
        driver.bio(0, write=False)
    assert [work.oblock for work in driver.drain(idle=False)] == [1, 2, 3]
    driver.check()


def test_replacing_is_a_demotion_and_then_a_promotion_into_the_same_block() -> None:
    driver = full(4)
    miss_until_wanted(driver, 7)
    demotion = driver.ask(idle=False)
    assert demotion is not None
    assert demotion.op is Op.DEMOTE
    assert driver.bio(demotion.oblock, write=False) == demotion.cblock
    assert driver.bio(7, write=False) == MISS
    assert driver.ask(idle=True) is None
    driver.complete(demotion, success=True)
    driver.check()
    assert driver.policy.residency() == 4
    assert driver.bio(7, write=False) == MISS
    promotion = driver.ask(idle=False)
    assert promotion is not None
    assert (promotion.op, promotion.oblock, promotion.cblock) == (Op.PROMOTE, 7, demotion.cblock)
    driver.complete(promotion, success=True)
    driver.check()
    assert driver.bio(7, write=False) == demotion.cblock


@pytest.mark.parametrize("turned_dirty", [False, True])
def test_after_a_failed_demotion_the_victim_stays_and_the_promotion_is_forgotten(turned_dirty: bool) -> None:
    driver = full(4)
    miss_until_wanted(driver, 7)
    demotion = driver.ask(idle=False)
    assert demotion is not None
    driver.bio(demotion.oblock, write=turned_dirty)
    driver.complete(demotion, success=False)
    driver.check()
    assert driver.ask(idle=False) is None
    assert driver.bio(demotion.oblock, write=False) == demotion.cblock
    assert driver.bio(7, write=False) == MISS_QUEUED
    again = driver.ask(idle=False)
    assert again is not None
    assert again.op is Op.DEMOTE
    assert turned_dirty == (demotion.cblock in driver.dirty)
    assert not turned_dirty or again.cblock != demotion.cblock


def test_after_a_failed_promotion_the_block_is_free() -> None:
    driver = full(4)
    miss_until_wanted(driver, 7)
    demotion = driver.ask(idle=False)
    assert demotion is not None
    driver.complete(demotion, success=True)
    promotion = driver.ask(idle=False)
    assert promotion is not None
    driver.complete(promotion, success=False)
    driver.check()
    assert driver.policy.residency() == 3
    assert driver.bio(7, write=False) == MISS_QUEUED


def test_no_promotion_follows_a_demotion_once_migrations_are_forbidden() -> None:
    driver = full(4)
    miss_until_wanted(driver, 7)
    demotion = driver.ask(idle=False)
    assert demotion is not None
    driver.policy.allow_migrations(False)
    driver.complete(demotion, success=True)
    assert driver.ask(idle=True) is None
    assert driver.policy.residency() == 3
    driver.check()


def test_a_block_being_written_back_is_no_victim() -> None:
    driver = Driver("mq", 1, 64)
    driver.load(63, 0, dirty=True, hint=None)
    driver.policy.set_config_value("read_promote_adjustment", "0")
    for _ in range(2):
        driver.tick(1001)
        driver.bio(5, write=False)
    work = driver.ask(idle=False)
    assert work is not None
    assert work.op is Op.WRITEBACK
    for _ in range(10):
        assert driver.bio(7, write=False) == MISS
        driver.tick(1)
    with pytest.raises(PolicyError, match="work is outstanding"):
        driver.policy.invalidate_mapping(0)
    driver.complete(work, success=True)
    assert driver.bio(7, write=False) == MISS_QUEUED
    driver.check()


def test_hints_are_hit_counts() -> None:
    driver = Driver("mq", 4, 64)
    for cblock, hint in enumerate([None, 0, 9, 2**32 - 1]):
        driver.load(cblock, cblock, dirty=False, hint=hint)
    assert [driver.policy.get_hint(cblock) for cblock in range(4)] == [1, 1, 9, 2**32 - 1]
    driver.bio(7, write=False)
    driver.tick(1)
    driver.bio(7, write=False)
    assert [driver.policy.get_hint(cblock) for cblock in range(4)] == [1, 1, 9, 2**32 - 1]


def test_a_tick_before_the_first_bio_counts_for_all_loaded_blocks() -> None:
    driver = Driver("mq", 4, 64)
    for cblock, hint in enumerate([None, 4, 9, 2**32 - 1]):
        driver.load(cblock, cblock, dirty=cblock == 2, hint=hint)
    driver.policy.clear_dirty(2)
    driver.tick(1)
    driver.bio(0, write=False)
    assert [driver.policy.get_hint(cblock) for cblock in range(4)] == [2, 5, 10, 2**32 - 1]
    driver.bio(1, write=False)
    driver.tick(1)
    driver.bio(7, write=False)
    assert [driver.policy.get_hint(cblock) for cblock in range(4)] == [2, 6, 10, 2**32 - 1]
    driver.policy.check()


def test_tunables_in_the_order_of_the_status_line() -> None:
    policy = create_policy("mq", cache_blocks=4, origin_blocks=64, block_size=BLOCK)
    assert list(policy.config_values().items()) == [
        ("random_threshold", "4"),
        ("sequential_threshold", "512"),
        ("discard_promote_adjustment", "1"),
        ("read_promote_adjustment", "4"),
        ("write_promote_adjustment", "8"),
    ]
    policy.set_config_value("SEQUENTIAL_threshold", "1024")
    assert policy.config_values()["sequential_threshold"] == "1024"


@pytest.mark.parametrize("value", ["-1", "", "x", "1.5", "4294967296", "0x10", " 1", "\u0661"])
def test_bad_values_change_nothing(value: str) -> None:
    policy = create_policy("mq", cache_blocks=4, origin_blocks=64, block_size=BLOCK)
    before = policy.config_values()
    with pytest.raises(BadTunableError, match="random_threshold must be a whole number from 0 to 4294967295"):
        policy.set_config_value("random_threshold", value)
    with pytest.raises(BadTunableError, match="no tunable 'threshold'; it has: random_threshold"):
        policy.set_config_value("threshold", "1")
    assert policy.config_values() == before


def test_at_most_4096_items_are_outstanding() -> None:
    driver = Driver("mq", 5000, 5000)
    for oblock in range(MAX_WORK):
        assert driver.bio(oblock, write=True, discarded=True) == MISS_QUEUED
    assert driver.bio(MAX_WORK, write=True, discarded=True) == MISS
    assert driver.policy.residency() == MAX_WORK
    driver.policy.check()
