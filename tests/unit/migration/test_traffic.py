from __future__ import annotations

import pytest
import trio

from fusecache.config import COPY_SIZE
from fusecache.migration.traffic import PATIENCE, Traffic
from fusecache.volume.activity import CALM_SECONDS, Activity
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual


async def write(traffic: Traffic, position: int, seconds: float, done: list[int], patience: float = PATIENCE) -> None:
    async with traffic.slot(position, patience):
        done.append(position)
        await trio.sleep(seconds)
        traffic.check()


@virtual
async def test_while_nobody_is_there_writes_go_out_side_by_side() -> None:
    traffic = Traffic(Activity(), burst=1)
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        for position in (1, 2, 3):
            nursery.start_soon(write, traffic, position, 10, done)
        await settle()
        assert traffic.writing == 3
    assert trio.current_time() == 10


@virtual
async def test_while_users_are_there_one_at_a_time_and_each_gives_way_first() -> None:
    activity = Activity()
    traffic = Traffic(activity, burst=1)
    activity.begin()
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        for position in (3, 1, 2):
            nursery.start_soon(write, traffic, position, 1, done)
        await trio.sleep(PATIENCE - 0.01)
        assert traffic.writing == 0
        await trio.sleep(0.02)
        assert traffic.writing == 1
    assert trio.current_time() == pytest.approx(3 * (PATIENCE + 1))


@virtual
async def test_those_who_wait_go_in_the_order_of_the_origin_from_where_the_last_was() -> None:
    activity = Activity()
    traffic = Traffic(activity, burst=1)
    activity.begin()
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, traffic, 50, 1, done)
        await settle()
        for position in (90, 10, 70, 30):
            nursery.start_soon(write, traffic, position, 1, done)
    assert done == [50, 70, 90, 10, 30]


@virtual
async def test_what_begins_together_goes_out_sorted() -> None:
    traffic = Traffic(Activity(), burst=1)
    done: list[int] = []

    async def copy(position: int, steps: int) -> None:
        with traffic.coming():
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
        await write(traffic, position, 0, done)

    async with trio.open_nursery() as nursery:
        for position, steps in ((4, 1), (3, 9), (2, 3), (1, 30)):
            nursery.start_soon(copy, position, steps)
    assert done == [1, 2, 3, 4]
    assert trio.current_time() == 0


@virtual
async def test_nobody_waits_long_for_one_that_does_not_come() -> None:
    traffic = Traffic(Activity(), burst=1)
    done: list[int] = []
    with traffic.coming():
        await write(traffic, 1, 0, done)
    assert 0 < trio.current_time() < 0.01


@pytest.mark.parametrize("moment", [0.1, PATIENCE + 0.1])
@virtual
async def test_whoever_is_cancelled_hands_the_turn_on(moment: float) -> None:
    activity = Activity()
    traffic = Traffic(activity, burst=1)
    activity.begin()
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(moment):
            async with trio.open_nursery() as doomed:
                for position in (1, 2, 3):
                    doomed.start_soon(write, traffic, position, 1, done)
                await settle()
                nursery.start_soon(write, traffic, 4, 1, done)
    assert done[-1] == 4
    assert traffic.writing == 0
    traffic.check()


@virtual
async def test_a_limit_is_kept_in_the_order_of_arrival() -> None:
    traffic = Traffic(Activity(), burst=100)
    traffic.set_rate(10)
    batch: list[int] = []

    async def copy(amount: int) -> None:
        await traffic.allowed(amount)
        batch.append(amount)

    async with trio.open_nursery() as nursery:
        for amount in (100, 10, 50):
            nursery.start_soon(copy, amount)
            await settle()
    assert batch == [100, 10, 50]
    assert trio.current_time() == pytest.approx(16)


@virtual
async def test_those_who_wait_hear_of_another_rate() -> None:
    traffic = Traffic(Activity(), burst=100)
    traffic.set_rate(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traffic.allowed, 100)
        await trio.sleep(10)
        traffic.set_rate(90)
    assert trio.current_time() == pytest.approx(11)
    traffic.set_rate(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traffic.allowed, 100)
        await trio.sleep(1)
        traffic.set_rate(0)
    assert trio.current_time() == pytest.approx(12)


# In a mount


def copied(world: World) -> int:
    """Bytes that have been moved between the stores."""
    reads = sum(length for name, _, length in world.origin.calls if name == "read")
    return reads + sum(length for name, _, length in world.origin.calls if name == "write")


@virtual
async def test_all_copies_together_keep_the_limit_also_when_it_changes() -> None:
    world = World(cache_blocks=2048, origin_blocks=8192)
    for number in range(1024):
        world.load(4 * number, number, dirty=True)
    rate = 32 * BLOCK
    world.worker.traffic.set_rate(rate)
    async with world.running() as nursery:
        for number in range(256):  # a promotion, a writeback and the demotion of a dirty block, by turns
            world.policy.queue.append(Work(Op.PROMOTE, 4 * number + 4 * 1024, 1024 + number))
            world.policy.queue.append(Work(Op.WRITEBACK, 4 * number, number))
            world.policy.queue.append(Work(Op.DEMOTE, 4 * (number + 256), number + 256))
        world.worker.wake()
        nursery.start_soon(world.flusher.flush)  # of the rest, which the limit holds for as well
        await trio.sleep(10)
        assert 9 * rate <= copied(world) <= 10 * rate
        for ever in (4 * rate, rate // 4):
            before = copied(world)
            world.worker.traffic.set_rate(ever)
            await trio.sleep(5)
            assert 4.5 * ever <= copied(world) - before <= 5 * ever + COPY_SIZE
        world.worker.traffic.set_rate(0)
        await trio.sleep(5)
        assert world.mapping.dirty_count == 0
        assert world.volume.counters.promotions == 256
        assert world.volume.counters.demotions == 256


@virtual
async def test_a_limit_keeps_nobody_waiting_but_copies() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.worker.traffic.set_rate(1)
    async with world.running():
        world.ask(Op.PROMOTE, 6, 3)
        world.ask(Op.WRITEBACK, 5, 2)
        await trio.sleep(10)
        await world.cache.write(5 * BLOCK, b"new!")
        await world.cache.write(6 * BLOCK, b"new!")
        async with world.worker.paused():  # as for another policy, or to unmount
            assert not world.policy.outstanding
        assert trio.current_time() == 10
        assert [success for _, _, success in world.policy.completed] == [False, False]


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
            world.worker.traffic.check()
            await trio.sleep(100)
    assert longest[0] == pytest.approx(0.005)
    assert longest[500] <= 0.0251  # those four that began when nobody was there, and one more


@virtual
async def test_calm_is_over_when_users_come_back() -> None:
    activity = Activity()
    traffic = Traffic(activity, burst=1)
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, traffic, 1, 10, done)
        await settle()
        mark = activity.begin()
        nursery.start_soon(write, traffic, 2, 10, done)
        await trio.sleep(9)
        assert done == [1]
        activity.end(trio.current_time(), mark=mark)
        await trio.sleep(1 + 2 * CALM_SECONDS)
        assert done == [1, 2]
