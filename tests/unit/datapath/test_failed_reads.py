"""What the cache cannot give: clean blocks come from the origin and are dropped, dirty ones are EIO for just that."""

from __future__ import annotations

import pytest
import trio

from fusecache.errors import StoreError
from policies import Op
from tests.unit.worlds import BLOCK, World, settle, virtual


@pytest.mark.parametrize("at_once", [True, False])
@virtual
async def test_a_clean_block_is_served_from_the_origin_and_dropped(at_once: bool) -> None:
    world = World()
    world.cached.at_once = at_once
    world.load(5, 2)
    world.load(6, 3)
    world.cached.dead = {2 * BLOCK + 100}
    async with world.running():
        assert await world.cache.read(5 * BLOCK, BLOCK) == b"o" * BLOCK
        await settle()
        assert world.mapping.find(5) == -1
        assert world.policy.index == {6: 3}
        assert world.record.rows == {3: (6, False)}
        assert world.volume.counters.cache_errors >= 1
        assert world.volume.health.state == "ok"


@virtual
async def test_a_read_beside_the_bad_place_is_a_hit() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.cached.dead = {2 * BLOCK + 100}
    async with world.running():
        assert await world.cache.read(5 * BLOCK + 101, 200) == b"c" * 200
        assert world.volume.counters.cache_errors == 0


@virtual
async def test_a_dirty_block_is_an_error_for_just_what_was_asked_for_and_is_remembered() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.cached.dead = {2 * BLOCK + 1000}
    async with world.running():
        with pytest.raises(StoreError, match=rf"bytes {5 * BLOCK + 512} to {5 * BLOCK + 1536} of the image"):
            await world.cache.read(5 * BLOCK + 512, 1024)
        assert list(world.volume.health.lost) == [(5 * BLOCK + 512, 5 * BLOCK + 1536)]
        assert world.volume.health.state == "degraded"
        assert world.mapping.find(5) == 2
        assert world.mapping.dirty_count == 1


@virtual
async def test_of_a_large_read_only_the_bad_dirty_block_is_lost_and_bad_clean_ones_are_dropped() -> None:
    world = World()
    for oblock in range(4):
        world.load(oblock, oblock, dirty=oblock in {1, 3})
    world.cached.dead = {10, BLOCK + 10}
    async with world.running():
        with pytest.raises(StoreError, match=f"bytes {BLOCK} to {2 * BLOCK} "):
            await world.cache.read(0, 4 * BLOCK)
        await settle()
        assert list(world.volume.health.lost) == [(BLOCK, 2 * BLOCK)]
        assert world.mapping.find(0) == -1
        assert [world.mapping.find(oblock) for oblock in (1, 2, 3)] == [1, 2, 3]
        assert await world.cache.read(0, BLOCK) == b"o" * BLOCK
        assert await world.cache.read(2 * BLOCK, 2 * BLOCK) == b"c" * 2 * BLOCK


@virtual
async def test_of_a_large_read_every_piece_comes_from_where_it_is_good() -> None:
    world = World()
    for oblock in range(4):
        world.load(oblock, oblock, dirty=oblock == 3)
    world.cached.dead = {110, 2 * BLOCK + 10}
    async with world.running():
        assert await world.cache.read(100, 4 * BLOCK) == (
            b"o" * (BLOCK - 100) + b"c" * BLOCK + b"o" * BLOCK + b"c" * BLOCK + b"o" * 100
        )
        await settle()
        assert dict(world.mapping.mapped()) == {1: 1, 3: 3}


@virtual
async def test_a_clean_block_that_neither_store_gives_is_an_error_and_stays() -> None:
    world = World()
    world.load(5, 2)
    world.cached.dead = {2 * BLOCK}
    world.origin.dead = {5 * BLOCK}
    async with world.running():
        with pytest.raises(StoreError):
            await world.cache.read(5 * BLOCK, 10)
        await settle()
        assert world.mapping.find(5) == 2
        assert world.volume.counters.origin_errors == 1
        world.cached.dead.clear()
        assert await world.cache.read(5 * BLOCK, 10) == b"c" * 10


@pytest.mark.parametrize("op", [Op.WRITEBACK, Op.DEMOTE])
@virtual
async def test_a_migration_finds_out_which_pages_are_lost_and_forgets_it_when_they_can_be_read(op: Op) -> None:
    world = World(cache_blocks=2, origin_blocks=4, block_size=4 * BLOCK)
    size = world.geometry.block_size
    world.load(1, 1, dirty=True)
    world.cached.dead = {size + 2 * BLOCK + 7, size + 3 * BLOCK}
    async with world.running():
        world.ask(op, 1, 1)
        await settle()
        assert world.policy.completed == [(op, 1, False)]
        assert list(world.volume.health.lost) == [(size + 2 * BLOCK, 2 * size)]
        assert world.mapping.dirty_count == 1
        assert await world.cache.read(size, 2 * BLOCK) == b"c" * 2 * BLOCK
        world.cached.dead.clear()
        await trio.sleep(60)
        world.ask(op, 1, 1)
        await settle()
        assert world.policy.completed[1:] == [(op, 1, True)]
        assert not list(world.volume.health.lost)
        assert world.volume.health.state == "ok"
        assert world.origin_block(1) == b"c" * size


@virtual
async def test_an_unreadable_block_that_cannot_be_dropped_yet_goes_on_being_served() -> None:
    world = World()
    world.load(5, 2)
    world.cached.dead = {2 * BLOCK}
    world.origin.errors["flush"] = StoreError("dead")
    world.volume.durability.rows.removing(3)  # something else waits for the origin in the same round
    async with world.running():
        assert await world.cache.read(5 * BLOCK, 10) == b"o" * 10
        await settle()
        assert await world.cache.read(5 * BLOCK, 10) == b"o" * 10
        world.origin.errors.clear()
        await settle()


@virtual
async def test_a_block_that_turned_dirty_before_it_could_be_dropped_is_not_lost() -> None:
    world = World()
    world.load(5, 2)
    world.cached.dead = {2 * BLOCK}
    async with world.running():
        await world.durability.record_intent(2)
        async with world.worker.paused():
            assert await world.cache.read(5 * BLOCK, 10) == b"o" * 10
            await world.cache.write(5 * BLOCK + 512, b"newest")
            await settle()
            assert world.mapping.dirty_count == 1
        await settle()
        assert world.mapping.find(5) == 2  # it could not be copied back whole
        assert await world.cache.read(5 * BLOCK + 512, 6) == b"newest"
        assert list(world.volume.health.lost) == [(5 * BLOCK, 6 * BLOCK)]
        world.cached.dead.clear()
        await world.flusher.flush()
        assert world.origin_block(5)[512:518] == b"newest"
        assert not len(world.volume.health.lost)
