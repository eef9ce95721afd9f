"""How long commands take, from the shell's point of view.

By turns with an empty Python program, which is what no command can do without.  Processor time is that of the command;
a mount's daemon is another process, whose own time until the image is ready stands beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from scripts.benchmarks.rig import RigError
from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure
from scripts.benchmarks.suite.processes import usage

MIB: Final = 2**20
HELP_SECONDS: Final = 0.25
MOUNT_SECONDS: Final = 0.5
TARGETS: Final = {"fusecache --help": HELP_SECONDS, "mount, first": MOUNT_SECONDS, "mount, again": MOUNT_SECONDS}

Times = dict[str, list[tuple[float, float]]]
"""Of each command: seconds by the clock, and of processor time, in each round."""


def run(context: Context) -> Iterator[Figure]:
    """Run all commands in each round."""
    times: Times = defaultdict(list)
    daemons: list[float] = []
    for _ in range(context.pick(full=21, quick=5, smoke=1)):
        with context.scratch(on_disk=True) as scratch:
            _one_round(scratch, times, daemons)
    for name, rounds in times.items():
        clock, processor = zip(*rounds, strict=True)
        yield Figure(name=name, value=median(clock), unit="s", rounds=clock, at_most=TARGETS.get(name))
        yield Figure(name=f"{name}: processor time", value=median(processor), unit="s", rounds=processor)
    yield Figure(name="mount, again: the daemon's", value=median(daemons), unit="s", rounds=tuple(daemons))


def _one_round(scratch: Path, times: Times, daemons: list[float]) -> None:
    origin, mountpoint = scratch / "origin", scratch / "mnt"
    mountpoint.mkdir()
    with origin.open("wb") as file:
        file.truncate(1024 * MIB)
    files = ("--cache", scratch / "cache", "--metadata", scratch / "metadata", "--cache-size", "64MiB")

    def timed(name: str, *command: str | Path) -> None:
        times[name].append(_time_of(*command))

    timed("an empty Python program", sys.executable, "-c", "pass")
    timed("fusecache --help", "fusecache", "--help")
    for name in ("mount, first", "mount, again"):
        timed(name, "fusecache", "mount", origin, mountpoint, *files)
        try:
            if name == "mount, again":
                timed("status", "fusecache", "status", mountpoint)
                timed("status --json", "fusecache", "status", "--json", mountpoint)
                timed("set", "fusecache", "set", mountpoint, "migration_threshold", "2048")
                daemons.append(_processor_seconds(mountpoint))
        finally:
            timed("unmount", "fusecache", "unmount", mountpoint)


def _time_of(*command: str | Path) -> tuple[float, float]:
    """Run a command; return how long it took, and its processor time."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        complaint = process.stderr.read()  # ends with the last process that has it
        _, status, used = os.wait4(process.pid, 0)
        taken = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        msg = f"{' '.join(map(str, command))}: {complaint.decode(errors='replace').strip()}"
        raise RigError(msg)
    return taken, used.ru_utime + used.ru_stime


def _processor_seconds(mountpoint: Path) -> float:
    """Return the processor time that a daemon has used so far."""
    pid = int(json.loads(os.getxattr(mountpoint / "image", "user.fusecache.stats"))["pid"])
    used = usage([pid])
    return used.user + used.kernel
