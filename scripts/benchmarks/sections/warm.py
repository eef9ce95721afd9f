"""What hits cost: all that is asked for lies in warm caches, and all systems are measured by turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from mmap import mmap
from pathlib import Path
from typing import Final

from scripts.benchmarks.counters import usage, wait_until_idle
from scripts.benchmarks.rig import MIB, ROOT, RigError, make_image, python_server
from scripts.benchmarks.sections.verify import READS, SINGLE_WRITES, WRITES, notes_of
from scripts.benchmarks.suite.fio import Job, Result, fio
from scripts.benchmarks.suite.measuring import Context, Figure, compared, in_turn
from scripts.benchmarks.suite.systems import BARE, FUSECACHE, NONE, OLD, SYSTEMS, Exposed, use_checkout

BLOCK: Final = 256 * 1024
FEWEST_PASSES, MOST_PASSES = 2, 12
"""How often an image is read until it is warm."""
QUARTER: Final = 1 / 4
SIXTEENTH: Final = 1 / 16
COUNTED: Final = {
    "user": "processor time, user",
    "kernel": "processor time, kernel",
    "waits": "task switches to wait",
    "preemptions": "task switches by force",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A line of a table: what fio does on each system.

    :ivar trial: what a system must have got right to be compared; see ``verify.py``.
    :ivar target: how many times the bare server's speed fusecache should have; ``aim``: and what is hoped for.
    :ivar percentile: of the latencies, which is shown, too; ``most``: how many times that of the bare server it may be.
    """

    name: str
    job: Job
    trial: str
    target: float | None = None
    percentile: int | None = None
    most: float | None = None
    aim: float | None = None


HITS: Final = (
    Case("4 KiB random read, depth 1", Job("randread", "4k", 1, part=QUARTER), READS, 1.0, 99),
    Case("4 KiB random read, depth 16", Job("randread", "4k", 16, part=QUARTER), READS, 1.1),
    Case("4 KiB random write, depth 1", Job("randwrite", "4k", 1, part=QUARTER), SINGLE_WRITES, 1.0, 99),
    Case("4 KiB random write, depth 16", Job("randwrite", "4k", 16, part=QUARTER), WRITES, 1.1),
    Case("64 KiB random read, depth 4", Job("randread", "64k", 4, part=QUARTER), READS),
    Case("64 KiB random write, depth 4", Job("randwrite", "64k", 4, part=QUARTER), WRITES),
    Case("1 MiB sequential read, depth 2", Job("read", "1M", 2, part=QUARTER), READS, 0.95),
    Case("1 MiB sequential write, depth 2", Job("write", "1M", 2, part=QUARTER), WRITES, 0.95),
)
SMALL: Final = HITS[:4]


def _writers(count: int, part: float, start: float = 0) -> Job:
    """Have so many writers write 4 KiB at random, an fsync after each write."""
    more = ("--ioengine=psync", "--fsync=1", f"--numjobs={count}", "--group_reporting")
    return Job("randwrite", start=start, part=part, more=more)


FSYNCS: Final = (
    Case("8 writers, dirty", _writers(8, SIXTEENTH), SINGLE_WRITES, 0.7),
    Case("1 writer, dirty", _writers(1, SIXTEENTH), SINGLE_WRITES, percentile=50, most=1.43),
    Case("8 writers, one dirty block", _writers(8, 1 / 1024), SINGLE_WRITES),
    Case("8 writers, missing", _writers(8, 1 / 2, start=1 / 2), SINGLE_WRITES),
)


