"""Writes that miss are absorbed: they go into a free cache block, and the slow disk does not hear of them."""

from __future__ import annotations

import pytest
import trio

from fusecache.block import DIRTY, PARTIAL
from fusecache.config import COPY_SIZE, Mode
from fusecache.errors import FusecacheError, MetadataError, StoreError
from policies import Op
from tests.unit.worlds import BLOCK, World, settle, virtual

SECTOR = 512


def origin_calls(world: World) -> list[tuple[str, int, int]]:
    return [call for call in world.origin.calls if call[0] in {"read", "write"}]


@virtual
async def test_an_absorbed_write_asks_nothing_of_the_origin() -> None:
    world = World()
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK + SECTOR, b"n" * 2 * SECTOR)
        assert origin_calls(world) == []
        assert world.mapping.find(5) == 2
        assert world.mapping.valid == {2: 0b110}
        assert world.mapping.flags[2] & (DIRTY | PARTIAL) == DIRTY | PARTIAL
        assert world.cache_block(2) == b"c" * SECTOR + b"n" * 2 * SECTOR + b"c" * 5 * SECTOR
        assert world.policy.completed == [(Op.PROMOTE, 5, True)]
        assert world.policy.dirty == {2}
        counters = world.volume.counters
        assert (counters.absorbed, counters.promotions, counters.write_misses, counters.edge_reads) == (1, 1, 1, 0)
        assert await world.cache.read(5 * BLOCK + SECTOR, 2 * SECTOR) == b"n" * 2 * SECTOR
        assert origin_calls(world) == []


@virtual
async def test_an_absorbed_write_of_a_whole_block_is_whole() -> None:
    world = World()
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        assert world.mapping.valid == {}
        assert not world.mapping.flags[2] & PARTIAL
        assert origin_calls(world) == []


@virtual
async def test_one_request_may_be_absorbed_by_many_blocks() -> None:
    world = World()
    async with world.running():
        for oblock, cblock in ((5, 2), (6, 0), (7, 3)):
            world.admit(oblock, cblock)
        await world.cache.write(6 * BLOCK - SECTOR, b"n" * (BLOCK + 2 * SECTOR))
        assert origin_calls(world) == []
        assert world.mapping.valid == {2: 0b1000_0000, 3: 0b1}
        assert world.cache_block(0) == b"n" * BLOCK


@pytest.mark.parametrize(
    ("within", "length", "edges", "valid"),
    [
        (0, 100, [(0, SECTOR)], 0b1),
        (100, 100, [(0, SECTOR)], 0b1),
        (100, SECTOR, [(0, 2 * SECTOR)], 0b11),
        (100, 3 * SECTOR - 100, [(0, SECTOR)], 0b111),
        (SECTOR, 2 * SECTOR + 7, [(3 * SECTOR, SECTOR)], 0b1110),
        (SECTOR + 5, 2 * SECTOR, [(SECTOR, SECTOR), (3 * SECTOR, SECTOR)], 0b1110),
        (BLOCK - 1, 1, [(BLOCK - SECTOR, SECTOR)], 0b1000_0000),
    ],
)
@virtual
async def test_only_the_edges_of_what_is_no_multiple_of_a_sector_are_read(
    within: int, length: int, edges: list[tuple[int, int]], valid: int
) -> None:
    world = World()
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK + within, b"n" * length)
        assert origin_calls(world) == [("read", 5 * BLOCK + begin, size) for begin, size in edges]
        assert world.volume.counters.edge_reads == len(edges)
        assert world.mapping.valid == {2: valid}
        expected = bytearray(b"o" * BLOCK)
        expected[within : within + length] = b"n" * length
        assert await world.cache.read(5 * BLOCK, BLOCK) == expected


@virtual
async def test_an_edge_that_cannot_be_read_fails_the_write_and_nothing_else() -> None:
    world = World()
    world.origin.dead.add(5 * BLOCK)
    async with world.running():
        world.admit(5, 2)
        with pytest.raises(StoreError, match="dead sector"):
            await world.cache.write(5 * BLOCK + 1, b"n")
        assert world.mapping.find(5) < 0
        assert world.policy.completed == [(Op.PROMOTE, 5, False)]
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK, b"n" * SECTOR)  # a whole sector needs no reading
        assert await world.cache.read(5 * BLOCK, SECTOR) == b"n" * SECTOR


