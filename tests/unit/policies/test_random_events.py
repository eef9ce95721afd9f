"""Every policy keeps its books under random events: failed work, forgotten blocks, jumps of the clock, odd tunables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies import MISS_QUEUED, BadTunableError, Op, PolicyError
from tests.unit.policies.driving import BLOCK, Driver

MIN_CACHE_BLOCKS, MAX_CACHE_BLOCKS = 2, 64
ORIGIN_BLOCKS = 96
OBLOCKS = st.integers(0, ORIGIN_BLOCKS - 1)
CBLOCKS = st.integers(0, MAX_CACHE_BLOCKS - 1)
HINTS = st.sampled_from([None, 0, 1, 5, 31, 63, 64, 2**32 - 1])
TICKS_MS = st.sampled_from([0, 1, 500, 1001, 10_001, 60_001, 10**9])
TUNABLES = st.sampled_from(
    [
        "random_threshold",
        "sequential_threshold",
        "discard_promote_adjustment",
        "read_promote_adjustment",
        "Write_Promote_Adjustment",
        "migration_threshold",
        "Absorb",
    ]
)
VALUES = st.sampled_from(["on", "OFF", "0", "1", "2", "4", "512", "4294967295", "4294967296", "-1", "x", ""])
ABSORBING = ["adaptive", "arc", "lru", "mq", "s3fifo", "smq", "tinylfu", "twoq"]


class RandomEvents(RuleBasedStateMachine):
    """A policy and a cache that does with it whatever the contract allows."""

    driver: Driver
    allowed = True

    def create(
        self,
        name: str,
        cache_blocks: int,
        mappings: list[tuple[int, int, bool, int | None]],
        eager: bool,
        spread: int = ORIGIN_BLOCKS,
    ) -> None:
        self.origin_blocks = min(ORIGIN_BLOCKS, cache_blocks * spread)
        self.driver = Driver(name, cache_blocks, self.origin_blocks)
        for oblock, cblock, dirty, hint in mappings:
            self.driver.load(oblock % self.origin_blocks, cblock % cache_blocks, dirty, hint)
        if eager and name == "mq":
            for tunable in ("read_promote_adjustment", "write_promote_adjustment"):
                self.driver.policy.set_config_value(tunable, "0")

    def _oblock(self, number: int) -> int:
        return number % self.origin_blocks

    @rule(number=OBLOCKS, write=st.booleans(), fast_copy=st.booleans(), discarded=st.booleans())
    def bio(self, number: int, write: bool, fast_copy: bool, discarded: bool) -> None:
        self.driver.bio(self._oblock(number), write, fast_copy=fast_copy, discarded=discarded)

    @rule(numbers=st.lists(OBLOCKS, min_size=4, max_size=12), write=st.booleans())
    def many_bios_with_ticks(self, numbers: list[int], write: bool) -> None:
        for number in numbers:
            self.driver.bio(self._oblock(number), write)
            self.driver.tick(1001)

    @rule(first=OBLOCKS, blocks=st.integers(2, 12), write=st.booleans())
    def scan(self, first: int, blocks: int, write: bool) -> None:
        for number in range(first, first + blocks):
            self.driver.bio(self._oblock(number), write, length=BLOCK)

    @rule(milliseconds=TICKS_MS)
    def time_passes_without_a_tick(self, milliseconds: int) -> None:
        self.driver.now_ms += milliseconds

    @rule(milliseconds=TICKS_MS)
    def tick(self, milliseconds: int) -> None:
        self.driver.tick(milliseconds)

    @rule(idle=st.booleans())
    def ask(self, idle: bool) -> None:
        self.driver.ask(idle=idle)

    @precondition(lambda self: self.driver.outstanding)
    @rule(data=st.data(), success=st.booleans(), dirty=st.booleans())
    def complete(self, data: st.DataObject, success: bool, dirty: bool) -> None:
        work = data.draw(st.sampled_from(self.driver.outstanding))
        self.driver.complete(work, success=success, dirty=dirty)
        with pytest.raises(PolicyError, match="complete already"):
            self.driver.policy.complete_background_work(work, success)

    @rule(idle=st.booleans())
    def do_all_work(self, idle: bool) -> None:
        for work in list(self.driver.outstanding):
            self.driver.complete(work, success=True)
        for count, _ in enumerate(self.driver.drain(idle=idle)):
            assert count < 10 * MAX_CACHE_BLOCKS

    @rule(cblock=CBLOCKS)
    def invalidate(self, cblock: int) -> None:
        self.driver.invalidate(cblock)

    @rule(cblocks=st.lists(CBLOCKS, min_size=1, max_size=10))
    def toggle(self, cblocks: list[int]) -> None:
        for cblock in cblocks:
            self.driver.toggle(cblock)

    @precondition(lambda self: self.driver.cached)
    @rule(data=st.data(), number=OBLOCKS, cblock=CBLOCKS)
    def load_what_is_mapped(self, data: st.DataObject, number: int, cblock: int) -> None:
        oblock, taken = data.draw(st.sampled_from(sorted(self.driver.cached.items())))
        self.driver.load(oblock, cblock % self.driver.cache_blocks, dirty=False, hint=None)
        self.driver.load(self._oblock(number), taken, dirty=False, hint=None)

    @rule(allowed=st.booleans())
    def allow_migrations(self, allowed: bool) -> None:
        self.driver.policy.allow_migrations(allowed)
        self.allowed = allowed

    @rule(key=TUNABLES, value=VALUES)
    def set_tunable(self, key: str, value: str) -> None:
        policy = self.driver.policy
        before = policy.config_values()
        if key.lower() == "absorb":
            acceptable = policy.name in ABSORBING and value.lower() in {"on", "off"}
        else:
            acceptable = key.lower() in before and value.isdigit() and int(value) < 2**32
        try:
            policy.set_config_value(key, value)
        except BadTunableError:
            assert not acceptable
            assert policy.config_values() == before
        else:
            assert acceptable
            changed = before | {key.lower(): value.lower()}
            if changed.get("absorb") == "off" and policy.name in {"mq", "smq"}:
                del changed["absorb"]  # dm-cache's status line knows no such tunable
            assert policy.config_values() == changed
            assert policy.absorbs == (changed.get("absorb") == "on")

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "driver"):
            self.driver.check()


def begin(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Begin with one of our own policies; small caches more often than not."""
    return initialize(
        name=st.just(name),
        cache_blocks=st.integers(MIN_CACHE_BLOCKS, 8) | st.integers(MIN_CACHE_BLOCKS, MAX_CACHE_BLOCKS),
        mappings=st.lists(st.tuples(OBLOCKS, CBLOCKS, st.booleans(), HINTS), max_size=80),
        eager=st.booleans(),
        spread=st.integers(1, 8),
    )


