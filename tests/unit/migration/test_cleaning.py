from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import ClassVar

import pytest
import trio

from fusecache.block.locks import WRITERS_OUT
from fusecache.block.mapping import Mapping
from fusecache.config import DirtyAge, DirtyLimit, Mode, PolicyChoice
from fusecache.errors import StoreError
from fusecache.jobs.switching import switch_policy
from fusecache.migration import cleaning
from fusecache.volume.policies import new_policy
from policies import Op, Work
from tests.unit.worlds import BLOCK, ToyPolicy, World, settle, virtual


class OrderingPolicy(ToyPolicy):
    """Says that it orders writebacks when the origin is idle, so that nobody else does."""

    orders_writebacks: ClassVar[bool] = True


def ordering(world: World) -> World:
    """Have a policy that orders its writebacks itself."""
    world.policy.__class__ = OrderingPolicy
    return world


def world_of(dirty: Iterable[int] = (), clean: Iterable[int] = (), *, cache_blocks: int = 32) -> World:
    """Have these origin blocks cached; nothing is written back but what is overdue or too much."""
    world = ordering(World(cache_blocks=cache_blocks, origin_blocks=128))
    for cblock, (oblock, is_dirty) in enumerate([(o, True) for o in dirty] + [(o, False) for o in clean]):
        world.load(oblock, cblock, dirty=is_dirty)
    return world


@asynccontextmanager
async def cleaned(
    world: World, *, age: DirtyAge | None = None, limit: DirtyLimit | None = None
) -> AsyncIterator[trio.Nursery]:
    """Run a world with its cleaning, which does by itself what it is told to only."""
    world.cleaning.set_age(age or DirtyAge(0, 0))
    world.cleaning.set_limit(limit or DirtyLimit(100))
    async with world.running() as nursery:
        nursery.start_soon(world.cleaning.run)
        yield nursery


