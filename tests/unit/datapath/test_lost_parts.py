"""Partial blocks whose cache is lost: only sectors that were durable count from then on, whatever is under way."""

from __future__ import annotations

import pytest
import trio

from fusecache.block import DIRTY, PARTIAL
from fusecache.config import Mode
from fusecache.errors import FusecacheError, StoreError
from fusecache.metadata.record import Transaction
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual

SECTOR = 512
RUBBISH = b"\xee"


async def losing(world: World, sectors: range) -> None:
    """Fail a flush of the cache, which forgets these sectors of cache block 2."""
    world.cached.errors["flush"] = StoreError("flush failed")
    with pytest.raises(FusecacheError):
        await world.cache.flush()
    begin, end = 2 * BLOCK + sectors.start * SECTOR, 2 * BLOCK + sectors.stop * SECTOR
    world.cached.data[begin:end] = RUBBISH * (end - begin)


async def partial_world() -> World:
    """Make a world of which block 5 has two durable sectors, then two more."""
    world = World()
    world.load(5, 2, dirty=True, valid=0b0011)
    await world.cache.write(5 * BLOCK + 2 * SECTOR, b"n" * 2 * SECTOR)
    assert world.mapping.valid == {2: 0b1111}
    return world


@virtual
async def test_sectors_that_were_durable_stay_dirty_and_the_others_are_the_origins() -> None:
    world = await partial_world()
    async with world.running():
        await losing(world, range(2, 4))
        assert world.mapping.valid == {2: 0b0011}
        assert world.mapping.flags[2] & (DIRTY | PARTIAL) == DIRTY | PARTIAL
        assert await world.cache.read(5 * BLOCK, 5 * SECTOR) == b"c" * 2 * SECTOR + b"o" * 3 * SECTOR
        assert await world.worker.invalidate(5)
        assert world.origin_block(5) == b"c" * 2 * SECTOR + b"o" * 6 * SECTOR


@virtual
async def test_a_block_that_was_completed_and_not_flushed_loses_what_was_not_durable() -> None:
    world = World()
    world.load(5, 2, dirty=True, valid=0b0011)
    await world.cache.write(5 * BLOCK + 2 * SECTOR, b"n" * 6 * SECTOR)
    assert not world.mapping.valid
    async with world.running():
        await losing(world, range(2, 8))
        assert world.mapping.valid == {2: 0b0011}
        assert await world.cache.read(5 * BLOCK, BLOCK) == b"c" * 2 * SECTOR + b"o" * 6 * SECTOR


@virtual
async def test_an_absorbed_write_that_was_never_durable_is_lost_as_a_whole() -> None:
    world = World()
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK, b"n" * SECTOR)
        await losing(world, range(1))
        assert not world.mapping.flags[2] & DIRTY
        assert await world.cache.read(5 * BLOCK, SECTOR) == b"o" * SECTOR


@pytest.mark.parametrize("whole", [False, True], ids=["partial", "whole"])
@virtual
async def test_a_block_that_loses_sectors_while_it_is_copied_back_brings_no_rubbish_to_the_origin(whole: bool) -> None:
    world = await partial_world()
    if whole:
        await world.cache.write(5 * BLOCK + 4 * SECTOR, b"n" * 4 * SECTOR)
        assert not world.mapping.valid
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running() as nursery:

        async def drop() -> None:
            with pytest.raises(StoreError, match="flush failed"):
                await world.worker.invalidate(5)

        nursery.start_soon(drop)
        await settle()
        await losing(world, range(2, 8))
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert world.origin_block(5) == b"o" * BLOCK
        assert world.mapping.valid == {2: 0b0011}
        assert await world.worker.invalidate(5)
        assert world.origin_block(5) == b"c" * 2 * SECTOR + b"o" * 6 * SECTOR


