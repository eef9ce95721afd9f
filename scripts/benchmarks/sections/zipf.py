"""What a cache of an eighth of the image spares a slow disk under Zipf's law, of the same requests for every system."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.rig import MIB, RigError
from scripts.benchmarks.sections.stage import BLOCK, CACHE, caches, cold_rounds, staged
from scripts.benchmarks.sections.verify import READS, WRITES, notes_of
from scripts.benchmarks.suite.fio import Job, offsets
from scripts.benchmarks.suite.measuring import Context, Figure, compared, in_turn
from scripts.benchmarks.suite.systems import NBDKIT, NONE

THETA: Final = "--random_distribution=zipf:1.1:0.5"
ROOM: Final = 7 / 8
"""The part of a cache that the blocks of requests that fit may take."""
AGAIN_MOST, AGAIN_AIM = 5.0, 1.0
OPERATIONS, SPEED = ("operations of the disk", "per 1000"), ("requests", "1/s")
Kind = tuple[str, str]
"""What was measured, and its unit."""


@dataclass(frozen=True, slots=True)
class Case:
    """A workload.

    :ivar trial: what a system must have got right to be compared.
    :ivar requests: how many in full and in quick.
    :ivar most: must and aim of the operations, of nbdkit's; ``least``: of the requests a second.
    """

    name: str
    profile: str
    job: Job
    trial: str
    requests: tuple[int, int]
    most: tuple[float, float] | None = None
    least: tuple[float, float] | None = None

    def count(self, context: Context) -> int:
        """Say how many requests."""
        full, quick = self.requests
        return context.pick(full=full, quick=quick, smoke=200)


READING: Final = Job("randread", depth=4, more=(THETA,))
MIXED: Final = Job("randrw", depth=4, more=(THETA, "--rwmixread=70"))
CASES: Final = (
    Case("hdd, zipf, reads", "hdd", READING, READS, (8_000, 1_000), most=(1.0, 0.97), least=(1.05, 1.2)),
    Case("hdd, zipf, 70/30", "hdd", MIXED, WRITES, (8_000, 1_000), least=(1.2, 1.6)),
    Case("net, zipf, reads", "net", READING, READS, (40_000, 4_000), most=(0.92, 0.88)),
)


def zipf(context: Context) -> Iterator[Figure]:
    """Measure, of the same Zipf requests, how many reach the disk, how fast they are, and what a second pass costs.

    4 KiB at depth 4 all over the image (1.1), with an empty cache of 64 KiB a block.  What still reaches the disk right
    after the last answer counts as well.  Ratios are to nbdkit's cache filter.  *Again*: as many requests as touch no
    more blocks than fit, and then the very same once more.
    """
    context = caches(context)
    for case in context.pick(full=CASES, quick=CASES, smoke=CASES[2:]):
        found: dict[Kind, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for name, number in turns(context, case.name):
            try:
                for kind, value in _measured(context, name, case, number).items():
                    found[kind][name].append(value)
            except (RigError, OSError) as exc:
                context.say(f"{name} is left out: {exc}")
        notes = notes_of(context, case.trial)
        for (what, unit), values in found.items():
            must, aim = (case.most if what == OPERATIONS[0] else case.least) or (None, None)
            yield from compared(
                f"{case.name}: {what}",
                whole(values),
                unit=unit,
                baseline=NBDKIT,
                at_most=must if what == OPERATIONS[0] else None,
                at_least=must if what != OPERATIONS[0] else None,
                aim=aim,
                notes=notes,
            )
    yield from _again(context)


def turns(context: Context, what: str, *, but: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """Go round the systems, another one first in each round; say so."""
    names = [name for name in context.systems if name not in but]
    for number in range(rounds := cold_rounds(context)):
        for name in in_turn(names, number):
            context.say(f"round {number + 1} of {rounds}: {what}, {name}")
            yield name, number


def whole(rounds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Leave out systems that were left out of a round: medians of other rounds are no comparison."""
    most = max(map(len, rounds.values()))
    return {name: values for name, values in rounds.items() if len(values) == most}


def _measured(context: Context, name: str, case: Case, seed: int) -> dict[Kind, float]:
    requests = case.count(context)
    with staged(context, name, case.profile, context.pick(full=64, quick=16, smoke=4) * MIB) as stage:
        before = stage.reached
        result = stage.fio(case.job, requests=requests, seed=seed)
        stage.settle()
        return {OPERATIONS: 1000 * (stage.reached - before) / requests, SPEED: result.speed()}


def _again(context: Context) -> Iterator[Figure]:
    cache_bytes = context.pick(full=64, quick=16, smoke=4) * MIB
    most = context.pick(full=4000, quick=1000, smoke=300)
    values: dict[str, list[float]] = defaultdict(list)
    counts = [_fitting(context, cache_bytes, most, seed) for seed in range(cold_rounds(context))]
    for name, number in turns(context, "zipf, again", but=[NONE]):
        try:
            with staged(context, name, "hdd", cache_bytes) as stage:
                stage.fio(READING, requests=counts[number], seed=number)
                stage.settle()
                before = stage.reached
                stage.fio(READING, requests=counts[number], seed=number)
                values[name].append(1000 * (stage.reached - before) / counts[number])
        except (RigError, OSError) as exc:
            context.say(f"{name} is left out: {exc}")
    yield from compared(
        "hdd, zipf, again, all fit: operations of the disk",
        whole(values),
        unit="per 1000",
        at_most=AGAIN_MOST,
        aim=AGAIN_AIM,
        notes=notes_of(context, READS),
    )


def _fitting(context: Context, cache_bytes: int, most: int, seed: int) -> int:
    with context.scratch() as directory:
        drawn = offsets(READING, int(cache_bytes / CACHE), directory, requests=most, seed=seed)
    return fitting(drawn, int(ROOM * cache_bytes / BLOCK))


def fitting(drawn: Sequence[int], blocks: int) -> int:
    """Return how many of these offsets, from the first on, touch no more than so many blocks."""
    touched: set[int] = set()
    for number, offset in enumerate(drawn):
        touched.add(offset // BLOCK)
        if len(touched) > blocks:
            return number
    return len(drawn)
