from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.benchmarks.rig import RigError
from scripts.benchmarks.sections import warm
from scripts.benchmarks.sections.verify import READS, SINGLE_WRITES, WRITES
from scripts.benchmarks.suite import __main__ as program
from scripts.benchmarks.suite import render
from scripts.benchmarks.suite.fio import parsed
from scripts.benchmarks.suite.measuring import Context, Figure, compared, in_turn
from scripts.benchmarks.suite.plot import draw
from scripts.benchmarks.suite.systems import SYSTEMS

ROUNDS = {"bare": [100.0, 50.0, 200.0], "fusecache": [120.0, 55.0, 100.0], "nbdkit": [10.0, 20.0, 30.0]}


def figures(**changes: object) -> dict[str, Figure]:
    options = {"unit": "1/s", "baseline": "bare", "at_least": 1.1, "notes": {"nbdkit": "wrong data"}}
    return {figure.system: figure for figure in compared("reads", ROUNDS, **(options | changes))}  # type: ignore[arg-type]


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    assert figures()["fusecache"].ratio == pytest.approx(1.1)
    with pytest.raises(ValueError, match="longer"):
        list(compared("reads", {"bare": [1, 2, 3], "fusecache": [1, 2]}, unit="1/s", baseline="bare"))


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
    found = figures(at_least=0.01, target_of="nbdkit")["nbdkit"]
    assert (found.value, found.ratio, found.is_met, found.note) == (20, None, None, "wrong data")


def test_without_the_baseline_nothing_is_compared() -> None:
    assert all(figure.ratio is None and figure.is_met is None for figure in figures(baseline="absent").values())


def test_where_no_baseline_is_named_the_target_is_of_the_value() -> None:
    assert [figure.is_met for figure in figures(baseline="", at_least=101).values()] == [None, False, None]


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
    assert render.rows(FIGURES, ["fusecache", "bare", "absent"]) == [
        ["what", "fusecache", "bare", "nbdkit", "other", "target", "met"],
        ["reads, 1/s", "100 x1.10\n(55..120)", "100\n(50..200)", "20\n(10..30)\nwrong data", "", "≥ x1.1", "yes"],
        ["latency, µs", "", "", "", "0.0123", "", ""],
        ["bytes", "77", "", "", "", "≤ 64", "NO"],
    ]


def test_without_targets_there_are_no_columns_for_them() -> None:
    assert render.rows(FIGURES[3:4], []) == [["what", "other"], ["latency, µs", "0.0123"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [(43123.4, "43,123"), (99.96, "100.0"), (12.345, "12.3"), (1.2345, "1.23"), (7, "7"), (0, "0"), (math.inf, "inf")],
)
def test_numbers_have_three_digits_or_more(value: float, text: str) -> None:
    assert render.number(value) == text


def test_a_table_lies_between_rules() -> None:
    assert list(render.table([FIGURES[0], FIGURES[4]], ["bare"])) == [
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
    speed = Figure(name="a", system="b", value=1, unit="1/s", ratio=2)
    others = {"slow": [Figure(name="a", value=1, unit="1/s")], "hits": [Figure(name="c", value=1, ratio=3)]}
    assert draw(others | {"hits": [speed]}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not draw(others, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


# --- what other programs say -----------------------------------------------------------------------------------------


def side(operations: int, mean_ns: float, p99_ns: int) -> dict[str, object]:
    latency = {"mean": mean_ns, "percentile": {"99.000000": p99_ns}}
    return {"total_ios": operations, "io_bytes": operations * 4096, "runtime": 2000, "lat_ns": latency}


def test_reads_and_writes_of_fio_are_one() -> None:
    output = "fio: a warning\n" + json.dumps({"jobs": [{"read": side(300, 1e6, 5000), "write": side(100, 2e6, 9000)}]})
    result = parsed(output)
    assert (result.operations, result.speed(), result.speed("MiB/s")) == (400, 200, 400 * 4096 / 2 / 2**20)
    assert result.percentiles == {99: 9}


def test_the_fsync_after_a_write_counts() -> None:
    job = {"read": side(0, 0, 0), "write": side(1, 1, 9000), "sync": side(1, 1, 2000)}
    assert parsed(json.dumps({"jobs": [job]})).percentiles == {99: 11}


def test_an_fio_that_did_nothing_has_failed() -> None:
    with pytest.raises(RigError, match="nothing"):
        parsed(json.dumps({"jobs": [{"read": side(0, 0, 0), "write": side(0, 0, 0)}]}))


# --- the suite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "section"), program.SECTIONS.items())
def test_each_section_has_a_title(name: str, section: object) -> None:
    assert len(str(section.__doc__).splitlines()[0]) > len(name)


@pytest.mark.parametrize("case", warm.HITS, ids=lambda case: case.name)
def test_a_case_asks_for_the_trial_that_it_depends_on(case: warm.Case) -> None:
    expected = {("read", True): READS, ("read", False): READS, ("write", True): WRITES}
    kind = "write" if "write" in case.name else "read"
    assert kind in case.job.rw
    assert case.trial == expected.get((kind, case.job.depth > 1), SINGLE_WRITES)


def context(tmp_path: Path, effort: str = "smoke") -> Context:
    return Context(effort=effort, rounds=1, systems=("bare",), fast=tmp_path, disk=tmp_path)


def test_a_scratch_directory_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    msg = "midway"
    with pytest.raises(RuntimeError, match=msg), context(tmp_path).scratch() as directory:  # noqa: PT012
        (directory / "file").write_text("content")
        raise RuntimeError(msg)
    assert list(tmp_path.iterdir()) == []


def test_effort_decides_how_much(tmp_path: Path) -> None:
    found = [context(tmp_path, effort).pick(full=3, quick=2, smoke=1) for effort in ("full", "quick", "smoke")]
    assert found == [3, 2, 1]


def test_a_section_that_fails_is_told_and_keeps_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_context: Context) -> Iterator[Figure]:
        yield Figure(name="found before", value=1)
        msg = "then it broke"
        raise RigError(msg)

    monkeypatch.setitem(program.SECTIONS, "hits", failing)
    found, errors = program.Sections(), list[str]()
    program.measure(context(tmp_path), ["hits"], found, errors)
    assert [(figure.section, figure.name) for figure in found["hits"]] == [("hits", "found before")]
    assert errors == ["hits: then it broke"]
    assert "found before" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--sections", "--systems"])
def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main([option, "hits,bogus" if option == "--sections" else "bare,bogus"])
    known = tuple(program.SECTIONS) if option == "--sections" else tuple(SYSTEMS)
    assert re.search(rf"'bogus'.*{', '.join(known)}", capsys.readouterr().err)
