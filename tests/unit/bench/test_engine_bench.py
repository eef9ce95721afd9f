"""scripts/bench --sections engines runs; how fast anything is, is no matter of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.benchmarks.sections.engines import CASES, DEPTHS, ENGINES, compare


@pytest.mark.parametrize(("place", "cases"), [("warm", len(CASES)), ("cold", 2)])
def test_each_case_is_measured_with_each_engine(place: str, cases: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    figures = list(compare(place, tmp_path / "file", 1, 0.001))
    assert len({figure.name for figure in figures}) == cases * len(DEPTHS)
    assert len(figures) == cases * len(DEPTHS) * len(ENGINES)
    assert all(figure.value > 0 and "ms late" in figure.note for figure in figures)
