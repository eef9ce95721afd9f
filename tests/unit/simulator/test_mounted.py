"""What mounts do, counted by hand.  Blocks have 4 KiB, so 256 of them are 1 MiB."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusecache.simulator.counts import Counts
from fusecache.simulator.mounted import MountPlayer
from fusecache.simulator.rules import DataPath, Rules
from policies import Op, Policy, Work
from policies.mq import MqPolicy
from policies.smq import SmqPolicy
from tests.unit.simulator.admitting import Admitting
from tests.unit.simulator.making import ABSORB, BLOCK, FILL, Request, blocks, make_trace
from tests.unit.simulator.test_replay import Observer, Recorder, random_requests

BLOCKS_PER_MIB = (1 << 20) // BLOCK
SECOND = 1_000_000


class Bypassing(Admitting):
    """Admits nothing."""

    def admits(self, oblock: int) -> bool:
        return False


def nobody(_done: int, _total: int) -> None:
    """Report to nobody."""


def play(
    requests: list[Request] | str,
    policy: Policy | None = None,
    rules: Rules = ABSORB,
    *,
    times_us: list[int] | None = None,
    block_size: int = BLOCK,
) -> Counts:
    trace = make_trace(blocks(requests) if isinstance(requests, str) else requests, times_us)
    assert rules.data_path is not None
    player = MountPlayer(trace, policy or Admitting(1000), block_size, rules.data_path, rules, nobody)
    player.play()
    if isinstance(policy, Admitting):
        player.check()
    return player.counts


def operations(counts: Counts) -> tuple[int, int]:
    return counts.disk.reads, counts.disk.writes


# Misses


@pytest.mark.parametrize("rules", [FILL, ABSORB])
def test_a_read_that_misses_fills_its_block(rules: Rules) -> None:
    counts = play([("r", 512, 1024), ("r", 0, BLOCK)], Admitting(10), rules)
    assert (counts.hits, counts.promotions, counts.fills) == (1, 1, 1)
    assert operations(counts) == (1, 0)
    assert (counts.disk.moved, counts.disk.position) == (BLOCK, BLOCK)
    assert counts.cache_bytes_written(BLOCK) == BLOCK


def test_a_bypassed_read_reads_what_was_asked_for() -> None:
    counts = play([("r", 512, 1024), ("r", 0, BLOCK)], Bypassing(10))
    assert (counts.hits, counts.promotions, operations(counts), counts.disk.moved) == (0, 0, (2, 0), 1024 + BLOCK)


@pytest.mark.parametrize(("request_", "reads"), [("r1", 1), ("r2", 2)])
def test_another_promotion_than_that_of_the_block_reads_by_itself(request_: str, reads: int) -> None:
    counts = play(request_, Recorder(work=[Work(Op.PROMOTE, 1, 0)]), FILL)
    assert (counts.promotions, counts.fills, operations(counts)) == (1, 2 - reads, (reads, 0))


def test_a_promotion_after_a_write_that_missed_reads_by_itself_and_is_clean() -> None:
    recorder = Recorder(work=[Work(Op.PROMOTE, 1, 0)])
    assert operations(play("h1", recorder, FILL)) == (1, 1)
    assert recorder.events == ["write 1", "busy", "promote 1", "clean 0", "busy"]


def test_a_whole_write_that_comes_with_its_promotion_costs_nothing() -> None:
    counts = play("w1 r1", Admitting(10), FILL)
    assert (counts.hits, counts.overwrite_promotions, counts.absorbed, operations(counts)) == (1, 1, 0, (0, 0))
    assert operations(play("w1 h2", Bypassing(10), FILL)) == (0, 2)


@pytest.mark.parametrize(("op", "expected"), [("r", (1, 0)), ("w", (0, 1))])
def test_neighbours_of_one_request_that_miss_are_one_operation(op: str, expected: tuple[int, int]) -> None:
    counts = play([(op, 100, 3 * BLOCK)], Bypassing(10))
    assert (counts.requests, operations(counts), counts.disk.moved) == (4, expected, 3 * BLOCK)
    two = operations(play([(op, 0, BLOCK), (op, BLOCK, BLOCK)], Bypassing(10)))
    assert two == (2 * expected[0], 2 * expected[1])


def test_one_operation_has_a_mebibyte_at_most() -> None:
    assert operations(play([("r", 0, BLOCKS_PER_MIB * BLOCK)], Bypassing(10))) == (1, 0)
    assert operations(play([("r", 100, BLOCKS_PER_MIB * BLOCK)], Bypassing(10))) == (1, 0)
    assert operations(play([("r", 0, BLOCKS_PER_MIB * BLOCK + 1)], Bypassing(10))) == (2, 0)
    assert operations(play([("r", 0, 4 << 21)], Bypassing(10), block_size=1 << 21)) == (4, 0)


def test_a_block_that_hits_divides_an_operation() -> None:
    assert operations(play([("r", BLOCK, BLOCK), ("r", 0, 3 * BLOCK)])) == (1 + 2, 0)
    assert operations(play([("r", 0, BLOCK), ("r", 0, 3 * BLOCK)])) == (1 + 1, 0)
    assert operations(play([("r", 2 * BLOCK, BLOCK), ("r", 0, 3 * BLOCK)])) == (1 + 1, 0)


def test_a_block_that_is_absorbed_divides_an_operation() -> None:
    class Odd(Admitting):
        def admits(self, oblock: int) -> bool:
            return oblock % 2 == 1

    counts = play([("w", 0, 3 * BLOCK)], Odd(10))
    assert (counts.overwrite_promotions, operations(counts)) == (1, (0, 2))


def test_what_was_missed_is_filled_though_the_request_goes_on() -> None:
    counts = play([("r", 1024, 2 * BLOCK)], Admitting(10))
    assert (counts.promotions, counts.fills, operations(counts)) == (3, 3, (1, 0))
    assert (counts.disk.moved, counts.disk.seeks) == (3 * BLOCK, 1)


# Absorbed writes


def test_a_write_of_a_part_is_absorbed() -> None:
    counts = play([("w", 512, 1024), ("r", 512, 512), ("r", 1024, 512)], Admitting(10))
    assert (counts.hits, counts.promotions, counts.absorbed, counts.overwrite_promotions) == (2, 1, 1, 0)
    assert operations(counts) == (0, 0)
    assert counts.cache_bytes_written(BLOCK) == 1024


def test_with_fill_it_goes_to_the_origin() -> None:
    recorder = Recorder()
    assert operations(play([("w", 512, 1024)], recorder, FILL)) == (0, 1)
    assert recorder.told("write") == ["write 0"]


def test_a_policy_that_does_not_absorb_is_asked_as_if_it_did() -> None:
    assert play([("w", 512, 1024)], Admitting(10, absorbs=False), ABSORB).absorbed == 1


@pytest.mark.parametrize(
    ("offset", "length", "edges"),
    [(0, 512, 0), (100, 200, 1), (0, 600, 1), (100, 412, 1), (100, 1000, 2), (500, 24, 2), (BLOCK - 100, 100, 1)],
)
def test_edges_are_read_one_by_one(offset: int, length: int, edges: int) -> None:
    counts = play([("w", offset, length)], Admitting(10))
    assert (operations(counts), counts.disk.moved) == ((edges, 0), 512 * edges)


def test_edges_that_are_valid_are_not_read() -> None:
    assert operations(play([("w", 0, 1024), ("w", 100, 200), ("w", 500, 700)], Admitting(10))) == (1, 0)


def test_a_read_of_invalid_sectors_makes_the_block_whole() -> None:
    counts = play([("w", 512, 512), ("w", 2048, 512), ("r", 1000, 100), ("r", 0, BLOCK)], Admitting(10))
    assert (counts.hits, operations(counts), counts.disk.moved) == (3, (1, 0), BLOCK)
    assert counts.cache_bytes_written(BLOCK) == 1024 + BLOCK
    inner = play([("w", 0, 512), ("w", 2048, 2048), ("r", 512, 1)], Admitting(10))
    assert inner.disk.moved == 1536


def test_a_block_is_whole_when_all_of_it_was_written() -> None:
    counts = play([("w", 0, 1024), ("w", 2048, 2048), ("w", 1024, 1024), ("r", 0, BLOCK)], Admitting(10))
    assert operations(counts) == (0, 0)


# Writeback


@pytest.mark.parametrize("rules", [FILL, ABSORB])
def test_dirty_neighbours_go_with_a_block_that_is_demoted(rules: Rules) -> None:
    policy = Admitting(6)
    counts = play("w1 w2 w3 w5 w9 r20", policy, rules)  # 1 is the oldest; one place is kept free
    assert (counts.demotions, counts.writebacks, operations(counts)) == (1, 3, (1, 1))
    assert counts.disk.moved == 3 * BLOCK + BLOCK
    assert len(policy.dirty) == 2


def test_what_the_policy_wants_written_back_is_written_with_its_neighbours_and_once() -> None:
    class Cleaning(Admitting):
        def to_write_back(self, candidates: list[int]) -> int | None:
            return candidates[0] if self.cached.get(3) in self.dirty else None

    counts = play("w1 w2 w3 r3", Cleaning(6))
    assert (counts.writebacks, operations(counts), counts.disk.moved) == (3, (0, 1), 3 * BLOCK)


def test_a_clean_block_costs_nothing_when_it_goes() -> None:
    counts = play("r1 r2 r3", Admitting(2))
    assert (counts.demotions, counts.writebacks, operations(counts)) == (2, 0, (3, 0))


def test_a_mebibyte_around_a_block_goes_in_one_operation() -> None:
    run = [("w", n * BLOCK, BLOCK) for n in (300, *range(300), *range(301, 600))]
    policy = Admitting(601)
    counts = play([*run, ("r", 9000 * BLOCK, 1)], policy)
    assert (counts.writebacks, counts.demotions, counts.disk.writes) == (BLOCKS_PER_MIB, 1, 1)
    clean = [oblock for oblock, cblock in policy.cached.items() if oblock < 600 and cblock not in policy.dirty]
    assert (min(clean), max(clean)) == (300 - BLOCKS_PER_MIB // 2, 300 + BLOCKS_PER_MIB // 2 - 1)


def test_a_large_block_goes_alone() -> None:
    size = 1 << 21
    counts = play([*(("w", n * size, size) for n in range(3)), ("r", 9 * size, 1)], Admitting(4), block_size=size)
    assert (counts.writebacks, counts.disk.writes) == (1, 1)


@pytest.mark.parametrize(
    ("writes", "expected"),
    [
        ([(512, 512)], (0, 1)),
        ([(512, 512), (2048, 512)], (0, 2)),
        ([(512, 512), (2048, 512), (3072, 512)], (1, 1)),
        ([(BLOCK - 512, 512), (BLOCK, 512)], (0, 1)),
        ([(0, 512), (BLOCK - 512, 512), (BLOCK, BLOCK), (2 * BLOCK, 512)], (0, 2)),
        ([(512, 512), (BLOCK + 512, 512)], (0, 2)),
    ],
)
def test_partial_blocks_are_written_by_runs(writes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    requests: list[Request] = [("w", offset, length) for offset, length in writes]
    others = blocks(" ".join(f"r{oblock}" for oblock in range(20, 31)))
    reads, written = operations(play([*requests, *others], Admitting(8)))
    assert (reads - len(others), written) == expected


def test_a_partial_block_that_was_written_back_stays_partial() -> None:
    class Cleaning(Admitting):
        def to_write_back(self, candidates: list[int]) -> int | None:
            return next((oblock for oblock in candidates if self.cached[oblock] in self.dirty), None)

    assert operations(play([("w", 0, 512), ("r", 512, 512)], Cleaning(4))) == (1, 1)
    assert operations(play([("w", 0, 512), ("w", 512, 512), ("r", 0, 1024)], Cleaning(4))) == (0, 2)


def test_what_is_dirty_for_too_long_is_written_back() -> None:
    rules = replace(ABSORB, dirty_requests=40)
    early = "w1 w2 " + "r9 " * 38  # 40 requests
    assert play(early + "r9 " * 24, None, rules).writebacks == 0  # the look at 64 comes with the next
    counts = play(early + "r9 " * 25, None, rules)
    assert (counts.writebacks, counts.disk.writes) == (2, 1)


def test_age_counts_from_the_first_write_since_it_was_clean() -> None:
    rules = replace(ABSORB, dirty_requests=40)
    assert play("w1 " + "r9 " * 30 + "w1 " + "r9 " * 33, None, rules).writebacks == 1
    policy = Admitting(3)  # two blocks: 1 goes, comes back clean, and is written at request 15
    again = "w1 " + "r9 r8 r7 " * 4 + "r1 r1 w1 "
    assert play(again + "r1 " * 48, policy, rules).writebacks == 1
    assert play(again + "r1 " * 49, Admitting(3), rules).writebacks == 2


def test_real_time_counts_if_it_is_asked_for() -> None:
    requests = blocks("w1 " + "r9 " * 64)
    times = [0] * 32 + [30 * SECOND] * 32 + [30 * SECOND + 1]
    for dirty_us, written in ((30 * SECOND, 1), (31 * SECOND, 0)):
        rules = replace(ABSORB, dirty_us=dirty_us)
        assert play(requests, None, rules, times_us=times).writebacks == written
    assert play(requests, None, replace(ABSORB, dirty_us=1)).writebacks == 0


def test_what_is_dirty_at_the_end_stays_so() -> None:
    assert operations(play("w1 w3 h5")) == (0, 0)


# Reading ahead


def test_what_reads_in_order_want_next_is_read_in_steps() -> None:
    rules = replace(ABSORB, read_ahead=4)
    counts = play("r1 r2 r3 r4 r5 r6 r7 r19", Admitting(50), rules)
    # 1, 2, 3, then 4 to 7, at 4 those up to 11, at 7 those up to 15, and 19
    assert (operations(counts), counts.read_ahead, counts.read_ahead_used) == ((7, 0), 12, 4)
    assert (counts.hits, counts.promotions, counts.fills) == (0, 8, 8)
    assert (counts.disk.moved, counts.disk.seeks) == (16 * BLOCK, 2)


def test_a_step_costs_no_seek_behind_a_read_of_a_part_of_the_block_before_it() -> None:
    rules = replace(FILL, read_ahead=4)
    for policy, moved in ((Bypassing(50), 3 * 512 + 4 * BLOCK), (Admitting(50), 7 * BLOCK)):
        counts = play([("r", at * BLOCK, 512) for at in (1, 2, 3)] + [("r", 7 * BLOCK, 512)], policy, rules)
        assert (operations(counts)[0], counts.read_ahead, counts.read_ahead_used) == (4, 4, 1)
        assert counts.disk.moved == moved
        assert counts.disk.seeks == (3 if isinstance(policy, Bypassing) else 1)


def test_neighbours_in_one_request_are_one_miss_of_a_stream() -> None:
    requests = [("r", at * BLOCK, 2 * BLOCK) for at in (0, 2, 4, 6)]
    counts = play(requests, Admitting(50), replace(ABSORB, read_ahead=4))
    assert (operations(counts), counts.read_ahead, counts.read_ahead_used) == ((4, 0), 2, 2)


def test_what_was_read_ahead_and_then_written_is_read_again() -> None:
    rules = replace(ABSORB, read_ahead=4)
    counts = play("r1 r2 r3 w4 r4 r9", Bypassing(50), rules)
    assert (operations(counts), counts.read_ahead, counts.read_ahead_used) == ((6, 1), 6, 1)


def test_a_bypassed_block_stays_in_the_buffer() -> None:
    counts = play("r1 r2 r3 r4 r4 r4 r9", Bypassing(50), replace(FILL, read_ahead=4))
    assert (operations(counts), counts.read_ahead_used) == ((5, 0), 2)


# What policies are told


def test_the_policy_is_told_of_writes_by_which_a_block_turns_dirty() -> None:
    recorder = Recorder({1: 4})
    play("r1 h1 h1 w1", recorder, FILL)
    assert recorder.told("dirty") == ["dirty 4"]


def test_an_observer_sees_each_bio_after_a_tick_and_is_not_waited_for() -> None:
    class Seeing(Observer):
        def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
            return self.lookup(oblock, write, fast_copy), None

    observer = Seeing(work=[Work(Op.PROMOTE, 0, 5)])
    requests: list[Request] = [("r", 0, 512), ("w", 4000, 1200)]
    counts = play(requests, observer, FILL, times_us=[0, 2_100_000])
    assert observer.events == [
        *("bio 0+512 at 0", "read 0", "busy", "promote 0", "clean 5", "busy"),
        *("tick 1000", "tick 2000", "tick 2100", "bio 3584+0 at 2100", "write 0", "busy"),
        *("tick 2100", "bio 4096+1024 at 2100", "write 1", "busy"),
    ]
    assert operations(counts) == (1, 1)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("data_path", [DataPath.FILL, DataPath.ABSORB])
@pytest.mark.parametrize("kind", [SmqPolicy, MqPolicy])
def test_policies_of_dm_cache_stay_sound(kind: type[Policy], data_path: DataPath, timed: bool) -> None:
    requests = random_requests(600)
    times = [n * 40_000 + n // 200 * 20 * SECOND for n in range(len(requests))] if timed else None
    policy = kind(cache_blocks=40, origin_blocks=203, block_size=BLOCK)  # type: ignore[call-arg]
    rules = Rules(data_path=data_path, dirty_requests=100, read_ahead=4)
    player = MountPlayer(make_trace(requests, times), policy, BLOCK, data_path, rules, nobody)
    player.play()
    player.check()
    assert min(player.counts.hits, player.counts.promotions) > 0
