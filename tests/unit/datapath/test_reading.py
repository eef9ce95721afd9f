"""Reads, and the memory that they are answered from."""

from __future__ import annotations

import pytest
import trio

from fusecache.config import MIB
from tests.unit.worlds import BLOCK, World, settle, virtual


@virtual
async def test_a_hit_larger_than_any_usual_request_is_whole() -> None:
    world = World(cache_blocks=2, origin_blocks=2, block_size=4 * MIB)
    world.load(0, 0)
    async with world.running():
        assert await world.cache.read(MIB, 2 * MIB) == b"c" * 2 * MIB
        assert await world.cache.read(0, 6 * MIB) == b"c" * 4 * MIB + b"o" * 2 * MIB


@virtual
async def test_hits_need_no_memory_of_their_own() -> None:
    world = World()
    world.load(3, 1)
    async with world.running():
        first = memoryview(await world.cache.read(3 * BLOCK, BLOCK))
        second = memoryview(await world.cache.read(3 * BLOCK, BLOCK))
        assert first.obj is second.obj


@pytest.mark.parametrize("blocks", [1, 2])
@virtual
async def test_a_read_that_waits_has_memory_of_its_own(blocks: int) -> None:
    world = World()
    world.load(3, 1)
    answers: list[bytes] = []
    released = trio.Event()

    async def slow(name: str) -> None:
        if name == "read":
            await released.wait()

    async def read() -> None:
        answers.append(bytes(await world.cache.read((5 - blocks) * BLOCK, blocks * BLOCK)))

    world.origin.at_once = False
    world.origin.before = slow
    async with world.running() as nursery:
        nursery.start_soon(read)
        await settle()
        assert not answers
        await world.cache.write(3 * BLOCK, b"n" * BLOCK)
        await world.cache.read(3 * BLOCK, BLOCK)
        released.set()
        await settle()
    assert answers == [(b"c" * BLOCK + b"o" * BLOCK)[-blocks * BLOCK :]]
