from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from scripts.benchmarks.rig import RigError
from scripts.benchmarks.sections import hits, profile, verify
from scripts.benchmarks.suite import __main__ as program
from scripts.benchmarks.suite import render
from scripts.benchmarks.suite.context import Context, Effort, in_turn
from scripts.benchmarks.suite.figure import Figure, compared, median_ratio
from scripts.benchmarks.suite.fio import parsed
from scripts.benchmarks.suite.plot import draw
from scripts.benchmarks.suite.registry import SECTIONS, load
from scripts.benchmarks.suite.systems import SYSTEMS

ROUNDS = {"bare": [100.0, 50.0, 200.0], "fusecache": [120.0, 55.0, 100.0], "nbdkit": [10.0, 20.0, 30.0]}


def figures(**changes: object) -> dict[str, Figure]:
    options = {"unit": "1/s", "baseline": "bare", "at_least": {"fusecache": 1.1}, "notes": {"nbdkit": "wrong data"}}
    return {figure.system: figure for figure in compared("reads", ROUNDS, **(options | changes))}  # type: ignore[arg-type]


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    assert median_ratio([120, 55, 100], [100, 50, 200]) == pytest.approx(1.1)
    with pytest.raises(ValueError, match="longer"):
        median_ratio([1, 2], [1, 2, 3])


def test_another_system_begins_each_round() -> None:
    assert [in_turn("abc", number) for number in range(4)] == [list(order) for order in ("abc", "bca", "cab", "abc")]
    assert in_turn((), 1) == []


def test_compared_systems_have_medians_spreads_and_ratios_to_the_baseline() -> None:
    found = figures()
    assert (found["bare"].value, found["bare"].spread, found["bare"].ratio) == (100, (50, 200), None)
    assert found["fusecache"].value == 100
    assert found["fusecache"].ratio == pytest.approx(1.1)
    assert found["fusecache"].target == "≥ x1.1"
    assert found["fusecache"].is_met is True
    assert found["bare"].is_met is None


def test_a_system_with_wrong_data_has_no_ratio_and_no_target() -> None:
    found = figures(at_least={"nbdkit": 0.01})["nbdkit"]
    assert (found.value, found.ratio, found.is_met, found.note) == (20, None, None, "wrong data")


def test_without_the_baseline_nothing_is_compared() -> None:
    assert all(figure.ratio is None and figure.is_met is None for figure in figures(baseline="absent").values())


@pytest.mark.parametrize(
    ("figure", "target", "is_met"),
    [
        (Figure(name="a", value=3), "", None),
        (Figure(name="a", value=3, at_most=3), "≤ 3", True),
        (Figure(name="a", value=3, at_most=2.5), "≤ 2.5", False),
        (Figure(name="a", value=3, at_least=1, at_most=2), "≥ 1, ≤ 2", False),
        (Figure(name="a", value=0, at_most=0), "≤ 0", True),
        (Figure(name="a", value=3, ratio=0.9, at_least=1), "≥ x1", False),
    ],
)
def test_a_target_is_of_the_ratio_if_there_is_one(figure: Figure, target: str, is_met: bool | None) -> None:
    assert (figure.target, figure.is_met) == (target, is_met)


# --- tables ----------------------------------------------------------------------------------------------------------

FIGURES = [
    *figures().values(),
    Figure(name="latency", system="other", value=0.01234, unit="µs"),
    Figure(name="bytes", system="fusecache", value=77, at_most=64),
]


def test_a_line_for_each_thing_a_column_for_each_system_and_the_target() -> None:
    table = render.grid(FIGURES, ["fusecache", "bare", "absent"])
    assert table.heading == ["", "fusecache", "bare", "nbdkit", "other", "target", "met"]
    assert table.lines == [
        ["reads, 1/s", "100 x1.10 (55..120)", "100 (50..200)", "20 (10..30) wrong data", "", "≥ x1.1", "yes"],
        ["latency, µs", "", "", "", "0.0123", "", ""],
        ["bytes", "77", "", "", "", "≤ 64", "NO"],
    ]


def test_without_targets_there_are_no_columns_for_them() -> None:
    assert render.grid(FIGURES[3:4], []) == render.Grid(["", "other"], [["latency, µs", "0.0123"]])


@pytest.mark.parametrize(
    ("value", "text"),
    [(43123.4, "43,123"), (99.96, "100.0"), (12.345, "12.3"), (1.2345, "1.23"), (7, "7"), (0, "0"), (math.inf, "inf")],
)
def test_numbers_have_three_digits_or_more(value: float, text: str) -> None:
    assert render.number(value) == text


def test_markdown_lines_have_as_many_cells_as_the_heading() -> None:
    lines = list(render.markdown("a | title", render.grid(FIGURES, ["bare"])))
    assert lines[0] == "### a | title"
    assert {line.count("|") for line in lines[2:-1]} == {8}


def test_rst_lies_between_rules() -> None:
    assert list(render.rst(render.grid([FIGURES[0], FIGURES[4]], ["bare"], separator="\n"))) == [
        "==========  =========  =========  ======  ===",
        "what        bare       fusecache  target  met",
        "==========  =========  =========  ======  ===",
        "reads, 1/s  100",
        "            (50..200)",
        "bytes                  77         ≤ 64    NO",
        "==========  =========  =========  ======  ===",
    ]


