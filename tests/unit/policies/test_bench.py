"""scripts/bench --sections policies: its arithmetic; how fast anything is, is no matter of tests."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from policies import Policy
from scripts.benchmarks import stalls
from scripts.benchmarks.sections import policies as bench
from scripts.benchmarks.stalls import SCENARIOS, Scenario, Watch
from scripts.benchmarks.suite.measuring import Figure


def test_of_several_rounds_each_calls_fastest_counts_and_of_these_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([[3.0, 9.0, 2.0], [8.0, 4.0, 2.5], [3.5, 5.0, 7.0]])

    def play(watch: Watch, policy: Policy, blocks: int) -> None:
        watch.seconds = array("d", next(rounds))
        watch.calls = ["load", "tick", "lookup"]

    monkeypatch.setattr(stalls, "empty", lambda *_: None)
    assert stalls.longest_call(Scenario("smq", "", play), 1, 3) == (4.0, "tick")


def test_patterns_draw_what_they_say() -> None:
    scale = bench.Scale(blocks=1000, small=10, large=1000, lookups=50_000, rounds=1)
    drawn = {name: Counter(draw(random.Random(1), 1000, scale)) for name, draw in bench.PATTERNS.items()}
    assert len(drawn["the same few"]) == 10
    assert max(drawn["uniform"].values()) < 100
    skewed = [count for _, count in drawn["Zipf"].most_common()]
    assert skewed[0] > 10 * skewed[40] > 0
    assert all(max(blocks) < 1000 for blocks in drawn.values())


def test_nanoseconds_are_for_each_element(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter([1.0, 1.5, 2.0, 2.25])
    monkeypatch.setattr("time.thread_time", lambda: next(clock))
    assert bench.fastest({"x": list}, array("q", range(100)), 2) == {"x": 0.25 / 100 * 1e9}


@pytest.mark.parametrize("question", [bench.memory, bench.growth, bench.speed, bench.stalls])
def test_every_question_is_answered(question: Callable[[bench.Scale], Iterator[Figure]]) -> None:
    figures = list(question(bench.SMOKE))
    assert {"smq", "mq"} <= {figure.system for figure in figures}
    assert all(figure.value > 0 for figure in figures)
    assert any(figure.is_met is not None for figure in figures)


def test_the_mix_has_hits_and_migrations() -> None:
    for name in ("smq", "mq"):
        oblocks = array("q", random.Random(1).sample(range(30_000), 300))
        policy = bench.filled(name, oblocks, 30_000)
        bench.Mix(policy, oblocks, 30_000).nanoseconds(20_000)
        policy.check()
        cached = {oblock for oblock, entry in policy._index.check().items() if entry < 300}  # type: ignore[attr-defined]
        assert len(cached - set(oblocks)) > 10, f"{name} promoted nothing"
        assert len(set(oblocks) - cached) > 10, f"{name} demoted nothing"
        assert policy.residency() > 250


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.policy}: {scenario.what}")
def test_scenarios_are_the_same_each_time_and_leave_sound_books(scenario: Scenario) -> None:
    calls = []
    for _ in range(2):
        policy = stalls.empty(scenario.policy, 300)
        watch = Watch()
        scenario.play(watch, policy, 300)
        policy.check()
        calls.append(watch.calls)
        assert len(watch.calls) == len(watch.seconds)
    assert calls[0] == calls[1]
