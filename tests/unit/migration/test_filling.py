"""Reads that miss fill their blocks: one read of the origin, for the user and for the cache."""

from __future__ import annotations

import random

import pytest
import trio
from crc32c import crc32c

from fusecache.block.states import DIRTY
from fusecache.config import COPY_SIZE, Mode, PolicyChoice
from fusecache.errors import StoreError
from fusecache.migration import filling
from fusecache.volume.policies import new_policy
from policies import Op
from tests.unit.worlds import BLOCK, World, settle, virtual


def numbered(world: World) -> World:
    """Let every byte of the origin tell its block."""
    size = world.block_size
    world.origin.data[:] = bytes(min(at // size, 255) for at in range(len(world.origin.data)))
    return world


def origin_reads(world: World) -> list[tuple[int, int]]:
    """List the reads of the origin: where, and how long."""
    return [(offset, length) for name, offset, length in world.origin.calls if name == "read"]


class Asking:
    """A read on its way."""

    def __init__(self, world: World, offset: int, length: int) -> None:
        self._world = world
        self._offset = offset
        self._length = length
        self.answer: bytes | None = None
        self.error: StoreError | None = None

    async def __call__(self) -> None:
        try:
            self.answer = bytes(await self._world.cache.read(self._offset, self._length))
        except StoreError as exc:
            self.error = exc


@virtual
async def test_a_miss_that_fills_reads_the_origin_once() -> None:
    world = numbered(World())
    async with world.running():
        world.admit(5, 2)
        assert await world.cache.read(5 * BLOCK + 100, 50) == b"\5" * 50
        await settle()
        assert origin_reads(world) == [(5 * BLOCK, BLOCK)]
        assert world.cache_block(2) == b"\5" * BLOCK
        assert world.mapping.find(5) == 2
        assert not world.mapping.flags[2] & DIRTY
        assert world.mapping.sum_of(2) == crc32c(b"\5" * BLOCK)
        assert world.policy.completed == [(Op.PROMOTE, 5, True)]
        counters = world.volume.counters
        assert (counters.fills, counters.promotions, counters.second_reads, counters.read_misses) == (1, 1, 0, 1)
        assert await world.cache.read(5 * BLOCK, BLOCK) == b"\5" * BLOCK
        assert len(origin_reads(world)) == 1


@virtual
async def test_the_answer_does_not_wait_for_the_cache() -> None:
    world = numbered(World())
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running():
        world.admit(5, 2)
        assert await world.cache.read(5 * BLOCK, 7) == b"\5" * 7
        assert world.mapping.find(5) < 0
        assert await world.cache.read(5 * BLOCK + 9, 7) == b"\5" * 7, "from memory"
        assert len(origin_reads(world)) == 1
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert world.mapping.find(5) == 2
        assert world.worker.filler.find(5) is None


@virtual
async def test_readers_of_a_block_that_is_being_filled_share_its_read() -> None:
    world = numbered(World())
    world.origin.at_once = False
    world.origin.held[5 * BLOCK] = trio.Event()
    readers = [Asking(world, 5 * BLOCK + at, 8) for at in (0, 8, 4000)]
    across = Asking(world, 5 * BLOCK - 4, 8)
    async with world.running() as nursery:
        world.admit(5, 2)
        for reader in (*readers, across):
            nursery.start_soon(reader)
            await settle()
        world.origin.held.pop(5 * BLOCK).set()
        await settle()
        assert [reader.answer for reader in readers] == [b"\5" * 8] * 3
        assert across.answer == b"\4" * 4 + b"\5" * 4
        assert sorted(origin_reads(world)) == [(5 * BLOCK - 4, 4), (5 * BLOCK, BLOCK)]


@virtual
async def test_neighbours_that_one_request_misses_are_one_read() -> None:
    world = numbered(World())
    async with world.running():
        for oblock, cblock in ((5, 2), (6, 0), (7, 3)):
            world.admit(oblock, cblock)
        image = await world.cache.read(5 * BLOCK + 10, 3 * BLOCK - 20)
        assert image == b"\5" * (BLOCK - 10) + b"\6" * BLOCK + b"\7" * (BLOCK - 10)
        await settle()
        assert origin_reads(world) == [(5 * BLOCK, 3 * BLOCK)]
        assert [world.cache_block(cblock)[:1] for cblock in (2, 0, 3)] == [b"\5", b"\6", b"\7"]
        assert world.volume.counters.fills == 3


@virtual
async def test_bypassed_neighbours_between_them_are_read_along_and_not_cached() -> None:
    world = numbered(World())
    async with world.running():
        world.admit(5, 2)
        world.admit(7, 3)
        image = await world.cache.read(4 * BLOCK + 1000, 4 * BLOCK)
        assert [image[at] for at in (0, 3095, 3096, 7191, 7192, 16383)] == [4, 4, 5, 5, 6, 8]
        await settle()
        assert origin_reads(world) == [(4 * BLOCK + 1000, 4 * BLOCK)]
        assert sorted(oblock for _, oblock in world.mapping.mapped()) == [5, 7]
        assert world.cache_block(3) == b"\7" * BLOCK


@virtual
async def test_a_hit_between_two_misses_makes_two_reads() -> None:
    world = numbered(World())
    world.load(6, 1)
    async with world.running():
        world.admit(5, 2)
        world.admit(7, 3)
        image = await world.cache.read(5 * BLOCK, 3 * BLOCK)
        assert image == b"\5" * BLOCK + b"c" * BLOCK + b"\7" * BLOCK
        assert sorted(origin_reads(world)) == [(5 * BLOCK, BLOCK), (7 * BLOCK, BLOCK)]


@virtual
async def test_the_tail_comes_with_the_last_block() -> None:
    world = numbered(World())
    async with world.running():
        world.admit(15, 2)
        image = await world.cache.read(15 * BLOCK + 100, 2 * BLOCK)
        assert image == b"\x0f" * (BLOCK - 100) + b"\x10" * 512
        await settle()
        assert origin_reads(world) == [(15 * BLOCK, BLOCK + 512)]
        assert world.mapping.find(15) == 2


@virtual
async def test_a_fill_that_cannot_read_the_rest_costs_only_the_fill() -> None:
    world = numbered(World())
    world.origin.dead.add(5 * BLOCK + 4000)
    async with world.running():
        world.admit(5, 2)
        assert await world.cache.read(5 * BLOCK, 7) == b"\5" * 7
        await settle()
        assert world.mapping.find(5) < 0
        assert world.policy.completed == [(Op.PROMOTE, 5, False)]
        assert world.volume.counters.fills == 0


@virtual
async def test_who_waits_for_a_fill_that_fails_reads_himself() -> None:
    world = numbered(World())
    world.origin.at_once = False
    world.origin.dead.add(5 * BLOCK + 4000)
    world.origin.held[5 * BLOCK] = trio.Event()
    first, second, third = (Asking(world, 5 * BLOCK + at, 8) for at in (0, 16, 3996))
    async with world.running() as nursery:
        world.admit(5, 2)
        for reader in (first, second, third):
            nursery.start_soon(reader)
            await settle()
        world.origin.held.pop(5 * BLOCK).set()
        await settle()
        assert first.answer == second.answer == b"\5" * 8
        assert third.error is not None


@virtual
async def test_a_fill_that_the_cache_refuses_has_answered_already() -> None:
    world = numbered(World())
    world.cached.refused.add(2 * BLOCK)
    async with world.running():
        world.admit(5, 2)
        world.admit(6, 3)
        assert await world.cache.read(5 * BLOCK, 2 * BLOCK) == b"\5" * BLOCK + b"\6" * BLOCK
        await settle()
        assert world.policy.completed == [(Op.PROMOTE, 5, False), (Op.PROMOTE, 6, True)]
        assert world.mapping.find(5) < 0
        assert world.mapping.find(6) == 3
        assert world.volume.health.failed_promotions == 1


@virtual
async def test_a_write_to_a_block_that_is_being_filled_comes_after_it() -> None:
    world = numbered(World())
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        world.admit(5, 2)
        await world.cache.read(5 * BLOCK, 1)
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"new")
        await settle()
        assert await world.cache.read(5 * BLOCK, 3) == b"\5\5\5"
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert await world.cache.read(5 * BLOCK, 4) == b"new\5"
        assert world.mapping.flags[2] & DIRTY
        assert world.origin_block(5)[:3] == b"\5\5\5"


@virtual
async def test_a_fill_reads_when_writers_have_left() -> None:
    world = numbered(World())
    world.origin.at_once = False
    world.origin.held[5 * BLOCK + 8] = trio.Event()
    reader = Asking(world, 5 * BLOCK, 16)
    async with world.running() as nursery:
        nursery.start_soon(world.cache.write, 5 * BLOCK + 8, b"new")
        await settle()
        world.admit(5, 2)
        nursery.start_soon(reader)
        await settle()
        assert origin_reads(world) == []
        world.origin.held.pop(5 * BLOCK + 8).set()
        await settle()
        assert reader.answer == b"\5" * 8 + b"new" + b"\5" * 5
        assert world.cache_block(2)[8:11] == b"new"


@virtual
async def test_a_fill_waits_until_the_old_row_of_its_cache_block_is_gone() -> None:
    world = numbered(World())
    world.load(9, 2)
    committing = trio.Event()

    async def hold(_: object) -> None:
        await committing.wait()

    world.record.before = hold
    async with world.running() as nursery:
        world.durability.rows.removing(2)
        world.mapping.remove(2)
        world.policy.index.clear()
        world.admit(5, 2)
        assert await world.cache.read(5 * BLOCK, 1) == b"\5", "who reads waits for nothing of that"
        await settle()
        assert world.cache_block(2) == b"c" * BLOCK
        committing.set()
        await settle()
        assert world.cache_block(2) == b"\5" * BLOCK
        assert nursery is not None


@pytest.mark.parametrize("name", ["smq", "mq"])
@virtual
async def test_policies_that_queue_promotions_have_them_done_from_the_read_that_asked_for_them(name: str) -> None:
    world = numbered(World(cache_blocks=16, origin_blocks=64))
    choice = PolicyChoice(name)
    world.volume.take_over(new_policy(world.geometry, choice))
    rng = random.Random(7)
    async with world.running():
        for number in range(3000):
            oblock = min(int(rng.paretovariate(0.7)), 64) - 1
            assert await world.cache.read(oblock * BLOCK + 5, 100) == bytes([oblock]) * 100
            await trio.sleep(0.01)
            if number % 10 == 0:
                world.volume.tick()
        await settle()
        counters = world.volume.counters
        assert counters.fills >= 16
        assert counters.second_reads <= counters.demotions, "only where a block had to go first"
        assert len(origin_reads(world)) == counters.read_misses + counters.second_reads


@virtual
async def test_a_block_that_is_larger_than_a_fill_may_be_is_promoted_otherwise() -> None:
    world = World(block_size=2 * COPY_SIZE, origin_blocks=2, cache_blocks=1)
    async with world.running():
        world.admit(1, 0)
        assert await world.cache.read(2 * COPY_SIZE, 5) == b"o" * 5
        await settle()
        assert world.mapping.find(1) == 0
        counters = world.volume.counters
        assert (counters.fills, counters.second_reads) == (0, 1)
        assert (2 * COPY_SIZE, 5) in origin_reads(world)


@virtual
async def test_a_copy_rate_that_is_used_up_lets_the_promotion_wait_and_not_the_reader() -> None:
    world = numbered(World())
    world.worker.copy_rate.set_rate(BLOCK)
    while world.worker.copy_rate.takes(BLOCK):
        pass
    async with world.running():
        world.admit(5, 2)
        before = trio.current_time()
        assert await world.cache.read(5 * BLOCK, 5) == b"\5" * 5
        assert trio.current_time() == before
        assert world.volume.counters.fills == 0
        await trio.sleep(2 * COPY_SIZE / BLOCK)
        assert world.mapping.find(5) == 2
        assert world.volume.counters.second_reads == 1


@virtual
async def test_a_fill_counts_for_the_copy_rate() -> None:
    world = World()
    world.worker.copy_rate.set_rate(2 * BLOCK)
    while world.worker.copy_rate.takes(BLOCK):
        pass
    async with world.running():
        await trio.sleep(0.6)
        world.admit(5, 2)
        await world.cache.read(5 * BLOCK, 5)
        await settle()
        assert world.volume.counters.fills == 1
        assert not world.worker.copy_rate.takes(BLOCK)


@virtual
async def test_a_pause_waits_for_fills_and_keeps_new_ones_from_beginning() -> None:
    world = World()
    world.origin.at_once = False
    world.origin.held[5 * BLOCK] = trio.Event()
    reader = Asking(world, 5 * BLOCK, 1)
    log: list[str] = []

    async def pause() -> None:
        async with world.worker.paused():
            log.append("paused")
            world.admit(6, 3)
            await world.cache.read(6 * BLOCK, 1)
            log.append("read")
            assert world.worker.filler.find(6) is None

    async with world.running() as nursery:
        world.admit(5, 2)
        nursery.start_soon(reader)
        await settle()
        nursery.start_soon(pause)
        await settle()
        assert log == []
        world.origin.held.pop(5 * BLOCK).set()
        await settle()
        assert log == ["paused", "read"]
        assert world.mapping.find(5) == 2


@virtual
async def test_a_worker_that_ends_during_a_fill_gives_everything_back() -> None:
    world = World()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.worker.run)
        await settle()
        world.admit(5, 2)
        await world.cache.read(5 * BLOCK, 1)
        nursery.cancel_scope.cancel()
    assert not world.locks.held
    assert world.policy.completed == [(Op.PROMOTE, 5, False)]
    assert world.worker.filler.find(5) is None
    world.worker.check()
    world.admit(6, 3)
    assert await world.cache.read(6 * BLOCK, 1) == b"o", "without a worker nothing is filled"
    assert world.volume.counters.promotions == 0


