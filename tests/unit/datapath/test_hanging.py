"""Stores that answer late or never hold up those who need them, and nobody else."""

from __future__ import annotations

import pytest
import trio

from fusecache.config import Mode
from fusecache.metadata.record import Transaction
from policies import Op
from tests.unit.worlds import BLOCK, World, settle, virtual


class Stuck:
    """Operations of some kinds hang until they are let go."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.waiting = 0
        self.released = trio.Event()

    async def before(self, name: str) -> None:
        if name in self.kinds:
            self.waiting += 1
            await self.released.wait()
            self.waiting -= 1

    async def before_commit(self, batch: Transaction) -> None:
        del batch
        await self.before("commit")


def hang_origin(world: World, *kinds: str) -> Stuck:
    stuck = Stuck(*kinds)
    world.origin.at_once = False
    world.origin.before = stuck.before
    return stuck


@pytest.mark.parametrize("mode", [Mode.WRITEBACK, Mode.WRITETHROUGH])
@virtual
async def test_a_hanging_origin_stops_no_hits(mode: Mode) -> None:
    world = World(cache_blocks=8, mode=mode)
    for oblock in range(4):
        world.load(oblock, oblock, dirty=True)
    stuck = hang_origin(world, "read", "write", "flush")
    async with world.running() as nursery:
        for oblock in (9, 10):
            nursery.start_soon(world.cache.read, oblock * BLOCK, BLOCK)
        nursery.start_soon(world.cache.write, 11 * BLOCK, b"new")
        nursery.start_soon(world.cache.flush)
        world.ask(Op.PROMOTE, 12, 5)
        world.ask(Op.WRITEBACK, 3, 3)
        await trio.sleep(10)
        assert stuck.waiting == 6
        assert await world.cache.read(0, 4 * BLOCK) == b"c" * 4 * BLOCK
        await world.cache.write(100, b"n" * 2 * BLOCK)
        assert await world.cache.read(100, 2 * BLOCK) == b"n" * 2 * BLOCK
        assert trio.current_time() == 10
        stuck.released.set()
        await trio.sleep(10)


@virtual
async def test_a_hanging_origin_stops_no_clean_hits_nor_their_turning_dirty() -> None:
    world = World()
    world.load(1, 1)
    stuck = hang_origin(world, "read", "write", "flush")
    async with world.running() as nursery:
        nursery.start_soon(world.cache.flush)
        nursery.start_soon(world.cache.read, 9 * BLOCK, 1)
        await trio.sleep(5)
        assert await world.cache.read(BLOCK, 4) == b"cccc"
        await world.cache.write(BLOCK, b"new!")  # its region is opened beside the round that hangs
        assert await world.cache.read(BLOCK, 4) == b"new!"
        assert trio.current_time() == 5
        assert stuck.waiting == 2
        stuck.released.set()


@virtual
async def test_a_hanging_read_of_one_cache_block_stops_nobody_else() -> None:
    world = World()
    for oblock in range(4):
        world.load(oblock, oblock, dirty=oblock > 1)
    stuck = Stuck("read")
    world.cached.at_once = False
    world.cached.before = stuck.before
    got: list[bytes] = []

    async def read() -> None:
        got.append(bytes(await world.cache.read(0, BLOCK)))

    async with world.running() as nursery:
        nursery.start_soon(read)
        await settle()
        assert stuck.waiting == 1
        world.cached.before = None
        assert await world.cache.read(BLOCK, 3 * BLOCK) == b"c" * 3 * BLOCK
        await world.cache.write(2 * BLOCK, b"new")
        assert await world.cache.read(0, 4) == b"cccc"  # of the same block, too
        await world.cache.write(3 * BLOCK, b"n" * BLOCK)
        await world.cache.flush()
        await world.worker.steps.clean(2)
        assert await world.cache.read(9 * BLOCK, 1) == b"o"
        assert not got
        stuck.released.set()
        await settle()
        assert got == [b"c" * BLOCK]


@virtual
async def test_a_large_read_waits_for_its_own_piece_only_and_holds_no_other_block() -> None:
    world = World()
    for oblock in range(3):
        world.load(oblock, 2 * oblock if oblock < 2 else 1)
    world.cached.at_once = False
    released = world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        nursery.start_soon(world.cache.read, 0, 3 * BLOCK)
        await settle()
        assert set(world.locks.held) == {1}
        await world.cache.write(0, b"new")
        assert await world.worker.invalidate(2)
        released.set()


@virtual
async def test_a_hanging_commit_stops_no_reads_and_no_writes_to_covered_blocks() -> None:
    world = World(region_blocks=1)
    for oblock in range(4):
        world.load(oblock, oblock, dirty=oblock == 0)
    stuck = Stuck("commit")
    async with world.running() as nursery:
        await world.durability.record_intent(1)
        world.record.before = stuck.before_commit
        world.durability.rows.promoted(3)
        await world.cache.write(3 * BLOCK, b"without a row")
        nursery.start_soon(world.cache.flush)
        await trio.sleep(5)
        assert stuck.waiting == 1
        await world.cache.write(0, b"dirty")  # dirty before
        await world.cache.write(BLOCK, b"covered")
        await world.cache.write(9 * BLOCK, b"uncached")
        assert await world.cache.read(0, 5) == b"dirty"
        assert await world.cache.read(BLOCK, 7) == b"covered"
        assert await world.cache.read(2 * BLOCK, 5) == b"ccccc"
        assert trio.current_time() == 5
        nursery.start_soon(world.cache.write, 2 * BLOCK, b"uncovered")
        await trio.sleep(100)
        assert world.cache_block(2) == b"c" * BLOCK  # this one has to wait
        stuck.released.set()
        await settle()
        assert world.cache_block(2)[:9] == b"uncovered"


@virtual
async def test_a_hanging_demotion_stops_its_own_block_only() -> None:
    world = World()
    world.load(0, 0)
    world.load(1, 1, dirty=True)
    stuck = Stuck("commit")
    world.record.before = stuck.before_commit
    async with world.running() as nursery:
        world.ask(Op.DEMOTE, 0, 0)
        await settle()
        assert stuck.waiting == 1
        nursery.start_soon(world.cache.read, 0, 1)
        await world.cache.write(BLOCK, b"new")
        assert await world.cache.read(BLOCK, 3) == b"new"
        assert trio.current_time() == 0
        stuck.released.set()
        await settle()
        assert world.mapping.find(0) == -1


@virtual
async def test_a_slow_origin_slows_no_writes_to_a_block_that_is_written_back() -> None:
    world = World()
    world.load(5, 2, dirty=True)

    async def slow(name: str) -> None:
        await trio.sleep(100)

    world.origin.before = slow
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await trio.sleep(1)
        await world.cache.write(5 * BLOCK, b"newest")
        assert await world.cache.read(5 * BLOCK, 6) == b"newest"
        assert trio.current_time() == 1
        await trio.sleep(200)
        assert world.mapping.dirty_count == 1
        assert world.origin_block(5) == b"c" * BLOCK


@virtual
async def test_an_fsync_waits_for_a_hanging_store_and_is_answered_when_it_is_done() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    stuck = Stuck("flush")
    world.cached.before = stuck.before
    ended: list[float] = []

    async def fsync() -> None:
        await world.cache.flush()
        ended.append(trio.current_time())

    async with world.running() as nursery:
        for _ in range(3):
            nursery.start_soon(fsync)
        await trio.sleep(100)
        assert not ended
        assert await world.cache.read(5 * BLOCK, 1) == b"c"
        stuck.released.set()
        await settle()
        assert ended == [100.0] * 3
