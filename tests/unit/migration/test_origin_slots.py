from __future__ import annotations

import pytest
import trio

from fusecache.migration.origin_slots import PATIENCE, OriginSlots
from fusecache.volume.activity import CALM_SECONDS, Activity
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual


async def write(slots: OriginSlots, position: int, seconds: float, done: list[int], patience: float = PATIENCE) -> None:
    async with slots.slot(position, patience):
        done.append(position)
        await trio.sleep(seconds)
        slots.check()


@virtual
async def test_while_nobody_is_there_writes_go_out_side_by_side() -> None:
    slots = OriginSlots(Activity())
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        for position in (1, 2, 3):
            nursery.start_soon(write, slots, position, 10, done)
        await settle()
        assert slots.writing == 3
    assert trio.current_time() == 10


@virtual
async def test_while_users_are_there_one_at_a_time_and_each_gives_way_first() -> None:
    activity = Activity()
    slots = OriginSlots(activity)
    activity.begin()
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        for position in (3, 1, 2):
            nursery.start_soon(write, slots, position, 1, done)
        await trio.sleep(PATIENCE - 0.01)
        assert slots.writing == 0
        await trio.sleep(0.02)
        assert slots.writing == 1
    assert trio.current_time() == pytest.approx(3 * (PATIENCE + 1))


@virtual
async def test_those_who_wait_go_in_the_order_of_the_origin_from_where_the_last_was() -> None:
    activity = Activity()
    slots = OriginSlots(activity)
    activity.begin()
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, slots, 50, 1, done)
        await settle()
        for position in (90, 10, 70, 30):
            nursery.start_soon(write, slots, position, 1, done)
    assert done == [50, 70, 90, 10, 30]


@virtual
async def test_what_begins_together_goes_out_sorted() -> None:
    slots = OriginSlots(Activity())
    done: list[int] = []

    async def copy(position: int, steps: int) -> None:
        with slots.preparing():
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
        await write(slots, position, 0, done)

    async with trio.open_nursery() as nursery:
        for position, steps in ((4, 1), (3, 9), (2, 3), (1, 30)):
            nursery.start_soon(copy, position, steps)
    assert done == [1, 2, 3, 4]
    assert trio.current_time() == 0


@virtual
async def test_nobody_waits_long_for_one_that_does_not_come() -> None:
    slots = OriginSlots(Activity())
    done: list[int] = []
    with slots.preparing():
        await write(slots, 1, 0, done)
    assert 0 < trio.current_time() < 0.01


@pytest.mark.parametrize("moment", [0.1, PATIENCE + 0.1])
@virtual
async def test_whoever_is_cancelled_admits_the_next_one(moment: float) -> None:
    activity = Activity()
    slots = OriginSlots(activity)
    activity.begin()
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(moment):
            async with trio.open_nursery() as doomed:
                for position in (1, 2, 3):
                    doomed.start_soon(write, slots, position, 1, done)
                await settle()
                nursery.start_soon(write, slots, 4, 1, done)
    assert done[-1] == 4
    assert slots.writing == 0
    slots.check()


@virtual
async def test_misses_wait_behind_one_write_at_most() -> None:
    """The origin does one thing after the other, 5 ms each; what a miss waits for, with and without a backlog."""
    longest = {}
    for dirty in (0, 500):
        world = World(cache_blocks=1000, origin_blocks=4000)
        head = trio.Lock()
        for number in range(dirty):
            world.load(2 * number, number, dirty=True)

        async def seek(name: str, head: trio.Lock = head) -> None:
            async with head:
                await trio.sleep(0.005)

        world.origin.before = seek
        world.origin.at_once = False
        took: list[float] = []
        async with world.running():
            for number in range(dirty):
                world.policy.queue.append(Work(Op.WRITEBACK, 2 * number, number))
            for number in range(1000):
                world.worker.wake()
                began = trio.current_time()
                await world.cache.read((2 * number + 1) * BLOCK, 4)
                took.append(trio.current_time() - began)
                await trio.sleep(0.001)
            took.sort()
            longest[dirty] = took[-1]
            if dirty:
                written = world.volume.counters.writebacks
                assert 10 <= written <= 40, "a busy origin is written to slowly, but is"
                assert sum(seconds > 0.0051 for seconds in took) <= written + 5
            world.policy.queue.clear()
            world.worker.check()
            await trio.sleep(100)
    assert longest[0] == pytest.approx(0.005)
    assert longest[500] <= 0.0251  # those four that began when nobody was there, and one more


@virtual
async def test_calm_is_over_when_users_come_back() -> None:
    activity = Activity()
    slots = OriginSlots(activity)
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, slots, 1, 10, done)
        await settle()
        mark = activity.begin()
        nursery.start_soon(write, slots, 2, 10, done)
        await trio.sleep(9)
        assert done == [1]
        activity.end(trio.current_time(), mark=mark)
        await trio.sleep(1 + 2 * CALM_SECONDS)
        assert done == [1, 2]
