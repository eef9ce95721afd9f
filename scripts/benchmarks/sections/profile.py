"""What a hit costs its server, by the kernel's own counters, and which system calls it makes.

Processor time and task switches are counted while nothing else is; system calls in another run, since strace (where it
is installed) makes everything slow.  All are for one request.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final

from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.processes import Usage, usage, wait_until_idle
from scripts.benchmarks.suite.systems import BARE, FUSECACHE, Exposed, Sizes
from scripts.benchmarks.suite.warm import warm_systems

KIB: Final = 2**10
MIB: Final = 2**20
WARM_BYTES: Final = 16 * MIB
CASES: Final = (
    ("read", "randread", 1),
    ("read", "randread", 16),
    ("write", "randwrite", 1),
    ("write", "randwrite", 16),
)
COMPARED: Final = (BARE, FUSECACHE, "qemu")
RARE: Final = 0.02
"""Calls made less often, for a request, are not shown."""
ATTACH_SECONDS: Final = 0.3
TITLES: Final = {
    "user": "processor time, user",
    "kernel": "processor time, kernel",
    "waits": "task switches to wait",
    "preemptions": "task switches by force",
}


def run(context: Context) -> Iterator[Figure]:
    """Count, for each kind of request on each system."""
    names = [name for name in context.systems if name in COMPARED]
    sizes = Sizes(cache=2 * WARM_BYTES, block=256 * KIB)
    with (
        context.scratch() as scratch,
        warm_systems(context, names, scratch, 4 * WARM_BYTES, sizes, WARM_BYTES) as opened,
    ):
        for kind, rw, depth in context.pick(full=CASES, quick=CASES[::2], smoke=CASES):
            case = f"4 KiB {kind}, depth {depth}"
            for name, exposed in opened.items():
                context.say(f"profile: {case}, {name}")
                job = Job(rw=rw, depth=depth, seconds=context.pick(full=1.0, quick=0.2, smoke=0.1), size=WARM_BYTES)
                yield from counted(case, name, exposed, job, scratch / name)
                if shutil.which("strace"):
                    yield from traced(case, name, exposed, job, scratch / name)


def counted(case: str, name: str, exposed: Exposed, job: Job, directory: Path) -> Iterator[Figure]:
    """Count processor time and task switches."""
    wait_until_idle(exposed.pids)
    before = usage(exposed.pids)
    operations = fio(exposed.image, job, directory).operations
    after = usage(exposed.pids)
    for field in fields(Usage):
        spent = (getattr(after, field.name) - getattr(before, field.name)) / operations
        is_time = field.name in {"user", "kernel"}
        title = f"{case}: {TITLES[field.name]}"
        yield Figure(name=title, system=name, value=spent * 1e6 if is_time else spent, unit="µs" if is_time else "")


def traced(case: str, name: str, exposed: Exposed, job: Job, directory: Path) -> Iterator[Figure]:
    """Count system calls, those that are not rare."""
    summary = directory / "strace"
    targets = [f"--attach={pid}" for pid in exposed.pids]
    command = ["strace", "--summary-only", "--follow-forks", f"--output={summary}", *targets]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as tracer:
        try:
            time.sleep(ATTACH_SECONDS)
            operations = fio(exposed.image, job, directory).operations
        finally:
            tracer.send_signal(signal.SIGINT)  # it detaches, and writes its summary
            tracer.wait()
    found = calls(summary.read_text())
    yield Figure(name=f"{case}: system calls", system=name, value=sum(found.values()) / operations)
    for call, count in found.items():
        if count / operations >= RARE:
            yield Figure(name=f"{case}: {call}", system=name, value=count / operations)


def calls(summary: str) -> dict[str, int]:
    """Read strace's summary: the system calls, and how often each was made."""
    found = {}
    for line in summary.splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            found[words[-1]] = int(words[3])
    return found
