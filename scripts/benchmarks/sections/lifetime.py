"""What one waits for, and what grows: commands, with the size of the cache, with the number of requests."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Final

from fusecache.attach import DATA_START
from scripts.benchmarks.counters import memory, usage
from scripts.benchmarks.rig import MIB, Cache, RigError, fusecache, run, unmount_lazily
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.measuring import Context, Figure, compared, in_turn
from scripts.benchmarks.suite.systems import FUSECACHE

KIB: Final = 2**10
PAGE: Final = 4096
FULL, EMPTY, TINY = FUSECACHE, "empty", "tiny"  # the columns
TINY_BLOCKS: Final = 100
MOUNT_SECONDS: Final = 3.0
BYTES_PER_BLOCK: Final = 64.0
HIT_RATIO: Final = 1.2
RESTORE_SECONDS: Final = 600

GROWTH_PERCENT: Final = 2.0
"""What may still be added after the first tenth of the requests."""
TENTHS: Final = (1, 2, 5, 10)
"""When to look at the memory."""
MIX: Final = Job("randrw", depth=16, more=("--rwmixread=70", "--random_distribution=zipf:1.1"))

COMMAND_SECONDS: Final = {"fusecache --help": 0.25, "mount, first": 0.5, "mount, again": 0.5}
"""The most that they may take."""

Found = dict[str, dict[str, list[float]]]
"""Rounds, by what was measured and the column."""


@dataclass(frozen=True, slots=True)
class Size:
    """One size of cache; ``is_judged``: the targets are of this one."""

    blocks: int
    block_size: int
    image_bytes: int
    is_judged: bool = False

    @property
    def name(self) -> str:
        """Say which it is."""
        return f"{self.blocks:,} blocks of {self.block_size // KIB} KiB"


LARGE: Final = Size(409_600, 256 * KIB, 2**40, is_judged=True)
HUGE: Final = Size(4_000_000, 64 * KIB, 2**40)
MEDIUM: Final = Size(100_000, 256 * KIB, 2**40)
SMALL: Final = Size(1000, 64 * KIB, 2**30)


@dataclass(frozen=True, slots=True)
class Map:
    """An unmounted cache, whose first blocks are in use; ``oblocks`` are the blocks of the origin in them."""

    directory: Path
    cache_file: Path
    block_size: int
    oblocks: Sequence[int]

    def mounted(self, *options: str) -> AbstractContextManager[Cache]:
        """Have it mounted."""
        smq = ("--policy", "smq")  # which leaves a full cache full; adaptive would keep some blocks free
        return fusecache(self.directory / "origin", self.directory, *smq, *options, cache_file=self.cache_file)

    def pages(self, cblocks: Sequence[int], count: int) -> list[int]:
        """Choose pages of these blocks, and have memory for them in the cache; return where they are in the image."""
        rng = random.Random(2)
        order = rng.sample(cblocks, min(count, len(cblocks)))
        found = []
        with self.cache_file.open("r+b", buffering=0) as file:
            for number in range(count):
                cblock, within = order[number % len(order)], rng.randrange(0, self.block_size, PAGE)
                os.pwrite(file.fileno(), bytes(PAGE), DATA_START + cblock * self.block_size + within)
                found.append(self.oblocks[cblock] * self.block_size + within)
        return found


def made(directory: Path, cache_file: Path, size: Size, blocks: int, used: int) -> Map:
    """Make the files of a cache of so many blocks in seconds: sparse ones, and metadata that is restored from XML."""
    directory.mkdir()
    origin, xml = directory / "origin", directory / "xml"
    for path, length in ((origin, size.image_bytes), (cache_file, DATA_START + blocks * size.block_size)):
        with path.open("wb") as file:
            file.truncate(length)
    oblocks = random.Random(1).sample(range(size.image_bytes // size.block_size), used)
    with xml.open("w") as file:
        sizes = f'block_size="{size.block_size // 512}" nr_cache_blocks="{blocks}"'
        file.write(f'<superblock uuid="" {sizes} policy="smq" hint_width="4"><mappings>\n')
        for cblock, oblock in enumerate(oblocks):
            file.write(f'<mapping cache_block="{cblock}" origin_block="{oblock}" dirty="false"/>\n')
        file.write("</mappings></superblock>")
    files = ("--cache", cache_file, "--metadata", directory / "metadata")
    run("fusecache", "restore", origin, *files, "--input", xml, seconds=RESTORE_SECONDS)
    run("fusecache", "check", origin, *files, "--write-stamp", seconds=RESTORE_SECONDS)
    xml.unlink()
    return Map(directory, cache_file, size.block_size, oblocks)


def scale(context: Context) -> Iterator[Figure]:
    """Measure how it grows with the cache: mounting with a full map, memory, and the time of a hit.

    Files are sparse, so that terabytes fit anywhere; maps are random, and full.  *Empty* is a cache of the same size
    with nothing in it, *tiny* one of 100 blocks, all in use; all have images of one size.  Memory is the proportional
    set size of the daemon, after the hits.  These are reads of 4 KiB, at random, over all blocks of the full and of the
    tiny mount, and over a hundred blocks of the full one, by turns.  The caches are in memory: on a disk, what is read
    once in a while does not stay in the page cache everywhere.
    """
    for size in context.pick(full=(LARGE, HUGE), quick=(MEDIUM,), smoke=(SMALL,)):
        context.say(f"making {size.name}")
        with context.scratch(on_disk=True) as scratch, context.scratch() as in_memory:
            full = made(scratch / FULL, in_memory / FULL, size, size.blocks, size.blocks)
            empty = made(scratch / EMPTY, in_memory / EMPTY, size, size.blocks, 0)
            tiny = made(scratch / TINY, in_memory / TINY, size, TINY_BLOCKS, TINY_BLOCKS)
            times = _mount_times(context.pick(full=context.rounds, quick=1, smoke=1), {FULL: full, EMPTY: empty})
            for what, columns in times.items():
                limit = MOUNT_SECONDS if size.is_judged and "processor" not in what else None
                yield from compared(f"{size.name}: {what}", columns, unit="s", at_most=limit)
            with full.mounted() as of_full, tiny.mounted() as of_tiny, empty.mounted() as of_empty:
                hits = _hits(context, (full, of_full), (tiny, of_tiny))
                mounts = {FULL: of_full, EMPTY: of_empty, TINY: of_tiny}
                taken = {name: memory(cache.pid) for name, cache in mounts.items()}
            for name, measured in taken.items():
                yield Figure(name=f"{size.name}: memory", system=name, value=measured / MIB, unit="MiB")
            for other in (EMPTY, TINY):
                each = (taken[FULL] - taken[other]) / size.blocks
                limit = BYTES_PER_BLOCK if size.is_judged else None
                yield Figure(name=f"{size.name}: memory above {other}", value=each, unit="B/block", at_most=limit)
            for what, columns in hits.items():
                limit = HIT_RATIO if size.is_judged and what == "a hit" else None
                yield from compared(f"{size.name}: {what}", columns, unit="µs", baseline=TINY, at_most=limit)


def _mount_times(rounds: int, maps: dict[str, Map]) -> Found:
    """Mount and unmount, after a clean end and after a crash; return seconds."""
    times: Found = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for name, each in maps.items():
            with each.mounted() as cache:
                times["mount"][name].append(cache.mount_seconds)
                times["mount, processor time of the daemon"][name].append(usage([cache.pid]).seconds)
                began = time.perf_counter()
                run("fusecache", "unmount", cache.mountpoint)
                times["unmount"][name].append(time.perf_counter() - began)
        with maps[FULL].mounted("--no-survive") as cache:
            os.kill(cache.pid, signal.SIGKILL)
        with maps[FULL].mounted() as cache:
            times["mount after kill -9"][FULL].append(cache.mount_seconds)
            run("fusecache", "unmount", cache.mountpoint)
    return times


def _hits(context: Context, full: tuple[Map, Cache], tiny: tuple[Map, Cache]) -> Found:
    """Read by turns; return microseconds."""
    count = context.pick(full=100_000, quick=10_000, smoke=500)
    everywhere, few = range(len(full[0].oblocks)), f"a hit, all in {TINY_BLOCKS} blocks"
    a_hundred = random.Random(4).sample(everywhere, TINY_BLOCKS)
    reads = {
        ("a hit", FULL): (full[1], full[0].pages(everywhere, count)),
        ("a hit", TINY): (tiny[1], tiny[0].pages(range(TINY_BLOCKS), count // 10)),
        (few, FULL): (full[1], full[0].pages(a_hundred, count // 10)),
    }
    for cache, offsets in reads.values():
        _microseconds(cache, offsets)  # each of them once: what a busy mount does in a second or two
    taken: dict[tuple[str, str], list[float]] = {kind: [] for kind in reads}
    rng = random.Random(3)
    some = context.pick(full=20_000, quick=2_000, smoke=200)
    for number in range(2 * context.rounds):
        for kind in in_turn(list(reads), number):
            cache, offsets = reads[kind]
            taken[kind].append(_microseconds(cache, rng.choices(offsets, k=some)))
    of_tiny = taken["a hit", TINY]
    return {what: {FULL: taken[what, FULL], TINY: of_tiny} for what in ("a hit", few)}


def _microseconds(cache: Cache, offsets: Sequence[int]) -> float:
    """Return the time of a read of 4 KiB; raises RigError if some were no hits."""
    before = cache.status()["read_hits"]
    with cache.image.open("rb", buffering=0) as file:
        fd = file.fileno()
        began = time.perf_counter()
        for offset in offsets:
            os.pread(fd, PAGE, offset)
        taken = time.perf_counter() - began
    if cache.status()["read_hits"] - before < len(offsets):
        msg = f"not all of {len(offsets)} reads through {cache.image} were hits"
        raise RigError(msg)
    return taken / len(offsets) * 1e6


def startup(context: Context) -> Iterator[Figure]:
    """Measure how long commands take, from the shell's point of view.

    By turns with an empty Python program, which is what no command can do without.  Processor time is that of the
    command; a mount's daemon is another process, whose own time until the image is ready stands beside it.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(context.pick(full=21, quick=5, smoke=1)):
        with context.scratch(on_disk=True) as scratch:
            _one_round(scratch, times)
    for name, seconds in times.items():
        yield from compared(name, {"fusecache": seconds}, unit="s", at_most=COMMAND_SECONDS.get(name))


