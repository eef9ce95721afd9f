"""Every policy keeps its books under random events, failures of work included."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies import Op
from tests.unit.policies.driving import Driver

ORIGIN_BLOCKS = 12
MAX_CACHE_BLOCKS = 8
OBLOCKS = st.integers(0, ORIGIN_BLOCKS - 1)
CBLOCKS = st.integers(0, MAX_CACHE_BLOCKS - 1)
HINTS = st.sampled_from([None, 0, 1, 5, 31, 63, 64, 2**32 - 1])
TICKS_MS = st.sampled_from([0, 1, 500, 1001, 10_001, 60_001])


class RandomEvents(RuleBasedStateMachine):
    driver: Driver

    @initialize(
        name=st.sampled_from(["smq", "mq", "cleaner"]),
        cache_blocks=st.integers(2, MAX_CACHE_BLOCKS),
        mappings=st.lists(st.tuples(OBLOCKS, CBLOCKS, st.booleans(), HINTS), max_size=10),
        eager=st.booleans(),
    )
    def create(
        self, name: str, cache_blocks: int, mappings: list[tuple[int, int, bool, int | None]], eager: bool
    ) -> None:
        self.driver = Driver(name, cache_blocks, ORIGIN_BLOCKS)
        for oblock, cblock, dirty, hint in mappings:
            self.driver.load(oblock, cblock % cache_blocks, dirty, hint)
        if eager and name == "mq":
            for tunable in ("read_promote_adjustment", "write_promote_adjustment"):
                self.driver.policy.set_config_value(tunable, "0")

    @rule(oblock=OBLOCKS, write=st.booleans(), fast_copy=st.booleans(), discarded=st.booleans())
    def bio(self, oblock: int, write: bool, fast_copy: bool, discarded: bool) -> None:
        self.driver.bio(oblock, write, fast_copy=fast_copy, discarded=discarded)

    @rule(oblocks=st.lists(OBLOCKS, min_size=4, max_size=12), write=st.booleans())
    def many_bios_with_ticks(self, oblocks: list[int], write: bool) -> None:
        for oblock in oblocks:
            self.driver.bio(oblock, write)
            self.driver.tick(1001)

    @rule(idle=st.booleans())
    def ask(self, idle: bool) -> None:
        self.driver.ask(idle=idle)

    @precondition(lambda self: self.driver.outstanding)
    @rule(data=st.data(), success=st.booleans(), dirty=st.booleans())
    def complete(self, data: st.DataObject, success: bool, dirty: bool) -> None:
        work = data.draw(st.sampled_from(self.driver.outstanding))
        self.driver.complete(work, success=success, dirty=dirty)

    @rule(idle=st.booleans())
    def do_all_work(self, idle: bool) -> None:
        for work in list(self.driver.outstanding):
            self.driver.complete(work, success=True)
        for count, _ in enumerate(self.driver.drain(idle=idle)):
            assert count < 100

    @rule(cblock=CBLOCKS)
    def invalidate(self, cblock: int) -> None:
        self.driver.invalidate(cblock)

    @rule(milliseconds=TICKS_MS)
    def tick(self, milliseconds: int) -> None:
        self.driver.tick(milliseconds)

    @rule(allowed=st.booleans())
    def allow_migrations(self, allowed: bool) -> None:
        self.driver.policy.allow_migrations(allowed)

    @precondition(lambda self: self.driver.policy.name == "cleaner")
    @rule()
    def clean_all(self) -> None:
        self.do_all_work(idle=True)
        assert not self.driver.dirty
        assert all(work.op is Op.WRITEBACK for work in self.driver.outstanding)

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "driver"):
            self.driver.check()


TestRandomEvents = RandomEvents.TestCase
