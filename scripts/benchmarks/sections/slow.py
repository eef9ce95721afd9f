"""What a cache of an eighth of the image makes of a disk that seeks, and of one that is far away.

Each workload begins with an empty cache and a simulated disk of its own (slow_disk.py: ``hdd``, ``net``), which counts
what reaches it: operations for 1000 requests mean the same for every system.  Ratios are to the disk alone.

zipf
    4 KiB at depth 4 all over the image, by Zipf's law (1.1): reads, and seven reads to three writes.
moving
    4 KiB reads at depth 4 within half a cache, which jumps twice; cold each time.
scan
    4 KiB reads at depth 4 within half a cache, warm; then three caches are read in sequence; then the first again.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import RigError, SlowDisk, slow_disk
from scripts.benchmarks.sections import verify
from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure, compared
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.systems import NONE, SYSTEMS, Sizes

MIB: Final = 2**20
IMAGE_PER_CACHE: Final = 8
DEPTH: Final = 4
QUARTERS: Final = 4
JUMPS: Final = (1, 4, 7)
"""Where the hot sets begin, in caches."""
WARM_PASSES: Final = 8


class Cell:
    """One system on one disk, with an empty cache."""

    def __init__(self, image: Path, disk: SlowDisk, directory: Path, cache_bytes: int, seconds: float) -> None:
        self._image = image
        self._disk = disk
        self._directory = directory
        self.cache_bytes = cache_bytes
        self.seconds = seconds
        self.requests = 0
        self.operations = 0

    def run(self, job: Job) -> tuple[float, tuple[float, ...]]:
        """Do a job; return requests a second, in all and by windows, and count them and the disk's operations."""
        before = self._disk.operations()
        result = fio(self._image, job, self._directory)
        after = self._disk.operations()
        self.requests += result.operations
        self.operations += sum(after[kind] - before[kind] for kind in ("reads", "writes"))
        return result.iops, result.windows

    @property
    def per_thousand(self) -> float:
        """The disk's operations for 1000 requests."""
        return 1000 * self.operations / self.requests

    def warm(self, size: int) -> None:
        """Read the beginning of the image, until the disk is asked no more."""
        for seed in range(WARM_PASSES):
            before = self._disk.operations()["reads"]
            job = Job(rw="randread", block="64k", depth=DEPTH, size=size, seed=seed, more=("--norandommap=0",))
            fio(self._image, job, self._directory)
            if self._disk.operations()["reads"] == before:
                break


Measured = Iterator[tuple[str, str, float]]
"""What was measured, its unit, and the figure."""


def _zipf(cell: Cell, rw: str) -> Measured:
    size = IMAGE_PER_CACHE * cell.cache_bytes
    more = ("--random_distribution=zipf:1.1", "--rwmixread=70")
    iops, windows = cell.run(Job(rw=rw, depth=DEPTH, seconds=cell.seconds, size=size, windows=QUARTERS, more=more))
    yield "", "1/s", iops
    yield "last quarter", "1/s", windows[-1]
    yield "operations of the disk", "per 1000", cell.per_thousand


def zipf_reads(cell: Cell) -> Measured:
    """Read by Zipf's law."""
    return _zipf(cell, "randread")


def zipf_mix(cell: Cell) -> Measured:
    """Read and write by Zipf's law."""
    return _zipf(cell, "randrw")


def moving(cell: Cell) -> Measured:
    """Read a hot set that jumps."""
    hot = cell.cache_bytes // 2
    speeds = []
    for place in JUMPS:
        job = Job(rw="randread", depth=DEPTH, seconds=cell.seconds / 2, offset=place * cell.cache_bytes, size=hot)
        speeds.append(cell.run(job)[0])
    yield "", "1/s", sum(speeds) / len(speeds)
    yield "operations of the disk", "per 1000", cell.per_thousand


def scan(cell: Cell) -> Measured:
    """Read a hot set, then much else in sequence, then the hot set again."""
    hot, cache = cell.cache_bytes // 2, cell.cache_bytes
    cell.warm(hot)
    before, _ = cell.run(Job(rw="randread", depth=DEPTH, seconds=cell.seconds / 4, size=hot))
    cell.run(Job(rw="read", block="256k", depth=2, offset=cache, size=3 * cache))
    after, _ = cell.run(Job(rw="randread", depth=DEPTH, seconds=cell.seconds / 4, size=hot, seed=2))
    yield "hot set before", "1/s", before
    yield "hot set after", "1/s", after
    yield "speed kept", "%", 100 * after / before


@dataclass(frozen=True, slots=True)
class Workload:
    """What is done, and what a system must have got right to be compared."""

    name: str
    measure: Callable[[Cell], Measured]
    trial: str


ZIPF_READS: Final = Workload("zipf, reads", zipf_reads, verify.READS)
ZIPF_MIX: Final = Workload("zipf, 70/30", zipf_mix, verify.WRITES)
MOVING: Final = Workload("moving hot set", moving, verify.READS)
SCAN: Final = Workload("scan", scan, verify.READS)

FULL: Final = tuple((profile, work) for profile in ("hdd", "net") for work in (ZIPF_READS, ZIPF_MIX, MOVING, SCAN))
QUICK: Final = (("hdd", ZIPF_MIX), ("net", ZIPF_MIX), ("net", MOVING))


def run(context: Context) -> Iterator[Figure]:
    """Measure each workload on each system."""
    names = [name for name in context.systems if name == NONE or SYSTEMS[name].is_cache]
    for profile, workload in context.pick(full=FULL, quick=QUICK, smoke=FULL[-1:]):
        notes = verify.notes(context, names, workload.trial)
        found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(dict)
        for name in names:
            context.say(f"slow: {profile}, {workload.name}, {name}")
            try:
                for what, unit, value in measured(context, name, profile, workload):
                    found[what, unit][name] = [value]
            except (RigError, OSError) as exc:
                context.say(f"slow: {name} is left out: {exc}")
        for (what, unit), values in found.items():
            title = f"{profile}, {workload.name}" + (f": {what}" if what else "")
            baseline = NONE if unit == "1/s" else ""
            yield from compared(title, values, unit=unit, baseline=baseline, notes=notes)


def measured(context: Context, name: str, profile: str, workload: Workload) -> list[tuple[str, str, float]]:
    """Measure one workload on one system."""
    cache_bytes = context.pick(full=32 * MIB, quick=16 * MIB, smoke=4 * MIB)
    seconds = context.pick(full=10.0, quick=2.0, smoke=0.4)
    with ExitStack() as stack:
        directory = stack.enter_context(context.scratch())
        backing = directory / "backing"
        backing.write_bytes(os.urandom(IMAGE_PER_CACHE * cache_bytes))
        disk = stack.enter_context(slow_disk(profile, backing, directory / "origin"))
        (directory / "system").mkdir()
        sizes = Sizes(cache=cache_bytes, block=65536)
        exposed = stack.enter_context(SYSTEMS[name].open(disk.path, directory / "system", sizes))
        return list(workload.measure(Cell(exposed.image, disk, directory, cache_bytes, seconds)))
