"""Small writes, each made durable before the next: what an fsync costs.

Images, caches and their metadata lie on a disk's file system, where an fsync takes its time; a file of it on its own
shows how much.  The kernel passes on one fsync of a file at a time, so eight writers are as fast as one round trip
after another.  *Dirty*: everything is in the cache and has been written before.  *Missing*: nothing is, so that writes
go to the origin, and fsyncs have to reach both.

Disks shared with others are slow for seconds now and then.  So there is a latency as well, of single writes with their
fsyncs, each of them by turns.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from mmap import mmap
from statistics import median
from typing import Final

from scripts.benchmarks.sections import verify
from scripts.benchmarks.suite.context import Context, in_turn
from scripts.benchmarks.suite.figure import Figure, compared
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.systems import BARE, FUSECACHE, Exposed, Sizes
from scripts.benchmarks.suite.warm import warm_systems

KIB: Final = 2**10
MIB: Final = 2**20
BLOCK: Final = 256 * KIB
TARGET: Final = 0.7


@dataclass(frozen=True, slots=True)
class Workload:
    """Writers of 4 KiB at random, fsync after each write; ``size`` 0 is all of the part that is meant."""

    name: str
    writers: int
    missing: bool = False
    size: int = 0
    target: float | None = None


WORKLOADS: Final = (
    Workload("8 writers, dirty", 8, target=TARGET),
    Workload("1 writer, dirty", 1),
    Workload("8 writers, one dirty block", 8, size=BLOCK),
    Workload("8 writers, missing", 8, missing=True),
)


def run(context: Context) -> Iterator[Figure]:
    """Mount all, warm all, measure by turns."""
    image_bytes = context.pick(full=256 * MIB, quick=128 * MIB, smoke=16 * MIB)
    warm_bytes = image_bytes // 16
    seconds = context.pick(full=2.0, quick=0.5, smoke=0.2)
    names = list(context.systems)
    notes = verify.notes(context, names, verify.SINGLE_WRITES)
    sizes = Sizes(cache=image_bytes // 8, block=BLOCK)
    latencies: dict[str, list[float]] = defaultdict(list)
    rounds: dict[Workload, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (
        context.scratch(on_disk=True) as scratch,
        warm_systems(context, names, scratch, image_bytes, sizes, warm_bytes) as opened,
    ):
        for number in range(context.rounds):
            for workload in context.pick(full=WORKLOADS, quick=WORKLOADS[:1], smoke=WORKLOADS):
                context.say(f"fsync: round {number + 1} of {context.rounds}, {workload.name}")
                start = image_bytes // 2 if workload.missing else 0
                job = Job(
                    rw="randwrite",
                    seconds=seconds,
                    ramp=seconds / 5,
                    offset=start,
                    size=workload.size or (image_bytes - start if workload.missing else warm_bytes),
                    seed=number,
                    more=("--ioengine=psync", "--fsync=1", f"--numjobs={workload.writers}", "--group_reporting"),
                )
                for name in in_turn(list(opened), number):
                    rounds[workload][name].append(fio(opened[name].image, job, scratch).iops)
            count = context.pick(full=1000, quick=500, smoke=10)
            for name, latency in single_writes(opened, warm_bytes, count, seed=number).items():
                latencies[name].append(latency)
    for workload, found in rounds.items():
        yield from compared(
            workload.name,
            found,
            unit="1/s",
            baseline=BARE,
            at_least={FUSECACHE: workload.target} if workload.target else None,
            notes=notes,
        )
    limits = {FUSECACHE: round(1 / TARGET, 2)}
    yield from compared("1 writer, dirty, median", latencies, unit="µs", baseline=BARE, at_most=limits, notes=notes)


def single_writes(opened: Mapping[str, Exposed], size: int, count: int, *, seed: int) -> dict[str, float]:
    """Write a block anywhere in the beginning and make it durable, on one system after another; return µs, medians."""
    rng = random.Random(seed)
    latencies: dict[str, list[float]] = {name: [] for name in opened}
    with ExitStack() as stack, mmap(-1, 4 * KIB) as buffer:
        fds = {}
        for name, exposed in opened.items():
            fds[name] = os.open(exposed.image, os.O_WRONLY | os.O_DIRECT)
            stack.callback(os.close, fds[name])
        names = list(fds)
        for _ in range(count):
            offset = rng.randrange(0, size, 4 * KIB)
            rng.shuffle(names)
            for name in names:
                began = time.perf_counter()
                os.pwrite(fds[name], buffer, offset)
                os.fsync(fds[name])
                latencies[name].append((time.perf_counter() - began) * 1e6)
    return {name: median(values) for name, values in latencies.items()}
