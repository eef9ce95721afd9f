"""An ext4 in a loop device on the image of a slow disk."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import MIB, RigError, run, slow_disk
from scripts.benchmarks.sections.verify import WRITES, notes_of
from scripts.benchmarks.suite.measuring import Context, Figure, compared
from scripts.benchmarks.suite.systems import NONE, SYSTEMS
from scripts.demonstration.demo import file_system

FILE_BYTES: Final = (700, 2000, 5000, 12000, 40000)
SYNCED_BYTES: Final = 4 * MIB


def ext4(context: Context) -> Iterator[Figure]:
    """Measure small files and fsync in an ext4 on the image of a simulated hard disk; the caches lie on a true disk.

    Ratios are to the slow disk alone.  An fsync of the caches has to take its time, hence the disk.
    """
    if os.geteuid() != 0:
        msg = "loop devices and mounting need root"
        raise RigError(msg)
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(dict)
    for name in (name for name in context.systems if name == NONE or SYSTEMS[name].is_cache):
        context.say(f"ext4, {name}")
        try:
            for what, value in _measured(context, name).items():
                found[what][name] = [value]
        except (RigError, OSError) as exc:
            context.say(f"{name} is left out: {exc}")
    notes = notes_of(context, WRITES)
    for (title, unit), values in found.items():
        yield from compared(title, values, unit=unit, baseline=NONE, notes=notes)


def _measured(context: Context, name: str) -> dict[tuple[str, str], float]:
    """Measure one system; return figures by title and unit."""
    with ExitStack() as stack:
        fast, disk = stack.enter_context(context.scratch()), stack.enter_context(context.scratch(on_disk=True))
        backing, files = fast / "backing", fast / "files"
        with backing.open("wb") as file:
            file.truncate(context.pick(full=512, quick=256, smoke=64) * MIB)
        # Nothing is left for the kernel to do while we measure, and nothing of a fresh disk is in a cache.
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", backing)
        origin = stack.enter_context(slow_disk("hdd", backing, fast / "origin"))
        image = stack.enter_context(SYSTEMS[name].open(origin, disk, 64 * MIB, 65536)).image
        began = time.monotonic()
        with file_system(image, files):
            _write_files(files, context.pick(full=600, quick=200, smoke=10))
        written = time.monotonic() - began
        with file_system(image, files):
            synced = _synced_writes(files / "synced", context.pick(full=6.0, quick=1.5, smoke=0.2))
        began = time.monotonic()
        with file_system(image, files):
            for path in sorted(files.rglob("[0-9]*")):
                if path.is_file():
                    path.read_bytes()
            read = time.monotonic() - began
    return {
        ("small files written, and unmounted", "s"): written,
        ("4 KiB written and fsync", "1/s"): synced,
        ("small files read, mounted anew", "s"): read,
    }


def _write_files(root: Path, count: int) -> None:
    """Write small files, always the same, sixty in a directory."""
    rng = random.Random(3)
    for number in range(count):
        path = root / str(number // 60) / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice(FILE_BYTES)))


def _synced_writes(path: Path, seconds: float) -> float:
    """Write 4 KiB anywhere in a file, each made durable before the next; return how many a second."""
    rng = random.Random(4)
    path.write_bytes(bytes(SYNCED_BYTES))
    with path.open("r+b", buffering=0) as file:
        os.fsync(file.fileno())
        began, count = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            os.pwrite(file.fileno(), rng.randbytes(4096), rng.randrange(0, SYNCED_BYTES, 4096))
            os.fsync(file.fileno())
            count += 1
        return count / (time.monotonic() - began)
