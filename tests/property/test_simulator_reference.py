"""Replays equal reference figures, to the last hit, promotion, demotion and writeback.

The traces and the figures are not part of the project.  FUSECACHE_ALL_TRACES=1 replays all of them; that takes a while.
"""

from __future__ import annotations

import csv
import os
import runpy
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

import pytest

from fusecache.simulator.replay import simulate
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.trace import Trace, read_trace

TRACES: Final = Path(__file__).parents[2].parent / "shared" / "traces"
NAMES: Final = {"dm-smq": "smq", "dm-mq": "mq", "OPT": "opt", "LRU": "exact-lru"}
QUICK: Final = {
    ("lirs_multi2", "57"),
    ("lirs_multi2", "284"),
    ("lirs_multi2", "568"),
    ("lirs_multi2", "1137"),
    ("lirs_sprite", "354"),
    ("postmark", "959"),
    ("cp_w92", "194"),
    ("cp_w92", "3874"),
}
"""Traces and sizes that are replayed in any case."""
FIELDS: Final = ("requests", "hits", "promotions", "demotions", "writebacks", "overwrite_promotions")

Figures = dict[str, str]


def wanted() -> list[Figures]:
    """List the lines of the reference that are to be replayed, trace by trace."""
    if not (TRACES / "reference.csv").exists():
        return []
    with (TRACES / "reference.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["policy"] in NAMES]
    if os.environ.get("FUSECACHE_ALL_TRACES") != "1":
        lines = [line for line in lines if (line["trace"], line["cache_blocks"]) in QUICK]
    return sorted(lines, key=lambda line: line["trace"])


def told(line: Figures) -> str:
    return "-".join(line[field] for field in ("trace", "block_size", "cache_blocks", "policy"))


@lru_cache(maxsize=1)
def shared_trace(name: str, made: Path) -> Trace:
    """Read a trace; make it first if it is one of those that are made."""
    file = f"{name}.csv.gz"
    if (TRACES / file).exists():
        return read_trace(TRACES / file)
    pytest.importorskip("numpy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["synth.py", str(made), name])
        runpy.run_path(str(TRACES / "synth.py"), run_name="__main__")
    return read_trace(made / file)


@pytest.mark.skipif(not TRACES.exists(), reason="no ../shared/traces")
@pytest.mark.parametrize("line", wanted(), ids=told)
def test_figures_equal_the_reference(line: Figures, tmp_path_factory: pytest.TempPathFactory) -> None:
    result = simulate(
        shared_trace(line["trace"], tmp_path_factory.getbasetemp()),
        NAMES[line["policy"]],
        tunables=[],
        block_size=int(line["block_size"]),
        cache_blocks=int(line["cache_blocks"]),
        rules=Rules(data_path=DataPath.COPY),
    )
    expected = {field: int(line[field]) for field in FIELDS if line[field]}
    assert {field: getattr(result, field) for field in expected} == expected
    assert f"{result.hit_ratio:.6f}" == line["hit_ratio"]
