from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from fusecache.config import DirtyLimit, Mode
from fusecache.migration.admission import Admission
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual

BLOCK_SECONDS = 0.01
"""What the origin takes for a block, in these tests."""


def dirty_world(dirty: int, *, cache_blocks: int = 100) -> World:
    world = World(cache_blocks=cache_blocks, origin_blocks=2 * cache_blocks)
    for number in range(dirty):
        world.load(number, number, dirty=True)
    return world


def admission_of(world: World, per_cent: int) -> Admission:
    admission = world.worker.admission
    admission.set_limit(DirtyLimit(per_cent))
    admission.written_back(100, 100 * BLOCK_SECONDS)
    world.cleaning.limit = DirtyLimit(per_cent)
    return admission


def test_a_limit_is_a_share_of_the_cache_or_so_many_bytes() -> None:
    assert DirtyLimit(75).blocks(1000, BLOCK) == 750
    assert DirtyLimit(size=10 * BLOCK + 1).blocks(1000, BLOCK) == 10
    assert DirtyLimit(size=10**15).blocks(1000, BLOCK) == 1000


@virtual
async def test_the_pace_grows_smoothly_from_nothing_to_what_the_origin_takes() -> None:
    paces = []
    for dirty in range(101):
        world = dirty_world(dirty)
        paces.append(admission_of(world, 60).pace)
        world.worker.admission.check()
    assert paces[:61] == [0.0] * 61
    steps = [after - before for before, after in pairwise(paces[60:])]
    assert steps == pytest.approx([BLOCK_SECONDS / 40] * 40)
    assert paces[100] == pytest.approx(BLOCK_SECONDS)


@virtual
async def test_below_the_limit_and_before_anything_is_known_nobody_pays() -> None:
    world = dirty_world(50)
    await admission_of(world, 50).pay()
    unknown = Admission(world.volume)
    unknown.set_limit(DirtyLimit(0))
    await unknown.pay()
    assert trio.current_time() == 0
    assert world.volume.counters.slowed == 0


@virtual
async def test_what_stays_clean_costs_nothing() -> None:
    world = dirty_world(100)
    admission = admission_of(world, 0)
    world.volume.mode = Mode.WRITETHROUGH
    await admission.pay()
    assert trio.current_time() == 0


@virtual
async def test_blocks_of_several_writers_are_paid_for_one_after_the_other_but_not_for_ever() -> None:
    world = dirty_world(100)
    admission = admission_of(world, 0)
    ended: list[float] = []

    async def pay() -> None:
        await admission.pay()
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(pay)
    assert sorted(ended) == pytest.approx([BLOCK_SECONDS * number for number in range(1, 11)])
    assert world.volume.counters.slowed == 10
    admission.written_back(1, 1000)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(pay)
    assert trio.current_time() == pytest.approx(began + 1)


@virtual
async def test_who_waits_goes_on_when_there_is_room_again() -> None:
    world = dirty_world(3, cache_blocks=4)
    admission = admission_of(world, 50)
    admission.written_back(1, 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.pay)
        await settle()
        world.mapping.cleaned(0, 0)
        admission.written_back(1, 0.001)
    assert trio.current_time() < 0.001


@virtual
async def test_an_absorbed_write_pays_when_it_is_done_and_no_hit_and_no_read_waits_for_it() -> None:
    world = dirty_world(99)
    admission_of(world, 0)
    world.worker.admission.written_back(1, 4)  # four seconds a block, or nearly
    world.policy.absorbs = True
    ended: dict[str, float] = {}

    async def absorb() -> None:
        await world.cache.write(150 * BLOCK, b"n" * 512)
        ended["absorbed"] = trio.current_time()

    async with world.running() as nursery:
        world.policy.queue.append(Work(Op.PROMOTE, 150, 99))
        nursery.start_soon(absorb)
        await settle()
        assert world.mapping.find(150) == 99
        assert not world.locks.held
        assert bytes(await world.cache.read(150 * BLOCK, 512)) == b"n" * 512
        await world.cache.write(150 * BLOCK, b"m" * 512)
        await world.cache.write(3 * BLOCK, b"m" * BLOCK)
        await world.cache.read(4 * BLOCK, BLOCK)
        await world.cache.read(180 * BLOCK, BLOCK)
        async with world.worker.paused():
            pass
        assert trio.current_time() == 0
        assert not ended
        await trio.sleep(2)
        assert ended["absorbed"] == pytest.approx(1)  # no longer than that


@virtual
async def test_the_write_of_a_whole_block_pays_as_well() -> None:
    world = dirty_world(99)
    admission_of(world, 0)
    world.policy.overwrites = {150: 99}
    async with world.running():
        await world.cache.write(150 * BLOCK, b"n" * BLOCK)
        assert trio.current_time() == pytest.approx(BLOCK_SECONDS)
        await world.cache.write(150 * BLOCK, b"n" * BLOCK)
        assert trio.current_time() == pytest.approx(BLOCK_SECONDS)
