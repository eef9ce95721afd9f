"""Cleaner: everything is written back, nothing is promoted."""

from __future__ import annotations

from policies import Op
from tests.unit.policies.driving import Driver


def test_just_loaded_blocks_are_offered_at_once_even_when_busy() -> None:
    driver = Driver("cleaner", 8, 64)
    for cblock in range(8):
        driver.load(cblock, cblock, dirty=cblock != 3, hint=cblock)
    done = list(driver.drain(idle=False))
    assert [(work.op, work.cblock) for work in done] == [(Op.WRITEBACK, cblock) for cblock in (0, 1, 2, 4, 5, 6, 7)]
    assert not driver.dirty
    driver.check()


def test_when_busy_new_dirt_is_left_alone_for_10_to_20_seconds() -> None:
    driver = Driver("cleaner", 4, 64)
    driver.load(5, 1, dirty=False, hint=0)
    driver.bio(5, write=True)
    seconds = 0
    while driver.ask(idle=False) is None:
        driver.tick(1000)
        seconds += 1
        assert seconds < 100
    assert seconds == 22  # the markers pass at 11 and at 22: strictly more than 10 seconds, seen at ticks


def test_when_idle_all_dirt_goes() -> None:
    driver = Driver("cleaner", 4, 64)
    driver.load(5, 1, dirty=False, hint=0)
    driver.bio(5, write=True)
    assert [work.oblock for work in driver.drain(idle=True)] == [5]


def test_a_failed_writeback_is_tried_again() -> None:
    driver = Driver("cleaner", 4, 64)
    driver.load(5, 1, dirty=True, hint=0)
    for _ in range(5):
        work = driver.ask(idle=True)
        assert work is not None
        driver.complete(work, success=False)
        driver.check()
    assert driver.dirty == {1}


def test_nothing_is_promoted_or_demoted_whatever_is_allowed() -> None:
    driver = Driver("cleaner", 8, 64)
    driver.load(60, 0, dirty=False, hint=0)
    driver.policy.allow_migrations(True)
    for _ in range(3):
        for oblock in range(20):
            driver.bio(oblock, write=True, fast_copy=True)
            driver.tick(1001)
    assert driver.ask(idle=True) is None
    assert driver.policy.residency() == 1