@dataclass(frozen=True, slots=True)
class Rounds:
    """Cases that are measured round by round.

    :ivar seconds: how long each lasts.
    :ivar baseline: what ratios are to.
    :ivar results: by case and system, those of each round.
    """

    context: Context
    cases: Sequence[Case]
    seconds: float
    baseline: str = BARE
    results: dict[Case, dict[str, list[Result]]] = field(default_factory=dict)

    def measure(self, number: int, opened_for: Callable[[Case], Mapping[str, Exposed]], scratch: Path) -> None:
        """Measure a round: each case, on each of the systems that are opened for it."""
        for case in self.cases:
            self.context.say(f"round {number + 1} of {self.context.rounds}: {case.name}")
            opened = opened_for(case)
            results = self.results.setdefault(case, {})
            pids = [pid for exposed in opened.values() for pid in exposed.pids]
            for name in in_turn(list(opened), number):
                wait_until_idle(pids)
                ramp = self.seconds / 5
                found = fio(opened[name].image, case.job, scratch, seconds=self.seconds, ramp=ramp, seed=number)
                results.setdefault(name, []).append(found)

    def figures(self) -> Iterator[Figure]:
        """Compare what was done in a second and how long it took, and hold both against the targets."""
        for case, found in self.results.items():
            notes = notes_of(self.context, case.trial)
            unit = "MiB/s" if case.job.block.endswith("M") else "1/s"
            speeds = {name: [result.speed(unit) for result in results] for name, results in found.items()}
            yield from compared(
                case.name,
                speeds,
                unit=unit,
                baseline=self.baseline,
                at_least=case.target,
                aim=case.aim,
                notes=notes,
            )
            if at := case.percentile:
                times = {name: [result.percentiles[at] for result in results] for name, results in found.items()}
                name = f"{case.name}, p{at}"
                yield from compared(name, times, unit="µs", baseline=self.baseline, at_most=case.most, notes=notes)


def hits(context: Context) -> Iterator[Figure]:
    """Measure what a request costs where all that is asked for lies in a warm cache.

    Systems that are no caches serve the image itself.  Where in memory a file happens to lie makes large reads up to
    twice as fast.  So each round begins with other files, and for large reads the bare server serves the very file in
    which fusecache has its cache.  All that is asked for was written before, so nothing is promoted and no region is
    newly dirtied.  Before each turn, all wait until none does anything for a turn that is over, such as writing back.
    """
    size = context.pick(full=256, quick=128, smoke=16) * MIB
    cases = context.pick(full=HITS, quick=[case for case in HITS if case.target], smoke=HITS)
    rounds = Rounds(context, cases, context.pick(full=1.0, quick=0.3, smoke=0.1))
    names = [name for name in context.systems if name != NONE]
    for number in range(context.rounds):
        with (
            context.scratch() as scratch,
            warmed(context, names, scratch, size, 1 / 2, QUARTER) as opened,
            _bare_on_the_cache(opened, scratch) as bare,
        ):
            for_large_reads = opened | bare
            rounds.measure(number, lambda case: for_large_reads if case.job.rw == "read" else opened, scratch)  # noqa: B023
    yield from rounds.figures()


def against(context: Context) -> Iterator[Figure]:
    """Measure hits of a warm cache, this fusecache against that of another checkout (``--against``), by turns.

    Without one, it is measured against itself, which shows how much figures differ by chance.
    """
    if OLD not in SYSTEMS:
        use_checkout(ROOT)
    context = replace(context, systems=(FUSECACHE, OLD))
    cases = [replace(case, target=0.97, aim=1.0, percentile=None) for case in SMALL]
    rounds = Rounds(context, cases, context.pick(full=1.0, quick=0.3, smoke=0.1), OLD)
    size = context.pick(full=128, quick=64, smoke=16) * MIB
    for number in range(context.rounds):
        with context.scratch() as scratch, warmed(context, context.systems, scratch, size, 1 / 2, QUARTER) as opened:
            rounds.measure(number, lambda _: opened, scratch)
    yield from rounds.figures()


@contextmanager
def _bare_on_the_cache(opened: dict[str, Exposed], scratch: Path) -> Iterator[dict[str, Exposed]]:
    """Serve fusecache's cache file by the bare server, for reading."""
    cache = opened[FUSECACHE].cache if {BARE, FUSECACHE} <= opened.keys() else None
    if not cache:
        yield {}
        return
    with python_server("bare_server", cache.file, scratch / "bare_on_the_cache") as pid:
        yield {BARE: Exposed(scratch / "bare_on_the_cache" / "image", (pid,))}


