"""What becomes of a hot set: while somebody reads all of the image once, and when another set becomes hot."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from mmap import mmap
from typing import Final

from scripts.benchmarks.rig import MIB, RigError
from scripts.benchmarks.sections.stage import BLOCK, CACHE, Stage, caches, staged
from scripts.benchmarks.sections.verify import READS, notes_of
from scripts.benchmarks.sections.zipf import turns, whole
from scripts.benchmarks.suite.fio import Job
from scripts.benchmarks.suite.measuring import Context, Figure, compared
from scripts.benchmarks.suite.systems import NBDKIT, NONE

HOT: Final = CACHE / 2
"""A hot set: half a cache, as a part of the image."""
WARMING: Final = Job("randread", "64k", 4, part=HOT, more=("--norandommap=0",))
PASSES: Final = 6
SCAN: Final = Job("read", "128k", start=CACHE, part=1 - CACHE)
SCAN_LEAST, KEPT_LEAST = (0.95, 1.2), (95.0, 100.0)
MOVED_MOST: Final = (1.0, 0.5)
PLACES: Final = (1, 4, 7)
"""Where the hot set is, one after the other, in caches."""
PAGE: Final = 4096
MISSES: Final = 0.1
"""The part of requests that may be misses where a hot set is cached."""
PATIENCE: Final = 16
"""After so many requests for each of its blocks, a hot set will not be cached any more."""
BATCHES: Final = 8
"""Into which as many requests are divided as the hot set has blocks."""


def hotsets(context: Context) -> Iterator[Figure]:
    """Measure what a cold sequential read does to a hot set, and how soon another set is cached.

    *Scan*: half a cache is warm.  All but the first eighth of the image is read in sequence, once (128 KiB at depth 1),
    as a copy or a backup does it; then each block of the hot set.  *Kept* are those that the disk was not asked for, of
    those that were cached before.
    *Moved*: 4 KiB reads at depth 1 within half a cache, which is elsewhere twice, each time cold.  Counted are the
    requests, after it has moved for the second time, until less than a tenth of them reach the disk.
    """
    context = caches(context)
    cache_bytes = context.pick(full=64, quick=16, smoke=4) * MIB
    notes = notes_of(context, READS)
    yield from _scans(context, cache_bytes, notes)
    counts: dict[str, list[float]] = defaultdict(list)
    for name, number in turns(context, "moved hot set", but=[NONE]):
        try:
            with staged(context, name, "hdd", cache_bytes) as stage:
                counts[name].append(_moved(stage, random.Random(number)))
        except (RigError, OSError) as exc:
            context.say(f"{name} is left out: {exc}")
    must, aim = MOVED_MOST
    title = "hdd, a hot set that moved: requests until 90 % hits"
    yield from compared(title, whole(counts), unit="", baseline=NBDKIT, at_most=must, aim=aim, notes=notes)


def _scans(context: Context, cache_bytes: int, notes: dict[str, str]) -> Iterator[Figure]:
    for profile in context.pick(full=("hdd", "net"), quick=("hdd",), smoke=("net",)):
        speeds: dict[str, list[float]] = defaultdict(list)
        kept: dict[str, list[float]] = defaultdict(list)
        for name, number in turns(context, f"{profile}, cold sequential read"):
            try:
                with staged(context, name, profile, cache_bytes) as stage:
                    warm = 0.0 if name == NONE else [_hits(stage, seed) for seed in range(PASSES)][-1]
                    speeds[name].append(stage.fio(SCAN).speed("MiB/s"))
                    if name != NONE:
                        kept[name].append(min(100.0, 100 * _hits(stage, PASSES + number) / warm) if warm else 0.0)
            except (RigError, OSError) as exc:
                context.say(f"{name} is left out: {exc}")
        must, aim = SCAN_LEAST if profile != "net" else (None, None)
        title = f"{profile}, cold sequential read"
        yield from compared(title, whole(speeds), unit="MiB/s", baseline=NONE, at_least=must, aim=aim, notes=notes)
        must, aim = KEPT_LEAST
        title = f"{profile}, hot set kept during it"
        yield from compared(title, whole(kept), unit="%", at_least=must, aim=aim, notes=notes)


def _hits(stage: Stage, seed: int) -> float:
    """Read each block of the hot set once; return for which part of them the disk was not asked."""
    stage.settle()
    before = stage.reached
    blocks = stage.fio(WARMING, seed=seed).operations
    stage.settle()
    return max(0.0, 1 - (stage.reached - before) / blocks)


def _moved(stage: Stage, rng: random.Random) -> float:
    """Move the hot set; return how many requests the last place takes until it is cached, as far as we have patience.

    So many requests for each block warm the places before that whoever fills what was missed has all of it.
    """
    blocks = int(stage.blocks * HOT / CACHE)
    fd = os.open(stage.exposed.image, os.O_RDONLY | os.O_DIRECT)
    try:
        for place in PLACES[:-1]:
            _read(fd, rng, place * stage.cache_bytes, blocks, PATIENCE // 2 * blocks)
        stage.settle()
        size = max(1, blocks // BATCHES)
        reached: list[int] = []
        while not is_cached(reached, size) and len(reached) < PATIENCE * BATCHES:
            before = stage.reached
            _read(fd, rng, PLACES[-1] * stage.cache_bytes, blocks, size)
            reached.append(stage.reached - before)
    finally:
        os.close(fd)
    return len(reached) * size


def is_cached(reached: list[int], size: int) -> bool:
    """Tell from what reached the disk, batch by batch of so many requests, whether enough were hits in the last ones.

    Two batches are looked at, since one alone may be lucky.
    """
    last = reached[-2:]
    return len(last) == 2 and sum(last) <= MISSES * 2 * size


def _read(fd: int, rng: random.Random, begin: int, blocks: int, requests: int) -> None:
    """Read pages at random, one after the other, from so many blocks."""
    with mmap(-1, PAGE) as buffer:
        for _ in range(requests):
            os.preadv(fd, [buffer], begin + rng.randrange(blocks * BLOCK // PAGE) * PAGE)
