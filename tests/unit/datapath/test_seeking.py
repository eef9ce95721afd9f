"""Where the image has data: what is cached, and what the origin has."""

from __future__ import annotations

import pytest
import trio

from fusecache.errors import StoreError
from tests.unit.worlds import BLOCK, World, settle, virtual

SECTOR = 512


async def data_of(world: World) -> list[tuple[int, int]]:
    """Walk over the image as a program does that copies its data only."""
    found = []
    begin = await world.cache.seek(0, hole=False)
    while begin is not None:
        end = await world.cache.seek(begin, hole=True)
        assert end is not None
        assert await world.cache.seek(begin, hole=False) == begin
        found.append((begin, end))
        begin = await world.cache.seek(end, hole=False)
    return found


def sparse_world() -> World:
    """Return a world whose origin has data in blocks 3 and 4, and in its tail."""
    world = World()
    end = world.geometry.tail_start
    world.origin.hole_ranges = [(0, 3 * BLOCK), (5 * BLOCK, end)]
    world.origin.data[: 3 * BLOCK] = bytes(3 * BLOCK)
    world.origin.data[5 * BLOCK : end] = bytes(end - 5 * BLOCK)
    return world


@virtual
async def test_an_origin_without_holes_is_all_data() -> None:
    world = World()
    async with world.running():
        assert await data_of(world) == [(0, world.geometry.image_bytes)]
        assert await world.cache.seek(700, hole=True) == world.geometry.image_bytes


@virtual
async def test_holes_are_the_origins_where_nothing_is_cached() -> None:
    world = sparse_world()
    size = world.geometry.image_bytes
    world.load(1, 0, dirty=True)
    world.load(6, 2, dirty=True, valid=0b1000_0110)
    world.load(4, 3)
    async with world.running():
        begin = 6 * BLOCK
        assert await data_of(world) == [
            (BLOCK, 2 * BLOCK),
            (3 * BLOCK, 5 * BLOCK),
            (begin + SECTOR, begin + 3 * SECTOR),
            (begin + 7 * SECTOR, begin + BLOCK),
            (world.geometry.tail_start, size),
        ]
        assert await world.cache.seek(BLOCK + 5, hole=False) == BLOCK + 5
        assert await world.cache.seek(5, hole=True) == 5
        await world.cache.discard(0, 8 * BLOCK)
        world.origin.hole_ranges = [(0, world.geometry.tail_start)]
        assert await data_of(world) == [(world.geometry.tail_start, size)]


@pytest.mark.parametrize("hole", [False, True])
@virtual
async def test_nothing_is_found_beyond_the_end(hole: bool) -> None:
    world = World()
    size = world.geometry.image_bytes
    for offset in (size, size + 1, -1):
        assert await world.cache.seek(offset, hole=hole) is None


@virtual
async def test_an_image_of_holes_has_no_data_and_others_run_meanwhile() -> None:
    world = World(origin_blocks=5000, tail=0)
    world.origin.hole_ranges = [(0, world.geometry.image_bytes)]
    world.load(4999, 1, dirty=True)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while turns < 4:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with world.running() as nursery:
        nursery.start_soon(turn)
        assert await world.cache.seek(0, hole=False) == 4999 * BLOCK
        assert turns == 4
        await world.cache.discard(4999 * BLOCK, BLOCK)
        assert await world.cache.seek(0, hole=False) is None
        assert await world.cache.seek(0, hole=True) == 0


@virtual
async def test_a_block_that_leaves_the_cache_meanwhile_does_not_count_as_a_hole() -> None:
    world = sparse_world()
    world.load(1, 0, dirty=True)
    asked = world.origin.holes

    async def ask_slowly(offset: int, length: int) -> list[tuple[int, int]]:
        found = await asked(offset, length)
        await world.worker.invalidate(1)
        return found

    async with world.running():
        world.origin.holes = ask_slowly  # type: ignore[method-assign]
        assert await world.cache.seek(0, hole=False) == BLOCK


@virtual
async def test_the_origin_is_flushed_before_it_is_asked_and_believed_only_if_it_can_be() -> None:
    world = sparse_world()
    async with world.running():
        assert await world.cache.seek(0, hole=True) == 0
        assert world.origin.names() == ["flush"]
        await world.cache.seek(0, hole=True)
        assert world.origin.names() == ["flush"]
        await world.cache.write(0, b"new")
        world.origin.errors["flush"] = StoreError("dead")
        assert await world.cache.seek(0, hole=False) == 0
        assert await world.cache.seek(0, hole=True) == world.geometry.image_bytes
        await settle()
