"""What the cache does not take goes to the origin, once nothing cached is in its way."""

from __future__ import annotations

import pytest
import trio

from fusecache.config import Mode
from fusecache.errors import StoreError
from policies import Op
from tests.unit.worlds import BLOCK, World, settle, virtual

_AT = 5 * BLOCK + 512


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("length", [1, 512, 1000])
@virtual
async def test_a_refused_write_goes_to_the_origin_and_the_block_is_dropped(
    at_once: bool, dirty: bool, length: int
) -> None:
    world = World()
    world.cached.at_once = at_once
    world.load(5, 2, dirty=dirty)
    world.cached.errors["write"] = StoreError("dead")
    async with world.running():
        assert await world.cache.write(_AT, b"n" * length) == length
        assert world.mapping.find(5) == -1
        assert world.policy.index == {}
        old = b"c" if dirty else b"o"
        assert world.origin_block(5) == old * 512 + b"n" * length + old * (BLOCK - 512 - length)
        assert await world.cache.read(_AT, length) == b"n" * length
        assert world.volume.counters.cache_errors >= 1
        await world.cache.flush()
        assert not world.origin.unflushed
        assert world.record.rows == {}


@virtual
async def test_a_write_beside_the_bad_place_is_a_hit() -> None:
    world = World()
    world.load(5, 2)
    world.cached.dead = {2 * BLOCK}
    async with world.running():
        await world.cache.write(_AT, b"new")
        assert world.mapping.find(5) == 2
        assert world.cache_block(2)[512:515] == b"new"
        assert world.volume.counters.cache_errors == 0


