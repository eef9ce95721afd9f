"""Storage engines: ways for I/O to wait without anybody else waiting."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

import trio

from fusecache.stores import Engine, ThreadEngine, make_engine
from scripts.benchmarks.counters import drop_cached
from scripts.benchmarks.rig import MIB, make_image, slow_disk
from scripts.benchmarks.suite.measuring import Context, Figure, compared

PAGE: Final = 4096
DEPTHS: Final = (1, 16)
NAP: Final = 0.001
CASES: Final = {
    "4 KiB read": ("read", PAGE),
    "256 KiB read": ("read", 64 * PAGE),
    "4 KiB write": ("write", PAGE),
    "256 KiB write": ("write", 64 * PAGE),
    "fdatasync": ("fdatasync", PAGE),
}
ENGINES: Final[dict[str, Callable[[int], Engine | None]]] = {
    "inline": lambda _: None,
    "io_uring": make_engine,
    "threads": lambda _: ThreadEngine(),
}
"""Given the file; none: the event loop does it all."""


def engines(context: Context) -> Iterator[Figure]:
    """Find out what does I/O that waits the best: the event loop itself, io_uring, or threads.

    Random I/O of each engine in turn, by tasks of one event loop, on a file in the page cache (``warm``), on one of
    which nothing is (``cold``; what lies below may have a cache of its own), both on the disk, and on a disk that is
    distant but parallel (``net``; slow_disk.py).  Below the operations a second stands how late a task was, in the
    worst case, that only wanted to sleep for a millisecond.
    """
    with context.scratch(on_disk=True) as near, context.scratch() as far:
        for directory in (near, far):
            make_image(directory / "file", context.pick(full=256, quick=64, smoke=4) * MIB)
        with slow_disk("net", far / "file", far / "mnt") as disk:
            for place, path in (("warm", near / "file"), ("cold", near / "file"), ("net", disk)):
                context.say(f"engines: {place}")
                yield from compare(place, path, context.rounds, context.pick(full=0.5, quick=0.05, smoke=0.01))


def compare(place: str, path: Path, rounds: int, seconds: float) -> Iterator[Figure]:
    """Measure all engines by turns, in each case."""
    fd = os.open(path, os.O_RDWR)
    try:
        for (case, (operation, size)), depth in product(CASES.items(), DEPTHS):
            if place == "cold" and operation != "read":
                continue  # the page cache takes writes, whatever it has
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in ENGINES}
            for _ in range(rounds):
                for name, make in ENGINES.items():
                    if place == "cold":
                        drop_cached(fd)
                    engine = make(fd)
                    found[name].append(trio.run(measure, engine, operation, fd, size, depth, seconds))
                    if engine:
                        engine.close()
            rates = {name: [rate for rate, _ in each] for name, each in found.items()}
            late = {name: f"{median(ms for _, ms in each):.1f} ms late" for name, each in found.items()}
            yield from compared(f"{place}, {case}, depth {depth}", rates, unit="1/s", notes=late)
    finally:
        os.close(fd)


async def measure(
    engine: Engine | None, operation: str, fd: int, size: int, depth: int, seconds: float
) -> tuple[float, float]:
    """Keep ``depth`` tasks busy; returns operations a second, and by how many ms a nap was exceeded at worst."""
    blocks = os.fstat(fd).st_size // size
    data = bytes(size)
    count = 0
    latest = 0.0
    end = perf_counter() + seconds

    async def once(position: int) -> None:
        if operation == "read":
            into = bytearray(size)
            await (engine.read(fd, into, position) if engine else inline(os.preadv, fd, [into], position))
        elif operation == "write":
            await (engine.write(fd, data, position) if engine else inline(os.pwrite, fd, data, position))
        else:
            os.pwrite(fd, data, position)
            await (engine.fdatasync(fd) if engine else inline(os.fdatasync, fd))

    async def inline(call: Callable[..., object], *args: object) -> None:
        call(*args)
        await trio.lowlevel.checkpoint()

    async def client(seed: int) -> None:
        nonlocal count
        places = random.Random(seed)
        while not count or perf_counter() < end:
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
    return count / (perf_counter() - began), latest * 1000
