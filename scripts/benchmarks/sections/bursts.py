"""Writes that miss: whether they wait for the slow disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.rig import MIB, RigError
from scripts.benchmarks.sections.stage import BLOCK, caches, staged
from scripts.benchmarks.sections.verify import SINGLE_WRITES, WRITES, notes_of
from scripts.benchmarks.sections.zipf import turns, whole
from scripts.benchmarks.suite.fio import Job
from scripts.benchmarks.suite.measuring import Context, Figure, compared
from scripts.benchmarks.suite.systems import NONE

PART: Final = 1 / 2
"""So many of the cache's blocks could each take one write."""


@dataclass(frozen=True, slots=True)
class Case:
    """A burst.

    :ivar trial: what a system must have got right to be compared.
    :ivar has_fsyncs: each write is made durable, in files that lie on a real disk.
    :ivar least: must and aim, of the disk's rate.
    """

    name: str
    job: Job
    trial: str
    has_fsyncs: bool
    least: tuple[float, float]


CASES: Final = (
    Case("hdd, a burst of random writes", Job("randwrite", depth=4), WRITES, False, (50, 200)),
    Case("hdd, the same, each with an fsync", Job("randwrite", more=("--fsync=1",)), SINGLE_WRITES, True, (10, 20)),
)


def bursts(context: Context) -> Iterator[Figure]:
    """Measure a burst of 4 KiB writes at random all over the image, none of which is cached.

    The cache is an eighth of the image and empty, its blocks are of 64 KiB, and there is one write for every second
    one: all of them fit.  The disk is a simulated hdd.  With an fsync after each write (depth 1, else 4), the cache and
    its metadata lie on a real disk, where an fsync takes time.  Ratios are to the hdd alone.
    """
    context = caches(context)
    cache_bytes = context.pick(full=128, quick=16, smoke=4) * MIB
    requests = int(PART * cache_bytes / BLOCK)
    for case in CASES:
        speeds: dict[str, list[float]] = defaultdict(list)
        for name, number in turns(context, case.name):
            try:
                with staged(context, name, "hdd", cache_bytes, cache_on_disk=case.has_fsyncs) as stage:
                    speeds[name].append(stage.fio(case.job, requests=requests, seed=number).speed())
            except (RigError, OSError) as exc:
                context.say(f"{name} is left out: {exc}")
        must, aim = case.least
        notes = notes_of(context, case.trial)
        yield from compared(case.name, whole(speeds), unit="1/s", baseline=NONE, at_least=must, aim=aim, notes=notes)
