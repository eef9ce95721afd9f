from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

import pytest

from fusecache.simulator.limits import LIMITS
from fusecache.simulator.replay import replay, simulate
from fusecache.simulator.requests import PORTION
from fusecache.simulator.result import Result
from policies import MISS, MISS_QUEUED, BadTunableError, Op, Policy, PolicyError, UnknownPolicyError, Work
from policies.cleaner import CleanerPolicy
from policies.mq import MqPolicy
from policies.smq import SmqPolicy
from tests.unit.policies.installing import EXAMPLE, installed
from tests.unit.simulator.making import BLOCK, COPY, Request, blocks, make_trace

SECOND = 1_000_000


class Recorder(Policy):
    """Caches what it is told to at construction, wants the work that it is told to, and writes down what is asked."""

    name: ClassVar[str] = "recorder"

    def __init__(
        self, cached: dict[int, int] | None = None, work: list[Work] | None = None, *, answer: int = MISS
    ) -> None:
        self.events: list[str] = []
        self._cached = cached or {}
        self._work = work or []
        self._answer = answer

    def told(self, *words: str) -> list[str]:
        """List the events that begin with one of some words."""
        return [event for event in self.events if event.split()[0] in words]

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        self.events.append(f"{'write' if write else 'read'} {oblock}{' fast' if fast_copy else ''}")
        return self._cached.get(oblock, self._answer)

    def get_background_work(self, idle: bool) -> Work | None:
        self.events.append("idle" if idle else "busy")
        return self._work.pop(0) if self._work else None

    def complete_background_work(self, work: Work, success: bool) -> None:
        assert success
        self.events.append(f"{work.op.value} {work.oblock}")

    def set_dirty(self, cblock: int) -> None:
        self.events.append(f"dirty {cblock}")

    def clear_dirty(self, cblock: int) -> None:
        self.events.append(f"clean {cblock}")

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        raise AssertionError

    def invalidate_mapping(self, cblock: int) -> bool:
        raise AssertionError

    def residency(self) -> int:
        return len(self._cached)

    def tick(self, now_ms: int) -> None:
        self.events.append(f"tick {now_ms}")

    def check(self) -> None:
        """Have nothing to assert."""


class Overwriter(Recorder):
    """Wants every block that is overwritten, at cache block 7."""

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        self.lookup(oblock, write, fast_copy)
        return MISS, Work(Op.PROMOTE, oblock, 7)


class Observer(Recorder):
    """Sees the bios, and so decides as the policies of old did."""

    observes_bios: ClassVar[bool] = True

    def observe_bio(self, offset: int, length: int, discarded: bool, now_ms: int) -> None:
        assert not discarded
        self.events.append(f"bio {offset}+{length} at {now_ms}")

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        raise AssertionError


def nobody(_done: int, _total: int) -> None:
    """Report to nobody."""


def reads_at(times_us: list[int]) -> Recorder:
    """Read a block at some times."""
    recorder = Recorder()
    replay(make_trace(blocks("r0") * len(times_us), times_us), recorder, BLOCK, COPY, nobody)
    return recorder


def play(recorder: Recorder, text: str) -> list[str]:
    replay(make_trace(blocks(text)), recorder, BLOCK, COPY, nobody).check()
    return recorder.events


# Ticks and the clock


def test_without_real_time_a_tick_comes_every_32_block_requests_and_a_second_every_1000() -> None:
    recorder = Recorder()
    replay(make_trace(blocks("r0") * 2100), recorder, BLOCK, COPY, nobody)
    assert recorder.told("tick") == [f"tick {(32 * n + 1) // 1000 * 1000}" for n in range(1, 66)]
    assert recorder.events.index("tick 0") == 2 * 32
    assert [recorder.told("tick").count(f"tick {ms}") for ms in (0, 1000, 2000)] == [31, 31, 3]


def test_pieces_of_a_request_are_block_requests() -> None:
    recorder = Recorder()
    counts = replay(make_trace([("r", 0, 40 * BLOCK)]), recorder, BLOCK, COPY, nobody)
    assert counts.requests == 40
    assert recorder.events.index("tick 0") == 2 * 32


def test_ticks_go_on_from_chunk_to_chunk() -> None:
    recorder = Recorder()
    replay(make_trace(blocks("r0") * (PORTION + 100)), recorder, BLOCK, COPY, nobody)
    assert len(recorder.told("tick")) == (PORTION + 99) // 32


