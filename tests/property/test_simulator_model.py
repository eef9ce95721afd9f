"""The loops that replay a mount count what the plain model of a mount counts, to the last operation and byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecache import streams
from fusecache.simulator import blocks, limits, misses, mounted, player, read_ahead
from fusecache.simulator.limits import LIMITS, replay_limit
from fusecache.simulator.mounted import MountPlayer
from fusecache.simulator.rules import DataPath, Rules
from tests.unit.simulator.admitting import Moody
from tests.unit.simulator.making import BLOCK, Request, make_trace
from tests.unit.simulator.model import Model, play_lru, play_policy

MERGED = 4 * BLOCK
PER_LOOK = 4
GRAIN = 64  # the model counts bytes by so many

SMALL_READ_AHEAD = {"ROOM": 5, "_UNIT": BLOCK}
SMALL_STREAMS = {"STREAMS": 3, "_STEPS": 1, "_JUDGED": 6, "_LEAST_JUDGED": 3, "_LEFT_OUT": 2}


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Have every limit met by short traces."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_READ_AHEAD.items():
            patch.setattr(read_ahead, name, value)
        for name, value in SMALL_STREAMS.items():
            patch.setattr(streams, name, value)
        for module in (blocks, misses):
            patch.setattr(module, "MERGED_BYTES", MERGED)
        for module in (mounted, limits):
            patch.setattr(module, "REQUESTS_PER_LOOK", PER_LOOK)
        for module in (mounted, player):
            patch.setattr(module, "REQUESTS_PER_TICK", PER_LOOK)
        yield


def aligned(unit: int) -> st.SearchStrategy[Request]:
    """Make requests in whole units: often small ones in few blocks, else up to three blocks long in sixteen."""
    places = st.one_of(st.integers(0, 2 * BLOCK // unit), st.integers(0, 13 * BLOCK // unit))
    lengths = st.one_of(st.integers(1, 2), st.integers(1, 3 * BLOCK // unit))
    return st.tuples(
        st.sampled_from("rw"), places.map(lambda number: number * unit), lengths.map(lambda number: number * unit)
    )


forward = st.integers(0, 8).flatmap(
    lambda first: st.sampled_from([BLOCK, BLOCK // 2, 7 * BLOCK]).map(
        lambda size: [("r", first * BLOCK + at, size) for at in range(0, 7 * BLOCK, size)]
    )
)
scattered = st.tuples(st.integers(0, 4), st.lists(st.integers(0, 7), min_size=2, max_size=5)).map(
    lambda where: [("w", where[0] * BLOCK + sector * 512, 512) for sector in where[1]]
)
elsewhere = st.integers(6, 9).map(lambda first: [("r", (first + at) * BLOCK, GRAIN) for at in (0, 2, 4)])
any_request = st.one_of(aligned(BLOCK), aligned(512), aligned(GRAIN)).map(lambda request: [request])
any_requests = st.lists(st.one_of(any_request, forward, scattered, elsewhere), min_size=6, max_size=24).map(
    lambda parts: [request for part in parts for request in part]
)
any_rules = st.builds(
    Rules,
    dirty_requests=st.sampled_from([1, 6, 20, 10_000]),
    dirty_us=st.sampled_from([3, 30, 10_000]),
    read_ahead=st.sampled_from([0, 1, 3, 5]),
)
mounts = st.sampled_from([DataPath.FILL, DataPath.ABSORB])


def model_of(requests: list[Request], data_path: DataPath, rules: Rules) -> Model:
    origin_blocks = max((offset + length - 1) // BLOCK for _, offset, length in requests) + 1
    return Model(BLOCK, data_path, rules, MERGED, PER_LOOK, origin_blocks)


def nobody(_done: int, _total: int) -> None:
    """Report to nobody."""


def counted(figures: dict[str, object], disk: dict[str, object]) -> dict[str, object]:
    """Put all counts into one dictionary, as the model has them."""
    left_out = {"requests", "disk", "position"}
    return {name: value for name, value in (figures | disk).items() if name not in left_out}


@settings(max_examples=300)
@given(any_requests, mounts, any_rules, st.integers(2, 8), st.integers(1, 2), st.integers(0, 1000))
def test_policies(
    requests: list[Request], data_path: DataPath, rules: Rules, cache_blocks: int, reserve: int, seed: int
) -> None:
    times = list(range(len(requests)))
    fast, slow = (Moody(cache_blocks, reserve, absorbs=True, seed=seed) for _ in range(2))
    replayed = MountPlayer(make_trace(requests, times), fast, BLOCK, data_path, rules, nobody)
    replayed.play()
    replayed.check()
    model = model_of(requests, data_path, rules)
    play_policy(model, slow, requests, times)
    assert counted(asdict(replayed.counts), asdict(replayed.counts.disk)) == model.figures()
    assert fast.cached == slow.cached
    assert fast.dirty == slow.dirty


@settings(max_examples=100)
@given(any_requests, mounts, any_rules, st.integers(1, 8))
def test_exact_lru(requests: list[Request], data_path: DataPath, rules: Rules, cache_blocks: int) -> None:
    times = list(range(len(requests)))
    trace = make_trace(requests, times)
    counts = replay_limit(trace, LIMITS["exact-lru"](trace, BLOCK, cache_blocks), BLOCK, data_path, rules, nobody)
    counts.check()
    model = model_of(requests, data_path, rules)
    play_lru(model, cache_blocks, requests, times)
    assert counted(asdict(counts), asdict(counts.disk)) == model.figures()