def _one_round(scratch: Path, times: defaultdict[str, list[float]]) -> None:
    origin, mountpoint = scratch / "origin", scratch / "mnt"
    mountpoint.mkdir()
    with origin.open("wb") as file:
        file.truncate(1024 * MIB)
    files = ("--cache", scratch / "cache", "--metadata", scratch / "metadata", "--cache-size", "64MiB")

    def timed(name: str, *command: str | Path) -> None:
        began, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
        run(*command)
        taken, after = time.perf_counter() - began, getrusage(RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times[name].append(taken)
        times[f"{name}: processor time"].append(used)

    timed("an empty Python program", sys.executable, "-c", "pass")
    timed("fusecache --help", "fusecache", "--help")
    for name in ("mount, first", "mount, again"):
        timed(name, "fusecache", "mount", origin, mountpoint, *files)
        try:
            if name == "mount, again":
                timed("status", "fusecache", "status", mountpoint)
                timed("status --json", "fusecache", "status", "--json", mountpoint)
                timed("set", "fusecache", "set", mountpoint, "migration_threshold", "2048")
                daemon = Cache(mountpoint, scratch / "cache", 0).pid
                times["mount, again: the daemon's"].append(usage([daemon]).seconds)
            timed("unmount", "fusecache", "unmount", mountpoint)
        finally:
            unmount_lazily(mountpoint)


def endurance(context: Context) -> Iterator[Figure]:
    """Watch the memory over millions of requests.

    4 KiB reads and writes by fio, of an image of four times the cache, so that blocks go on being promoted, written
    back and demoted.  Nothing is to grow once a tenth of the requests is done.
    """
    cache_bytes = context.pick(full=256, quick=64, smoke=4) * MIB
    seconds = context.pick(full=300.0, quick=2.0, smoke=0.5)
    found, done = list[float](), 0
    with context.scratch() as scratch:
        origin = scratch / "origin"
        with origin.open("wb") as file:
            file.truncate(4 * cache_bytes)
        with fusecache(origin, scratch / "mount", "--cache-size", str(cache_bytes), "--block-size", "64KiB") as cache:
            for number in range(1, max(TENTHS) + 1):
                done += fio(cache.image, MIX, scratch, seconds=seconds / max(TENTHS), seed=number).operations
                if number in TENTHS:
                    found.append(memory(cache.pid) / MIB)
                    yield Figure(name=f"after {done:,} requests", value=found[-1], unit="MiB")
            moved = cache.status()
    limit = context.pick(full=GROWTH_PERCENT, quick=None, smoke=None)
    yield Figure(name="growth", value=(found[-1] / found[0] - 1) * 100, unit="%", at_most=limit)
    for kind in ("promotions", "demotions", "writebacks"):
        yield Figure(name=kind, value=moved[kind])