def test_with_real_time_a_tick_comes_when_a_second_has_passed_since_the_last_timed_one() -> None:
    times = [0, 600_000, 999_999, 1_000_700, 1_900_000, 2_000_699, 2_000_700, 2_900_000]
    assert reads_at(times).told("tick") == ["tick 1000", "tick 2000"]
    assert reads_at(times).events[6:8] == ["tick 1000", "read 0"]


def test_a_tick_that_is_due_both_ways_is_one_and_a_timed_one() -> None:
    times = [31_250 * n for n in range(33)]  # the 32nd is at the first second
    assert reads_at(times).told("tick") == ["tick 1000"]
    assert reads_at([*times, 1_999_999, 2_000_000]).told("tick") == ["tick 1000", "tick 2000"]


def test_a_tick_by_number_puts_off_no_timed_one() -> None:
    times = [10_000 * n for n in range(101)]
    assert reads_at(times).told("tick") == ["tick 320", "tick 640", "tick 960", "tick 1000"]


def test_there_is_no_tick_before_the_first_request() -> None:
    assert reads_at([0]).told("tick") == []
    assert reads_at([0, SECOND]).told("tick") == ["tick 1000"]


def test_each_second_of_a_gap_is_a_tick_and_the_next_timed_one_a_second_after_it() -> None:
    recorder = reads_at([0, 500_600, 3_000_700, 4_000_699, 4_000_700])
    assert recorder.events == [
        *("read 0", "busy"),
        *("read 0", "busy"),
        *("tick 1500", "idle", "tick 2500", "idle"),
        *("read 0", "busy"),
        *("read 0", "busy"),
        *("tick 4000", "read 0", "busy"),
    ]


def test_exactly_a_second_is_no_gap() -> None:
    assert reads_at([0, SECOND]).told("tick", "idle") == ["tick 1000"]
    assert reads_at([0, SECOND + 1]).told("tick", "idle") == ["tick 1000", "idle"]


def test_a_gap_has_at_most_300_ticks() -> None:
    assert reads_at([0, 10_000 * SECOND]).told("tick") == [f"tick {1000 * n}" for n in range(1, 301)]


def test_after_a_gap_a_tick_by_number_comes_as_ever() -> None:
    assert reads_at([*range(31), 2_100_000]).told("tick") == ["tick 1000", "tick 2000"]
    assert reads_at([*range(32), 2_100_000]).told("tick") == ["tick 1000", "tick 2000", "tick 2100"]


def test_in_a_gap_up_to_64_items_are_taken_after_each_tick() -> None:
    work = [Work(Op.WRITEBACK, n, n) for n in range(100)]
    recorder = Recorder(work=work)
    trace = make_trace(blocks("r500 r500"), [0, 2 * SECOND])
    assert replay(trace, recorder, BLOCK, COPY, nobody).writebacks == 100
    ticks = [index for index, event in enumerate(recorder.events) if event.startswith("tick")]
    taken = [recorder.events[: ticks[0]], recorder.events[ticks[0] : ticks[1]], recorder.events[ticks[1] :]]
    assert [sum(event.startswith("writeback") for event in part) for part in taken] == [8, 64, 28]


# Requests and work