def writes(world: World) -> list[tuple[int, int]]:
    """List the writes to the origin: first block, and how many."""
    return [(offset // BLOCK, length // BLOCK) for name, offset, length in world.origin.calls if name == "write"]


def make_partial(world: World, oblock: int, sectors: int) -> None:
    """Let only these sectors of a clean block be in the cache."""
    world.mapping.holds_part(world.mapping.find(oblock), sectors)


# What is overdue


@virtual
async def test_a_block_is_written_back_when_it_has_been_dirty_for_a_whole_period() -> None:
    world = world_of(clean=[5])
    async with cleaned(world, age=DirtyAge(30, 0)):
        await trio.sleep(10)
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        await trio.sleep(45)
        assert writes(world) == []  # it was not dirty yet when the first period began
        await trio.sleep(10)
        assert writes(world) == [(5, 1)]
        assert world.origin_block(5) == b"n" * BLOCK
        assert world.mapping.dirty_count == 0
        await trio.sleep(300)
        assert len(writes(world)) == 1


@virtual
async def test_many_requests_are_a_period_as_well() -> None:
    world = world_of(dirty=[5], clean=[7])
    async with cleaned(world, age=DirtyAge(1000, 20)):
        for expected in ([], [], [(5, 1)]):
            await trio.sleep(2)
            assert writes(world) == expected
            for _ in range(20):
                await world.cache.read(7 * BLOCK, BLOCK)


@virtual
async def test_dirty_neighbours_go_along_although_they_are_young() -> None:
    world = world_of(dirty=[4], clean=[2, 3, 5, 6, 8])
    async with cleaned(world, age=DirtyAge(30, 0)):
        await trio.sleep(50)
        for oblock in (3, 5, 6, 8):
            await world.cache.write(oblock * BLOCK, b"n" * BLOCK)
        await trio.sleep(15)
        assert writes(world) == [(3, 4)]
        assert world.mapping.dirty_count == 1


@virtual
async def test_what_is_overdue_goes_in_the_order_of_the_origin() -> None:
    oblocks = [90, 3, 60, 1, 33, 34, 70, 5]
    world = world_of(dirty=oblocks)
    async with cleaned(world, age=DirtyAge(30, 0)):
        await trio.sleep(65)
        assert writes(world) == [(1, 1), (3, 1), (5, 1), (33, 2), (60, 1), (70, 1), (90, 1)]


@virtual
async def test_it_gives_way_to_users_between_two_writes() -> None:
    world = world_of(dirty=[1, 3, 5, 7, 9])
    activity = world.volume.activity

    async def before(name: str) -> None:
        if name == "write" and writes(world) == [(1, 1), (3, 1)]:
            activity.begin()  # a user comes while the second one is under way

    world.origin.before = before
    async with cleaned(world, age=DirtyAge(30, 0)):
        mark = activity.begin()
        await trio.sleep(100)
        assert writes(world) == []
        activity.end(trio.current_time(), mark=mark)
        await trio.sleep(100)
        assert writes(world) == [(1, 1), (3, 1)]
        activity.end(trio.current_time(), mark=True)
        await trio.sleep(1)
        assert [oblock for oblock, _ in writes(world)] == [1, 3, 5, 7, 9]


@virtual
async def test_what_somebody_migrates_is_left_to_him() -> None:
    world = world_of(dirty=[4, 5, 6, 20])
    async with cleaned(world, age=DirtyAge(30, 0)):
        world.locks.try_exclusive(5, WRITERS_OUT)
        await trio.sleep(65)
        assert writes(world) == [(4, 1), (6, 1), (20, 1)]
        world.locks.end_exclusive(5)
        await trio.sleep(60)
        assert writes(world)[3:] == [(5, 1)]


@virtual
async def test_no_block_is_written_twice_if_a_policy_orders_it_as_well() -> None:
    world = world_of(dirty=range(0, 60, 2))
    has_asked = False
    async with cleaned(world, age=DirtyAge(30, 0)):

        async def before(name: str) -> None:
            nonlocal has_asked
            if name == "write" and not has_asked:
                has_asked = True
                for cblock in range(10, 30):
                    world.ask(Op.WRITEBACK, 2 * cblock, cblock)
            await trio.sleep(0.01)

        world.origin.before = before
        await trio.sleep(70)
        assert sorted(writes(world)) == [(oblock, 1) for oblock in range(0, 60, 2)]
        assert world.mapping.dirty_count == 0
        assert not world.policy.outstanding


@virtual
async def test_at_age_0_nothing_is_ever_overdue_and_that_can_be_set_at_any_time() -> None:
    world = world_of(dirty=[1, 5])
    async with cleaned(world):
        await trio.sleep(1000)
        assert writes(world) == []
        world.cleaning.set_age(DirtyAge(5, 0))
        await trio.sleep(12)
        assert len(writes(world)) == 2
        await world.cache.write(BLOCK, b"n" * BLOCK)
        world.cleaning.set_age(DirtyAge(0, 0))
        await trio.sleep(1000)
        assert len(writes(world)) == 2


# At leisure


@virtual
async def test_when_the_origin_is_idle_all_goes_in_its_order_and_then_partial_blocks_are_made_whole() -> None:
    world = World(cache_blocks=32, origin_blocks=128)
    for cblock, oblock in enumerate([60, 3, 90, 4, 33]):
        world.load(oblock, cblock, dirty=oblock != 33)
    for cblock, oblock in enumerate([80, 2, 40], start=10):
        world.load(oblock, cblock)
        make_partial(world, oblock, 0b11)
    async with cleaned(world):
        await trio.sleep(0.9)
        assert world.origin.calls == []
        await trio.sleep(3)
        moved = [(name, offset // BLOCK) for name, offset, _ in world.origin.calls]
        assert sorted(moved[:3]) == [("write", 3), ("write", 60), ("write", 90)]
        assert moved[3:] == [("read", 2), ("read", 40), ("read", 80)]
        assert not world.mapping.valid
        assert world.volume.counters.completions == 3
        assert world.volume.counters.origin_reads == 0  # no user has asked for that
        await trio.sleep(100)
        assert len(world.origin.calls) == 6


@virtual
async def test_users_end_what_is_done_at_leisure() -> None:
    world = World(cache_blocks=32, origin_blocks=128)
    for cblock in range(20):
        world.load(2 * cblock, cblock)
        make_partial(world, 2 * cblock, 1)

    async def before(name: str) -> None:
        await trio.sleep(0.05)

    world.origin.before = before
    async with cleaned(world):
        await trio.sleep(2)
        so_far = world.volume.counters.completions
        assert 0 < so_far < 20
        for _ in range(20):
            await world.cache.read(100 * BLOCK, BLOCK)
        await trio.sleep(0.8)
        assert world.volume.counters.completions <= so_far + 1
        await trio.sleep(3)
        assert world.volume.counters.completions == 20


@virtual
async def test_a_policy_that_orders_writebacks_is_left_alone_and_partial_blocks_wait_until_all_is_clean() -> None:
    world = world_of(dirty=[4], clean=[8])
    make_partial(world, 8, 1)
    async with cleaned(world):
        await trio.sleep(100)
        assert world.origin.calls == []
        world.ask(Op.WRITEBACK, 4, 0)
        await trio.sleep(3)
        assert [(name, offset // BLOCK) for name, offset, _ in world.origin.calls] == [("write", 4), ("read", 8)]


@virtual
async def test_while_users_write_a_lot_to_what_is_cached_nothing_is_written_at_leisure() -> None:
    world = World(cache_blocks=32, origin_blocks=128)
    world.load(4, 0)
    async with cleaned(world):
        for _ in range(500):
            await world.cache.write(4 * BLOCK, b"n" * BLOCK)
            await trio.sleep(0.02)
        assert len(writes(world)) <= 1  # in the first second, when nobody knew it yet
        await trio.sleep(3)
        assert world.mapping.dirty_count == 0


@virtual
async def test_users_who_begin_to_write_a_lot_end_what_is_written_at_leisure() -> None:
    world = World(cache_blocks=64, origin_blocks=128)
    for cblock in range(40):
        world.load(2 * cblock, cblock, dirty=True)

    async def before(name: str) -> None:
        await trio.sleep(0.05)

    world.origin.before = before
    async with cleaned(world):
        await trio.sleep(2.1)
        so_far = len(writes(world))
        assert 0 < so_far < 30
        for _ in range(40):
            await world.cache.write(0, b"n" * BLOCK)
        await trio.sleep(0.8)
        assert len(writes(world)) <= so_far + 1


@virtual
async def test_completions_keep_the_copy_rate() -> None:
    world = world_of(clean=range(0, 40, 2))
    for oblock in range(0, 40, 2):
        make_partial(world, oblock, 1)
    world.worker.copy_rate.set_rate(BLOCK)
    async with cleaned(world):
        await trio.sleep(11)
        assert 7 <= world.volume.counters.completions <= 11
        world.worker.copy_rate.set_rate(0)
        await trio.sleep(3)
        assert not world.mapping.valid


# Beyond the limit


@virtual
async def test_beyond_the_limit_it_writes_back_although_users_are_there_and_no_more_than_needed() -> None:
    world = world_of(dirty=range(0, 48, 2))
    async with cleaned(world, limit=DirtyLimit(50)):
        world.volume.activity.begin()
        await trio.sleep(1)
        world.volume.activity.end(trio.current_time(), mark=True)
        assert world.mapping.dirty_count == 16
        assert [oblock for oblock, _ in writes(world)] == list(range(0, 2 * len(writes(world)), 2))


@virtual
async def test_absorption_slows_to_what_the_origin_takes_and_hits_go_on_at_once() -> None:
    """The origin takes 100 blocks a second, and the user wants to write as fast as he can."""
    blocks = 400
    world = ordering(World(cache_blocks=blocks, origin_blocks=2 * blocks))
    world.policy.absorbs = True
    world.load(2 * blocks - 1, blocks - 1, dirty=True)
    absorbed: list[float] = []
    slowest = 0.0

    async def before(name: str) -> None:
        await trio.sleep(0.01 if name == "write" else 0)

    async def absorb() -> None:
        for number in range(blocks - 1):
            oblock = 2 * number % (2 * blocks - 2)
            world.policy.queue.append(Work(Op.PROMOTE, oblock, number))
            await world.cache.write(oblock * BLOCK, b"n" * 512)
            absorbed.append(trio.current_time())
            await trio.sleep(0.0005)

    async def hit() -> None:
        nonlocal slowest
        while len(absorbed) < blocks - 1:
            began = trio.current_time()
            await world.cache.write((2 * blocks - 1) * BLOCK, b"h" * BLOCK)
            await world.cache.read((2 * blocks - 1) * BLOCK, BLOCK)
            slowest = max(slowest, trio.current_time() - began)
            await trio.sleep(0.003)

    world.origin.before = before
    async with cleaned(world, limit=DirtyLimit(50)) as nursery:
        nursery.start_soon(hit)
        await absorb()
        took = absorbed[-1] - absorbed[200]
        assert absorbed[198] == pytest.approx(198 * 0.0005)  # up to the limit it costs nothing
        assert slowest == 0
        assert 0.2 < took < 200 * 0.01  # faster than the origin one by one, but not as fast as the user would
        assert max(after - before for before, after in pairwise(absorbed)) <= 0.011
        assert world.volume.counters.slowed > 100
        await trio.sleep(10)
        assert world.mapping.dirty_count <= 200


@virtual
async def test_who_sets_a_lower_limit_need_not_wait_for_a_write() -> None:
    world = world_of(dirty=range(0, 40, 2))
    async with cleaned(world):
        await trio.sleep(100)
        assert writes(world) == []
        world.cleaning.set_limit(DirtyLimit(size=0))
        await trio.sleep(0.1)
        assert world.mapping.dirty_count == 0


# When something is wrong


@virtual
@pytest.mark.parametrize("limit", [DirtyLimit(100), DirtyLimit(0)])
async def test_a_failing_origin_is_asked_more_and_more_seldom(limit: DirtyLimit) -> None:
    world = world_of(dirty=[1, 3, 5, 7])
    world.origin.errors["write"] = StoreError("dead")
    async with cleaned(world, age=DirtyAge(5, 0), limit=limit):
        await trio.sleep(600)
        tries = len(writes(world))
        assert 10 < tries < 4 * (600 / 30 + 20)
        assert world.mapping.dirty_count == 4
        world.origin.errors.clear()
        await trio.sleep(60)
        assert world.mapping.dirty_count == 0


@virtual
async def test_a_block_that_cannot_be_made_whole_does_not_keep_the_origin_busy() -> None:
    world = world_of(clean=[4, 8])
    for oblock in (4, 8):
        make_partial(world, oblock, 1)
    world.cached.refused = {BLOCK * world.mapping.find(4) + 1024}
    async with cleaned(world):
        await trio.sleep(600)
        assert list(world.mapping.valid) == [world.mapping.find(4)]
        assert 10 < len(world.origin.calls) < 40


@virtual
async def test_a_block_that_cannot_be_made_whole_keeps_no_writeback_waiting() -> None:
    world = world_of(clean=[4])
    make_partial(world, 4, 1)
    world.origin.dead = {4 * BLOCK + 1024}
    world.load(9, 7)
    async with cleaned(world, limit=DirtyLimit(0)):
        await trio.sleep(300)  # it is tried again each half a minute by now
        tried = trio.Event()

        async def note(_: str) -> None:
            tried.set()

        world.origin.before = note
        await tried.wait()
        await settle()
        await world.cache.write(9 * BLOCK, b"n" * BLOCK)
        await trio.sleep(2)
        assert world.mapping.dirty_count == 0
        assert world.origin_block(9) == b"n" * BLOCK


@virtual
@pytest.mark.parametrize("wrong", ["origin_read_only", "cache_lost", "read_only", "passthrough"])
async def test_nothing_is_written_where_that_must_not_be(wrong: str) -> None:
    world = world_of(dirty=[1, 3])
    async with cleaned(world, age=DirtyAge(5, 0), limit=DirtyLimit(0)):
        match wrong:
            case "passthrough":
                world.volume.mode = Mode.PASSTHROUGH
            case "read_only":
                world.volume.health.read_only = "metadata broke"
            case "cache_lost":
                world.volume.health.cache_lost = "cache broke"
            case _:
                world.volume.health.origin_read_only = "asked for"
        await trio.sleep(100)
        assert writes(world) == []


@virtual
async def test_a_pause_begins_no_write_and_what_is_under_way_can_be_cancelled() -> None:
    world = world_of(dirty=[1, 3, 5])
    async with cleaned(world, age=DirtyAge(5, 0)) as nursery:
        async with world.worker.paused():
            await trio.sleep(60)
            assert writes(world) == []
        world.origin.held[BLOCK] = trio.Event()
        await trio.sleep(5)
        assert writes(world) == [(1, 1)]
        nursery.cancel_scope.cancel()
    world.volume.check()
    assert world.mapping.dirty_count == 3
    assert not world.locks.held


@virtual
async def test_another_policy_takes_over_meanwhile() -> None:
    world = world_of(dirty=range(0, 60, 2))

    async def before(name: str) -> None:
        await trio.sleep(0.05)

    world.origin.before = before
    async with cleaned(world, age=DirtyAge(5, 0)):
        await trio.sleep(10.3)
        assert 0 < world.mapping.dirty_count < 30
        new = new_policy(world.geometry, PolicyChoice("smq"))
        await switch_policy(world.volume, world.worker, new, world.jobs.begin("policy"))
        await trio.sleep(30)
        assert world.mapping.dirty_count == 0
        assert sorted(writes(world)) == [(oblock, 1) for oblock in range(0, 60, 2)]
        for job in list(world.jobs.running):
            world.jobs.end(job)


# Many blocks


@virtual
async def test_a_long_walk_over_what_is_clean_by_now_lets_others_run() -> None:
    """Counted, not timed."""
    blocks = 1_000_000
    world = World()
    mapping = Mapping(blocks)
    for cblock in range(blocks):
        mapping.oblock_of[cblock] = cblock
    world.volume.mapping = mapping
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        assert not await world.cleaning._write_some(iter(range(blocks)), 1, 0.0)
        nursery.cancel_scope.cancel()
    assert turns >= blocks // cleaning._LOOKED_AT_AT_ONCE - 3