def test_a_document_is_filled_where_it_has_places() -> None:
    document = "before\n\n.. bench hits\n\nold\n.. bench end\n\nbetween\n\n.. bench slow\nstays\n.. bench end\nafter\n"
    once = render.filled(document, {"hits": ["new", "lines"], "homeless": ["nowhere"]})
    assert once == document.replace("\nold\n", "\nnew\nlines\n\n")
    assert render.filled(once, {"hits": ["new", "lines"]}) == once


def test_json_says_what_is_met() -> None:
    found = json.loads(render.as_json(FIGURES, {"Linux": "6"}, ["hits: failed"]))
    assert (found["facts"], found["errors"]) == ({"Linux": "6"}, ["hits: failed"])
    assert [figure["is_met"] for figure in found["figures"]] == [None, True, None, None, False]
    assert found["figures"][1]["rounds"] == [120, 55, 100]


def test_speeds_that_have_a_ratio_are_drawn(tmp_path: Path) -> None:
    target, sections = tmp_path / "plot.png", ["hits", "slow"]
    speed = Figure(section="hits", name="a", system="b", value=1, unit="1/s", ratio=2)
    others = [Figure(section="slow", name="a", value=1, unit="1/s"), Figure(section="hits", name="c", value=1, ratio=3)]
    assert draw([speed, *others], sections, target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert not draw(others, sections, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# --- what other programs say -----------------------------------------------------------------------------------------


def side(operations: int, mean_ns: float, p99_ns: int) -> dict[str, object]:
    latency = {"mean": mean_ns, "percentile": {"99.000000": p99_ns}}
    return {"total_ios": operations, "io_bytes": operations * 4096, "runtime": 2000, "lat_ns": latency}


def test_reads_and_writes_of_fio_are_one() -> None:
    output = "fio: a warning\n" + json.dumps({"jobs": [{"read": side(300, 1e6, 5000), "write": side(100, 2e6, 9000)}]})
    result = parsed(output)
    assert (result.operations, result.iops, result.mib_per_second) == (400, 200, 400 * 4096 / 2 / 2**20)
    assert (result.mean_us, result.p99_us) == (1250, 9)


def test_an_fio_that_did_nothing_has_failed() -> None:
    with pytest.raises(RigError, match="nothing"):
        parsed(json.dumps({"jobs": [{"read": side(0, 0, 0), "write": side(0, 0, 0)}]}))


def test_strace_tells_how_often_each_call_was_made() -> None:
    summary = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.000600           6       100         3 epoll_wait
 40.00    0.000400           4       101           read
------ ----------- ----------- --------- --------- ----------------
100.00    0.001000           4       201         3 total
"""
    assert profile.calls(summary) == {"epoll_wait": 100, "read": 101}


# --- the suite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SECTIONS)
def test_each_section_has_a_title_and_can_run(name: str) -> None:
    section = load(name)
    assert len(section.title) > len(name)
    assert callable(section.module.run)


@pytest.mark.parametrize("workload", hits.WORKLOADS, ids=lambda workload: workload.name)
def test_a_workload_asks_for_the_trial_that_it_depends_on(workload: hits.Workload) -> None:
    expected = {("read", True): verify.READS, ("read", False): verify.READS, ("write", True): verify.WRITES}
    kind = "write" if "write" in workload.name else "read"
    assert workload.trial == expected.get((kind, workload.depth > 1), verify.SINGLE_WRITES)


def context(tmp_path: Path, effort: Effort = Effort.SMOKE) -> Context:
    return Context(effort=effort, rounds=1, systems=("bare",), fast=tmp_path, disk=tmp_path)


def test_a_scratch_directory_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    msg = "midway"
    with pytest.raises(RuntimeError, match=msg), context(tmp_path).scratch() as directory:  # noqa: PT012
        (directory / "file").write_text("content")
        raise RuntimeError(msg)
    assert list(tmp_path.iterdir()) == []


def test_effort_decides_how_much(tmp_path: Path) -> None:
    assert [context(tmp_path, effort).pick(full=3, quick=2, smoke=1) for effort in Effort] == [3, 2, 1]


def test_a_section_that_fails_is_told_and_keeps_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing:
        def run(self, _context: Context) -> object:
            yield Figure(name="found before", value=1)
            msg = "then it broke"
            raise RigError(msg)

    monkeypatch.setattr("importlib.import_module", lambda _: Failing())
    report = program.Report()
    program.measure(context(tmp_path), ["hits"], report)
    assert [(figure.section, figure.name) for figure in report.of_sections()["hits"]] == [("hits", "found before")]
    assert report.errors == ["hits: then it broke"]
    assert "found before" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--sections", "--systems"])
def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main([option, "hits,bogus" if option == "--sections" else "bare,bogus"])
    known = SECTIONS if option == "--sections" else tuple(SYSTEMS)
    assert re.search(rf"'bogus'.*{', '.join(known)}", capsys.readouterr().err)
