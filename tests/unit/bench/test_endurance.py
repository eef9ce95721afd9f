"""Nothing piles up over many requests; scripts/bench --sections endurance has the long version of this."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import trio
from trio.testing import MockClock

from policies import create_policy
from tests.unit.worlds import World, settle

CACHE_BLOCKS = 64
ORIGIN_BLOCKS = 8 * CACHE_BLOCKS
BLOCK = 16384
LENGTH = 4096
SOME = 4_000


class SmqWorld(World):
    """A cached disk with the policy that mounts have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes: dict[str, Any] = {"cache_blocks": CACHE_BLOCKS, "origin_blocks": ORIGIN_BLOCKS, "block_size": BLOCK}
        self.volume.policy = create_policy("smq", **sizes)

    def forget_calls(self) -> None:
        """Have nothing left of what tests may ask for."""
        for calls in (self.origin.calls, self.cached.calls, self.record.batches):
            calls.clear()


def draws(seed: int) -> Iterator[tuple[bool, int]]:
    """Draw requests, reads and writes, by Zipf's law with exponent 1, another ranking for each seed."""
    rng = random.Random(seed)
    for _ in range(SOME):
        block = (int(ORIGIN_BLOCKS ** rng.random()) * 0x9E3779B1 + seed * 7919) % ORIGIN_BLOCKS
        yield rng.random() < 0.1, block * BLOCK + rng.randrange(BLOCK // LENGTH) * LENGTH


async def serve(world: World, clock: MockClock, seed: int) -> None:
    """Do requests one after the other, while time goes on."""
    data = bytes(LENGTH)
    for number, (write, offset) in enumerate(draws(seed), 1):
        await (world.cache.write(offset, data) if write else world.cache.read(offset, LENGTH))
        if number % 1000 == 0:
            await world.cache.flush()
        if number % 100 == 0:
            clock.jump(1)
            world.volume.tick()
            world.worker.wake()
            world.durability.commit_later(close_regions=number % 500 == 0)
            await settle()


def test_requests_leave_nothing_behind() -> None:
    async def main() -> list[int]:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        world = SmqWorld(cache_blocks=CACHE_BLOCKS, origin_blocks=ORIGIN_BLOCKS, block_size=BLOCK)
        traced = []
        async with world.running():
            for seed in range(6):
                await serve(world, clock, seed)
                world.forget_calls()
                gc.collect()
                traced.append(tracemalloc.get_traced_memory()[0])
        stats = world.volume.counters
        assert min(stats.promotions, stats.demotions, stats.writebacks) > CACHE_BLOCKS // 2
        assert stats.read_hits + stats.write_hits > SOME
        return traced

    tracemalloc.start()
    try:
        traced = trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        tracemalloc.stop()
    least, most = min(traced[2:]), max(traced[2:])
    # Tables grow and shrink by some kilobytes; no object is smaller than 16 bytes, and three parts lie in between.
    assert most - least < 4 * SOME, traced
