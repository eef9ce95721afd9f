"""What an fsync costs: how many flushes and commits, whom it waits for, and whom not."""

from __future__ import annotations

import pytest
import trio

from fusecache.block.states import DIRTY
from fusecache.config import Mode
from fusecache.errors import StoreError
from fusecache.metadata.record import Transaction
from policies import Op
from tests.unit.worlds import BLOCK, World, settle, virtual


def hot_world() -> World:
    """Return a world whose block 5 is dirty and recorded so; nothing is owed to anybody."""
    world = World()
    world.load(5, 2, dirty=True)
    return world


async def begin_counting(world: World) -> None:
    """Have what was there at the start made durable, and forget what that took."""
    await world.cache.flush()
    forget(world)


def forget(world: World) -> None:
    for log in (world.cached.calls, world.origin.calls, world.record.batches):
        log.clear()


def costs(world: World) -> tuple[int, int, int]:
    """Count flushes of the cache, flushes of the origin, and commits."""
    return world.cached.names().count("flush"), world.origin.names().count("flush"), len(world.record.batches)


@virtual
async def test_in_the_steady_state_an_fsync_is_one_flush_of_the_cache_and_no_commit() -> None:
    world = hot_world()
    async with world.running():
        await begin_counting(world)
        for number in range(1, 5):
            await world.cache.write(5 * BLOCK, b"new")
            await world.cache.flush()
            assert costs(world) == (number, 0, 0)


@virtual
async def test_writing_back_hot_blocks_costs_fsyncs_nothing() -> None:
    world = hot_world()
    async with world.running():
        await begin_counting(world)
        for number in range(1, 5):
            await world.cache.write(5 * BLOCK, b"new")
            world.ask(Op.WRITEBACK, 5, 2)
            await settle()
            assert not world.mapping.dirty_count
            await world.cache.flush()
            assert costs(world) == (number, 0, 0)


@virtual
async def test_a_write_past_the_cache_has_the_origin_flushed_once_and_beside_the_cache() -> None:
    world = hot_world()

    async def slow(name: str) -> None:
        await trio.sleep(1)

    async with world.running():
        await begin_counting(world)
        world.cached.before = world.origin.before = slow
        await world.cache.write(9 * BLOCK, b"new")
        began = trio.current_time()
        await world.cache.flush()
        assert trio.current_time() == began + 1
        assert costs(world) == (1, 1, 0)
        await world.cache.write(5 * BLOCK, b"new")
        await world.cache.flush()
        assert costs(world) == (2, 1, 0)


@pytest.mark.parametrize("mode", [Mode.WRITETHROUGH, Mode.PASSTHROUGH])
@virtual
async def test_modes_that_write_to_the_origin_flush_it(mode: Mode) -> None:
    world = World(mode=mode)
    if mode is Mode.WRITETHROUGH:
        world.load(5, 2)
    async with world.running():
        await begin_counting(world)
        await world.cache.write(5 * BLOCK, b"new")
        forget(world)
        await world.cache.flush()
        assert costs(world) == (1, 1, 0)


@virtual
async def test_a_whole_block_that_the_cache_refused_is_flushed_in_the_origin() -> None:
    world = World()
    world.policy.overwrites[5] = 2
    async with world.running():
        await begin_counting(world)
        world.cached.errors["write"] = StoreError("dead")
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        assert world.origin_block(5) == b"n" * BLOCK
        await world.cache.flush()
        assert costs(world)[1] == 1


@virtual
async def test_a_dirty_block_without_a_row_gets_one_once_and_the_origin_is_left_alone() -> None:
    world = World()
    world.policy.overwrites[5] = 2
    async with world.running():
        await begin_counting(world)
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        world.ask(Op.PROMOTE, 6, 3)
        await settle()
        forget(world)
        await world.cache.flush()
        assert costs(world) == (1, 0, 1)
        assert world.record.rows == {2: (5, True)}  # the other one is clean, which can wait
        await world.cache.flush()
        assert costs(world) == (2, 0, 1)
        await world.durability.commit()
        assert world.record.rows == {2: (5, True), 3: (6, False)}


@virtual
async def test_a_block_without_a_row_that_was_written_back_is_safe_in_the_origin() -> None:
    world = World()
    world.policy.overwrites[5] = 2
    async with world.running():
        await begin_counting(world)
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert not world.mapping.flags[2] & DIRTY
        forget(world)
        await world.cache.flush()
        assert costs(world) == (1, 1, 0)
        assert not world.record.rows


