from __future__ import annotations

import trio

from fusecache.block.locks import ALL_OUT
from fusecache.errors import StoreError
from policies import Op
from tests.unit.worlds import BLOCK, World, settle, virtual

# Migrations that come with a request


@virtual
async def test_a_whole_block_is_promoted_by_its_own_write() -> None:
    world = World()
    world.policy.overwrites = {5: 2}
    async with world.running():
        assert await world.cache.write(5 * BLOCK, b"n" * BLOCK) == BLOCK
        assert world.mapping.find(5) == 2
        assert world.cache_block(2) == b"n" * BLOCK
        assert world.mapping.dirty_count == 1
        assert world.policy.dirty == {2}
        assert world.origin_block(5) == b"o" * BLOCK
        assert "read" not in world.origin.names()


@virtual
async def test_an_overwrite_that_the_cache_refuses_goes_to_the_origin() -> None:
    world = World()
    world.policy.overwrites = {5: 2}
    world.cached.errors["write"] = StoreError("dead")
    async with world.running():
        assert await world.cache.write(5 * BLOCK, b"n" * BLOCK) == BLOCK
        assert world.mapping.find(5) == -1
        assert world.origin_block(5) == b"n" * BLOCK
        assert world.policy.completed == [(Op.PROMOTE, 5, False)]


@virtual
async def test_overwrites_of_several_blocks_beside_those_who_wait_for_writers() -> None:
    world = World()
    world.policy.overwrites = {0: 0, 1: 1}
    async with world.running():
        async with trio.open_nursery() as nursery:  # one of the two comes after the write, whatever the order
            nursery.start_soon(world.locks.drain_writers)
            nursery.start_soon(world.cache.write, 0, b"n" * 2 * BLOCK)
            nursery.start_soon(world.locks.drain_writers)
        assert bytes(await world.cache.read(0, 2 * BLOCK)) == b"n" * 2 * BLOCK
        assert world.mapping.dirty_count == 2


@virtual
async def test_cleaning_parks_until_the_block_is_free_and_needs_no_policy() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running() as nursery:
        world.locks.try_exclusive(5, ALL_OUT)
        nursery.start_soon(world.worker.steps.clean, 5)
        await settle()
        assert world.mapping.dirty_count == 1
        world.locks.end_exclusive(5)
        await settle()
        assert world.mapping.dirty_count == 0
        assert world.origin_block(5) == b"c" * BLOCK
        await world.worker.steps.clean(6)  # not cached
        assert world.policy.completed == []
