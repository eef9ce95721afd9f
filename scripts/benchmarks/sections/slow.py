"""A cache in front of a slow disk: workloads that begin with an empty cache, on each system that can be one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Final

from scripts.benchmarks.rig import MIB, RigError
from scripts.benchmarks.sections.stage import CACHE, staged
from scripts.benchmarks.sections.verify import READS, WRITES, notes_of
from scripts.benchmarks.suite.fio import Job
from scripts.benchmarks.suite.measuring import Context, Figure, compared
from scripts.benchmarks.suite.systems import NONE, SYSTEMS

HOT: Final = CACHE / 2


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a workload.

    :ivar time: its part of the time; 0: until the range is done.
    :ivar name: how its speed is called, the mean of all steps of that name; None: it is not shown.
    """

    job: Job
    time: float = 0
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What is done, and what a system must have got right to be compared."""

    name: str
    trial: str
    steps: tuple[Step, ...]


def _zipf(rw: str) -> tuple[Step, ...]:
    """Draw from the same ranking of blocks in both steps: the third number says where its middle is."""
    job = Job(rw, depth=4, more=("--random_distribution=zipf:1.1:0.5", "--rwmixread=70"))
    return (Step(job, 3 / 4, ""), Step(job, 1 / 4, "last quarter"))


def _hot(start: float) -> Job:
    return Job("randread", depth=4, start=start, part=HOT)


WARMING: Final = 6 * (Step(Job("randread", "64k", 4, part=HOT, more=("--norandommap=0",))),)
SCAN: Final = Step(Job("read", "256k", 2, start=CACHE, part=3 * CACHE))
BEFORE, AFTER = "hot set before", "hot set after"
WORKLOADS: Final = (
    Workload("zipf, reads", READS, _zipf("randread")),
    Workload("zipf, 70/30", WRITES, _zipf("randrw")),
    Workload("moving hot set", READS, tuple(Step(_hot(start * CACHE), 1 / 2, "") for start in (1, 4, 7))),
    Workload("scan", READS, (*WARMING, Step(_hot(0), 1 / 4, BEFORE), SCAN, Step(_hot(0), 1 / 4, AFTER))),
    Workload("fsync", WRITES, (*WARMING, Step(Job("randwrite", part=HOT, more=("--fsync=1",)), 1 / 2, ""))),
)
FULL: Final = tuple(product(("hdd", "net"), WORKLOADS))
QUICK: Final = (FULL[1], FULL[6], FULL[7])


def slow(context: Context) -> Iterator[Figure]:
    """Measure what a cache of an eighth of the image makes of a disk that seeks, and of one that is far away.

    Each workload begins with an empty cache and a simulated disk of its own (slow_disk.py: ``hdd``, ``net``), which
    counts what reaches it: operations for 1000 requests mean the same for every system.  Ratios are to the disk alone.

    *Zipf*: 4 KiB at depth 4 all over the image, by Zipf's law (1.1): reads, and seven reads to three writes.  *Moving
    hot set*: 4 KiB reads at depth 4 within half a cache, which jumps twice, cold each time.  *Scan*: the same, warm;
    then three caches are read in sequence; then the first again.  *Fsync*: warm writes of 4 KiB, an fsync after each.
    """
    for profile, workload in context.pick(full=FULL, quick=QUICK, smoke=FULL[-1:]):
        found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(dict)
        for name in (name for name in context.systems if name == NONE or SYSTEMS[name].is_cache):
            context.say(f"{profile}, {workload.name}, {name}")
            try:
                for kind, value in _measured(context, name, profile, workload).items():
                    found[kind][name] = [value]
            except (RigError, OSError) as exc:
                context.say(f"{name} is left out: {exc}")
        notes = notes_of(context, workload.trial)
        for (what, unit), values in found.items():
            title = f"{profile}, {workload.name}" + (f": {what}" if what else "")
            yield from compared(title, values, unit=unit, baseline=NONE if unit == "1/s" else "", notes=notes)


def _measured(context: Context, name: str, profile: str, workload: Workload) -> dict[tuple[str, str], float]:
    """Measure one workload on one system; return figures by title and unit."""
    cache_bytes = context.pick(full=32, quick=16, smoke=4) * MIB
    seconds = context.pick(full=10.0, quick=2.0, smoke=0.4)
    speeds: dict[str, list[float]] = defaultdict(list)
    requests = reached = 0
    with staged(context, name, profile, cache_bytes) as stage:
        for number, step in enumerate(workload.steps):
            before = stage.reached
            result = stage.fio(step.job, seconds=seconds * step.time, seed=number)
            after = stage.reached
            if step.name is not None:
                speeds[step.name].append(result.speed())
                requests += result.operations
                reached += after - before
    found = {(what, "1/s"): mean(values) for what, values in speeds.items()}
    if AFTER in speeds:
        found["speed kept", "%"] = 100 * found[AFTER, "1/s"] / found[BEFORE, "1/s"]
    found["operations of the disk", "per 1000"] = 1000 * reached / requests
    return found