@virtual
async def test_writethrough_writes_both_and_the_block_stays_clean() -> None:
    world = World(mode=Mode.WRITETHROUGH)
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK + 10, b"n" * SECTOR)
        assert world.mapping.valid == {2: 0b11}
        assert not world.mapping.dirty_count
        assert world.origin_block(5) == b"o" * 10 + b"n" * SECTOR + b"o" * (BLOCK - SECTOR - 10)
        assert world.cache_block(2)[: 2 * SECTOR] == world.origin_block(5)[: 2 * SECTOR]
        await world.cache.write(5 * BLOCK + 3 * SECTOR + 7, b"m" * SECTOR)
        assert world.mapping.valid == {2: 0b1_1011}
        assert world.cache_block(2)[3 * SECTOR : 5 * SECTOR] == world.origin_block(5)[3 * SECTOR : 5 * SECTOR]
        assert not world.mapping.dirty_count
        await world.durability.commit()
        assert world.record.rows[2] == (5, False)
        assert world.record.parts[2] == 0b1_1011


@virtual
async def test_passthrough_absorbs_nothing() -> None:
    world = World(mode=Mode.PASSTHROUGH)
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK, b"n" * SECTOR)
        assert world.mapping.find(5) < 0
        assert world.origin_block(5)[:SECTOR] == b"n" * SECTOR


@virtual
async def test_blocks_larger_than_a_copy_absorb_only_what_covers_them() -> None:
    world = World(block_size=2 * COPY_SIZE, origin_blocks=2, cache_blocks=1)
    async with world.running():
        world.admit(1, 0)
        await world.cache.write(2 * COPY_SIZE, b"n" * SECTOR)
        assert origin_calls(world)[0] == ("write", 2 * COPY_SIZE, SECTOR)
        await settle()
        assert world.mapping.valid == {}


@virtual
async def test_what_the_cache_refuses_the_origin_gets() -> None:
    world = World()
    world.cached.refused.add(2 * BLOCK)
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK, b"n" * 100)
        assert world.origin_block(5)[:101] == b"n" * 100 + b"o"
        assert world.mapping.find(5) < 0
        assert world.policy.completed == [(Op.PROMOTE, 5, False)]
        assert world.durability.flushes.origin_unflushed
        assert world.volume.health.failed_promotions == 1


@virtual
async def test_what_neither_takes_fails() -> None:
    world = World()
    world.cached.refused.add(2 * BLOCK)
    world.origin.refused.add(5 * BLOCK)
    async with world.running():
        world.admit(5, 2)
        with pytest.raises(StoreError, match="write at 20480"):
            await world.cache.write(5 * BLOCK, b"n" * SECTOR)
        assert world.policy.completed == [(Op.PROMOTE, 5, False)]


@pytest.mark.parametrize("store", ["cache", "origin"])
@virtual
async def test_writethrough_when_one_of_them_refuses(store: str) -> None:
    world = World(mode=Mode.WRITETHROUGH)
    async with world.running():
        world.admit(5, 2)
        if store == "cache":
            world.cached.refused.add(2 * BLOCK)
            await world.cache.write(5 * BLOCK, b"n" * SECTOR)
            assert world.origin_block(5)[: SECTOR + 1] == b"n" * SECTOR + b"o"
        else:
            world.origin.refused.add(5 * BLOCK)
            with pytest.raises(StoreError):
                await world.cache.write(5 * BLOCK, b"n" * SECTOR)
        assert world.mapping.find(5) < 0
        assert world.policy.completed == [(Op.PROMOTE, 5, False)]


@virtual
async def test_an_absorbed_write_waits_until_the_old_row_of_its_cache_block_is_gone() -> None:
    world = World()
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
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"n" * SECTOR)
        await settle()
        assert world.cache_block(2) == b"c" * BLOCK
        committing.set()
        await settle()
        assert world.cache_block(2)[:SECTOR] == b"n" * SECTOR


