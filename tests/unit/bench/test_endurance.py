"""Nothing piles up over many requests; scripts/bench has the long version of this."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import trio
from trio.testing import MockClock

from scripts.benchmarks.endurance import IMAGE_FACTOR, BenchDisk, draws

CACHE_BLOCKS = 64
SOME = 4_000
ROOT = Path(__file__).parents[3]


def test_requests_leave_nothing_behind() -> None:
    async def main() -> list[int]:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        disk = BenchDisk(CACHE_BLOCKS)
        traced = []
        async with disk.running():
            for seed in range(6):
                await disk.serve(draws(CACHE_BLOCKS * IMAGE_FACTOR, seed, SOME), clock, a_second=100)
                gc.collect()
                traced.append(tracemalloc.get_traced_memory()[0])
            disk.volume.check()
        stats = disk.volume.counters
        assert min(stats.promotions, stats.demotions, stats.writebacks) > CACHE_BLOCKS // 2
        assert stats.read_hits + stats.write_hits > SOME
        return traced

    tracemalloc.start()
    try:
        traced = trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        tracemalloc.stop()
    least, most = min(traced[2:]), max(traced[2:])
    # Tables grow and shrink by some kilobytes; no object is smaller than 16 bytes, and three parts lie in between.
    assert most - least < 4 * SOME, traced


def test_the_program_counts_what_it_was_asked_for() -> None:
    command = [sys.executable, "-m", "scripts.benchmarks.endurance", "500", "1500", "--cache-blocks", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    readings = json.loads(done.stdout)
    assert [reading["requests"] for reading in readings] == [0, 500, 1500]
    assert all(reading["memory"] > 2**20 for reading in readings)
    assert readings[-1]["hits"] > 0
