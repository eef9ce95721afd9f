"""Send millions of requests through the cache, in this process and without any disk, and watch the memory.

Everything above the stores is the real thing: data path, policy, migrations, record keeping.  Stores answer at once and
remember nothing, and time is virtual: it moves a second on every so many requests.  Blocks are drawn by Zipf's law over
an image of eight times the cache, and the ranking moves on, so that blocks go on being promoted, written back and
demoted; one in ten requests writes.  What the process takes is measured at some counts of requests, after the first
of which it is not to grow any more.

As a program it prints one JSON object; a section of scripts/bench runs it so, in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import trio
import trio.testing

from fusecache.block import BlockLocks, Geometry, Mapping
from fusecache.datapath import Disk
from fusecache.durability import Durability
from fusecache.jobs import Flusher, Jobs
from fusecache.metadata import Transaction, region_blocks_for
from fusecache.migration import MigrationWorker
from fusecache.stores import Data
from fusecache.volume import Volume
from policies import create_policy

BLOCK: Final = 16384
CACHE_BLOCKS: Final = 4096
IMAGE_FACTOR: Final = 8
LENGTH: Final = 4096
REQUESTS_A_SECOND: Final = 5000
FSYNC_EVERY: Final = 1000
SECONDS_PER_CLOSING: Final = 5
MOVE_EVERY: Final = 100_000
"""Requests after which the ranking of the blocks moves on."""
_SPREAD: Final = 0x9E3779B1
_PAGE: Final = 4096


class InstantStore:
    """A store that has done everything at once, and remembers nothing."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.unflushed = False

    def read_nowait(self, offset: int, into: bytearray | memoryview) -> bool:
        """See :class:`fusecache.stores.base.Store`, as for all of these."""
        return True

    async def read(self, offset: int, into: bytearray | memoryview) -> None:
        """See above."""
        await trio.lowlevel.checkpoint()

    def write_nowait(self, offset: int, data: Data) -> bool:
        """See above."""
        return True

    async def write(self, offset: int, data: Data) -> None:
        """See above."""
        await trio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """See above."""
        await trio.lowlevel.checkpoint()

    async def discard(self, offset: int, length: int) -> None:
        """See above."""
        await trio.lowlevel.checkpoint()

    async def forget(self, offset: int, length: int) -> None:
        """See above."""
        await trio.lowlevel.checkpoint()


class InstantRecord:
    """A record that nobody will read."""

    async def commit(self, batch: Transaction) -> None:
        """See :class:`fusecache.metadata.record.Record`."""
        await trio.lowlevel.checkpoint()

    async def save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        """See above."""
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found after so many requests: bytes of memory, and counters since the start."""

    requests: int
    memory: int
    hits: int
    promotions: int
    demotions: int
    writebacks: int
    seconds: float


class BenchDisk:
    """The cached disk."""

    def __init__(self, cache_blocks: int) -> None:
        geometry = Geometry(cache_blocks * IMAGE_FACTOR * BLOCK, BLOCK, cache_blocks)
        mapping, locks = Mapping(cache_blocks), BlockLocks()
        cache, origin = InstantStore(cache_blocks * BLOCK), InstantStore(geometry.image_bytes)
        self.volume = Volume(
            geometry=geometry,
            mapping=mapping,
            locks=locks,
            policy=create_policy(
                "smq", cache_blocks=cache_blocks, origin_blocks=geometry.origin_blocks, block_size=BLOCK
            ),
            cache=cache,
            origin=origin,
            durability=Durability(
                mapping,
                locks,
                cache=cache,
                origin=origin,
                record=InstantRecord(),
                region_blocks=region_blocks_for(cache_blocks),
                open_regions=set(),
            ),
        )
        self.worker = MigrationWorker(self.volume)
        self.flusher = Flusher(self.volume, self.worker, Jobs(BLOCK, trio.current_time))
        self.cache = Disk(self.volume, self.worker)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what a mount runs beside its requests."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.volume.durability.run)
            nursery.start_soon(self.worker.run)
            nursery.start_soon(self.flusher.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()

    async def serve(
        self, requests: Iterable[tuple[bool, int]], clock: trio.testing.MockClock, a_second: int = REQUESTS_A_SECOND
    ) -> None:
        """Do requests, ``(is a write, offset)`` each, one after the other, while time goes on."""
        data = bytes(LENGTH)
        seconds = 0
        for number, (write, offset) in enumerate(requests, 1):
            if write:
                await self.cache.write(offset, data)
            else:
                await self.cache.read(offset, LENGTH)
            if number % FSYNC_EVERY == 0:
                await self.cache.flush()
            if number % a_second == 0:
                seconds += 1
                clock.jump(1)
                self.volume.tick()
                self.worker.wake()
                self.volume.durability.commit_later(close_regions=seconds % SECONDS_PER_CLOSING == 0)
                await trio.testing.wait_all_tasks_blocked()

    def reading(self, requests: int, began: float) -> Reading:
        """Look at the memory and the counters."""
        stats = self.volume.counters
        return Reading(
            requests=requests,
            memory=resident_bytes(),
            hits=stats.read_hits + stats.write_hits,
            promotions=stats.promotions,
            demotions=stats.demotions,
            writebacks=stats.writebacks,
            seconds=time.perf_counter() - began,
        )


def draws(blocks: int, seed: int, count: int) -> Iterator[tuple[bool, int]]:
    """Draw requests: Zipf's law with exponent 1, another ranking for each seed that is half the same as the last."""
    rng = random.Random(seed)
    for _ in range(count):
        rank = int(blocks ** rng.random())
        block = (rank * _SPREAD + (seed if rank % 2 else seed // 2) * 7919) % blocks
        yield rng.random() < 0.1, block * BLOCK + rng.randrange(BLOCK // LENGTH) * LENGTH


def resident_bytes() -> int:
    """Return how much memory this process takes, once what is free is given back to the collector."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


async def endure(counts: list[int], cache_blocks: int) -> list[Reading]:
    """Send as many requests as the last of ``counts`` says; look after each of them, and at the start."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    disk = BenchDisk(cache_blocks)
    blocks = cache_blocks * IMAGE_FACTOR
    began = time.perf_counter()
    readings = [disk.reading(0, began)]
    done = 0
    async with disk.running():
        for count in counts:
            while done < count:
                some = min(MOVE_EVERY, count - done)
                await disk.serve(draws(blocks, done // MOVE_EVERY, some), clock)
                done += some
            readings.append(disk.reading(done, began))
    return readings


def main() -> int:
    """Print what was found as JSON."""
    parser = argparse.ArgumentParser(prog="endurance", description=(__doc__ or "").strip())
    parser.add_argument("counts", type=int, nargs="+", metavar="REQUESTS", help="when to look; the last one ends it")
    parser.add_argument("--cache-blocks", type=int, default=CACHE_BLOCKS)
    options = parser.parse_args()
    readings = trio.run(
        endure, options.counts, options.cache_blocks, clock=trio.testing.MockClock(autojump_threshold=0)
    )
    print(json.dumps([asdict(reading) for reading in readings]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