@virtual
async def test_a_record_that_cannot_be_written_sends_the_write_to_the_origin() -> None:
    world = World()
    world.load(9, 2)
    world.record.error = MetadataError("full")
    async with world.running():
        world.durability.rows.removing(2)
        world.mapping.remove(2)
        world.policy.index.clear()
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK, b"n" * SECTOR)
        assert world.mapping.find(5) < 0
        assert world.origin_block(5)[:SECTOR] == b"n" * SECTOR
        assert world.cache_block(2) == b"c" * BLOCK
        world.admit(6, 3)
        with pytest.raises(FusecacheError):  # read-only by now
            await world.cache.write(6 * BLOCK, b"n")


@virtual
async def test_an_absorbed_write_comes_after_a_write_that_missed_before_it() -> None:
    world = World()
    world.origin.at_once = False
    world.origin.held[5 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"1" * 2 * SECTOR)
        await settle()
        world.admit(5, 2)
        nursery.start_soon(world.cache.write, 5 * BLOCK + SECTOR, b"2" * SECTOR)
        await settle()
        assert world.mapping.find(5) < 0
        world.origin.held.pop(5 * BLOCK).set()
        await settle()
        assert await world.cache.read(5 * BLOCK, 3 * SECTOR) == b"1" * SECTOR + b"2" * SECTOR + b"o" * SECTOR


@virtual
async def test_readers_go_to_the_origin_while_a_write_is_absorbed_and_see_it_afterwards() -> None:
    world = World()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        world.admit(5, 2)
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"n" * SECTOR)
        await settle()
        assert await world.cache.read(5 * BLOCK, SECTOR) == b"o" * SECTOR
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert await world.cache.read(5 * BLOCK, SECTOR) == b"n" * SECTOR


@virtual
async def test_an_fsync_makes_what_was_absorbed_findable_after_a_crash() -> None:
    world = World()
    async with world.running():
        world.admit(5, 2)
        await world.cache.write(5 * BLOCK, b"n" * SECTOR)
        await world.cache.flush()
        assert world.record.rows == {2: (5, True)}
        assert world.record.parts == {2: 0b1}
        await world.cache.write(5 * BLOCK + 2 * SECTOR, b"n" * SECTOR)
        commits = len(world.record.batches)
        await world.cache.flush()
        assert world.record.parts == {2: 0b101}
        assert len(world.record.batches) == commits + 1
        await world.cache.write(5 * BLOCK + 2 * SECTOR, b"m" * SECTOR)
        await world.cache.flush()
        assert len(world.record.batches) == commits + 1, "no sector came to it: a flush of the cache is enough"
        assert "flush" not in world.origin.names()[1:], "nothing was written there"


@virtual
async def test_a_cache_that_is_lost_while_a_write_is_absorbed_sends_it_to_the_origin() -> None:
    world = World()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        world.admit(5, 2)
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"n" * SECTOR)
        await settle()
        world.cached.errors["flush"] = StoreError("flush failed")
        with pytest.raises(FusecacheError):
            await world.cache.flush()
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert world.mapping.find(5) < 0
        assert world.origin_block(5)[:SECTOR] == b"n" * SECTOR


@virtual
async def test_a_write_that_is_cancelled_while_it_is_absorbed_gives_everything_back() -> None:
    world = World()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    async with world.running():
        world.admit(5, 2)
        with trio.move_on_after(1):
            await world.cache.write(5 * BLOCK, b"n" * SECTOR)
        assert world.policy.completed == [(Op.PROMOTE, 5, False)]
        assert world.mapping.find(5) < 0


@virtual
async def test_a_pause_waits_for_absorbed_writes_and_lets_later_ones_pass_to_the_origin() -> None:
    world = World()
    world.cached.at_once = False
    world.cached.held[2 * BLOCK] = trio.Event()
    log: list[str] = []

    async def pause() -> None:
        async with world.worker.paused():
            log.append("paused")
            world.admit(6, 3)
            await world.cache.write(6 * BLOCK, b"n")
            assert world.origin_block(6)[:2] == b"no"

    async with world.running() as nursery:
        world.admit(5, 2)
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"n" * SECTOR)
        await settle()
        nursery.start_soon(pause)
        await settle()
        assert log == []
        world.cached.held.pop(2 * BLOCK).set()
        await settle()
        assert log == ["paused"]
        assert world.mapping.find(5) == 2