class OwnPolicyEvents(RandomEvents):
    """One of our own policies, which are looked into."""

    @invariant()
    def what_is_cached_is_found(self) -> None:
        if hasattr(self, "driver"):
            found = self.driver.policy._index.check()  # type: ignore[attr-defined]
            blocks = self.driver.cache_blocks
            assert {oblock: entry for oblock, entry in found.items() if entry < blocks} == self.driver.cached


class SmqEvents(OwnPolicyEvents):
    create = begin("smq")(RandomEvents.create)

    @invariant()
    def a_cache_of_fewer_than_4_blocks_demotes_nothing(self) -> None:
        if hasattr(self, "driver") and self.driver.cache_blocks < 4:
            assert all(work.op is not Op.DEMOTE for work in self.driver.outstanding)


class MqEvents(OwnPolicyEvents):
    create = begin("mq")(RandomEvents.create)


class CleanerEvents(OwnPolicyEvents):
    create = begin("cleaner")(RandomEvents.create)

    @rule()
    def clean_all(self) -> None:
        self.do_all_work(idle=True)
        assert not self.driver.dirty

    @invariant()
    def nothing_but_writebacks(self) -> None:
        if hasattr(self, "driver"):
            assert all(work.op is Op.WRITEBACK for work in self.driver.outstanding)


