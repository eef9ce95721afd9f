"""Memory over millions of requests.

The first requests go through the cache alone, in a process of its own and without any disk (../endurance.py); the
others are 4 KiB reads and writes of a real mount, by fio, of an image of four times the cache.  Nothing is to grow once
a tenth of the requests is done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import fusecache
from scripts.benchmarks.rig import run as run_command
from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure
from scripts.benchmarks.suite.fio import Job, fio

MIB: Final = 2**20
GROWTH_PERCENT: Final = 2.0
"""What may still be added after the first tenth; a byte a request would be 20 % of ten million requests' process."""
SLICES: Final = 10


def run(context: Context) -> Iterator[Figure]:
    """Measure both."""
    yield from _figures("without FUSE", _in_process(context), context)
    yield from _figures("through FUSE", _through_fuse(context), context)


def _figures(name: str, found: dict[int, int], context: Context) -> Iterator[Figure]:
    """Show the memory by the number of requests, and its growth from the first look to the last."""
    for requests, memory in found.items():
        yield Figure(name=f"{name}: after {_count(requests)} requests", value=memory / MIB, unit="MiB")
    first, *_, last = found.values()
    limit = context.pick(full=GROWTH_PERCENT, quick=None, smoke=None)
    yield Figure(name=f"{name}: growth", value=(last / first - 1) * 100, unit="%", at_most=limit)


def _count(requests: int) -> str:
    return f"{requests / 1e6:.1f} million" if requests >= 100_000 else f"{requests:,}"


def _in_process(context: Context) -> dict[int, int]:
    """Return bytes of memory by number of requests."""
    most = context.pick(full=10_000_000, quick=100_000, smoke=2_000)
    counts = [most // 10, most // 5, most // 2, most]
    size = context.pick(full=4096, quick=4096, smoke=64)
    root = Path(__file__).parents[3]
    output = run_command(
        "env",
        f"PYTHONPATH={root}",
        sys.executable,
        "-m",
        "scripts.benchmarks.endurance",
        *map(str, counts),
        "--cache-blocks",
        str(size),
        seconds=context.pick(full=1500, quick=150, smoke=60),
    )
    return {reading["requests"]: reading["memory"] for reading in json.loads(output) if reading["requests"]}


def _through_fuse(context: Context) -> dict[int, int]:
    """Likewise; the counts are what fio came to."""
    cache_bytes = context.pick(full=256 * MIB, quick=64 * MIB, smoke=4 * MIB)
    seconds = context.pick(full=60.0, quick=2.0, smoke=0.5)
    found: dict[int, int] = {}
    done = 0
    with context.scratch() as scratch:
        origin = scratch / "origin"
        with origin.open("wb") as file:
            file.truncate(4 * cache_bytes)
        with fusecache(origin, scratch / "mount", "--cache-size", str(cache_bytes), "--block-size", "64KiB") as cache:
            for number in range(SLICES):
                job = Job(
                    rw="randrw",
                    depth=16,
                    seconds=seconds / SLICES,
                    size=4 * cache_bytes,
                    seed=number + 1,
                    more=("--rwmixread=70", "--random_distribution=zipf:1.1"),
                )
                done += fio(cache.image, job, scratch).operations
                if number in {0, 1, SLICES // 2 - 1, SLICES - 1}:
                    found[done] = _memory(cache.pid)
    return found


def _memory(pid: int) -> int:
    """Return the bytes that a process has in memory."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