def fsync(context: Context) -> Iterator[Figure]:
    """Measure small writes, each made durable before the next: what an fsync costs.

    Images, caches and their metadata lie on a disk's file system, where an fsync takes its time; *none*, a file of it
    on its own, shows how much.  *Dirty*: everything is in the cache and has been written before.  *Missing*: nothing
    is, so that writes go to the origin, and fsyncs have to reach both.
    """
    size = context.pick(full=256, quick=128, smoke=16) * MIB
    cases = context.pick(full=FSYNCS, quick=FSYNCS[:2], smoke=FSYNCS)
    rounds = Rounds(context, cases, context.pick(full=2.0, quick=0.5, smoke=0.2))
    names = context.systems
    with context.scratch(on_disk=True) as scratch, warmed(context, names, scratch, size, 1 / 8, SIXTEENTH) as opened:
        for number in range(context.rounds):
            rounds.measure(number, lambda _: opened, scratch)
    yield from rounds.figures()


def profile(context: Context) -> Iterator[Figure]:
    """Count what a hit costs its server, by the kernel's own counters: processor time and task switches."""
    names = [name for name in context.systems if name != NONE]
    seconds = context.pick(full=1.0, quick=0.2, smoke=0.1)
    with context.scratch() as scratch, warmed(context, names, scratch, 64 * MIB, 1 / 2, QUARTER) as opened:
        for case in context.pick(full=SMALL, quick=SMALL[::2], smoke=SMALL):
            for name, exposed in opened.items():
                wait_until_idle(exposed.pids)
                before = usage(exposed.pids)
                count = fio(exposed.image, case.job, scratch, seconds=seconds).operations
                after = usage(exposed.pids)
                for key, what in COUNTED.items():
                    factor, unit = (1e6, "µs") if "time" in what else (1, "")
                    spent = (getattr(after, key) - getattr(before, key)) * factor / count
                    yield Figure(name=f"{case.name}: {what}", system=name, value=spent, unit=unit)


@contextmanager
def warmed(
    context: Context, names: Sequence[str], scratch: Path, size: int, cached: float, warmed: float
) -> Iterator[dict[str, Exposed]]:
    """Mount systems over images of random bytes below ``scratch/NAME``, and warm them; those that fail are left out.

    :param size: of each image; ``cached`` is the part that a cache has room for, ``warmed`` the part that is warm.
    """
    with ExitStack() as stack:
        opened: dict[str, Exposed] = {}
        for name in names:
            context.say(f"mounting and warming {name}")
            for part in ("origin", "system"):
                (scratch / name / part).mkdir(parents=True)
            origin = scratch / name / "origin" / "disk"
            make_image(origin, size)
            try:
                system = SYSTEMS[name].open(origin, scratch / name / "system", int(cached * size), BLOCK)
                exposed = stack.enter_context(system)
                _warm(exposed, int(warmed * size))
            except (RigError, OSError) as exc:
                context.say(f"{name} is left out: {exc}")
            else:
                opened[name] = exposed
        yield opened


def _warm(exposed: Exposed, size: int) -> None:
    """Read the beginning of an image until it is in the cache, then write it, so that it may be dirty there."""

    def is_warm() -> bool:
        status = exposed.cache.status() if exposed.cache else None
        return not status or status["used_blocks"] * status["block_bytes"] >= size

    with mmap(-1, MIB) as buffer:
        fd = os.open(exposed.image, os.O_RDWR | os.O_DIRECT)
        try:
            for number in range(MOST_PASSES):
                is_last = number >= FEWEST_PASSES and is_warm()
                for offset in range(0, size, MIB):
                    os.preadv(fd, [buffer], offset)
                    if is_last:
                        os.pwrite(fd, buffer, offset)
                if is_last:
                    break
        finally:
            os.close(fd)