def test_a_write_that_hits_makes_the_block_dirty() -> None:
    recorder = Recorder({3: 1})
    counts = replay(make_trace(blocks("r3 h3 w3 h4")), recorder, BLOCK, COPY, nobody)
    assert recorder.told("read", "write", "dirty") == [
        *("read 3", "write 3", "dirty 1", "write 3 fast", "dirty 1", "write 4"),
    ]
    assert (counts.hits, counts.slow_ops(), counts.cache_bytes_written(BLOCK)) == (3, 1, BLOCK + BLOCK // 2)


def test_a_write_of_a_whole_block_may_make_its_promotion() -> None:
    recorder = Overwriter()
    counts = replay(make_trace(blocks("w5 h5")), recorder, BLOCK, COPY, nobody)
    assert recorder.events == ["write 5 fast", "promote 5", "dirty 7", "busy", "write 5", "busy"]
    assert (counts.hits, counts.promotions, counts.overwrite_promotions) == (0, 1, 1)
    assert (counts.slow_ops(), counts.cache_bytes_written(BLOCK)) == (2, BLOCK)


def test_promoted_is_clean_afterwards_and_given_up_is_clean_before() -> None:
    work = [Work(Op.PROMOTE, 1, 0), Work(Op.DEMOTE, 2, 1), Work(Op.WRITEBACK, 3, 2)]
    events = play(Recorder(work=work), "h1")
    assert events == [
        *("write 1", "busy", "promote 1", "clean 0"),
        *("busy", "clean 1", "demote 2", "busy", "clean 2", "writeback 3", "busy"),
    ]


def test_after_each_request_up_to_8_items_are_taken() -> None:
    events = play(Recorder(work=[Work(Op.WRITEBACK, n, n) for n in range(20)]), "r99 r99 r99 r99")
    taken = [part.count("writeback") for part in " ".join(events).split("read 99")[1:]]
    assert taken == [8, 8, 4, 0]


@pytest.mark.parametrize(
    ("request_", "slow"), [("r1", 1), ("w1", 1), ("h1", 2), ("r2", 2)], ids=["read", "overwrite", "part", "other"]
)
def test_a_promotion_reads_by_itself_unless_the_request_covers_the_block(request_: str, slow: int) -> None:
    counts = replay(make_trace(blocks(request_)), Recorder(work=[Work(Op.PROMOTE, 1, 0)]), BLOCK, COPY, nobody)
    assert (counts.promotions, counts.overwrite_promotions, counts.slow_ops()) == (1, 0, slow)
    assert counts.cache_bytes_written(BLOCK) == BLOCK


# Policies that observe bios


def test_an_observer_is_told_of_each_bio_in_whole_sectors_after_a_tick() -> None:
    observer = Observer({0: 0, 1: 1})
    trace = make_trace([("r", 0, 512), ("r", 4000, 1200), ("w", 512, 512)], [0, 1200, 2_100_000])
    replay(trace, observer, BLOCK, COPY, nobody)
    assert observer.events == [
        *("bio 0+512 at 0", "read 0", "busy"),
        *("tick 1", "bio 3584+0 at 1", "read 0", "busy"),
        *("tick 1", "bio 4096+1024 at 1", "read 1", "busy"),
        *("tick 1001", "tick 2001", "tick 2100", "bio 512+512 at 2100", "write 0", "dirty 0", "busy"),
    ]


def test_an_observer_sees_the_clock_of_traces_without_real_time() -> None:
    observer = Observer()
    replay(make_trace(blocks("r0") * 1001), observer, BLOCK, COPY, nobody)
    assert observer.told("bio")[998:] == [f"bio 0+{BLOCK} at {ms}" for ms in (0, 1000, 1000)]
    assert observer.told("tick")[997:] == ["tick 0", "tick 1000", "tick 1000"]


@pytest.mark.parametrize(("request_", "written"), [("h1", BLOCK + BLOCK // 2), ("w1", BLOCK)])
def test_what_an_observer_decides_is_done_before_a_write_goes_on(request_: str, written: int) -> None:
    work = [Work(Op.DEMOTE, 2, 0), Work(Op.PROMOTE, 1, 0), *(Work(Op.WRITEBACK, n, n) for n in range(3, 20))]
    observer = Observer(work=work, answer=MISS_QUEUED)
    counts = replay(make_trace(blocks(request_)), observer, BLOCK, COPY, nobody)
    assert observer.events[2:9] == ["busy", "clean 0", "demote 2", "busy", "promote 1", "clean 0", "dirty 0"]
    assert (counts.hits, counts.promotions, counts.demotions, counts.writebacks) == (0, 1, 1, 8)
    assert counts.cache_bytes_written(BLOCK) == written


def test_an_observer_may_want_other_work_than_the_promotion() -> None:
    observer = Observer(work=[Work(Op.PROMOTE, 5, 0)], answer=MISS_QUEUED)
    counts = replay(make_trace(blocks("w1")), observer, BLOCK, COPY, nobody)
    assert not observer.told("dirty")
    assert (counts.promotions, counts.slow_ops(), counts.cache_bytes_written(BLOCK)) == (1, 2, BLOCK)


# Real policies


def random_requests(count: int) -> list[Request]:
    """Read and write whole blocks, parts of blocks, and ranges of blocks; mostly the same few."""
    chance = random.Random(count)
    hot = [(chance.randrange(80) * BLOCK, size) for size in (BLOCK, BLOCK // 4, 3 * BLOCK) for _ in range(8)]
    return [
        (
            chance.choice("rrw"),
            *(chance.choice(hot) if chance.random() < 0.8 else (chance.randrange(200) * BLOCK, BLOCK)),
        )
        for _ in range(count)
    ]


class CheckedSmq(SmqPolicy):
    def get_background_work(self, idle: bool) -> Work | None:
        self.check()
        return super().get_background_work(idle)


class CheckedMq(MqPolicy):
    def get_background_work(self, idle: bool) -> Work | None:
        self.check()
        return super().get_background_work(idle)


class CheckedCleaner(CleanerPolicy):
    def get_background_work(self, idle: bool) -> Work | None:
        self.check()
        return super().get_background_work(idle)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("checked", [CheckedSmq, CheckedMq, CheckedCleaner])
def test_policies_stay_sound(checked: type[Policy], timed: bool) -> None:
    requests = random_requests(600)
    times = [n * 40_000 + n // 200 * 20 * SECOND for n in range(len(requests))]
    policy = checked(cache_blocks=40, origin_blocks=203, block_size=BLOCK)  # type: ignore[call-arg]
    counts = replay(make_trace(requests, times if timed else None), policy, BLOCK, COPY, nobody)
    counts.check()
    assert policy.residency() == counts.promotions - counts.demotions
    assert bool(counts.hits) == bool(counts.promotions) == (checked is not CheckedCleaner)


# The whole


def run(text: str, policy: str, *, tunables: list[tuple[str, str]] | None = None, cache_blocks: int = 2) -> Result:
    return simulate(
        make_trace(blocks(text)),
        policy,
        tunables=tunables or [],
        block_size=BLOCK,
        cache_blocks=cache_blocks,
        rules=COPY,
    )


def test_a_result_tells_all() -> None:
    result = run("r0 r0 h1 w0", "exact-lru")
    assert (result.trace, result.policy, result.block_size, result.cache_blocks) == ("made", "exact-lru", BLOCK, 2)
    assert (result.requests, result.unique_blocks, result.hits, result.hit_ratio) == (4, 2, 2, 0.5)
    assert (result.promotions, result.demotions, result.writebacks, result.overwrite_promotions) == (2, 0, 0, 0)
    assert result.cache_bytes_written == 2 * BLOCK + BLOCK // 2 + BLOCK
    assert (result.slow_ops, result.slow_ops_per_1000) == (3, 750.0)
    assert result.seconds > 0


@pytest.mark.parametrize("policy", ["mq", "smq", "default", "cleaner", *LIMITS])
def test_progress_comes_by_the_chunk_and_ends_at_the_end(policy: str) -> None:
    seen: list[tuple[int, int]] = []
    total = PORTION + 5
    simulate(
        make_trace(blocks("r0") * total),
        policy,
        tunables=[],
        block_size=BLOCK,
        cache_blocks=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(PORTION, total), (total, total)]


def test_tunables_are_set() -> None:
    text = "r0 r1 r0 r1 r0 r1 r0 r1"
    assert run(text, "mq").hits == 0
    assert run(text, "mq", tunables=[("read_promote_adjustment", "1")]).hits == 6


@pytest.mark.parametrize(
    ("policy", "tunables"),
    [
        ("mq", [("sequential_threshold", "many")]),
        ("mq", [("random_threshold", "4"), ("colour", "4")]),
        ("smq", [("sequential_threshold", "4")]),
        ("opt", [("random_threshold", "4")]),
        ("exact-lru", [("random_threshold", "4")]),
    ],
)
def test_bad_tunables_are_refused(policy: str, tunables: list[tuple[str, str]]) -> None:
    with pytest.raises(BadTunableError, match=r"^[^\n]+$"):
        run("r0", policy, tunables=tunables)


@pytest.mark.parametrize("policy", ["mq", "smq", *LIMITS])
def test_sizes_that_cannot_be_are_refused(policy: str) -> None:
    with pytest.raises(PolicyError, match="cache_blocks"):
        run("r0", policy, cache_blocks=0)
    with pytest.raises(PolicyError, match="block_size"):
        simulate(make_trace(blocks("r0")), policy, tunables=[], block_size=0, cache_blocks=1)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownPolicyError, match="belady"):
        run("r0", "belady")


def test_policies_of_other_packages_are_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in installed(EXAMPLE, tmp_path):
        monkeypatch.syspath_prepend(path)
    result = run("r0 r0 r0 r1 r1 r1 r2 r2 r2 w0 w0 w0", "clock", tunables=[("patience_ms", "0")])
    assert (result.policy, result.requests) == ("clock", 12)
    assert 0 < result.hits < 12
