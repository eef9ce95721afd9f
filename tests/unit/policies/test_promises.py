"""What docs/policies.rst promises, each promise a test; the experiments are those that the page draws."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean

import pytest

from tests.unit.policies.promises import (
    BIOS_PER_BLOCK,
    HOT_SHARE,
    MINUTE_MS,
    Bench,
    hint_after_hits,
    levels_under_hits,
    levels_under_replacement,
    moved_hot_set,
    promotions_along,
    shuffled,
    stream,
    ticks_to_promotion,
)

DOCS = Path(__file__).parents[3] / "docs"


# A block counts as hit at most once a tick


@pytest.mark.parametrize(("name", "ticks"), [("mq", 3), ("smq", 11)])
def test_many_misses_between_two_ticks_are_one(name: str, ticks: int) -> None:
    assert [ticks_to_promotion(name, bios) for bios in (2, 16, 200)] == [ticks] * 3


@pytest.mark.parametrize("name", ["mq", "smq"])
def test_without_a_tick_no_number_of_misses_promotes(name: str) -> None:
    assert ticks_to_promotion(name, 10_000, limit=1) is None


def test_many_hits_between_two_ticks_are_one_in_mq() -> None:
    assert [hint_after_hits("mq", rounds=20, hits_per_tick=hits, tick_ms=1) for hits in (1, 16, 200)] == [22] * 3


def test_many_hits_in_a_minute_lift_by_one_level_in_smq() -> None:
    assert [hint_after_hits("smq", rounds=50, hits_per_tick=hits, tick_ms=1) for hits in (0, 1, 200)] == [1, 2, 2]
    levels = [hint_after_hits("smq", rounds=9, hits_per_tick=hits, tick_ms=MINUTE_MS + 1) for hits in (0, 1, 200)]
    assert levels[0] + 8 <= levels[1] == levels[2]


# Sequential streams bypass mq, unless sequential_threshold is 0


@pytest.mark.parametrize("threshold", [512, 64, 1600])
def test_a_sequential_stream_bypasses_mq_from_the_threshold_on(threshold: int) -> None:
    counts = promotions_along(stream(400), sequential_threshold=threshold)
    assert counts[threshold] == threshold // BIOS_PER_BLOCK
    assert counts[-1] == counts[threshold]


def test_with_threshold_0_the_whole_stream_is_cached() -> None:
    assert promotions_along(stream(400), sequential_threshold=0)[-1] == 400


def test_the_same_reads_out_of_order_are_no_stream() -> None:
    assert promotions_along(shuffled(stream(400)), sequential_threshold=512)[-1] == 400


def test_after_four_reads_elsewhere_mq_learns_again() -> None:
    bench = Bench("mq", cache_blocks=64, origin_blocks=1024)
    for offset in stream(64):
        bench.read(offset)
    for number in range(4):
        bench.tick(1)
        assert bench.read((1000 - 7 * number) * 65536) == -1
    promoted = bench.promotions
    for _ in range(5):
        bench.tick(1)
        bench.read(900 * 65536)
    assert bench.promotions == promoted + 1


def test_a_stream_does_not_bypass_what_is_cached() -> None:
    bench = Bench("mq", cache_blocks=64, origin_blocks=1024)
    bench.load()
    assert all(bench.read(offset) == offset // 65536 for offset in stream(64))


def test_smq_knows_no_streams() -> None:
    bench = Bench("smq", cache_blocks=1024, origin_blocks=4096)
    for offset in stream(400):
        bench.read(offset)
        bench.tick(1)
    assert bench.promotions > 300


# smq adapts to a moved hot set faster than mq


def test_smq_adapts_to_a_moved_hot_set_faster_than_mq() -> None:
    recovery = {}
    for name in ("smq", "mq"):
        points = list(moved_hot_set(name, minutes_before=10, minutes_after=5))
        usual = mean(ratio for now_ms, ratio in points if 5 * MINUTE_MS < now_ms <= 10 * MINUTE_MS)
        assert usual > 0.7, "neither is being adapted to anything"
        after = [(now_ms - 10 * MINUTE_MS, ratio) for now_ms, ratio in points if now_ms > 10 * MINUTE_MS]
        assert after[0][1] < 0.5 * HOT_SHARE, "the hot set has moved"
        recovery[name] = min((delay for delay, ratio in after if ratio >= 0.9 * usual), default=None)
        if name == "mq":
            assert max(ratio for _, ratio in after) < 0.5 * usual
    assert recovery["mq"] is None
    assert recovery["smq"] is not None
    assert recovery["smq"] <= 2 * MINUTE_MS


# Levels stay balanced


def test_hits_keep_the_levels_of_smq_balanced() -> None:
    assert list(levels_under_hits("smq", minutes=3)) == [[16] * 64] * 3


def test_hits_crowd_the_lower_levels_of_mq() -> None:
    *_, populations = levels_under_hits("mq", minutes=10)
    assert max(populations) > sum(populations) // 3
    assert sum(populations[8:]) < sum(populations) // 50


def test_a_minute_evens_out_what_replacement_did_to_the_levels_of_smq() -> None:
    for populations in levels_under_replacement():
        assert sum(populations) == 512
        assert max(populations) - min(populations) <= 1


def test_between_two_minutes_replacement_fills_the_top_and_empties_the_lower_half() -> None:
    bench = Bench("smq", cache_blocks=512, origin_blocks=8192)
    bench.load(hint=1)
    bench.tick(1)
    before = bench.populations()
    for offset in shuffled([oblock * 65536 for oblock in range(512, 2048)]) * 4:
        bench.read(offset)
        bench.tick(1)
    after = bench.populations()
    assert bench.promotions > 64
    assert after[63] > before[63]
    assert after[32:63] == before[32:63]
    assert sum(after[:32]) < sum(before[:32])
    bench.tick(MINUTE_MS + 1)
    assert max(bench.populations()) - min(bench.populations()) <= 1


# The page


def test_the_page_names_tests_and_figures_that_exist() -> None:
    page = (DOCS / "policies.rst").read_text()
    named = set(re.findall(r"``(test_\w+)``", page))
    assert named == {name for name in globals() if name.startswith("test_") and "page" not in name}
    figures = re.findall(r"\.\. image:: (\S+)", page)
    assert len(figures) == 3
    for figure in figures:
        assert (DOCS / figure).read_text().startswith("<?xml")