@virtual
async def test_of_a_large_write_only_the_refused_blocks_go_to_the_origin() -> None:
    world = World()
    for oblock in range(4):
        world.load(oblock, oblock, dirty=oblock in {1, 2})
    world.cached.refused = {BLOCK + 700, 3 * BLOCK + 300}
    data = bytes(range(256)) * (4 * BLOCK // 256)
    part = data[100:-100]
    async with world.running():
        for oblock in range(4):
            await world.durability.record_intent(oblock)  # so that all four are one run
        assert await world.cache.write(100, part) == len(part)
        assert dict(world.mapping.mapped()) == {0: 0, 2: 2}
        assert await world.cache.read(100, len(part)) == part
        assert world.cache_block(0)[100:] == data[100:BLOCK]
        assert world.origin_block(0) == world.origin_block(2) == b"o" * BLOCK
        assert world.origin_block(1) == data[BLOCK : 2 * BLOCK]
        assert world.origin_block(3) == data[3 * BLOCK : -100] + b"o" * 100
        assert (world.volume.counters.cache_errors, world.volume.counters.demotions) == (2, 2)


@virtual
async def test_a_dirty_block_that_cannot_be_copied_back_is_an_error_and_stays() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.cached.dead = {2 * BLOCK + 600}
    async with world.running():
        with pytest.raises(StoreError):
            await world.cache.write(_AT, b"n" * 1000)
        assert world.mapping.find(5) == 2
        assert world.mapping.dirty_count == 1
        assert world.origin_block(5) == b"o" * BLOCK
        assert list(world.volume.health.lost) == [(5 * BLOCK, 6 * BLOCK)]
        world.cached.dead.clear()
        assert await world.cache.write(_AT, b"n" * 1000) == 1000
        assert await world.cache.read(_AT, 1000) == b"n" * 1000


@virtual
async def test_a_refused_write_is_an_error_only_if_the_origin_refuses_it_too() -> None:
    world = World()
    world.load(5, 2)
    world.cached.errors["write"] = StoreError("cache dead")
    world.origin.errors["write"] = StoreError("origin dead")
    async with world.running():
        with pytest.raises(StoreError, match="origin dead"):
            await world.cache.write(_AT, b"new")
        assert world.mapping.find(5) == -1
        world.origin.errors.clear()
        assert await world.cache.read(5 * BLOCK, BLOCK) == b"o" * BLOCK


@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
@pytest.mark.parametrize("dirty", [False, True])
@virtual
async def test_a_writer_who_succeeds_while_another_is_refused_is_not_lost(order: tuple[str, str], dirty: bool) -> None:
    world = World()
    world.cached.at_once = False
    world.load(5, 2, dirty=dirty)
    world.cached.refused = {2 * BLOCK + 600}
    writes = {"good": (5 * BLOCK, b"good"), "bad": (_AT, b"b" * 1000)}
    async with world.running():
        async with trio.open_nursery() as nursery:
            for name in order:
                nursery.start_soon(world.cache.write, *writes[name])
                await settle()
        for at, data in writes.values():
            assert await world.cache.read(at, len(data)) == data
        assert world.mapping.find(5) == -1


class Gate:
    """Lets a writer in between: operations of one kind wait until it is opened."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.open = trio.Event()

    async def wait(self, name: str) -> None:
        if name == self.kind:
            await self.open.wait()


@virtual
async def test_a_writer_comes_in_between_the_drop_and_the_write_to_the_origin() -> None:
    world = World()
    world.load(5, 2)
    world.cached.errors["write"] = StoreError("dead")
    gate = Gate("write")
    world.origin.before = gate.wait
    async with world.running() as nursery:
        nursery.start_soon(world.cache.write, _AT, b"first")
        await settle()
        assert world.mapping.find(5) == -1
        nursery.start_soon(world.cache.write, 5 * BLOCK + 2048, b"second")
        await settle()
        gate.open.set()
        await settle()
        assert await world.cache.read(_AT, 5) == b"first"
        assert await world.cache.read(5 * BLOCK + 2048, 6) == b"second"


@virtual
async def test_a_write_refused_while_its_block_is_written_back_leaves_no_clean_copy_behind() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    gate = Gate("write")
    world.origin.before = gate.wait
    async with world.running() as nursery:
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        world.cached.errors["write"] = StoreError("dead")
        nursery.start_soon(pause_for, world, 10)
        nursery.start_soon(world.cache.write, _AT, b"torn")
        await settle()
        world.cached.data[2 * BLOCK + 512 : 2 * BLOCK + 514] = b"to"  # what the refused write leaves behind
        gate.open.set()
        await trio.sleep(1)
        await world.durability.commit()
        assert world.mapping.find(5) == 2  # it is to be dropped when the pause is over
        assert world.origin_block(5) == b"c" * BLOCK
        assert world.record.rows == {2: (5, True)}
        await trio.sleep(20)
        assert world.mapping.find(5) == -1
        assert world.origin_block(5)[512:517] == b"tornc"


async def pause_for(world: World, seconds: float) -> None:
    """Let no migration begin for a while."""
    async with world.worker.paused():
        await trio.sleep(seconds)


# In writethrough mode


@pytest.mark.parametrize("store", ["cached", "origin"])
@virtual
async def test_half_a_double_write_is_no_error_if_the_origin_takes_it_in_the_end(store: str) -> None:
    world = World(mode=Mode.WRITETHROUGH)
    world.load(5, 2)
    broken = world.cached if store == "cached" else world.origin
    failures = 1

    async def fail_once(name: str) -> None:
        nonlocal failures
        if name == "write" and failures:
            failures -= 1
            msg = "a hiccup"
            raise StoreError(msg)

    broken.before = fail_once
    async with world.running():
        assert await world.cache.write(_AT, b"new") == 3
        assert world.mapping.find(5) == -1
        assert world.origin_block(5)[512:515] == b"new"
        assert await world.cache.read(_AT, 3) == b"new"
        assert world.record.rows == {}


@virtual
async def test_a_double_write_that_the_origin_refuses_is_an_error_and_nothing_of_it_is_cached() -> None:
    world = World(mode=Mode.WRITETHROUGH)
    world.load(5, 2)
    world.origin.errors["write"] = StoreError("origin dead")
    async with world.running():
        with pytest.raises(StoreError, match="origin dead"):
            await world.cache.write(_AT, b"new")
        assert world.mapping.find(5) == -1
        assert world.mapping.dirty_count == 0
