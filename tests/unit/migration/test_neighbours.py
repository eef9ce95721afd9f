"""Promotions and writebacks of blocks that are neighbours at the origin."""

from __future__ import annotations

import pytest
import trio

from fusecache.block.locks import ALL_OUT, WRITERS_OUT
from fusecache.block.states import WRITEBACK_IN_FLIGHT
from fusecache.config import COPY_SIZE
from fusecache.errors import FusecacheError, StoreError
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual

FIRST = 4
NEIGHBOURS = range(FIRST, FIRST + 4)


def dirty_world() -> World:
    """Four neighbours at the origin, dirty, in disorder in the cache."""
    world = World(cache_blocks=8)
    for oblock, cblock in zip(NEIGHBOURS, (6, 1, 3, 0), strict=True):
        world.load(oblock, cblock, dirty=True)
        world.cached.data[cblock * BLOCK : (cblock + 1) * BLOCK] = bytes([oblock]) * BLOCK
    return world


def writes_of(world: World) -> list[tuple[int, int]]:
    """Tell what was written to the origin: first block, and how many."""
    return [(offset // BLOCK, length // BLOCK) for name, offset, length in world.origin.calls if name == "write"]


def ask_all(world: World, op: Op, cblocks: dict[int, int]) -> None:
    for oblock, cblock in cblocks.items():
        world.policy.queue.appendleft(Work(op, oblock, cblock))
    world.worker.wake()


def is_written(world: World, oblock: int) -> bool:
    return world.origin_block(oblock) == bytes([oblock]) * BLOCK


@virtual
async def test_neighbours_are_written_back_as_one() -> None:
    world = dirty_world()
    async with world.running():
        ask_all(world, Op.WRITEBACK, {oblock: world.mapping.find(oblock) for oblock in NEIGHBOURS})
        await settle()
        assert writes_of(world) == [(FIRST, 4)]
        assert all(is_written(world, oblock) for oblock in NEIGHBOURS)
        assert world.mapping.dirty_count == 0
        assert world.policy.dirty == set()
        assert sorted(world.policy.completed) == sorted((Op.WRITEBACK, oblock, True) for oblock in NEIGHBOURS)
        assert world.volume.counters.writebacks == 4


@virtual
async def test_neighbours_are_promoted_by_one_read() -> None:
    world = World(cache_blocks=8)
    for oblock in NEIGHBOURS:
        world.origin.data[oblock * BLOCK : (oblock + 1) * BLOCK] = bytes([oblock]) * BLOCK
    async with world.running():
        ask_all(world, Op.PROMOTE, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        reads = [(offset // BLOCK, length // BLOCK) for name, offset, length in world.origin.calls if name == "read"]
        assert reads == [(FIRST, 4)]
        for oblock, cblock in {4: 6, 5: 1, 6: 3, 7: 0}.items():
            assert world.mapping.find(oblock) == cblock
            assert world.cache_block(cblock) == bytes([oblock]) * BLOCK
        assert world.volume.counters.promotions == 4


@pytest.mark.parametrize("op", [Op.PROMOTE, Op.WRITEBACK])
@virtual
async def test_a_block_in_the_middle_that_somebody_migrates_is_left_out(op: Op) -> None:
    world = dirty_world() if op is Op.WRITEBACK else World(cache_blocks=8)
    async with world.running():
        assert world.locks.try_exclusive(5, ALL_OUT)
        ask_all(world, op, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        kind = "write" if op is Op.WRITEBACK else "read"
        calls = [(offset // BLOCK, length // BLOCK) for name, offset, length in world.origin.calls if name == kind]
        assert sorted(calls) == [(4, 1), (6, 2)]
        assert (op, 5, False) in world.policy.completed
        assert sorted(world.policy.completed) != []
        assert sum(success for _, _, success in world.policy.completed) == 3
        world.locks.end_exclusive(5)


@virtual
async def test_a_block_that_turned_clean_meanwhile_parts_a_flush_in_two() -> None:
    world = dirty_world()
    async with world.running():
        world.flusher.start()
        world.volume.set_clean(world.mapping.find(6), 0)  # before the flusher comes to it
        await world.flusher.flush()
        assert sorted(writes_of(world)) == [(4, 2), (7, 1)]
        assert [is_written(world, oblock) for oblock in NEIGHBOURS] == [True, True, False, True]
        assert world.origin_block(6) == b"o" * BLOCK


@pytest.mark.parametrize("op", [Op.PROMOTE, Op.WRITEBACK])
@virtual
async def test_a_bad_place_at_the_origin_fails_its_own_block_only(op: Op) -> None:
    world = dirty_world() if op is Op.WRITEBACK else World(cache_blocks=8)
    world.origin.dead = {6 * BLOCK + 100}
    async with world.running():
        ask_all(world, op, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        assert sorted(world.policy.completed) == sorted((op, oblock, oblock != 6) for oblock in NEIGHBOURS)
        if op is Op.WRITEBACK:
            assert world.mapping.dirty_blocks() == [3]
            assert all(is_written(world, oblock) for oblock in (4, 5, 7))
        else:
            assert [world.mapping.find(oblock) for oblock in NEIGHBOURS] == [6, 1, -1, 0]
        world.origin.dead = set()


@virtual
async def test_a_block_that_the_cache_cannot_read_fails_alone_and_is_named() -> None:
    world = dirty_world()
    world.cached.dead = {1 * BLOCK + 100}
    async with world.running():
        ask_all(world, Op.WRITEBACK, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        assert sorted(writes_of(world)) == [(4, 1), (6, 2)]
        assert world.mapping.dirty_blocks() == [1]
        assert list(world.volume.health.lost) == [(5 * BLOCK, 6 * BLOCK)]
        assert world.origin_block(5) == b"o" * BLOCK


@virtual
async def test_a_block_that_the_cache_cannot_take_fails_alone() -> None:
    world = World(cache_blocks=8)
    world.cached.refused = {3 * BLOCK}
    async with world.running():
        ask_all(world, Op.PROMOTE, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        assert [world.mapping.find(oblock) for oblock in NEIGHBOURS] == [6, 1, -1, 0]
        assert (Op.PROMOTE, 6, False) in world.policy.completed


@virtual
async def test_what_is_written_to_meanwhile_stays_dirty_and_its_neighbours_turn_clean() -> None:
    world = dirty_world()

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        ask_all(world, Op.WRITEBACK, {4: 6, 5: 1, 6: 3, 7: 0})
        await trio.sleep(5)
        await world.cache.write(6 * BLOCK + 7, b"new!")
        assert trio.current_time() == 5, "nobody is kept from writing while the origin is"
        await trio.sleep(10)
        assert world.mapping.dirty_blocks() == [3]
        assert (Op.WRITEBACK, 6, False) in world.policy.completed
        assert world.cache_block(3)[7:11] == b"new!"


@virtual
async def test_writers_are_kept_out_of_one_block_at_a_time() -> None:
    world = dirty_world()
    world.cached.at_once = False
    held = world.cached.held = {3 * BLOCK: trio.Event()}  # oblock 6 takes its time to be read
    async with world.running() as nursery:
        ask_all(world, Op.WRITEBACK, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        levels = [world.locks.held[oblock].level if oblock in world.locks.held else 0 for oblock in NEIGHBOURS]
        assert [level >= WRITERS_OUT for level in levels] == [False, False, True, False]
        await world.cache.write(4 * BLOCK, b"new!")
        nursery.start_soon(world.cache.write, 6 * BLOCK + BLOCK // 2, b"new!")
        await settle()
        assert world.cache_block(3)[BLOCK // 2 : BLOCK // 2 + 4] != b"new!"
        held.pop(3 * BLOCK).set()
        await settle()
        assert world.cache_block(3)[BLOCK // 2 : BLOCK // 2 + 4] == b"new!"


@virtual
async def test_two_batches_that_cross_and_writers_everywhere_wait_for_nobody_for_ever() -> None:
    world = dirty_world()

    async def slow(name: str) -> None:
        await trio.sleep(0.01)

    world.origin.before = world.cached.before = slow
    world.origin.at_once = world.cached.at_once = False
    async with world.running() as nursery:
        for number in range(40):
            nursery.start_soon(world.cache.write, (FIRST + number % 3) * BLOCK + number, b"x" * 2 * BLOCK)
            ask_all(world, Op.WRITEBACK, {oblock: world.mapping.find(oblock) for oblock in NEIGHBOURS if number % 2})
            world.flusher.start()
            await trio.sleep(0.007)
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        await settle()
        assert all(world.origin_block(oblock) == world.cache_block(world.mapping.find(oblock)) for oblock in NEIGHBOURS)


@virtual
async def test_a_stretch_is_no_longer_than_it_may_be() -> None:
    blocks = COPY_SIZE // BLOCK + 10
    world = World(cache_blocks=blocks, origin_blocks=blocks)
    for number in range(blocks):
        world.load(number, blocks - 1 - number, dirty=True)
    async with world.running():
        await world.flusher.flush()
        assert writes_of(world) == [(0, COPY_SIZE // BLOCK), (COPY_SIZE // BLOCK, 10)]


@virtual
async def test_each_flush_of_the_origin_serves_many_writebacks() -> None:
    world = World(cache_blocks=64, origin_blocks=128)
    for number in range(64):
        world.load(2 * number, number, dirty=True)
    async with world.running():
        ask_all(world, Op.WRITEBACK, {2 * number: number for number in range(64)})
        await settle()
        world.durability.commit_later()  # as every second
        await settle()
        assert world.volume.counters.writebacks == 64
        assert world.origin.names().count("write") == 64
        assert world.origin.names().count("flush") == 1
        assert not any(dirty for _, dirty in world.record.rows.values())


@virtual
async def test_a_failing_origin_fails_every_block_of_a_stretch_once() -> None:
    world = dirty_world()
    world.origin.errors["write"] = StoreError("dead")
    async with world.running():
        ask_all(world, Op.WRITEBACK, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        assert sorted(world.policy.completed) == sorted((Op.WRITEBACK, oblock, False) for oblock in NEIGHBOURS)
        assert world.mapping.dirty_count == 4
        assert len(writes_of(world)) == 5
        assert not any(flags & WRITEBACK_IN_FLIGHT for flags in world.mapping.flags)


@pytest.mark.parametrize("size", [BLOCK, 2 * COPY_SIZE])
@virtual
async def test_f13_an_origin_that_takes_nothing_shows_until_it_has_taken_each_block(size: int) -> None:
    world = World(cache_blocks=4, origin_blocks=16, block_size=size)
    for cblock, oblock in enumerate((4, 6, 8, 9)):
        world.load(oblock, cblock, dirty=True)
    world.origin.errors["write"] = StoreError("full")
    async with world.running():
        ask_all(world, Op.WRITEBACK, {4: 0, 6: 1, 8: 2, 9: 3})
        await settle()
        assert world.volume.health.unwritten == {4, 6, 8, 9}
        assert world.volume.health.state == "degraded"
        assert world.volume.counters.origin_errors >= 4
        world.origin.errors.clear()
        world.origin.refused.add(6 * size)
        world.flusher.start()
        with pytest.raises(FusecacheError, match="1 blocks could not be written"):
            await world.flusher.flush()
        assert world.volume.health.unwritten == {6}
        assert "1 blocks cannot be written back: write at" in str(world.volume.health)
        world.origin.refused.clear()
        await world.worker.invalidate(6)
        assert (world.volume.health.state, str(world.volume.health)) == ("ok", "ok")


@pytest.mark.parametrize("broken", ["origin", "cache"])
@virtual
async def test_f13_promotions_that_fail_show_until_one_succeeds(broken: str) -> None:
    world = World(cache_blocks=8)
    store, name = (world.origin, "read") if broken == "origin" else (world.cached, "write")
    store.errors[name] = StoreError("dead")
    async with world.running():
        ask_all(world, Op.PROMOTE, {4: 6, 5: 1, 6: 3, 7: 0})
        await settle()
        assert world.volume.health.failed_promotions == 4
        assert world.volume.health.state == "degraded"
        counters = world.volume.counters
        assert (counters.origin_errors if broken == "origin" else counters.cache_errors) >= 4
        store.errors.clear()
        await trio.sleep(1)
        world.ask(Op.PROMOTE, 9, 6)
        await settle()
        assert (world.volume.health.state, world.volume.health.failed_promotions) == ("ok", 0)


@virtual
async def test_a_flush_of_large_blocks_that_turned_clean_meanwhile() -> None:
    size = 2 * COPY_SIZE
    world = World(cache_blocks=2, origin_blocks=4, block_size=size)
    world.load(1, 0, dirty=True)
    world.load(2, 1, dirty=True)
    async with world.running():
        world.flusher.start()
        world.volume.set_clean(0, 0)
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        assert world.origin_block(1) == b"o" * size
        assert world.origin_block(2) == b"c" * size
