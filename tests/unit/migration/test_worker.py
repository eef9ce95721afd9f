from __future__ import annotations

import itertools

import pytest
import trio

from fusecache.config import Mode
from fusecache.errors import MetadataError, StoreError
from fusecache.migration.worker import SIDE_BY_SIDE
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual


def writes_of(world: World) -> list[tuple[int, int]]:
    """Tell what was written to the origin: first block, and how many."""
    return [(offset // BLOCK, length // BLOCK) for name, offset, length in world.origin.calls if name == "write"]


def ask_all(world: World, op: Op, cblocks: dict[int, int]) -> None:
    for oblock, cblock in cblocks.items():
        world.policy.queue.appendleft(Work(op, oblock, cblock))
    world.worker.wake()


@virtual
async def test_the_worker_pauses_longer_and_longer_while_stores_fail() -> None:
    world = World()
    attempts: list[float] = []

    async def note(name: str) -> None:
        attempts.append(trio.current_time())

    world.origin.before = note
    world.origin.errors["read"] = StoreError("dead")
    async with world.running() as nursery:

        async def want() -> None:
            while world.mapping.find(5) < 0:
                if not world.policy.queue:
                    world.policy.queue.append(Work(Op.PROMOTE, 5, 2))
                world.worker.wake()
                await trio.sleep(0.25)

        nursery.start_soon(want)
        await trio.sleep(300)
        pauses = [later - sooner for sooner, later in itertools.pairwise(attempts)]
        assert pauses[:5] == sorted(pauses[:5])
        assert pauses[0] >= 0.5
        assert 30 <= max(pauses) <= 31
        assert len(attempts) < 20
        del world.origin.errors["read"]
        await trio.sleep(31)
        assert world.mapping.find(5) == 2


@virtual
async def test_a_bounded_number_runs_side_by_side() -> None:
    world = World(cache_blocks=20, origin_blocks=60)
    running = most = 0

    async def slow(name: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    world.origin.at_once = False
    world.origin.before = slow
    async with world.running():
        for number in range(20):
            world.policy.queue.append(Work(Op.PROMOTE, 2 * number, number))
        world.worker.wake()
        await trio.sleep(60)
        assert most == SIDE_BY_SIDE[Op.PROMOTE]
        assert world.mapping.mapped_count == 20


@virtual
async def test_the_threshold_takes_part_in_what_is_idle() -> None:
    world = World()
    world.volume.migration_threshold = 2 * BLOCK
    hold = trio.Event()

    async def wait(name: str) -> None:
        await hold.wait()

    world.origin.at_once = False
    world.origin.before = wait
    async with world.running():
        await trio.sleep(5)
        for number in range(3):
            world.policy.queue.append(Work(Op.PROMOTE, number, number))
        world.worker.wake()
        await settle()
        assert world.policy.idle_asked == [True, True, False, False]
        hold.set()


@virtual
async def test_users_at_the_origin_mean_it_is_not_idle() -> None:
    world = World()
    async with world.running():
        await trio.sleep(5)
        world.volume.activity.begin()
        world.worker.wake()
        await settle()
        world.volume.activity.end(trio.current_time(), mark=True)
        world.worker.wake()
        await settle()
        await trio.sleep(1.5)
        world.worker.wake()
        await settle()
        assert world.policy.idle_asked == [False, False, True]


@virtual
async def test_no_work_is_taken_in_passthrough_mode() -> None:
    world = World(mode=Mode.PASSTHROUGH)
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await trio.sleep(10)
        assert not world.policy.outstanding
        assert world.mapping.mapped_count == 0
        world.policy.queue.clear()


@virtual
async def test_a_pause_begins_when_all_work_came_back_and_lets_none_out() -> None:
    world = World()
    world.origin.at_once = False

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await trio.sleep(1)
        async with world.worker.paused():
            assert trio.current_time() == 10
            assert not world.policy.outstanding
            assert not world.worker.accepting
            world.ask(Op.PROMOTE, 6, 3)
            await trio.sleep(20)
            assert world.mapping.find(6) == -1
        await trio.sleep(20)
        assert world.mapping.find(6) == 3


@virtual
async def test_pauses_nest() -> None:
    world = World()
    async with world.running():
        async with world.worker.paused():
            async with world.worker.paused():
                pass
            assert not world.worker.accepting
        assert world.worker.accepting


@virtual
async def test_invalidating_drops_the_mapping_durably() -> None:
    world = World()
    world.load(5, 2)
    async with world.running():
        assert await world.worker.invalidate(5)
        assert world.mapping.find(5) == -1
        assert world.policy.index == {}
        assert world.record.rows == {}
        assert not await world.worker.invalidate(5)


@virtual
async def test_invalidating_waits_for_readers_and_for_work_that_is_out() -> None:
    world = World()
    world.load(5, 2)
    world.locks.try_read(5)
    async with world.running() as nursery:
        nursery.start_soon(world.worker.invalidate, 5)
        await settle()
        assert world.mapping.find(5) == 2
        world.ask(Op.DEMOTE, 5, 2)
        await settle()
        world.locks.end_read(5)
        await settle()
        assert world.mapping.find(5) == -1
        assert world.policy.index == {}
        assert world.policy.completed == [(Op.DEMOTE, 5, False)]


@virtual
async def test_invalidating_saves_what_is_dirty() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        assert await world.worker.invalidate(5)
        assert world.origin_block(5) == b"c" * BLOCK
        assert not world.origin.unflushed
        assert world.mapping.mapped_count == 0


@virtual
async def test_invalidating_takes_back_work_that_nobody_would_take_in_this_mode() -> None:
    world = World(mode=Mode.PASSTHROUGH)
    world.load(5, 2)
    world.load(6, 3)
    async with world.running():
        for oblock, cblock in [(6, 3), (5, 2)]:
            world.policy.queue.append(Work(Op.WRITEBACK, oblock, cblock))
        assert await world.worker.invalidate(5)
        assert world.policy.index == {6: 3}
        assert not world.policy.outstanding
        assert (Op.WRITEBACK, 5, False) in world.policy.completed


@pytest.mark.parametrize("dirty", [False, True])
@virtual
async def test_an_invalidation_that_cannot_be_recorded_leaves_the_block_mapped(dirty: bool) -> None:
    world = World()
    world.load(5, 2, dirty=dirty)
    world.record.error = MetadataError("disk is full")
    async with world.running():
        for _ in range(2):
            with pytest.raises(MetadataError, match="full"):
                await world.worker.invalidate(5)
            assert world.mapping.find(5) == 2
            assert world.policy.index == {5: 2}
            assert world.record.rows == {2: (5, dirty)}
            assert bytes(await world.cache.read(5 * BLOCK, 4)) == b"cccc"
            world.record.error = None  # read-only from the first failure on


@virtual
async def test_what_is_done_because_it_is_idle_comes_in_waves_that_have_neighbours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy gives one after the other; migration_threshold bounds what is under way."""
    world = World(cache_blocks=64, origin_blocks=64)
    world.volume.migration_threshold = 4 * BLOCK
    for number in range(64):
        world.load(number, number, dirty=True)
    left = list(range(64))

    ask = world.policy.get_background_work

    def give(is_idle: bool) -> Work | None:
        if is_idle and left:
            number = left.pop(0)
            world.policy.queue.append(Work(Op.WRITEBACK, number, number))
        return ask(is_idle)

    monkeypatch.setattr(world.policy, "get_background_work", give)
    async with world.running():
        await trio.sleep(1.5)
        world.worker.wake()
        await settle()
        assert writes_of(world) == [(first, 4) for first in range(0, 64, 4)]


@virtual
async def test_while_users_write_a_lot_idle_work_comes_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(cache_blocks=64, origin_blocks=64)
    world.volume.migration_threshold = 4 * BLOCK
    for number in range(64):
        world.load(number, number, dirty=True)
    ask = world.policy.get_background_work

    def give(is_idle: bool) -> Work | None:
        here = {work.cblock for work in [*world.policy.queue, *world.policy.outstanding]}
        if is_idle and (left := [cblock for cblock in world.mapping.dirty_blocks() if cblock not in here]):
            world.policy.queue.append(Work(Op.WRITEBACK, left[0], left[0]))
        return ask(is_idle)

    monkeypatch.setattr(world.policy, "get_background_work", give)
    async with world.running():
        await trio.sleep(1.5)
        written = []
        for number in range(5000):
            if number % 1000 == 0:
                written.append(world.volume.counters.writebacks)
            await world.cache.write(number % 64 * BLOCK, b"new")
            world.worker.wake()
            await trio.sleep(0.001)
        assert [later - sooner for sooner, later in itertools.pairwise(written[1:])] == [4, 4, 4]
        world.worker.wake()
        await trio.sleep(1)
        world.worker.wake()
        await settle()
        await trio.sleep(1)
        world.worker.wake()
        await settle()
        assert world.mapping.dirty_count == 0, "when they have ended, all of it is written back"


@virtual
async def test_items_that_nobody_does_yet_are_recalled_for_those_who_drop_the_block() -> None:
    world = World(cache_blocks=64, origin_blocks=128)
    hold = trio.Event()

    async def wait(name: str) -> None:
        await hold.wait()

    for number in range(40):
        world.load(2 * number, number, dirty=True)
    world.origin.before = wait
    async with world.running() as nursery:
        ask_all(world, Op.WRITEBACK, {2 * number: number for number in range(10)})
        await settle()
        nursery.start_soon(world.worker.invalidate, 2 * 9)  # it is in the backlog: four at a time go on
        await settle()
        hold.set()
        await trio.sleep(5)
        assert world.mapping.find(18) == -1
        assert (Op.WRITEBACK, 18, False) in world.policy.completed
