"""Page caches: what is in memory because of a mount, and what that is good for."""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from scripts.benchmarks.counters import cached_bytes, drop_cached
from scripts.benchmarks.rig import MIB, ROOT, Cache, fusecache, make_image, run
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.measuring import Context, Figure, compared

KINDS: Final = {"stores": 1.1, "image": 1.1, "none": 0.05}
"""With the most that each may have in memory for each byte of the image."""
LOSETUP: Final = ROOT / "scripts" / "losetup"
REQUESTS: Final = (128, 1024)  # KiB
JOBS: Final = {f"loop, {rw}": Job(rw, "1M", depth=4) for rw in ("read", "write")}


def pages(context: Context) -> Iterator[Figure]:
    """Measure what each kind of --page-cache keeps in memory, and how fast an image in memory is.

    *Memory*: what of origin, cache and image is in the host's page cache after the image was read three times.  *Warm
    read*: 1 MiB at a time from an image in the page cache, by turns with a file in tmpfs (*memory*) and a plain file in
    the page cache (*none*).  *Loop*: 1 MiB reads and writes at depth 4 of a loop device on the image (scripts/losetup;
    root only), with requests of at most 128 KiB and of at most 1 MiB.
    """
    with context.scratch(on_disk=True) as scratch:
        origin = scratch / "origin"
        make_image(origin, context.pick(full=1024, quick=64, smoke=16) * MIB)
        for kind, most in KINDS.items():
            options = ("--page-cache", kind, "--cache-size", str(origin.stat().st_size // 4))
            with fusecache(origin, scratch / kind, *options) as cache:
                held = _held_after_reading(origin, cache) / origin.stat().st_size
                yield Figure(name=f"memory, {kind}", value=held, unit="of the image", at_most=most)
                if kind == "image":
                    yield from _warm_reads(context, origin, cache.image)
                if kind == "none" and os.geteuid() == 0:
                    yield from _loop(context, cache.image, scratch)


def _held_after_reading(origin: Path, cache: Cache) -> int:
    """Read the image three times; return what is in memory of it, its origin and the cache."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in (origin, cache.file, cache.image)]
        for file in files[:2]:
            drop_cached(file.fileno())
        for _ in range(3):
            _read(files[2].fileno())
        return sum(cached_bytes(file.fileno()) for file in files)


def _read(fd: int) -> float:
    """Read a file from begin to end; return MiB a second."""
    size = os.fstat(fd).st_size
    began = time.perf_counter()
    for offset in range(0, size, MIB):
        os.pread(fd, MIB, offset)
    return size / MIB / (time.perf_counter() - began)


def _warm_reads(context: Context, origin: Path, image: Path) -> Iterator[Figure]:
    rounds: dict[str, list[float]] = defaultdict(list)
    with context.scratch() as memory, ExitStack() as stack:
        copy = Path(shutil.copy(origin, memory / "copy"))
        paths = {"none": origin, "memory": copy, "fusecache": image}
        fds = {system: stack.enter_context(path.open("rb")).fileno() for system, path in paths.items()}
        for fd in fds.values():
            _read(fd)
        for _ in range(context.rounds):
            for system, fd in fds.items():
                rounds[system].append(_read(fd))
    yield from compared("warm read", rounds, unit="MiB/s", baseline="memory", at_least=0.8)


def _loop(context: Context, image: Path, scratch: Path) -> Iterator[Figure]:
    device = Path(run(LOSETUP, image).strip())
    most = Path("/sys/block") / device.name / "queue" / "max_sectors_kb"
    speeds: dict[str, dict[str, list[float]]] = {name: {f"{kib} KiB": [] for kib in REQUESTS} for name in JOBS}
    try:
        for number in range(context.rounds):
            for kib in REQUESTS:
                most.write_text(str(kib))
                for name, job in JOBS.items():
                    seconds = context.pick(full=3.0, quick=0.4, smoke=0.2)
                    result = fio(device, job, scratch, seconds=seconds, seed=number)
                    speeds[name][f"{kib} KiB"].append(result.speed("MiB/s"))
    finally:
        run(LOSETUP, "--detach", device)
    for name, by_size in speeds.items():
        yield from compared(name, by_size, unit="MiB/s", baseline=f"{REQUESTS[0]} KiB")
