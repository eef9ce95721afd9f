"""scripts/bench engines runs; how fast anything is, is no matter of tests."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from scripts.benchmarks import engines
from scripts.benchmarks.engines import CASES, DEPTHS, ENGINES, compare, show


@pytest.mark.parametrize("place", ["warm", "cold"])
def test_each_case_is_measured_with_each_engine(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "CASES", cases := [case for case in CASES if place == "warm" or case[0] == "read"])
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    figures = list(compare(place, tmp_path / "file", 1, 0.001))
    found = [(figure.operation, figure.size, figure.depth, figure.engine) for figure in figures]
    assert found == [(*case, depth, name) for (case, depth), name in product(product(cases, DEPTHS), ENGINES)]
    assert all(figure.per_second > 0 and figure.late_ms >= 0 for figure in figures)
    show(figures)
    assert len(capsys.readouterr().out.splitlines()) == 3 + len(figures) // len(ENGINES)
