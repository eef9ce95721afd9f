"""What each kind of --page-cache keeps in memory, and how fast an image in memory is.

memory
    Bytes of origin, cache and image in the host's page cache for each byte of the image, after it was read three times.
warm read
    1 MiB at a time from an image that is in the page cache, by turns with a file in tmpfs, and with a plain file that
    is in the page cache.  FUSE and tmpfs have memory in pages of 4 KiB; other file systems may have larger pieces.
loop
    1 MiB reads and writes at depth 4 of a loop device on the image (scripts/losetup; root only), with requests of at
    most 128 KiB and of at most 1 MiB.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from scripts.benchmarks.page_counts import cached_bytes, drop_cached
from scripts.benchmarks.rig import fusecache
from scripts.benchmarks.rig import run as run_command
from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure, compared
from scripts.benchmarks.suite.fio import Job, fio

MIB: Final = 2**20
KINDS: Final = {"stores": 1.1, "image": 1.1, "none": 0.05}
"""With the most that each may have in memory for each byte of the image."""
LOSETUP: Final = Path(__file__).parents[2] / "losetup"
REQUESTS: Final = (128, 1024)
"""KiB."""


def run(context: Context) -> Iterator[Figure]:
    """Count, then compare speeds."""
    size = context.pick(full=1024, quick=64, smoke=16) * MIB
    with context.scratch(on_disk=True) as scratch:
        origin = _make_origin(scratch / "origin", size)
        for kind, most in KINDS.items():
            with _mounted(origin, scratch / kind, kind) as image:
                held = _held_after_reading(scratch / kind, origin, image)
            yield Figure(name=f"memory, {kind}", value=held / size, unit="of the image", at_most=most)
        yield from _warm_reads(context, origin, scratch)
        if os.geteuid() == 0:
            with _mounted(origin, scratch / "loop", "none") as image:
                yield from _loop(context, image, scratch)


def _make_origin(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(random.Random(number).randbytes(MIB))
        file.flush()
        drop_cached(file.fileno())
    return path


@contextmanager
def _mounted(origin: Path, directory: Path, kind: str) -> Iterator[Path]:
    options = ("--page-cache", kind, "--cache-size", str(origin.stat().st_size // 4))
    with fusecache(origin, directory, *options) as cache:
        yield cache.image


def _held_after_reading(directory: Path, origin: Path, image: Path) -> int:
    """Read the image three times; return what is in memory of it, its origin and the cache."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in (origin, directory / "cache", image)]
        for file in files[:2]:
            drop_cached(file.fileno())
        for _ in range(3):
            _read(files[2].fileno())
        return sum(cached_bytes(file.fileno()) for file in files)


def _read(fd: int) -> float:
    """Read a file from begin to end; return bytes a second."""
    size = os.fstat(fd).st_size
    began = time.perf_counter()
    for offset in range(0, size, MIB):
        os.pread(fd, MIB, offset)
    return size / (time.perf_counter() - began)


def _warm_reads(context: Context, origin: Path, scratch: Path) -> Iterator[Figure]:
    rounds: dict[str, list[float]] = defaultdict(list)
    with _mounted(origin, scratch / "warm", "image") as image, context.scratch() as memory, ExitStack() as stack:
        copy = Path(shutil.copy(origin, memory / "copy"))
        fds = {}
        for system, path in (("none", origin), ("memory", copy), ("fusecache", image)):
            fds[system] = stack.enter_context(path.open("rb")).fileno()
            _read(fds[system])
        for _ in range(context.rounds):
            for system, fd in fds.items():
                rounds[system].append(_read(fd) / MIB)
    yield from compared("warm read", rounds, unit="MiB/s", baseline="memory", at_least={"fusecache": 0.8})


def _loop(context: Context, image: Path, scratch: Path) -> Iterator[Figure]:
    device = Path(run_command(LOSETUP, image).strip())
    most = Path("/sys/block") / device.name / "queue" / "max_sectors_kb"
    rounds: dict[tuple[str, int], list[float]] = defaultdict(list)
    try:
        for number in range(context.rounds):
            for largest in REQUESTS:
                most.write_text(str(largest))
                for rw in ("read", "write"):
                    seconds = context.pick(full=3.0, quick=0.4, smoke=0.2)
                    job = Job(rw=rw, block="1m", depth=4, size=image.stat().st_size, seed=number, seconds=seconds)
                    rounds[rw, largest].append(fio(device, job, scratch).mib_per_second)
    finally:
        run_command(LOSETUP, "--detach", device)
    for rw in ("read", "write"):
        by_size = {f"{largest} KiB": rounds[rw, largest] for largest in REQUESTS}
        yield from compared(f"loop, {rw}", by_size, unit="MiB/s", baseline=f"{REQUESTS[0]} KiB")
