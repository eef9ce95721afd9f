"""Traces made by hand."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.trace import Trace

BLOCK = 4096
COPY = Rules(data_path=DataPath.COPY)
FILL = Rules(data_path=DataPath.FILL)
ABSORB = Rules(data_path=DataPath.ABSORB)

Request = tuple[str, int, int]
"""``r`` or ``w``, offset and length in bytes."""


def make_trace(requests: Sequence[Request], times_us: Iterable[int] | None = None) -> Trace:
    """Make a trace of some requests; without real time unless there are ``times_us``."""
    trace = Trace(
        name="made",
        file="made.csv",
        format="csv",
        notes=(),
        times_us=array("q", range(len(requests)) if times_us is None else times_us),
        writes=bytearray(op == "w" for op, _, _ in requests),
        offsets=array("q", (offset for _, offset, _ in requests)),
        lengths=array("q", (length for _, _, length in requests)),
        timed=times_us is not None,
    )
    trace.check()
    return trace


def blocks(text: str) -> list[Request]:
    """Make requests of text: ``r3`` reads block 3, ``w3`` writes it, ``h3`` writes its first half."""
    return [
        ("w" if word[0] == "h" else word[0], int(word[1:]) * BLOCK, BLOCK // 2 if word[0] == "h" else BLOCK)
        for word in text.split()
    ]
