"""The cache is given up: everything goes to the origin, which serves alone from then on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from fusecache.config import Mode
from fusecache.errors import StoreError
from fusecache.jobs.evacuation import evacuate
from fusecache.jobs.switching import switch_mode
from policies import Op
from tests.unit.worlds import BLOCK, ToyPolicy, World, settle, virtual


@asynccontextmanager
async def running(world: World) -> AsyncIterator[trio.Nursery]:
    """Run a world that can be evacuated."""
    async with world.running() as nursery:
        nursery.start_soon(evacuate, world.volume, world.worker, world.jobs)
        await settle()
        yield nursery


async def lose_the_cache(world: World) -> None:
    """Have a flush of the cache fail, as every later one will."""
    world.cached.errors["flush"] = StoreError("flush of cache failed: dead")
    with pytest.raises(StoreError, match="dead"):
        await world.cache.flush()


@virtual
async def test_nothing_happens_while_all_is_well() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with running(world):
        await world.cache.flush()
        await trio.sleep(1000)
        assert world.mapping.mapped_count == 1


@virtual
async def test_everything_goes_to_the_origin_and_then_fsync_works_again() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.load(6, 3)
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(5)
        assert world.jobs.outcomes == {"evacuate": "done"}
        assert world.mapping.mapped_count == 0
        assert world.policy.index == {}
        assert world.origin_block(5) == b"c" * BLOCK
        assert world.origin_block(6) == b"o" * BLOCK
        await world.cache.write(5 * BLOCK, b"new")
        await world.cache.flush()
        assert not world.origin.unflushed
        assert world.record.rows == {}
        assert world.cached.names().count("flush") == 1
        assert world.volume.health.state == "degraded"
    await world.durability.settle()
    assert world.record.regions == set()


@virtual
async def test_fsync_fails_until_the_cache_is_empty() -> None:
    world = World()
    world.load(5, 2, dirty=True)

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(1)
        with pytest.raises(StoreError, match="1 blocks have still to be brought to safety"):
            await world.cache.flush()
        await trio.sleep(20)
        await world.cache.flush()


@pytest.mark.parametrize("mode", Mode)
@virtual
async def test_requests_are_served_meanwhile(mode: Mode) -> None:
    world = World(mode=mode)
    world.load(5, 2, dirty=mode is not Mode.PASSTHROUGH)
    world.load(6, 3)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    async with running(world) as nursery:
        await lose_the_cache(world)
        world.origin.before = slow
        assert await world.cache.read(9 * BLOCK, 3) == b"ooo"
        assert await world.cache.read(6 * BLOCK, 3) == b"ooo"  # it is not what the cache shows that counts
        await world.cache.write(6 * BLOCK, b"new")
        await world.cache.write(9 * BLOCK, b"new")
        await world.cache.write(5 * BLOCK + 100, b"new")
        await world.cache.write(4 * BLOCK + 100, b"x" * 4 * BLOCK)
        nursery.start_soon(world.cache.write, 6 * BLOCK, b"later")
        await trio.sleep(100)
        assert world.mapping.mapped_count == 0
        assert await world.cache.read(4 * BLOCK, 101) == b"o" * 100 + b"x"
        assert world.origin_block(5) == b"x" * BLOCK
        assert world.origin_block(6) == b"later" + b"x" * (BLOCK - 5)
        assert world.origin_block(9) == b"new" + b"o" * (BLOCK - 3)
        await world.cache.flush()


@virtual
async def test_nothing_is_cached_any_more() -> None:
    world = World()
    world.policy.overwrites = {7: 1}
    async with running(world):
        await lose_the_cache(world)
        world.ask(Op.PROMOTE, 8, 0)
        await world.cache.write(7 * BLOCK, b"n" * BLOCK)
        await trio.sleep(100)
        assert world.mapping.mapped_count == 0
        assert world.origin_block(7) == b"n" * BLOCK
        assert "write" not in world.cached.names()
        assert [work.oblock for work in world.policy.queue] == [8]
        world.policy.queue.clear()


@virtual
async def test_a_promotion_that_was_under_way_leaves_the_cache_too() -> None:
    world = World()

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    world.origin.at_once = False
    async with running(world):
        world.ask(Op.PROMOTE, 8, 0)
        await trio.sleep(1)
        await lose_the_cache(world)
        await trio.sleep(100)
        assert world.volume.counters.promotions == 1
        assert world.mapping.mapped_count == 0
        await world.cache.flush()


@virtual
async def test_what_cannot_be_read_is_tried_again_and_its_readers_get_errors_for_just_that() -> None:
    world = World(cache_blocks=2, origin_blocks=4, block_size=4 * BLOCK)
    size = world.geometry.block_size
    world.load(1, 0, dirty=True)
    world.load(2, 1, dirty=True)
    world.cached.dead = {2 * BLOCK + 5}
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(300)
        assert dict(world.mapping.mapped()) == {0: 1}
        assert list(world.volume.health.lost) == [(size + 2 * BLOCK, size + 3 * BLOCK)]
        assert await world.cache.read(size, 2 * BLOCK) == b"c" * 2 * BLOCK
        with pytest.raises(StoreError, match=f"bytes {size + 2 * BLOCK} to {size + 3 * BLOCK} "):
            await world.cache.read(size + 2 * BLOCK, BLOCK)
        with pytest.raises(StoreError):
            await world.cache.write(size, b"new")
        with pytest.raises(StoreError, match="1 blocks have still to be brought to safety"):
            await world.cache.flush()
        world.cached.dead.clear()
        await trio.sleep(61)
        assert world.mapping.mapped_count == 0
        assert not len(world.volume.health.lost)
        await world.cache.flush()
        assert world.origin_block(1) == b"c" * size


@virtual
async def test_attempts_come_less_and_less_often() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.cached.errors["read"] = StoreError("dead")
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(1000)
        reads = world.cached.names().count("read")  # each attempt reads the block, then page by page
        assert 2 * 15 <= reads <= 2 * 25
        world.cached.errors.clear()
        await trio.sleep(61)
        assert world.mapping.mapped_count == 0


@virtual
async def test_an_end_before_the_cache_is_empty_is_not_clean_and_the_record_still_calls_it_dirty() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.cached.errors["read"] = StoreError("dead")
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(10)
    with pytest.raises(StoreError, match="1 blocks"):
        await world.durability.settle()
    assert world.record.rows == {2: (5, True)}


@virtual
async def test_a_block_in_an_open_region_is_not_forgotten_before_it_is_safe() -> None:
    world = World()
    world.load(5, 2)
    async with running(world):
        await world.cache.write(5 * BLOCK, b"new")
        assert (world.record.rows, world.record.regions) == ({2: (5, False)}, {1})
        world.cached.errors["read"] = StoreError("dead")
        await lose_the_cache(world)
        for _ in range(4):
            world.durability.commit_later(close_regions=True)
            await trio.sleep(10)
        assert (world.record.rows, world.record.regions) == ({2: (5, False)}, {1})
        world.cached.errors.clear()
        await trio.sleep(61)
        assert world.record.rows == {}
        assert world.origin_block(5)[:3] == b"new"
        for _ in range(2):
            world.durability.commit_later(close_regions=True)
            await trio.sleep(10)
        assert world.record.regions == set()


@virtual
async def test_the_mode_can_be_changed_once_everything_is_safe() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(10)
        await switch_mode(
            world.volume,
            world.worker,
            world.flusher,
            Mode.PASSTHROUGH,
            lambda: ToyPolicy(world.cache_blocks),
            world.jobs.begin("mode"),
        )
        assert world.volume.mode is Mode.PASSTHROUGH


@virtual
async def test_a_user_flush_writes_everything_back_as_well() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():  # nobody evacuates
        await lose_the_cache(world)
        with pytest.raises(StoreError):
            await world.cache.flush()
        world.flusher.start()
        await trio.sleep(10)
        assert world.mapping.dirty_count == 0
        assert world.origin_block(5) == b"c" * BLOCK
        assert world.flusher.failed == 1  # the block is still cached
        assert await world.worker.invalidate(5)
        await world.flusher.flush()


@virtual
async def test_f10_an_evacuation_ends_with_the_mount() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.load(6, 3, dirty=True)
    world.origin.errors["write"] = StoreError("dead, too")
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(5)
        assert str(world.jobs) == "evacuate 0/2 blocks"
        world.jobs.close("the mount is ending")
        await trio.sleep(60)
        assert world.jobs.outcomes == {"evacuate": "failed: the mount is ending"}
        async with world.worker.paused():
            pass
        assert world.mapping.dirty_count == 2


@virtual
async def test_f13_what_cannot_be_brought_to_safety_yet_is_told_once_a_round(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World(cache_blocks=200, origin_blocks=400)
    for number in range(200):
        world.load(2 * number, number, dirty=True)
    world.origin.errors["write"] = StoreError("dead, too")
    async with running(world):
        await lose_the_cache(world)
        await trio.sleep(20)
        told = capsys.readouterr().out
        assert 3 <= told.count("not brought to safety yet") <= 6
        assert "blocks=200" in told
        world.origin.errors.clear()
        await trio.sleep(60)
        assert world.mapping.mapped_count == 0