@virtual
async def test_a_reader_that_is_cancelled_leaves_the_fill_alone() -> None:
    world = World()
    world.origin.at_once = False
    world.origin.held[5 * BLOCK] = trio.Event()
    async with world.running():
        world.admit(5, 2)
        with trio.move_on_after(1):
            await world.cache.read(5 * BLOCK, 1)
        world.origin.held.pop(5 * BLOCK).set()
        await settle()
        assert world.mapping.find(5) == 2


@virtual
async def test_one_request_may_begin_many_fills_and_then_others_wait_for_their_promotion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(filling, "MOST_MEMORY", 16 * BLOCK)
    count = 18
    world = numbered(World(cache_blocks=2 * count + 1, origin_blocks=2 * count + 1))
    for oblock in range(1, 2 * count, 2):
        world.load(oblock, oblock)
    world.cached.at_once = False
    for oblock in range(0, 2 * count, 2):
        world.cached.held[oblock * BLOCK] = trio.Event()
        world.admit(oblock, oblock)
    async with world.running():
        await world.cache.read(0, 2 * count * BLOCK)
        world.worker.check()
        world.admit(2 * count, 2 * count)
        assert await world.cache.read(2 * count * BLOCK, 1) == bytes([2 * count])
        assert world.worker.filler.find(2 * count) is None
        for event in world.cached.held.values():
            event.set()
        await settle()
        counters = world.volume.counters
        assert (counters.fills, counters.second_reads) == (count, 1)


@pytest.mark.parametrize("mode", [Mode.WRITETHROUGH, Mode.PASSTHROUGH])
@virtual
async def test_writethrough_fills_and_passthrough_does_not(mode: Mode) -> None:
    world = World(mode=mode)
    async with world.running():
        world.admit(5, 2)
        assert await world.cache.read(5 * BLOCK, 1) == b"o"
        await settle()
        assert (world.mapping.find(5) == 2) is (mode is Mode.WRITETHROUGH)
