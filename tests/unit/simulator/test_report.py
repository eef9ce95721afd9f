"""Results as people and programs get them."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from fusecache.errors import RefusedError, UsageError
from fusecache.simulator import plot
from fusecache.simulator.plot import plot_results, require_plotting
from fusecache.simulator.report import print_results, progress_bar, results_json
from fusecache.simulator.result import Result

SMQ = Result(
    trace="disk",
    file="disk.csv",
    format="csv",
    notes="",
    policy="smq",
    data_path="absorb",
    block_size=65536,
    cache_blocks=16,
    requests=2000,
    hits=500,
    hit_ratio=0.25,
    promotions=1234567,
    demotions=3,
    writebacks=4,
    overwrite_promotions=5,
    absorbed_writes=6,
    cache_bytes_written=3 << 20,
    origin_reads=1400,
    origin_writes=101,
    slow_ops=1501,
    slow_ops_per_1000=750.5,
    read_ahead=8,
    read_ahead_used=7,
    hdd_seconds=1234.56,
    net_seconds=0.5,
    disk="hdd",
    modelled_seconds=1234.56,
    seconds=1.5,
    unique_blocks=4321,
)
TUNED = "mq,random_threshold=8,sequential_threshold=64"
RESULTS = [
    SMQ,
    replace(SMQ, policy=TUNED, data_path="copy", hits=1000, hit_ratio=0.5),
    replace(SMQ, cache_blocks=32, hits=700, hit_ratio=0.35),
    replace(SMQ, policy=TUNED, data_path="copy", cache_blocks=32, hits=1100, hit_ratio=0.55),
]


def printed(console: Console, results: list[Result]) -> list[str]:
    print_results(console, results)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_json_has_every_field() -> None:
    objects = json.loads(results_json(RESULTS))
    assert [set(each) for each in objects] == [{field.name for field in fields(Result)}] * 4
    assert [Result(**each) for each in objects] == RESULTS


def test_the_table_says_it_all_on_lines_as_long_as_they_need() -> None:
    lines = printed(Console(file=io.StringIO(), width=40), RESULTS)
    assert lines[0] == "disk: 2,000 requests of blocks of 64KiB, 4,321 different blocks"
    assert lines[1] == f"absorb: smq; copy: {TUNED}"
    assert [line.split() for line in lines[5:]] == [
        ["1MiB", "smq", "500", "25.00%", "1,234,567", "4", "3MiB", "750.5", "1,235s"],
        [TUNED, "1,000", "50.00%", "1,234,567", "4", "3MiB", "750.5", "1,235s"],
        ["2MiB", "smq", "700", "35.00%", "1,234,567", "4", "3MiB", "750.5", "1,235s"],
        [TUNED, "1,100", "55.00%", "1,234,567", "4", "3MiB", "750.5", "1,235s"],
    ]


def test_the_table_fits_a_terminal_of_80_columns_and_loses_no_figure() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True, highlight=False)
    lines = printed(console, RESULTS)
    assert "…" not in "".join(lines)
    assert max(map(len, lines[5:])) <= 80
    assert sum("1,234,567" in line for line in lines) == 4


def test_names_are_no_markup() -> None:
    lines = printed(Console(file=io.StringIO()), [replace(SMQ, trace="[bold]x[/]", policy="[red]")])
    assert lines[0].startswith("[bold]x[/]: ")
    assert "[red]" in lines[-1]


def test_progress_is_shown_on_a_terminal_alone() -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
        with progress_bar(console, "[x] disk") as show:
            show(0.5)
        assert isinstance(console.file, io.StringIO)
        shown = console.file.getvalue()
        assert ("[x] disk" in shown, " 50%" in shown) == (terminal, terminal)


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    other = [replace(result, trace="other", policy="opt") for result in RESULTS[::2]]
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        require_plotting(tmp_path / name)
        plot_results(tmp_path / name, [RESULTS, other])
        assert (tmp_path / name).read_bytes().startswith(start)
    drawing = ET.tostring(ET.parse(tmp_path / "a.svg").getroot(), "unicode")  # noqa: S314 - drawn here
    assert 'id="axes_2"' in drawing
    assert 'id="axes_3"' not in drawing


def test_what_cannot_be_drawn_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jpg", "a", "a.png.gz"):
        with pytest.raises(UsageError, match=r"the name must end in \.png or \.svg"):
            require_plotting(tmp_path / name)
    monkeypatch.setattr(plot, "find_spec", lambda name: name)
    with pytest.raises(RefusedError, match="is not a directory"):
        require_plotting(tmp_path / "missing" / "a.png")
    monkeypatch.setattr(plot, "find_spec", lambda _: None)
    with pytest.raises(RefusedError, match=r"pip install 'fusecache\[plots\]'"):
        require_plotting(tmp_path / "a.png")


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(RefusedError, match=r"a\.png: Is a directory"):
        plot_results(tmp_path / "a.png", [RESULTS])
