"""The gate to the kernel: against a server in C, against pyfuse3's way, and with writers side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from scripts.benchmarks.rig import MIB, fusecache, make_image, slow_disk
from scripts.benchmarks.sections.verify import READS, SINGLE_WRITES, WRITES
from scripts.benchmarks.sections.warm import QUARTER, SMALL, Case, Rounds, warmed
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.measuring import Context, Figure, compared, in_turn
from scripts.benchmarks.suite.systems import FUSECACHE, NO_GATE, NONE, SYSTEMS, C

WRITERS: Final = 8
SIDE_BY_SIDE: Final = Job("randwrite", more=("--ioengine=psync", f"--numjobs={WRITERS}", "--group_reporting"))
"""Synchronous writers, which the kernel lets write side by side, or not."""
CASES: Final = (
    Case("4 KiB random read, depth 1", SMALL[0].job, READS, 1.2, 99, most=1.0),
    Case("4 KiB random read, depth 16", SMALL[1].job, READS, 0.75),
    Case("4 KiB random write, depth 1", SMALL[2].job, SINGLE_WRITES, 1.2, 99, most=1.0),
    Case("4 KiB random write, depth 16", SMALL[3].job, WRITES, 0.75),
    Case("1 MiB sequential read, depth 2", Job("read", "1M", 2, part=QUARTER), READS, 1.0),
    Case("1 MiB sequential write, depth 2", Job("write", "1M", 2, part=QUARTER), WRITES, 1.0),
)


def gate(context: Context) -> Iterator[Figure]:
    """Measure hits against a server in C (bare_server.c), and writers side by side against what their store can do.

    The server in C has one thread, sleeps while there is no request, and makes one system call on the image for each.
    *No-gate* is fusecache with pyfuse3 between it and the kernel.  The store of the writers takes 4 ms for each
    request, any number at a time; *none* is the store alone, with as many asynchronous writes.
    """
    context = replace(context, systems=(C, NO_GATE, FUSECACHE))
    rounds = Rounds(context, CASES, context.pick(full=1.0, quick=0.3, smoke=0.1), C)
    size = context.pick(full=128, quick=64, smoke=16) * MIB
    for number in range(context.rounds):
        with context.scratch() as scratch, warmed(context, context.systems, scratch, size, 1 / 2, QUARTER) as opened:
            rounds.measure(number, lambda _: opened, scratch)
    yield from rounds.figures()
    yield from _writers(context)


def _writers(context: Context) -> Iterator[Figure]:
    """Measure synchronous writers of what is never cached."""
    seconds = context.pick(full=2.0, quick=1.0, smoke=0.3)
    jobs = {NONE: Job("randwrite", depth=WRITERS), NO_GATE: SIDE_BY_SIDE, FUSECACHE: SIDE_BY_SIDE}
    speeds: dict[str, list[float]] = {name: [] for name in jobs}
    with context.scratch() as scratch, ExitStack() as stack:
        images = {}
        for name in jobs:
            own = scratch / name
            own.mkdir()
            make_image(own / "backing", 32 * MIB)
            disk = stack.enter_context(slow_disk("far", own / "backing", own / "disk"))
            images[name] = disk
            if name != NONE:
                options = ("--cache-size", "4MiB", "--policy", "cleaner", *SYSTEMS[name].options)
                images[name] = stack.enter_context(fusecache(disk, own / "system", *options)).image
        for number in range(context.rounds):
            for name in in_turn(list(jobs), number):
                context.say(f"round {number + 1} of {context.rounds}: {WRITERS} writers, {name}")
                speeds[name].append(fio(images[name], jobs[name], scratch, seconds=seconds, seed=number).speed())
    yield from compared(f"{WRITERS} writers, a store of 4 ms", speeds, unit="1/s", baseline=NONE, at_least=0.8)
