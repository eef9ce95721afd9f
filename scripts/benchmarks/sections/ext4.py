"""An ext4 in a loop device on the image of a slow disk: small files, fsync, and reading them back.

The disk is a simulated one that seeks, and whose flush takes 4 ms; caches and their metadata lie on a true disk, since
an fsync of them has to take its time.  Ratios are to the slow disk alone; seconds are better less.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import RigError, file_system, slow_disk
from scripts.benchmarks.rig import run as run_command
from scripts.benchmarks.sections import verify
from scripts.benchmarks.suite.context import Context, Skipped
from scripts.benchmarks.suite.figure import Figure, compared
from scripts.benchmarks.suite.systems import NONE, SYSTEMS, Sizes

KIB: Final = 2**10
MIB: Final = 2**20
FILE_BYTES: Final = (700, 2000, 5000, 12000, 40000)
FILES_PER_DIRECTORY: Final = 60
SYNCED_BYTES: Final = 4 * MIB

FILES: Final = ("small files written, and unmounted", "s")
SYNCED: Final = ("4 KiB written and fsync", "1/s")
READ: Final = ("small files read, mounted anew", "s")


def run(context: Context) -> Iterator[Figure]:
    """Measure each system that can be a slow disk's cache."""
    if os.geteuid() != 0:
        msg = "loop devices and mounting need root"
        raise Skipped(msg)
    names = [name for name in context.systems if name == NONE or SYSTEMS[name].is_cache]
    found: dict[tuple[str, str], dict[str, list[float]]] = {FILES: {}, SYNCED: {}, READ: {}}
    for name in names:
        context.say(f"ext4: {name}")
        try:
            for what, value in measured(context, name).items():
                found[what][name] = [value]
        except (RigError, OSError) as exc:
            context.say(f"ext4: {name} is left out: {exc}")
    notes = verify.notes(context, names, verify.WRITES)
    for (title, unit), values in found.items():
        yield from compared(title, values, unit=unit, baseline=NONE, notes=notes)


def measured(context: Context, name: str) -> dict[tuple[str, str], float]:
    """Measure one system."""
    with ExitStack() as stack:
        directory = stack.enter_context(context.scratch())
        on_disk = stack.enter_context(context.scratch(on_disk=True))
        backing, mountpoint = directory / "backing", directory / "files"
        with backing.open("wb") as file:
            file.truncate(context.pick(full=512 * MIB, quick=256 * MIB, smoke=64 * MIB))
        # Nothing left for the kernel to do while we measure, and nothing of a fresh disk in a cache.
        run_command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", backing)
        disk = stack.enter_context(slow_disk("hdd", backing, directory / "origin"))
        sizes = Sizes(cache=64 * MIB, block=64 * KIB)
        exposed = stack.enter_context(SYSTEMS[name].open(disk.path, on_disk, sizes))
        results = {}
        began = time.monotonic()
        with file_system(exposed.image, mountpoint):
            _write_files(mountpoint, context.pick(full=600, quick=200, smoke=10))
        results[FILES] = time.monotonic() - began
        with file_system(exposed.image, mountpoint):
            results[SYNCED] = _synced_writes(mountpoint / "synced", context.pick(full=6.0, quick=1.5, smoke=0.2))
        began = time.monotonic()
        with file_system(exposed.image, mountpoint):
            for path in sorted(mountpoint.rglob("*")):
                if path.is_file():
                    path.read_bytes()
            results[READ] = time.monotonic() - began
        return results


def _write_files(root: Path, count: int) -> None:
    """Write small files, always the same."""
    rng = random.Random(3)
    for number in range(count):
        directory = root / str(number // FILES_PER_DIRECTORY)
        directory.mkdir(exist_ok=True)
        (directory / str(number)).write_bytes(rng.randbytes(rng.choice(FILE_BYTES)))


def _synced_writes(path: Path, seconds: float) -> float:
    """Write blocks anywhere in a file, each made durable before the next; return how many a second."""
    rng = random.Random(4)
    path.write_bytes(bytes(SYNCED_BYTES))
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            os.pwrite(fd, rng.randbytes(4 * KIB), rng.randrange(0, SYNCED_BYTES, 4 * KIB))
            os.fsync(fd)
            count += 1
        return count / (time.monotonic() - began)
    finally:
        os.close(fd)
