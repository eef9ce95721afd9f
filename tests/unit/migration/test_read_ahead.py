"""Read-ahead: what comes next in order is in memory before anybody asks, and never older than a write."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from fusecache.config import KIB, Mode
from fusecache.errors import StoreError
from fusecache.streams import Streams
from policies import Op, Work
from tests.unit.worlds import World, settle, virtual

SIZE = 64 * KIB
BLOCKS = 40


def world_with(*, room: int = 32, **options: object) -> World:
    """Make a disk of which each block has its own content, and which reads ahead into so many blocks of memory."""
    world = World(block_size=SIZE, origin_blocks=BLOCKS, **options)  # type: ignore[arg-type]
    for oblock in range(BLOCKS):
        world.origin.data[oblock * SIZE : (oblock + 1) * SIZE] = bytes([oblock + 1]) * SIZE
    world.origin.at_once = False
    world.worker.read_ahead.set_size(room * SIZE)
    return world


async def read_block(world: World, oblock: int) -> int:
    """Read a block, all bytes of which are the same; returns that byte."""
    (byte,) = set(bytes(await world.cache.read(oblock * SIZE, SIZE)))
    return byte


async def scan(world: World, first: int, count: int) -> None:
    """Read neighbours one after the other, slowly enough for what is read ahead to come."""
    for oblock in range(first, first + count):
        assert await read_block(world, oblock) == oblock + 1
        await settle()


def reads_of(world: World) -> list[tuple[int, int]]:
    """Tell what was read of the origin: first block, and how many."""
    return [(offset // SIZE, length // SIZE) for name, offset, length in world.origin.calls if name == "read"]


@virtual
async def test_reads_in_order_are_read_ahead_of_in_growing_steps() -> None:
    world = world_with()
    async with world.running():
        await scan(world, 0, 20)
        assert reads_of(world)[:6] == [(0, 1), (1, 1), (2, 1), (3, 2), (5, 4), (9, 8)]
        counters = world.volume.counters
        assert counters.origin_reads == 3
        assert counters.read_ahead_used == 17
        assert counters.read_ahead_wasted == 0
        assert counters.read_aheads == len(reads_of(world)) - 3
        assert counters.read_misses == 20, "what comes from memory is no hit of the cache"


@virtual
async def test_off_it_does_nothing() -> None:
    world = world_with(room=0)
    async with world.running():
        await scan(world, 0, 10)
        assert reads_of(world) == [(oblock, 1) for oblock in range(10)]
        assert world.volume.counters.read_aheads == 0


@virtual
async def test_who_has_several_reads_under_way_keeps_the_origin_busy_himself() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = trio.Event()
        for oblock in range(8):
            world.origin.held[oblock * SIZE] = gate
            nursery.start_soon(read_block, world, oblock)
            await settle()
        assert reads_of(world) == [(oblock, 1) for oblock in range(8)]
        gate.set()


@virtual
async def test_the_next_read_is_there_before_the_last_one_is_done() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = world.origin.held[3 * SIZE] = world.origin.held[5 * SIZE] = trio.Event()
        await scan(world, 0, 3)
        nursery.start_soon(read_block, world, 3)
        await settle()
        assert reads_of(world)[3:] == [(3, 2), (5, 4)]
        nursery.start_soon(read_block, world, 4)
        await settle()
        assert reads_of(world)[3:] == [(3, 2), (5, 4)], "two are under way, and no more"
        gate.set()


@virtual
async def test_one_that_shares_the_origin_has_one_read_there() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = world.origin.held[3 * SIZE] = world.origin.held[30 * SIZE] = trio.Event()
        await scan(world, 0, 3)
        nursery.start_soon(read_block, world, 30)
        await settle()
        nursery.start_soon(read_block, world, 3)
        await settle()
        assert reads_of(world)[3:] == [(3, 2), (30, 1)]
        gate.set()


@virtual
async def test_it_goes_no_further_than_whole_blocks() -> None:
    world = world_with()
    async with world.running():
        await scan(world, BLOCKS - 5, 5)
        assert bytes(await world.cache.read(BLOCKS * SIZE, 512)) == b"o" * 512
        assert max(first + count for first, count in reads_of(world)) == BLOCKS


@virtual
async def test_blocks_that_are_cached_or_held_are_left_out() -> None:
    world = world_with()
    world.load(3, 0)
    world.load(5, 1)
    async with world.running():
        await scan(world, 0, 3)
        assert reads_of(world)[3:] == [(4, 1)]


@virtual
async def test_who_misses_what_is_being_read_ahead_waits_for_that() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = world.origin.held[3 * SIZE] = trio.Event()
        await scan(world, 0, 3)
        got: list[bytes] = []

        async def read() -> None:
            got.append(bytes(await world.cache.read(3 * SIZE + 100, 2 * SIZE - 200)))

        nursery.start_soon(read)
        await settle()
        assert not got
        gate.set()
        await settle()
        assert got == [bytes([4]) * (SIZE - 100) + bytes([5]) * (SIZE - 100)]
        assert reads_of(world).count((3, 2)) == 1
        assert (3, 1) not in reads_of(world)


@virtual
async def test_a_request_takes_what_is_there_and_reads_the_rest_at_once() -> None:
    world = world_with()
    async with world.running():
        await scan(world, 0, 3)  # 3 and 4 are in memory
        world.origin.calls.clear()
        image = bytes(await world.cache.read(3 * SIZE, 4 * SIZE))
        assert image == b"".join(bytes([oblock + 1]) * SIZE for oblock in range(3, 7))
        assert reads_of(world)[0] == (5, 2)


async def write(world: World, oblock: int, byte: int) -> None:
    """Write a part of a block."""
    await world.cache.write(oblock * SIZE + 512, bytes([byte]) * 512)


@pytest.mark.parametrize("mode", list(Mode))
@virtual
async def test_a_write_makes_it_void(mode: Mode) -> None:
    world = world_with(mode=mode)
    async with world.running():
        await scan(world, 0, 3)
        await write(world, 3, 99)
        assert bytes(await world.cache.read(3 * SIZE + 512, 512)) == bytes([99]) * 512
        assert await read_block(world, 4) == 5
        assert world.volume.counters.read_ahead_wasted == 1


@pytest.mark.parametrize("whole", [False, True], ids=["absorbed", "overwritten"])
@virtual
async def test_a_write_that_the_cache_refuses_makes_it_void_as_well(whole: bool) -> None:
    """It has the block exclusively, and goes to the origin."""
    world = world_with()
    world.cached.at_once = False
    world.cached.errors["write"] = StoreError("no")
    data = bytes([99]) * (SIZE if whole else 512)
    async with world.running():
        await scan(world, 0, 3)
        if whole:
            world.policy.overwrites[3] = 0
        else:
            world.policy.absorbs = True
            world.policy.queue.append(Work(Op.PROMOTE, 3, 0))
        await world.cache.write(3 * SIZE, data)
        assert [success for _, oblock, success in world.policy.completed if oblock == 3] == [False]
        assert bytes(await world.cache.read(3 * SIZE, len(data))) == data


@virtual
async def test_a_write_that_is_under_way_keeps_its_block_from_being_read_ahead() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = world.origin.held[3 * SIZE + 512] = trio.Event()
        nursery.start_soon(write, world, 3, 99)
        await settle()
        await scan(world, 0, 3)
        assert reads_of(world)[3:] == [(4, 1)]
        gate.set()
        await settle()
        assert bytes(await world.cache.read(3 * SIZE + 512, 512)) == bytes([99]) * 512


@virtual
async def test_what_was_being_read_when_a_write_began_is_not_kept() -> None:
    """The origin has given the bytes before the write, and its answer comes after."""
    world = world_with()
    async with world.running() as nursery:
        gate = trio.Event()
        read = world.origin.read

        async def read_slowly(offset: int, into: bytearray | memoryview) -> None:
            await read(offset, into)
            if offset == 3 * SIZE and len(into) > SIZE:
                await gate.wait()

        world.origin.read = read_slowly  # type: ignore[method-assign]
        await scan(world, 0, 3)
        got: list[int] = []

        async def wait_for_it() -> None:
            got.append(await read_block(world, 4))

        nursery.start_soon(wait_for_it)
        await settle()
        await world.cache.write(3 * SIZE, bytes([98]) * SIZE)
        await world.cache.write(4 * SIZE, bytes([99]) * SIZE)
        assert [await read_block(world, 3), got] == [98, []]
        gate.set()
        await settle()
        assert got == [99]
        assert await read_block(world, 3) == 98


@virtual
async def test_a_promotion_takes_it_from_memory_and_ends_it_there() -> None:
    world = world_with()
    async with world.running():
        await scan(world, 0, 3)
        world.origin.calls.clear()
        world.ask(Op.PROMOTE, 3, 0)
        world.ask(Op.PROMOTE, 4, 1)
        await settle()
        assert reads_of(world) == []
        assert [world.cache_block(0)[0], world.cache_block(1)[0]] == [4, 5]
        assert world.volume.counters.second_reads == 0
        assert world.volume.counters.read_ahead_used == 2
        await world.cache.write(3 * SIZE, bytes([99]) * SIZE)
        assert await read_block(world, 3) == 99


@virtual
async def test_a_fill_takes_it_from_memory() -> None:
    world = world_with()
    async with world.running():
        await scan(world, 0, 3)
        world.origin.calls.clear()
        world.policy.queue.append(Work(Op.PROMOTE, 3, 0))
        assert await read_block(world, 3) == 4
        await settle()
        assert (3, 1) not in reads_of(world)
        assert world.volume.counters.fills == 1
        assert world.mapping.find(3) == 0
        assert world.cache_block(0) == bytes([4]) * SIZE


@virtual
async def test_a_fill_waits_for_what_is_being_read_ahead() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = world.origin.held[3 * SIZE] = trio.Event()
        await scan(world, 0, 3)
        world.policy.queue.append(Work(Op.PROMOTE, 3, 0))
        nursery.start_soon(read_block, world, 3)
        await settle()
        gate.set()
        await settle()
        assert reads_of(world).count((3, 2)) == 1
        assert world.cache_block(0) == bytes([4]) * SIZE


@virtual
async def test_an_origin_that_fails_costs_the_read_ahead_alone() -> None:
    world = world_with()
    world.origin.dead.add(4 * SIZE)
    async with world.running():
        await scan(world, 0, 4)
        with pytest.raises(StoreError):
            await read_block(world, 4)
        await scan(world, 5, 3)
        world.origin.dead.clear()
        assert await read_block(world, 4) == 5


@virtual
async def test_who_waits_for_one_that_fails_reads_himself() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = world.origin.held[3 * SIZE] = trio.Event()
        world.origin.dead.add(4 * SIZE)
        await scan(world, 0, 3)
        got: list[int] = []

        async def read() -> None:
            got.append(await read_block(world, 3))

        nursery.start_soon(read)
        await settle()
        gate.set()
        await settle()
        assert got == [4]


@virtual
async def test_the_room_is_bounded_and_what_was_read_to_its_end_goes_first() -> None:
    world = world_with(room=8)
    async with world.running():
        await scan(world, 20, 3)  # 23 and 24 are in memory, and nobody comes for them
        await scan(world, 0, 12)
        read_ahead = world.worker.read_ahead
        assert read_ahead._taken <= read_ahead.size
        assert 23 in read_ahead._found
        assert world.volume.counters.read_ahead_wasted == 0


@virtual
async def test_streams_that_all_end_soon_stop_it() -> None:
    world = world_with(room=8)
    read_ahead, counters = world.worker.read_ahead, world.volume.counters
    async with world.running():
        for _ in range(8):
            for first in (0, 20, 10, 30):
                await scan(world, first, 3)
                read_ahead.clear()
                read_ahead._streams = Streams(2, 2)
        assert counters.read_ahead_used == 0
        assert counters.read_ahead_blocks == counters.read_ahead_wasted == 16, "it is left out from here on"


@virtual
async def test_it_can_be_set_while_it_runs() -> None:
    world = world_with()
    read_ahead = world.worker.read_ahead
    async with world.running():
        await scan(world, 0, 3)
        read_ahead.set_size(0)
        read_ahead.check()
        assert read_ahead._taken == 0
        await scan(world, 3, 5)
        read_ahead.usual_size = 16 * SIZE
        read_ahead.set_size(None)
        assert read_ahead.size == 16 * SIZE
        await scan(world, 8, 5)
        assert world.volume.counters.read_ahead_used > 0


@virtual
async def test_it_can_be_ended_while_something_is_being_read() -> None:
    world = world_with()
    async with world.running() as nursery:
        gate = world.origin.held[3 * SIZE] = trio.Event()
        await scan(world, 0, 3)
        nursery.start_soon(read_block, world, 3)
        await settle()
        world.worker.read_ahead.set_size(0)
        gate.set()
        await settle()
        assert world.worker.read_ahead._taken == 0


@virtual
async def test_what_an_origin_has_lost_is_not_taken_from_memory() -> None:
    world = world_with()
    async with world.running():
        await scan(world, 0, 3)
        world.volume.health.origin_lost = "flush of origin failed"
        world.origin.data[3 * SIZE : 4 * SIZE] = bytes([77]) * SIZE
        assert await read_block(world, 3) == 77


@virtual
async def test_blocks_too_large_for_the_room_are_not_read_ahead() -> None:
    world = world_with(room=3)
    async with world.running():
        await scan(world, 0, 8)
        assert world.volume.counters.read_aheads == 0


@virtual
async def test_it_ends_with_the_worker() -> None:
    world = world_with()
    with suppress(StoreError):
        async with world.running():
            world.origin.held[3 * SIZE] = trio.Event()
            await scan(world, 0, 3)
    world.origin.held.clear()
    assert not world.worker.read_ahead._found
    world.worker.read_ahead.check()
    assert await read_block(world, 3) == 4


async def seconds_of_a_scan(*, room: int) -> float:
    """Read the disk in order, which has one head, through two hops that take as long as a block does."""
    world = world_with(room=room)
    head = trio.Lock()
    took = 0.001
    read = world.origin.read

    async def read_slowly(offset: int, into: bytearray | memoryview) -> None:
        async with head:
            await trio.sleep(took * len(into) / SIZE)
            await read(offset, into)

    world.origin.read = read_slowly  # type: ignore[method-assign]
    async with world.running():
        began = trio.current_time()
        for oblock in range(BLOCKS):
            await trio.sleep(took / 2)
            await read_block(world, oblock)
            await trio.sleep(took / 2)
        return trio.current_time() - began


@virtual
async def test_who_reads_and_thinks_by_turns_reads_as_fast_as_the_disk_can() -> None:
    """Without it, the disk rests half of the time; with it, at the beginning and at the end."""
    assert await seconds_of_a_scan(room=0) == pytest.approx(2 * BLOCKS * 0.001, rel=0.02)
    assert await seconds_of_a_scan(room=32) < 1.3 * BLOCKS * 0.001