@virtual
async def test_a_block_that_loses_sectors_while_the_origin_is_written_turns_clean_in_part() -> None:
    world = await partial_world()
    await world.cache.write(5 * BLOCK + 4 * SECTOR, b"n" * 4 * SECTOR)
    world.origin.held[5 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        nursery.start_soon(world.worker.steps.clean, 5)
        await settle()
        await losing(world, range(2, 8))
        world.origin.held.pop(5 * BLOCK).set()
        await settle()
        assert world.origin_block(5) == b"c" * 2 * SECTOR + b"n" * 6 * SECTOR
        assert world.mapping.flags[2] & (DIRTY | PARTIAL) == PARTIAL


@virtual
async def test_a_read_under_way_does_not_show_what_a_lost_cache_has_forgotten() -> None:
    world = await partial_world()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        shown: list[bytes] = []

        async def read() -> None:
            shown.append(bytes(await world.cache.read(5 * BLOCK, 4 * SECTOR)))

        nursery.start_soon(read)
        await settle()
        await losing(world, range(2, 4))
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert shown == [b"c" * 2 * SECTOR + b"o" * 2 * SECTOR]


@virtual
async def test_a_completion_under_way_does_not_show_what_a_lost_cache_has_forgotten() -> None:
    world = await partial_world()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        shown: list[bytes] = []

        async def read() -> None:
            shown.append(bytes(await world.cache.read(5 * BLOCK, 8 * SECTOR)))

        nursery.start_soon(read)
        await settle()
        await losing(world, range(2, 4))
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert shown == [b"c" * 2 * SECTOR + b"o" * 6 * SECTOR]
        assert world.mapping.valid == {2: 0b0011}


@virtual
async def test_a_completion_that_has_read_the_block_before_the_loss_is_not_found_after_it() -> None:
    world = await partial_world()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK + 4 * SECTOR] = trio.Event()
    async with world.running():
        assert await world.cache.read(5 * BLOCK, BLOCK) == b"c" * 2 * SECTOR + b"n" * 2 * SECTOR + b"o" * 4 * SECTOR
        await losing(world, range(2, 4))
        assert world.worker.filler.find(5) is None
        assert await world.cache.read(5 * BLOCK, BLOCK) == b"c" * 2 * SECTOR + b"o" * 6 * SECTOR
        world.cached.held.pop(2 * BLOCK + 4 * SECTOR).set()
        await settle()
        assert world.mapping.valid == {2: 0b0011}


@virtual
async def test_a_flush_that_began_before_another_does_not_shrink_what_is_durable() -> None:
    world = await partial_world()
    flushes = world.durability.flushes
    entry = flushes._unflushed[2]
    entry.durable = 0b0111
    world.cached.held[0] = trio.Event()
    async with trio.open_nursery() as nursery:
        world.mapping.valid[2] = 0b0011  # what an older flush had seen
        nursery.start_soon(world.cache.flush)
        await settle()
        world.mapping.valid[2] = 0b1111
        flushes.extended(2, 0b0111)
        world.cached.held.pop(0).set()
    assert flushes._unflushed[2].durable == 0b0111


@virtual
async def test_a_switch_to_passthrough_after_a_write_was_routed_leaves_nothing_dirty() -> None:
    world = World(mode=Mode.WRITETHROUGH)
    async with world.running():
        world.policy.queue.append(Work(Op.PROMOTE, 5, 2))
        work = world.worker.take_promotion(5, copies=False)
        assert work is not None
        world.volume.mode = Mode.PASSTHROUGH
        await world.worker.absorb(work, 0, memoryview(b"n" * SECTOR))
        assert not world.mapping.dirty_count
        assert world.origin_block(5)[: SECTOR + 1] == b"n" * SECTOR + b"o"


@virtual
async def test_a_spoiled_block_that_cannot_be_dropped_has_only_what_was_durable_once_the_cache_is_lost() -> None:
    world = World(mode=Mode.WRITETHROUGH)
    world.load(5, 2, valid=0b0011)
    lost = trio.Event()

    async def refuse(transaction: Transaction) -> None:
        if transaction.unmapped:
            await lost.wait()
            msg = "no commit"
            raise StoreError(msg)

    world.record.before = refuse
    async with world.running() as nursery:
        await world.cache.write(5 * BLOCK + 2 * SECTOR, b"n" * 2 * SECTOR)
        world.origin.refused = {5 * BLOCK}

        async def spoil() -> None:
            with pytest.raises(StoreError, match="no commit"):
                await world.cache.write(5 * BLOCK, b"x" * SECTOR)

        nursery.start_soon(spoil)
        await settle()
        await losing(world, range(2, 4))
        lost.set()
        await settle()
        assert world.mapping.valid == {2: 0b0011}
        assert world.mapping.flags[2] & (DIRTY | PARTIAL) == DIRTY | PARTIAL
        world.origin.refused, world.record.before = set(), None
        assert await world.worker.invalidate(5)
        assert world.origin_block(5) == b"x" * SECTOR + b"c" * SECTOR + b"n" * 2 * SECTOR + b"o" * 4 * SECTOR
