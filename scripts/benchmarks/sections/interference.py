"""What migrations cost those who hit: latency of 4 KiB reads on a mount at rest, and on one that moves blocks.

One client reads what is cached, all the time.  In every second spell another one works on a set of blocks that moves
on: it reads and writes each of them some times, so that the policy promotes it and it turns dirty, and a flush of the
mount every so often writes all of that back.  The origin is a simulated slow disk (slow_disk.py), which is thereby kept
busy, while the second client is slow enough to leave time on the processors.

What the second client, the simulated disk and the copying take of the processors slows down anybody's hits.  How much,
two controls tell: the same reads of the same mount, and of a bare server, while a second mount, of a disk of its own,
moves blocks in the same way.

All of these spells take turns; a ratio is that to a spell at rest of the same round.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from scripts.benchmarks import rig
from scripts.benchmarks.rig import Cache, fusecache, python_server, slow_disk
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
RESTING: Final = "at rest"
MOVING: Final = "while its blocks move"
MOVING_ELSEWHERE: Final = "while another mount's blocks move"
PERCENTILES: Final = ("50", "99", "99.9")
TARGETS: Final = {"99": 1.5}
"""Of the latency while blocks are moved to that at rest."""


@dataclass(frozen=True, slots=True)
class Spell:
    """What one spell of measuring found."""

    latency: dict[str, float]
    """Microseconds by percentile."""
    moves: dict[str, float]
    """A second."""


def run(context: Context) -> Iterator[Figure]:
    """Measure at some depths, on each slow disk."""
    depths: dict[str, tuple[int, ...]] = context.pick(
        full={"net": (1, 4), "hdd": (1,)}, quick={"net": (1,)}, smoke={"net": (1,)}
    )
    for profile, each in depths.items():
        with context.scratch() as directory:
            yield from _on(profile, each, directory, context)


def _on(profile: str, depths: Iterable[int], directory: Path, context: Context) -> Iterator[Figure]:
    with ExitStack() as stack:
        cache, other = (stack.enter_context(_cache(profile, directory / name)) for name in ("measured", "other"))
        (directory / "bare").write_bytes(os.urandom(HOT))
        stack.enter_context(python_server("bare_server", directory / "bare", directory / "mnt"))
        for depth in depths:
            yield from _compare(f"{profile}, depth {depth}", cache, other, directory / "mnt" / "image", depth, context)


@contextmanager
def _cache(profile: str, directory: Path) -> Iterator[Cache]:
    """Have a slow disk of its own cached."""
    directory.mkdir()
    with (directory / "backing").open("wb") as file:
        file.truncate(ORIGIN)
    options = ("--cache-size", str(CACHE), "--block-size", str(BLOCK))
    with (
        slow_disk(profile, directory / "backing", directory / "disk") as disk,
        fusecache(disk.path, directory / "fusecache", *options) as cache,
    ):
        _fill(cache)
        yield cache
        rig.run("fusecache", "unmount", cache.mountpoint)


def _fill(cache: Cache) -> None:
    """Have the hot part in the cache, clean."""
    with cache.image.open("r+b", buffering=0) as image:
        for _ in range(HOT // BLOCK):
            image.write(os.urandom(BLOCK))
    rig.run("fusecache", "flush", cache.mountpoint)


def _compare(name: str, cache: Cache, other: Cache, bare: Path, depth: int, context: Context) -> Iterator[Figure]:
    rounds = context.pick(full=context.rounds, quick=1, smoke=1)
    cases: dict[tuple[str, str], tuple[Path, Cache | None]] = {
        ("fusecache", RESTING): (cache.image, None),
        ("fusecache", MOVING): (cache.image, cache),
        ("fusecache", MOVING_ELSEWHERE): (cache.image, other),
        ("bare", RESTING): (bare, None),
        ("bare", MOVING_ELSEWHERE): (bare, other),
    }
    spells: dict[tuple[str, str], list[Spell]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case, (image, mover) in cases.items():
            spells[case].append(_spell(image, mover, depth, context))
    for percentile in PERCENTILES:
        for (system, state), found in spells.items():
            measured = tuple(spell.latency[percentile] for spell in found)
            idle = tuple(spell.latency[percentile] for spell in spells[system, RESTING])
            yield Figure(
                name=f"{name}: p{percentile} {state}",
                system=system,
                value=median(measured),
                unit="us",
                rounds=measured,
                ratio=None if state == RESTING else median_ratio(measured, idle),
                at_most=TARGETS.get(percentile) if state == MOVING else None,
            )
    for kind in spells["fusecache", MOVING][0].moves:
        measured = tuple(spell.moves[kind] for spell in spells["fusecache", MOVING])
        yield Figure(name=f"{name}: {kind}", value=median(measured), unit="1/s", rounds=measured)


def _spell(image: Path, mover: Cache | None, depth: int, context: Context) -> Spell:
    """Read hits for some seconds, while a mount moves blocks or none does."""
    seconds = context.pick(full=3, quick=2, smoke=1)
    if mover is None:
        return Spell(_latency(image, depth, seconds), {})
    with _blocks_moving(mover):
        time.sleep(context.pick(full=3, quick=1.5, smoke=0.3))
        before = _counts(mover)
        latency = _latency(image, depth, seconds)
        after = _counts(mover)
    rig.run("fusecache", "flush", mover.mountpoint)
    time.sleep(0.5)
    return Spell(latency, {kind: (after[kind] - before[kind]) / seconds for kind in after})


def _latency(image: Path, depth: int, seconds: int) -> dict[str, float]:
    told = rig.run(
        "fio", "--name=hits", f"--filename={image}", "--rw=randread", "--bs=4k", f"--size={HOT}",
        "--direct=1", "--randrepeat=0", "--norandommap", "--time_based", f"--runtime={seconds}",
        *(("--ioengine=psync",) if depth == 1 else ("--ioengine=libaio", f"--iodepth={depth}")),
        f"--percentile_list={':'.join(PERCENTILES)}", "--output-format=json",
    )  # fmt: skip
    found = json.loads(told)["jobs"][0]["read"]["clat_ns"]["percentile"]
    return {percentile: found[f"{float(percentile):.6f}"] / 1000 for percentile in PERCENTILES}


def _counts(cache: Cache) -> dict[str, float]:
    status = json.loads(rig.run("fusecache", "status", cache.mountpoint, "--json"))
    moved = (status["promotions"] + status["writebacks"]) * BLOCK
    return {
        "promotions": status["promotions"],
        "writebacks": status["writebacks"],
        "origin megabytes": (moved + status["origin_read_bytes"] + status["origin_write_bytes"]) / 1e6,
    }


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