class AdmittingEvents(OwnPolicyEvents):
    """What is true of every policy that admits at once."""

    @rule(number=OBLOCKS, write=st.booleans(), fast_copy=st.booleans())
    def a_miss_with_room_is_promoted_next(self, number: int, write: bool, fast_copy: bool) -> None:
        driver, oblock = self.driver, self._oblock(number)
        outstanding = {work.oblock for work in driver.policy._tracker.check().values()}  # type: ignore[attr-defined]
        is_room = driver.policy.residency() < driver.cache_blocks
        out = len(driver.outstanding)
        if driver.bio(oblock, write, fast_copy=fast_copy) >= 0 or oblock in outstanding or not self.allowed:
            return
        if is_room and not fast_copy:
            driver.ask(idle=False)
        assert is_room == (len(driver.outstanding) > out)
        if is_room:
            work = driver.outstanding[-1]
            assert (work.op, work.oblock) == (Op.PROMOTE, oblock)

    @rule(number=OBLOCKS)
    def a_block_missed_twice_is_promoted_once(self, number: int) -> None:
        driver, oblock = self.driver, self._oblock(number)
        driver.bio(oblock, write=False)
        again = driver.bio(oblock, write=False)
        if oblock in driver.cached:
            return
        queued = driver.policy._tracker.requeue(oblock)  # type: ignore[attr-defined]
        assert not queued or again == MISS_QUEUED
        if queued:
            work = driver.ask(idle=False)
            assert work is not None
            assert (work.op, work.oblock) == (Op.PROMOTE, oblock)

    @rule()
    def the_list_of_all_blocks_has_each(self) -> None:
        driver = self.driver
        leaving = {work.cblock for work in driver.policy._tracker.check().values()}  # type: ignore[attr-defined]
        listed = [cblock for some in driver.policy.coldest_first() for cblock in some]
        assert sorted(listed) == sorted(set(driver.cached.values()) - leaving)

    @rule(data=st.data())
    def a_list_is_left_half_way(self, data: st.DataObject) -> None:
        listed = self.driver.policy.coldest_first()
        for _ in range(data.draw(st.integers(0, 2))):
            next(listed, None)
        self.lists = [*getattr(self, "lists", []), listed][-2:]

    @invariant()
    def demotions_stay_few(self) -> None:
        if hasattr(self, "driver"):
            work = self.driver.policy._tracker.check().values()  # type: ignore[attr-defined]
            assert sum(item.op is Op.DEMOTE for item in work) <= 2
            assert all(item.op is not Op.WRITEBACK for item in work)


class AdaptiveEvents(AdmittingEvents):
    create = begin("adaptive")(RandomEvents.create)


class LruEvents(AdmittingEvents):
    create = begin("lru")(RandomEvents.create)


class ArcEvents(AdmittingEvents):
    create = begin("arc")(RandomEvents.create)


class TwoQEvents(AdmittingEvents):
    create = begin("twoq")(RandomEvents.create)


class S3FifoEvents(AdmittingEvents):
    create = begin("s3fifo")(RandomEvents.create)


class TinyLfuEvents(AdmittingEvents):
    create = begin("tinylfu")(RandomEvents.create)


TestAdaptive = AdaptiveEvents.TestCase
TestLru = LruEvents.TestCase
TestArc = ArcEvents.TestCase
TestTwoQ = TwoQEvents.TestCase
TestS3Fifo = S3FifoEvents.TestCase
TestTinyLfu = TinyLfuEvents.TestCase
TestSmq = SmqEvents.TestCase
TestMq = MqEvents.TestCase
TestCleaner = CleanerEvents.TestCase
