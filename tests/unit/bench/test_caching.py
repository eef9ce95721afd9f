from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.benchmarks.sections.hotsets import is_cached
from scripts.benchmarks.sections.stage import BLOCK, caches, cold_rounds
from scripts.benchmarks.sections.zipf import CASES, fitting, turns, whole
from scripts.benchmarks.suite import __main__ as program
from scripts.benchmarks.suite import render
from scripts.benchmarks.suite.measuring import Context, Figure
from scripts.benchmarks.suite.systems import BARE, FUSECACHE, NBDKIT, NONE, OLD, QCOW2, SYSTEMS, use_policies
from scripts.vm.timing import Boot, Times

CONTEXT = Context(effort="full", rounds=7, systems=(NONE, BARE, FUSECACHE, QCOW2), fast=Path(), disk=Path())


@pytest.fixture(autouse=True)
def _systems_as_they_were() -> Iterator[None]:
    before = dict(SYSTEMS)
    yield
    SYSTEMS.clear()
    SYSTEMS.update(before)


# --- what must be, and what is hoped for -----------------------------------------------------------------------------

MOST = Figure(name="operations", unit="per 1000", value=900, ratio=0.95, at_most=1.0, aim=0.9)
LEAST = Figure(name="speed", value=60, at_least=50, aim=200)


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (MOST, "yes"),
        (replace(MOST, ratio=1.01), "NO"),
        (replace(MOST, ratio=0.9), "aim"),
        (LEAST, "yes"),
        (replace(LEAST, value=200), "aim"),
        (replace(LEAST, value=49), "NO"),
        (replace(LEAST, aim=None), "yes"),
    ],
)
def test_a_figure_fails_meets_its_target_or_reaches_its_aim(figure: Figure, verdict: str) -> None:
    assert render.verdict(figure) == verdict


def test_aims_have_a_column_and_a_table_of_their_own() -> None:
    figures = [MOST, Figure(name="seen", value=3), LEAST]
    assert render.rows(figures, [FUSECACHE]) == [
        ["what", "fusecache", "target", "met", "aim"],
        ["operations, per 1000", "900 x0.95", "≤ x1", "yes", "0.9"],
        ["seen", "3", "", "", ""],
        ["speed", "60", "≥ 50", "yes", "200"],
    ]
    assert render.summary(figures) == [
        ["what", "system", "is", "must", "aim", "met"],
        ["operations, per 1000", "fusecache", "x0.95", "≤ x1", "x0.9", "yes"],
        ["speed", "fusecache", "60", "≥ 50", "200", "yes"],
    ]
    assert "aim" not in render.rows([Figure(name="seen", value=3, at_most=4)], [])[0]


# --- which requests, how many, of whom -------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40 * BLOCK)), st.integers(0, 20))
def test_requests_that_fit_are_as_many_as_touch_no_more_blocks(drawn: list[int], blocks: int) -> None:
    count = fitting(drawn, blocks)
    assert len({offset // BLOCK for offset in drawn[:count]}) <= blocks
    if count < len(drawn):
        assert len({offset // BLOCK for offset in drawn[: count + 1]}) == blocks + 1


@pytest.mark.parametrize(
    ("reached", "expected"),
    [([], False), ([0], False), ([0, 0], True), ([100, 10, 10], True), ([100, 10, 11], False), ([0, 0, 100], False)],
)
def test_a_hot_set_is_cached_when_nine_of_ten_are_hits_in_two_batches(reached: list[int], expected: bool) -> None:
    assert is_cached(reached, 100) is expected


def test_systems_that_were_left_out_of_a_round_are_not_compared() -> None:
    assert whole({"a": [1, 2], "b": [1]}) == {"a": [1, 2]}


def test_caches_are_compared_with_the_disk_and_with_nbdkit_whoever_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = use_policies(["smq", "mq"])
    monkeypatch.setitem(SYSTEMS, NBDKIT, replace(SYSTEMS[NBDKIT], programs=()))
    found = caches(replace(CONTEXT, systems=(*CONTEXT.systems, *others)))
    assert set(found.systems) == {NONE, FUSECACHE, QCOW2, NBDKIT, "fusecache:mq"}
    monkeypatch.setitem(SYSTEMS, NBDKIT, replace(SYSTEMS[NBDKIT], programs=("no such program",)))
    assert NBDKIT not in caches(CONTEXT).systems


def test_each_round_begins_with_another_system() -> None:
    context = replace(CONTEXT, systems=(NONE, FUSECACHE))
    assert cold_rounds(context) == 3
    in_order = [(name, number) for number in range(3) for name in ((NONE, FUSECACHE), (FUSECACHE, NONE))[number % 2]]
    assert list(turns(context, "what")) == in_order
    assert {name for name, _ in turns(context, "what", but=[NONE])} == {FUSECACHE}
    assert cold_rounds(replace(context, rounds=1)) == 1


def test_on_the_net_there_are_enough_requests_for_learning_to_show() -> None:
    (net,) = (case for case in CASES if case.profile == "net")
    assert net.count(CONTEXT) == 40_000


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_first_policy_is_that_of_fusecache_and_each_other_is_one_more_system() -> None:
    assert not use_policies([])
    assert not SYSTEMS[FUSECACHE].options
    assert use_policies(["adaptive", "mq,sequential_threshold=0"]) == ("fusecache:mq,sequential_threshold=0",)
    assert SYSTEMS[FUSECACHE].options == ("--policy", "adaptive")
    assert SYSTEMS["fusecache:mq,sequential_threshold=0"].options == ("--policy", "mq,sequential_threshold=0")


def measured(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> tuple[Context, list[str]]:
    """Run the program up to where it would measure."""
    seen: list[tuple[Context, list[str]]] = []

    def measure(context: Context, names: list[str], *_: object) -> None:
        seen.append((context, list(names)))

    monkeypatch.setattr(program, "measure", measure)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert program.main(["--smoke", *map(str, words)]) == 0
    return seen[0]


def test_caching_is_a_name_for_several_sections_which_are_left_out_unless_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"zipf", "bursts", "hotsets", "boots", "against"}
    assert set(measured(monkeypatch, "--sections", "caching")[1]) == names
    assert set(measured(monkeypatch, "--sections", "caching,hits")[1]) == {*names, "hits"}
    unasked = measured(monkeypatch)[1]
    assert unasked
    assert names.isdisjoint(unasked)


def test_policies_and_another_checkout_are_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fusecache").mkdir()
    (tmp_path / "fusecache" / "__init__.py").touch()
    words = ("--systems", "fusecache", "--policy", "smq", "--policy", "mq", "--against", tmp_path)
    context, _ = measured(monkeypatch, *words)
    assert context.systems == (FUSECACHE, "fusecache:mq")
    assert str(tmp_path) in SYSTEMS[OLD].what


def test_what_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main(["--against", os.fspath(tmp_path)])
    assert re.search(r"--against: .* is no checkout of fusecache", capsys.readouterr().err)


def test_times_of_boots_are_told_beside_that_of_a_fast_disk() -> None:
    times = Times(fast=2, slow=Boot(8, 900), first=Boot(9, 800), second=Boot(2.1, 3))
    assert str(times) == (
        "a fast disk 2.00 s; the slow disk 8.00 s (4.00 times, 900 operations); "
        "first boot 9.00 s (4.50 times, 800 operations); second boot 2.10 s (1.05 times, 3 operations)"
    )
