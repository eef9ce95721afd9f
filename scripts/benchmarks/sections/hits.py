"""What a request costs where all that is asked for lies in a warm cache.

All systems are mounted at once and measured by turns; those that are no caches serve the image itself.  Each round
begins with other files and another system: where in memory a file happens to lie makes large reads up to twice as fast,
for as long as it lies there.  For these the bare server therefore serves the very file in which fusecache has its
cache.  The requests go to a range that is in the cache and was written before, so nothing is promoted and no region is
newly dirtied.  Before each turn, all wait until none does anything for a turn that is over, such as writing back.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.sections import verify
from scripts.benchmarks.suite.context import Context, in_turn
from scripts.benchmarks.suite.figure import Figure, compared
from scripts.benchmarks.suite.fio import Job, Result, fio
from scripts.benchmarks.suite.processes import wait_until_idle
from scripts.benchmarks.suite.systems import BARE, FUSECACHE, NONE, SYSTEMS, Exposed, Sizes
from scripts.benchmarks.suite.warm import warm_systems

KIB: Final = 2**10
MIB: Final = 2**20

NAMES: Final = {"randread": "random read", "randwrite": "random write", "read": "sequential read"}
DEEP_TARGET: Final = 1.10
SINGLE_TARGET: Final = 1.0
LARGE_TARGET: Final = 0.95


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured, and how many times the bare server's speed it should have."""

    name: str
    rw: str
    block: str
    depth: int
    target: float | None

    @property
    def trial(self) -> str:
        """What a system must have got right to be compared."""
        if "read" in self.rw:
            return verify.READS
        return verify.WRITES if self.depth > 1 else verify.SINGLE_WRITES

    @property
    def is_large(self) -> bool:
        """Whether bytes a second say more than requests a second."""
        return self.block.endswith("M")

    def speed(self, result: Result) -> float:
        """Return what is compared."""
        return result.mib_per_second if self.is_large else result.iops


Rounds = defaultdict[Workload, defaultdict[str, list[Result]]]

WORKLOADS: Final = (
    Workload("4 KiB random read, depth 1", "randread", "4k", 1, SINGLE_TARGET),
    Workload("4 KiB random read, depth 16", "randread", "4k", 16, DEEP_TARGET),
    Workload("4 KiB random write, depth 1", "randwrite", "4k", 1, SINGLE_TARGET),
    Workload("4 KiB random write, depth 16", "randwrite", "4k", 16, DEEP_TARGET),
    Workload("64 KiB random read, depth 4", "randread", "64k", 4, None),
    Workload("64 KiB random write, depth 4", "randwrite", "64k", 4, None),
    Workload("1 MiB sequential read, depth 2", "read", "1M", 2, LARGE_TARGET),
    Workload("1 MiB sequential write, depth 2", "write", "1M", 2, LARGE_TARGET),
)
TARGETED: Final = tuple(workload for workload in WORKLOADS if workload.target)


def run(context: Context) -> Iterator[Figure]:
    """Mount all, warm all, measure by turns."""
    names = [name for name in context.systems if name != NONE]
    image_bytes = context.pick(full=256 * MIB, quick=128 * MIB, smoke=16 * MIB)
    warm_bytes = image_bytes // 4
    notes = {trial: verify.notes(context, names, trial) for trial in {workload.trial for workload in WORKLOADS}}
    sizes = Sizes(cache=image_bytes // 2, block=256 * KIB)
    rounds: Rounds = defaultdict(lambda: defaultdict(list))
    for number in range(context.rounds):
        with (
            context.scratch() as scratch,
            warm_systems(context, in_turn(names, number), scratch, image_bytes, sizes, warm_bytes) as opened,
            bare_on_the_cache(opened, scratch, sizes) as bare,
        ):
            measure(context, number, {False: opened, True: opened | bare}, scratch, warm_bytes, rounds)
    for workload, found in rounds.items():
        yield from compared(
            workload.name,
            {name: [workload.speed(result) for result in results] for name, results in found.items()},
            unit="MiB/s" if workload.is_large else "1/s",
            baseline=BARE,
            at_least={FUSECACHE: workload.target} if workload.target else None,
            notes=notes[workload.trial],
        )
    for workload, found in rounds.items():
        if workload.depth == 1:
            latencies = {name: [result.p99_us for result in results] for name, results in found.items()}
            yield from compared(
                f"{workload.name}, p99", latencies, unit="µs", baseline=BARE, notes=notes[workload.trial]
            )


@contextmanager
def bare_on_the_cache(opened: dict[str, Exposed], scratch: Path, sizes: Sizes) -> Iterator[dict[str, Exposed]]:
    """Serve fusecache's cache file by the bare server, for reading."""
    if not {BARE, FUSECACHE} <= opened.keys():
        yield {}
        return
    status = json.loads(os.getxattr(opened[FUSECACHE].image, "user.fusecache.stats"))
    directory = scratch / "bare_on_the_cache"
    directory.mkdir()
    with SYSTEMS[BARE].open(Path(status["cache"]), directory, sizes) as exposed:
        yield {BARE: exposed}


def measure(
    context: Context,
    number: int,
    opened: dict[bool, dict[str, Exposed]],
    scratch: Path,
    warm_bytes: int,
    rounds: Rounds,
) -> None:
    """Measure one round: each workload, each on every system; ``opened[True]`` are those for large reads."""
    seconds = context.pick(full=1.0, quick=0.3, smoke=0.1)
    pids = [pid for systems in opened.values() for exposed in systems.values() for pid in exposed.pids]
    for workload in context.pick(full=WORKLOADS, quick=TARGETED, smoke=WORKLOADS):
        context.say(f"hits: round {number + 1} of {context.rounds}, {workload.name}")
        job = Job(
            rw=workload.rw,
            block=workload.block,
            depth=workload.depth,
            seconds=seconds,
            ramp=seconds / 5,
            size=warm_bytes,
            seed=number,
        )
        for name, exposed in opened[workload.is_large and workload.rw == "read"].items():
            wait_until_idle(pids)
            rounds[workload][name].append(fio(exposed.image, job, scratch / name))