@virtual
async def test_a_block_without_a_row_may_be_written_back_while_an_fsync_waits_for_its_round() -> None:
    world = World()
    world.policy.overwrites[5] = 2
    released = trio.Event()

    async def stuck(transaction: Transaction) -> None:
        await released.wait()

    async with world.running() as nursery:
        await begin_counting(world)
        world.record.before = stuck
        world.durability.rows.promoted(1)
        world.load(9, 1)
        nursery.start_soon(world.durability.commit)  # a round that knows nothing of the write
        await settle()
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        forget(world)
        nursery.start_soon(world.cache.flush)
        await settle()
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert not world.mapping.flags[2] & DIRTY
        assert costs(world)[1] == 0
        released.set()
        await settle()
        assert costs(world)[1] == 1
        assert 2 not in world.record.rows


@virtual
async def test_once_the_cache_is_given_up_an_fsync_waits_until_no_row_names_it() -> None:
    world = hot_world()

    async def slow(transaction: Transaction) -> None:
        await trio.sleep(1)

    async with world.running() as nursery:
        await begin_counting(world)
        world.cached.errors["flush"] = StoreError("dead")
        with pytest.raises(StoreError, match="dead"):
            await world.cache.flush()
        world.record.before = slow
        nursery.start_soon(world.worker.invalidate, 5)
        await settle()
        assert not world.mapping.mapped_count
        assert world.record.rows
        await world.cache.flush()
        assert not world.record.rows
        assert world.origin.names().count("flush") >= 1


@virtual
async def test_what_no_flush_has_made_durable_is_lost_with_the_cache_and_the_origin_keeps_what_it_has() -> None:
    world = hot_world()
    world.policy.overwrites[6] = 3
    async with world.running():
        await begin_counting(world)
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        await world.cache.write(6 * BLOCK, b"n" * BLOCK)
        world.cached.errors["flush"] = StoreError("dead")
        world.cached.data[:] = b"r" * len(world.cached.data)  # what the kernel could not write it forgets
        with pytest.raises(StoreError, match="dead"):
            await world.cache.flush()
        assert await world.cache.read(6 * BLOCK, BLOCK) == b"o" * BLOCK
        for oblock in (5, 6):
            assert await world.worker.invalidate(oblock)
        assert world.origin_block(6) == b"o" * BLOCK  # not what another block has left in the cache
        assert world.origin_block(5) == b"r" * BLOCK  # an older content, but its own


@virtual
async def test_fsyncs_that_come_together_share_a_round() -> None:
    world = hot_world()

    async def slow(name: str) -> None:
        await trio.sleep(1)

    async with world.running():
        await begin_counting(world)
        world.cached.before = slow
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.cache.flush)
            await settle()
            for _ in range(100):
                nursery.start_soon(world.cache.flush)
        assert trio.current_time() == 2
        assert costs(world) == (2, 0, 0)


@virtual
async def test_an_fsync_does_not_wait_for_a_commit_that_others_need() -> None:
    world = hot_world()

    async def slow(transaction: Transaction) -> None:
        await trio.sleep(100)

    async def slow_flush(name: str) -> None:
        if name == "flush":
            await trio.sleep(100)

    async with world.running() as nursery:
        await begin_counting(world)
        world.record.before, world.origin.before = slow, slow_flush
        await world.cache.write(5 * BLOCK, b"new")
        world.ask(Op.DEMOTE, 5, 2)
        world.durability.rows.summed(1)
        nursery.start_soon(world.durability.commit)
        await settle()
        await world.cache.flush()
        assert trio.current_time() == 0
        await trio.sleep(1000)


@virtual
async def test_an_fsync_fails_if_the_origin_has_lost_what_it_owed_and_from_then_on() -> None:
    world = hot_world()
    async with world.running():
        await begin_counting(world)
        await world.cache.write(9 * BLOCK, b"new")
        world.origin.errors["flush"] = StoreError("dead")
        for _ in range(2):
            with pytest.raises(StoreError, match="dead"):
                await world.cache.flush()


@virtual
async def test_a_failure_that_does_not_end_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    world = hot_world()
    async with world.running():
        world.volume.set_clean(2, 0)
        world.origin.errors["flush"] = StoreError("dead")
        for _ in range(5):
            with pytest.raises(StoreError, match="dead"):
                await world.durability.commit()
        assert capsys.readouterr().out.count("commit failed") == 1
        world.origin.errors["flush"] = StoreError("dead in another way")
        with pytest.raises(StoreError):
            await world.durability.commit()
        assert capsys.readouterr().out.count("commit failed") == 1


@virtual
async def test_a_region_in_which_blocks_are_written_and_written_back_stays_open() -> None:
    world = World()
    world.load(5, 2)
    async with world.running():
        await world.cache.write(5 * BLOCK, b"new")
        for _ in range(5):
            world.ask(Op.WRITEBACK, 5, 2)
            await settle()
            assert not world.mapping.dirty_count
            forget(world)
            await world.cache.write(5 * BLOCK, b"new")
            assert costs(world) == (0, 0, 0)  # it was covered
            world.durability.commit_later(close_regions=True)
            await settle()
        assert world.record.regions == {1}
        for _ in range(2):
            world.durability.commit_later(close_regions=True)
            await settle()
        assert not world.record.regions
