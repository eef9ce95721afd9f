"""Hits while blocks are moved: what migrations cost those who do not need them."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import MIB, Cache, fusecache, python_server, run, slow_disk
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.measuring import Context, Figure, compared
from scripts.benchmarks.suite.systems import BARE, FUSECACHE

PAGE: Final = 4096
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
RESTING, MOVING, ELSEWHERE = "at rest", "its blocks move", "another's blocks move"  # the columns
Spells = dict[tuple[str, str], tuple[Path, Cache | None]]
"""By system and column: the image to read from, and the mount whose blocks move meanwhile."""
TARGETS: Final = {50: None, 99: 1.5, 99.9: None}
"""Of percentiles of the latency while blocks are moved, to those at rest."""


def interference(context: Context) -> Iterator[Figure]:
    """Measure hits, 4 KiB reads, on a mount at rest, and on one that moves blocks.

    One client reads what is cached, all the time.  In some spells another one, slow enough to leave time on the
    processors, reads and writes a set of blocks that moves on, so that they are promoted and turn dirty; a flush of the
    mount every so often writes them back.  The simulated slow disk (slow_disk.py) is thereby kept busy.

    All of that takes time on the processors, which slows down anybody's hits.  How much, two controls tell: the same
    reads of the same mount, and of a bare server, while a second mount, of a disk of its own, moves blocks likewise.
    All spells take turns; a ratio is that to a spell at rest of the same round.
    """
    depths: dict[str, tuple[int, ...]] = context.pick(
        full={"net": (1, 4), "hdd": (1,)}, quick={"net": (1,)}, smoke={"net": (1,)}
    )
    for profile, each in depths.items():
        with context.scratch() as directory, ExitStack() as stack:
            own, other = (stack.enter_context(_cache(profile, directory / name)) for name in ("measured", "other"))
            (directory / "file").write_bytes(os.urandom(HOT))
            stack.enter_context(python_server("bare_server", directory / "file", directory / "bare"))
            movers = {RESTING: None, MOVING: own, ELSEWHERE: other}
            spells: Spells = {(FUSECACHE, state): (own.image, mover) for state, mover in movers.items()}
            spells |= {(BARE, state): (directory / "bare" / "image", movers[state]) for state in (RESTING, ELSEWHERE)}
            for depth in each:
                yield from _compare(f"{profile}, depth {depth}", spells, depth, directory, context)


def _compare(name: str, spells: Spells, depth: int, directory: Path, context: Context) -> Iterator[Figure]:
    """Measure by turns."""
    seconds = context.pick(full=3, quick=2, smoke=1)
    found: dict[tuple[str, str], list[dict[float, float]]] = defaultdict(list)
    moves: dict[str, list[float]] = defaultdict(list)
    for _ in range(context.pick(full=context.rounds, quick=1, smoke=1)):
        for spell, (image, mover) in spells.items():
            job = Job("randread", depth=depth, part=HOT / image.stat().st_size)
            with _blocks_moving(mover, context) as moved:
                found[spell].append(fio(image, job, directory, seconds=seconds).percentiles)
            if spell == (FUSECACHE, MOVING):
                for kind, count in moved.items():
                    moves[kind].append(count / seconds)
    for (percentile, most), system in product(TARGETS.items(), (FUSECACHE, BARE)):
        columns = {state: [spell[percentile] for spell in each] for (of, state), each in found.items() if of == system}
        what = f"{name}, {system}: p{percentile:g}"
        yield from compared(what, columns, unit="µs", baseline=RESTING, target_of=MOVING, at_most=most)
    for kind, rates in moves.items():
        yield from compared(f"{name}: {kind}", {MOVING: rates}, unit="1/s")


@contextmanager
def _cache(profile: str, directory: Path) -> Iterator[Cache]:
    """Have a slow disk of its own cached, and the hot part of it in the cache, clean."""
    directory.mkdir()
    with (directory / "backing").open("wb") as file:
        file.truncate(ORIGIN)
    options = ("--cache-size", str(CACHE), "--block-size", str(BLOCK))
    with (
        slow_disk(profile, directory / "backing", directory / "disk") as disk,
        fusecache(disk, directory / "fusecache", *options) as cache,
    ):
        with cache.image.open("r+b") as image:
            image.write(os.urandom(HOT))
        run("fusecache", "flush", cache.mountpoint)
        yield cache
        run("fusecache", "unmount", cache.mountpoint)


@contextmanager
def _blocks_moving(cache: Cache | None, context: Context) -> Iterator[dict[str, float]]:
    """Have blocks promoted, written to and written back within this block, if of any; count these in what is given."""
    counts: dict[str, float] = {}
    if cache is None:
        yield counts
        return
    over = threading.Event()
    with ThreadPoolExecutor() as threads:
        for work in (_work_on_sets, _flush_often):
            threads.submit(work, cache, over)
        try:
            time.sleep(context.pick(full=3, quick=1.5, smoke=0.3))
            before = cache.status()
            yield counts
            after = cache.status()
            counts |= {kind: after[kind] - before[kind] for kind in ("promotions", "writebacks")}
        finally:
            over.set()
    run("fusecache", "flush", cache.mountpoint)
    time.sleep(0.5)


def _work_on_sets(cache: Cache, over: threading.Event) -> None:
    rng = random.Random(time.monotonic_ns())
    image = os.open(cache.image, os.O_RDWR | os.O_CLOEXEC)
    try:
        while not over.is_set():
            first = rng.randrange(HOT // BLOCK, ORIGIN // BLOCK - SET)
            for _ in range(SET * VISITS):
                offset = (first + rng.randrange(SET)) * BLOCK + rng.randrange(BLOCK // PAGE) * PAGE
                if rng.random() < 0.5:
                    os.pread(image, PAGE, offset)
                else:
                    os.pwrite(image, bytes(PAGE), offset)
                if over.wait(PAUSE):
                    break
    finally:
        os.close(image)


def _flush_often(cache: Cache, over: threading.Event) -> None:
    while not over.wait(FLUSH_EVERY):
        with suppress(OSError):  # the mount is gone, and the measurement fails by itself
            os.setxattr(cache.image, "user.fusecache.message", b"flush")
