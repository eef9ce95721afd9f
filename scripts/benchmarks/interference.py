"""Measure what migrations cost those who hit: latency of 4 KiB hits on a mount at rest, and on one that moves blocks.

One client reads what is cached, all the time.  In every second spell another one works on a set of blocks that moves
on: it reads and writes each of them some times, so that the policy promotes it and it turns dirty, and a flush of the
mount every so often writes all of that back.  The origin is a simulated slow disk (slow_disk.py), which is thereby kept
busy, while the second client is slow enough to leave time on the processors.

Spells with and without the second client take turns; a figure is the median over the rounds, and a ratio is that of
two neighbouring spells.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.benchmarks.rig import Cache, RigError, fusecache, run, slow_disk

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


@dataclass(frozen=True, slots=True)
class Spell:
    """What one spell of measuring found."""

    latency: dict[str, float]
    """Microseconds by percentile."""
    promotions: float
    writebacks: float
    origin_bytes: float
    """The three a second."""


@dataclass(frozen=True, slots=True)
class Interference:
    """What moving blocks costs hits, at one depth, on one origin."""

    profile: str
    depth: int
    resting: Spell
    moving: Spell
    ratios: dict[str, float]
    """By percentile: latency while blocks are moved to that at rest."""


def measure(profile: str, directory: Path, *, depths: Sequence[int], rounds: int, seconds: int) -> list[Interference]:
    """Measure on an origin of a profile of slow_disk.py; ``seconds`` a spell."""
    backing = directory / "backing"
    with backing.open("wb") as file:
        file.truncate(ORIGIN)
    options = ("--cache-size", str(CACHE), "--block-size", str(BLOCK))
    with (
        slow_disk(profile, backing, directory / "disk") as disk,
        fusecache(disk.path, directory / "fusecache", *options) as cache,
    ):
        _fill(cache)
        found = [_compare(profile, cache, depth, rounds=rounds, seconds=seconds) for depth in depths]
        run("fusecache", "unmount", cache.mountpoint)
    return found


def _fill(cache: Cache) -> None:
    """Have the hot part in the cache, clean."""
    with cache.image.open("r+b", buffering=0) as image:
        for _ in range(HOT // BLOCK):
            image.write(os.urandom(BLOCK))
    run("fusecache", "flush", cache.mountpoint)


def _compare(profile: str, cache: Cache, depth: int, *, rounds: int, seconds: int) -> Interference:
    resting, moving = [], []
    for _ in range(rounds):
        resting.append(_spell(cache, depth, seconds))
        with _blocks_moving(cache):
            time.sleep(WARM_UP)
            moving.append(_spell(cache, depth, seconds))
        run("fusecache", "flush", cache.mountpoint)
        time.sleep(0.5)
    ratios = {
        percentile: statistics.median(
            busy.latency[percentile] / idle.latency[percentile] for idle, busy in zip(resting, moving, strict=True)
        )
        for percentile in PERCENTILES
    }
    return Interference(profile, depth, _median(resting), _median(moving), ratios)


def _median(spells: Sequence[Spell]) -> Spell:
    return Spell(
        {percentile: statistics.median(spell.latency[percentile] for spell in spells) for percentile in PERCENTILES},
        statistics.median(spell.promotions for spell in spells),
        statistics.median(spell.writebacks for spell in spells),
        statistics.median(spell.origin_bytes for spell in spells),
    )


def _spell(cache: Cache, depth: int, seconds: int) -> Spell:
    """Read hits for some seconds."""
    before = _counts(cache)
    told = run(
        "fio", "--name=hits", f"--filename={cache.image}", "--rw=randread", "--bs=4k", f"--size={HOT}",
        "--direct=1", "--randrepeat=0", "--norandommap", "--time_based", f"--runtime={seconds}",
        *(("--ioengine=psync",) if depth == 1 else ("--ioengine=libaio", f"--iodepth={depth}")),
        f"--percentile_list={':'.join(PERCENTILES)}", "--output-format=json",
    )  # fmt: skip
    after = _counts(cache)
    found = json.loads(told)["jobs"][0]["read"]["clat_ns"]["percentile"]
    latency = {percentile: found[f"{float(percentile):.6f}"] / 1000 for percentile in PERCENTILES}
    return Spell(latency, *((later - sooner) / seconds for sooner, later in zip(before, after, strict=True)))


def _counts(cache: Cache) -> tuple[int, int, int]:
    status = json.loads(run("fusecache", "status", cache.mountpoint, "--json"))
    moved = (status["promotions"] + status["writebacks"]) * BLOCK
    return (
        status["promotions"],
        status["writebacks"],
        moved + status["origin_read_bytes"] + status["origin_write_bytes"],
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


def table(found: Sequence[Interference]) -> str:
    """Write Markdown."""
    lines = [
        "| origin | depth | p50 us | p99 us | p99.9 us | promotions/s | writebacks/s | origin MB/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = (
            f"{one.resting.latency[p]:.0f} to {one.moving.latency[p]:.0f} ({one.ratios[p]:.2f})" for p in PERCENTILES
        )
        busy = one.moving
        lines.append(
            f"| {one.profile} | {one.depth} | {' | '.join(cells)} | {busy.promotions:.0f} | {busy.writebacks:.0f} "
            f"| {busy.origin_bytes / 1e6:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure as the command line says, and print a table."""
    parser = argparse.ArgumentParser(description="What moving blocks costs hits.")
    parser.add_argument("--profile", nargs="+", default=["net", "hdd"], help="of slow_disk.py (default: net hdd)")
    parser.add_argument("--depth", nargs="+", type=int, default=[1, 4], help="hits at a time (default: 1 4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="a spell")
    parser.add_argument("--directory", type=Path, help="where the files are to be (default: a temporary directory)")
    options = parser.parse_args()
    found: list[Interference] = []
    try:
        for profile in options.profile:
            with TemporaryDirectory(dir=options.directory) as name:
                found += measure(
                    profile, Path(name), depths=options.depth, rounds=options.rounds, seconds=options.seconds
                )
    except RigError as exc:
        sys.exit(f"interference: {exc}")
    print(table(found))


if __name__ == "__main__":
    main()
