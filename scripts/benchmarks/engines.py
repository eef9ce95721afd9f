"""What does I/O that waits the best: the event loop itself, io_uring, or threads.

Random I/O of each engine in turn, by tasks of one event loop, on a file in the page cache (``warm``), on one of which
nothing is (``cold``; what lies below may have a cache of its own), and on a disk that is distant but parallel (``net``;
slow_disk.py).  *inline* reads in the event loop, which waits meanwhile; *nowait* does so if RWF_NOWAIT says that the
answer is not in memory.  Beside the operations a second stands how late a task was, in the worst case, that only
wanted to sleep for a millisecond.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import trio
from rich.console import Console

from fusecache.stores import Data, Engine, ThreadEngine, make_engine
from scripts.benchmarks.rig import slow_disk

FILE_BYTES: Final = 256 * 1024 * 1024
SIZES: Final = {"4k": 4096, "256k": 262144}
DEPTHS: Final = (1, 16)
NAP: Final = 0.001
CASES: Final = [
    *((operation, size) for operation in ("read", "write") for size in SIZES),
    ("fdatasync", "4k"),
]


class Inline:
    """Whatever it is, the event loop does it."""

    name = "inline"
    parallelism = 1

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        """Read, and let others run."""
        os.preadv(fd, (into,), position)
        await trio.lowlevel.checkpoint()

    async def write(self, fd: int, data: Data, position: int) -> None:
        """Write, and let others run."""
        os.pwrite(fd, data, position)
        await trio.lowlevel.checkpoint()

    async def fdatasync(self, fd: int) -> None:
        """Flush, and let others run."""
        os.fdatasync(fd)
        await trio.lowlevel.checkpoint()

    async def discard(self, fd: int, position: int, length: int) -> None:
        """Keep it."""

    def close(self) -> None:
        """Hold nothing."""


class Nowait(Inline):
    """Likewise, but it asks the page cache first."""

    name = "nowait"
    parallelism = 1

    async def read(self, fd: int, into: bytearray | memoryview, position: int) -> None:
        """Read, and let others run."""
        try:
            os.preadv(fd, (into,), position, os.RWF_NOWAIT)
        except OSError:
            os.preadv(fd, (into,), position)
        await trio.lowlevel.checkpoint()


ENGINES: Final[dict[str, Callable[[int], Engine]]] = {
    "inline": lambda _: Inline(),
    "nowait": lambda _: Nowait(),
    "io_uring": make_engine,
    "threads": lambda _: ThreadEngine(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured: medians of all rounds."""

    place: str
    operation: str
    size: str
    depth: int
    engine: str
    per_second: float
    late_ms: float


async def measure(
    engine: Engine, operation: str, fd: int, size: int, depth: int, seconds: float
) -> tuple[float, float]:
    """Keep ``depth`` tasks busy; returns operations a second, and by how many seconds a nap was exceeded at worst."""
    blocks = os.fstat(fd).st_size // size
    data = bytes(size)
    count = 0
    latest = 0.0
    end = perf_counter() + seconds

    def once(position: int) -> Awaitable[None]:
        if operation == "read":
            return engine.read(fd, bytearray(size), position)
        return engine.write(fd, data, position) if operation == "write" else engine.fdatasync(fd)

    async def client(seed: int) -> None:
        nonlocal count
        places = random.Random(seed)
        while not count or perf_counter() < end:
            if operation == "fdatasync":
                os.pwrite(fd, data, places.randrange(blocks) * size)
            await once(places.randrange(blocks) * size)
            count += 1

    async def nap() -> None:
        nonlocal latest
        while True:
            before = perf_counter()
            await trio.sleep(NAP)
            latest = max(latest, perf_counter() - before - NAP)

    began = perf_counter()
    async with trio.open_nursery() as watch:
        watch.start_soon(nap)
        async with trio.open_nursery() as clients:
            for seed in range(depth):
                clients.start_soon(client, seed)
        watch.cancel_scope.cancel()
    return count / (perf_counter() - began), latest


def compare(place: str, path: Path, rounds: int, seconds: float) -> Iterator[Figure]:
    """Measure all engines by turns, in each case."""
    fd = os.open(path, os.O_RDWR)
    try:
        for (operation, size), depth in product(CASES, DEPTHS):
            if place == "cold" and operation != "read":
                continue  # the page cache takes writes, whatever it has
            results: dict[str, list[tuple[float, float]]] = {name: [] for name in ENGINES}
            for _ in range(rounds):
                for name, make in ENGINES.items():
                    if place == "cold":
                        os.fdatasync(fd)
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    engine = make(fd)
                    results[name].append(trio.run(measure, engine, operation, fd, SIZES[size], depth, seconds))
                    engine.close()
            for name, figures in results.items():
                yield Figure(
                    place=place,
                    operation=operation,
                    size=size,
                    depth=depth,
                    engine=name,
                    per_second=round(median(rate for rate, _ in figures), 1),
                    late_ms=round(median(late for _, late in figures) * 1000, 1),
                )
    finally:
        os.close(fd)


@contextmanager
def places(directory: Path | None) -> Iterator[dict[str, Path]]:
    """Make the files; nothing of them stays."""
    with tempfile.TemporaryDirectory(prefix="engines-", dir=directory) as scratch:
        near, far = Path(scratch, "near"), Path(scratch, "far")
        for file in (near, far):
            with file.open("wb") as output:
                for _ in range(FILE_BYTES // 2**20):
                    output.write(random.randbytes(2**20))
        with slow_disk("net", far, Path(scratch, "mnt")) as disk:
            yield {"warm": near, "cold": near, "net": disk.path}


def show(figures: list[Figure]) -> None:
    """Print a table: a line for each case, a column for each engine."""
    print("operations a second / worst delay of another task in ms\n")
    print(f"{'':24}" + "".join(f"{name:>20}" for name in ENGINES))
    for index in range(0, len(figures), len(ENGINES)):
        row = figures[index : index + len(ENGINES)]
        case = f"{row[0].place} {row[0].operation} {row[0].size} x {row[0].depth}"
        print(f"{case:24}" + "".join(f"{figure.per_second:>12,.0f} /{figure.late_ms:>6.1f}" for figure in row))


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench engines", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round: shows whether all works, proves nothing")
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken (5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each engine in each round and case (0.5)")
    parser.add_argument("--directory", type=Path, help="where the files lie, 512 MiB; else where temporary files do")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    options = parser.parse_args(arguments)
    rounds, seconds = (1, 0.05) if options.quick else (options.rounds, options.seconds)
    progress = Console(stderr=True, highlight=False)
    figures: list[Figure] = []
    with places(options.directory) as files:
        for place, path in files.items():
            progress.print(f"{place} ...")
            figures += compare(place, path, rounds, seconds)
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=1))
    else:
        show(figures)


if __name__ == "__main__":
    main(sys.argv[1:])
