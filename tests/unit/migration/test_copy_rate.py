from __future__ import annotations

import pytest
import trio

from fusecache.config import COPY_SIZE
from fusecache.migration.copy_rate import CopyRate
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual


@virtual
async def test_a_limit_is_kept_in_the_order_of_arrival() -> None:
    copy_rate = CopyRate(burst=100)
    copy_rate.set_rate(10)
    batch: list[int] = []

    async def copy(amount: int) -> None:
        await copy_rate.wait_for(amount)
        batch.append(amount)

    async with trio.open_nursery() as nursery:
        for amount in (100, 10, 50):
            nursery.start_soon(copy, amount)
            await settle()
    assert batch == [100, 10, 50]
    assert trio.current_time() == pytest.approx(16)


@virtual
async def test_those_who_wait_hear_of_another_rate() -> None:
    copy_rate = CopyRate(burst=100)
    copy_rate.set_rate(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy_rate.wait_for, 100)
        await trio.sleep(10)
        copy_rate.set_rate(90)
    assert trio.current_time() == pytest.approx(11)
    copy_rate.set_rate(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy_rate.wait_for, 100)
        await trio.sleep(1)
        copy_rate.set_rate(0)
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
    world.worker.copy_rate.set_rate(rate)
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
            world.worker.copy_rate.set_rate(ever)
            await trio.sleep(5)
            assert 4.5 * ever <= copied(world) - before <= 5 * ever + COPY_SIZE
        world.worker.copy_rate.set_rate(0)
        await trio.sleep(5)
        assert world.mapping.dirty_count == 0
        assert world.volume.counters.promotions == 256
        assert world.volume.counters.demotions == 256


@virtual
async def test_a_limit_keeps_nobody_waiting_but_copies() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.worker.copy_rate.set_rate(1)
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
