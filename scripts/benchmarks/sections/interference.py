"""What migrations cost those who hit: latency of 4 KiB reads on a mount at rest, and on one that moves blocks.

One client reads what is cached, all the time.  In every second spell another one works on a set of blocks that moves
on: it reads and writes each of them some times, so that the policy promotes it and it turns dirty, and a flush of the
mount every so often writes all of that back.  The origin is a simulated slow disk (slow_disk.py), which is thereby kept
busy, while the second client is slow enough to leave time on the processors.

Spells with and without the second client take turns; a ratio is that of two neighbouring spells.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from scripts.benchmarks import rig
from scripts.benchmarks.rig import Cache, fusecache, slow_disk
from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure, median_ratio

MIB: Final = 1 << 20
BLOCK: Final = 256 * 1024
ORIGIN: Final = 2048 * MIB
CACHE: Final = 256 * MIB
HOT: Final = 64 * MIB
"""What the first client reads, at the beginning of the image."""
SET: Final = 96
"""Blocks that the second client works on at a time."""
VISITS: Final = 12
"""How often it comes to each of them, on average."""
PAUSE: Final = 0.002
"""Seconds between two of its requests."""
FLUSH_EVERY: Final = 1.0
WARM_UP: Final = 3.0
PERCENTILES: Final = ("50", "99", "99.9")
TARGETS: Final = {"99": 1.5}
"""Of the latency while blocks are moved to that at rest."""


@dataclass(frozen=True, slots=True)
class Spell:
    """What one spell of measuring found."""

    latency: dict[str, float]
    """Microseconds by percentile."""
    promotions: float
    writebacks: float
    origin_megabytes: float
    """The three a second."""


def run(context: Context) -> Iterator[Figure]:
    """Measure at some depths, on each slow disk."""
    for profile in context.pick(full=("net", "hdd"), quick=("net", "hdd"), smoke=("net",)):
        with context.scratch() as directory:
            yield from _on(profile, directory, context)


def _on(profile: str, directory: Path, context: Context) -> Iterator[Figure]:
    backing = directory / "backing"
    with backing.open("wb") as file:
        file.truncate(ORIGIN)
    options = ("--cache-size", str(CACHE), "--block-size", str(BLOCK))
    with (
        slow_disk(profile, backing, directory / "disk") as disk,
        fusecache(disk.path, directory / "fusecache", *options) as cache,
    ):
        _fill(cache)
        for depth in context.pick(full=(1, 4), quick=(1,), smoke=(1,)):
            yield from _compare(f"{profile}, depth {depth}", cache, depth, context)
        rig.run("fusecache", "unmount", cache.mountpoint)


def _fill(cache: Cache) -> None:
    """Have the hot part in the cache, clean."""
    with cache.image.open("r+b", buffering=0) as image:
        for _ in range(HOT // BLOCK):
            image.write(os.urandom(BLOCK))
    rig.run("fusecache", "flush", cache.mountpoint)


def _compare(name: str, cache: Cache, depth: int, context: Context) -> Iterator[Figure]:
    seconds = context.pick(full=3, quick=2, smoke=1)
    resting, moving = [], []
    for _ in range(context.rounds):
        resting.append(_spell(cache, depth, seconds))
        with _blocks_moving(cache):
            time.sleep(WARM_UP)
            moving.append(_spell(cache, depth, seconds))
        rig.run("fusecache", "flush", cache.mountpoint)
        time.sleep(0.5)
    for percentile in PERCENTILES:
        idle = tuple(spell.latency[percentile] for spell in resting)
        busy = tuple(spell.latency[percentile] for spell in moving)
        what = f"{name}: p{percentile}"
        yield Figure(name=f"{what} at rest", value=median(idle), unit="us", rounds=idle)
        yield Figure(
            name=f"{what} while blocks move",
            value=median(busy),
            unit="us",
            rounds=busy,
            ratio=median_ratio(busy, idle),
            at_most=TARGETS.get(percentile),
        )
    for kind in ("promotions", "writebacks", "origin_megabytes"):
        rounds = tuple(getattr(spell, kind) for spell in moving)
        yield Figure(name=f"{name}: {kind.replace('_', ' ')}", value=median(rounds), unit="1/s", rounds=rounds)


def _spell(cache: Cache, depth: int, seconds: int) -> Spell:
    """Read hits for some seconds."""
    before = _counts(cache)
    told = rig.run(
        "fio", "--name=hits", f"--filename={cache.image}", "--rw=randread", "--bs=4k", f"--size={HOT}",
        "--direct=1", "--randrepeat=0", "--norandommap", "--time_based", f"--runtime={seconds}",
        *(("--ioengine=psync",) if depth == 1 else ("--ioengine=libaio", f"--iodepth={depth}")),
        f"--percentile_list={':'.join(PERCENTILES)}", "--output-format=json",
    )  # fmt: skip
    after = _counts(cache)
    found = json.loads(told)["jobs"][0]["read"]["clat_ns"]["percentile"]
    latency = {percentile: found[f"{float(percentile):.6f}"] / 1000 for percentile in PERCENTILES}
    return Spell(latency, *((later - sooner) / seconds for sooner, later in zip(before, after, strict=True)))


def _counts(cache: Cache) -> tuple[float, float, float]:
    status = json.loads(rig.run("fusecache", "status", cache.mountpoint, "--json"))
    moved = (status["promotions"] + status["writebacks"]) * BLOCK
    return (
        status["promotions"],
        status["writebacks"],
        (moved + status["origin_read_bytes"] + status["origin_write_bytes"]) / 1e6,
    )


@contextmanager
def _blocks_moving(cache: Cache) -> Iterator[None]:
    """Have blocks promoted, written to and written back within this block."""
    over = threading.Event()
    threads = [threading.Thread(target=work, args=(cache, over)) for work in (_work_on_sets, _flush_often)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _work_on_sets(cache: Cache, over: threading.Event) -> None:
    rng = random.Random(time.monotonic_ns())
    image = os.open(cache.image, os.O_RDWR | os.O_CLOEXEC)
    try:
        while not over.is_set():
            first = rng.randrange(HOT // BLOCK, ORIGIN // BLOCK - SET)
            for _ in range(SET * VISITS):
                offset = (first + rng.randrange(SET)) * BLOCK + rng.randrange(BLOCK // 4096) * 4096
                if rng.random() < 0.5:
                    os.pread(image, 4096, offset)
                else:
                    os.pwrite(image, bytes(4096), offset)
                if over.wait(PAUSE):
                    break
    finally:
        os.close(image)


def _flush_often(cache: Cache, over: threading.Event) -> None:
    while not over.wait(FLUSH_EVERY):
        with suppress(OSError):  # the mount is gone, and the measurement fails by itself
            os.setxattr(cache.image, "user.fusecache.message", b"flush")
