"""scripts/bench policies: its arithmetic, and that it runs; how fast anything is, is no matter of tests."""

from __future__ import annotations

import json
import subprocess
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies import Policy
from scripts.benchmarks import draws, stalls
from scripts.benchmarks import policies as bench
from scripts.benchmarks.policies import Figure, Scale
from scripts.benchmarks.stalls import SCENARIOS, Scenario, Watch

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench"
TINY = Scale(blocks=300, small=40, large=400, lookups=2000, rounds=2)


@pytest.mark.parametrize(
    ("at_most", "at_least", "met"), [(None, None, None), (2.0, None, True), (1.9, None, False), (None, 2.0, True)]
)
def test_a_target_is_met_up_to_its_limit(at_most: float | None, at_least: float | None, met: bool | None) -> None:
    figure = Figure(question="q", what="w", value=2.0, unit="u", at_most=at_most, at_least=at_least)
    assert figure.is_met is met


def test_of_several_rounds_each_calls_fastest_counts_and_of_these_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([[3.0, 9.0, 2.0], [8.0, 4.0, 2.5], [3.5, 5.0, 7.0]])

    def play(watch: Watch, policy: Policy, blocks: int) -> None:
        watch.seconds = array("d", next(rounds))
        watch.calls = ["load", "tick", "lookup"]

    monkeypatch.setattr(stalls, "_empty", lambda *_: None)
    assert stalls.longest_call(Scenario("smq", "", play), 1, 3) == (4.0, "tick")


def test_patterns_draw_what_they_say() -> None:
    few = Counter(draws.hot(1000, 10, 5000))
    assert len(few) == 10
    even = Counter(draws.uniform(1000, 0, 50_000))
    assert max(even.values()) < 100
    skewed = [count for _, count in Counter(draws.zipf(1000, 0, 50_000)).most_common()]
    assert skewed[0] > 10 * skewed[40] > 0
    assert max(draws.zipf(1000, 0, 50_000)) < 1000


def test_nanoseconds_are_for_each_element(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter([1.0, 1.5, 2.0, 2.25])
    monkeypatch.setattr("time.thread_time", lambda: next(clock))
    assert bench.fastest({"x": list}, array("q", range(100)), 2) == {"x": 0.25 / 100 * 1e9}


@pytest.mark.parametrize("question", bench.QUESTIONS)
def test_every_question_is_answered(question: str) -> None:
    figures = list(bench.QUESTIONS[question](TINY))
    assert all(figure.question == question and figure.value > 0 for figure in figures)
    assert any(figure.is_met is not None for figure in figures)
    assert bench.report(figures).row_count == len(figures)


def test_the_mix_has_hits_and_migrations() -> None:
    for name in ("smq", "mq"):
        oblocks = draws.scattered(300, 30_000, seed=1)
        policy = bench.filled(name, oblocks, 30_000)
        mix = bench.Mix(policy, oblocks, 30_000)
        mix.nanoseconds(20_000)
        policy.check()
        cached = {oblock for oblock, entry in policy._index.check().items() if entry < 300}  # type: ignore[attr-defined]
        assert len(cached - set(oblocks)) > 10, f"{name} promoted nothing"
        assert len(set(oblocks) - cached) > 10, f"{name} demoted nothing"
        assert policy.residency() > 250


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.policy}-{scenario.play.__name__}")
def test_scenarios_are_the_same_each_time_and_leave_sound_books(scenario: Scenario) -> None:
    calls = []
    for _ in range(2):
        policy = stalls._empty(scenario.policy, 300)
        watch = Watch()
        scenario.play(watch, policy, 300)
        policy.check()
        calls.append(watch.calls)
        assert len(watch.calls) == len(watch.seconds)
    assert calls[0] == calls[1]


def test_json_is_a_list_of_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figure = Figure(question="memory", what="w", value=2.0, unit="u", at_most=3.0)
    monkeypatch.setattr(bench, "QUESTIONS", {"memory": lambda _: iter([figure])})
    bench.main(["--quick", "--json"])
    expected = {"question": "memory", "what": "w", "value": 2.0, "unit": "u", "at_most": 3.0, "at_least": None}
    assert json.loads(capsys.readouterr().out) == [expected | {"is_met": True}]


def test_the_script_tells_what_it_can_measure() -> None:
    result = subprocess.run([SCRIPT, "nonsense"], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: scripts/bench [policies|engines]")
    assert result.stderr.count("\n") == 1
