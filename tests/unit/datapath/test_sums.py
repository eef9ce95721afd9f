"""The checksum of a clean block: known when its content was copied, gone when it may change."""

from __future__ import annotations

import pytest
import trio
from crc32c import crc32c

from fusecache.attach.recovery import recover
from fusecache.block.geometry import Geometry
from fusecache.config import Mode
from fusecache.errors import StoreError
from fusecache.jobs.switching import switch_mode
from fusecache.metadata.record import Row
from policies import Op
from tests.unit.worlds import BLOCK, ToyPolicy, World, settle, virtual

OLD = crc32c(b"o" * BLOCK)
CACHED = crc32c(b"c" * BLOCK)


@virtual
async def test_a_promotion_knows_the_sum_and_records_it() -> None:
    world = World()
    world.origin.data[5 * BLOCK] = 1
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        assert world.mapping.sum_of(2) == crc32c(world.origin_block(5)) != OLD
        await world.durability.commit()
        assert world.record.sums == {2: world.mapping.sum_of(2)}


@virtual
async def test_a_promotion_that_fails_leaves_no_sum_to_whoever_comes_next() -> None:
    world = World()
    world.policy.overwrites = {6: 2}
    async with world.running():
        world.origin.errors["read"] = StoreError("dead")
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        await world.cache.write(6 * BLOCK, b"n" * BLOCK)
        assert world.mapping.find(6) == 2
        assert world.mapping.sum_of(2) is None


@pytest.mark.parametrize("by", ["policy", "flush", "mode"])
@virtual
async def test_a_block_that_is_written_back_has_the_sum_of_what_was_copied(by: str) -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        await world.cache.write(5 * BLOCK + 7, b"new")
        assert world.mapping.sum_of(2) is None
        if by == "policy":
            world.ask(Op.WRITEBACK, 5, 2)
            await settle()
        elif by == "flush":
            await world.flusher.flush()
        else:
            job = world.jobs.begin("mode")
            await switch_mode(
                world.volume, world.worker, world.flusher, Mode.WRITETHROUGH, lambda: ToyPolicy(world.cache_blocks), job
            )
        assert world.mapping.sum_of(2) == crc32c(world.origin_block(5)) == crc32c(world.cache_block(2)) != CACHED
        await world.durability.commit()
        assert world.record.rows == {2: (5, False)}
        assert world.record.sums == {2: world.mapping.sum_of(2)}


@virtual
async def test_a_block_written_while_it_is_written_back_has_no_sum() -> None:
    world = World()
    world.load(5, 2, dirty=True)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await trio.sleep(5)
        await world.cache.write(5 * BLOCK, b"new")
        await trio.sleep(30)
        assert world.mapping.sum_of(2) is None
        assert world.mapping.dirty_count == 1


@pytest.mark.parametrize("write", [b"new", b"n" * BLOCK])
@virtual
async def test_a_write_ends_the_sum_and_the_record_calls_the_block_suspect_first(write: bytes) -> None:
    world = World()
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        await world.durability.commit()
        await world.cache.write(5 * BLOCK, write)
        assert world.mapping.sum_of(2) is None
        assert world.record.regions == {1}
        assert world.mapping.dirty_count == 1


@virtual
async def test_a_write_to_both_ends_the_sum_once_the_block_is_suspect_and_the_record_is_told() -> None:
    world = World(mode=Mode.WRITETHROUGH)
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        await world.durability.commit()
        assert world.record.sums == {2: OLD}
        await world.cache.write(5 * BLOCK, b"new")
        assert world.record.regions == {1}
        assert world.mapping.sum_of(2) is None
        assert world.mapping.dirty_count == 0
        world.durability.regions.touched.clear()
        world.durability.commit_later(close_regions=True)
        await settle()
        assert (world.record.regions, world.record.rows, world.record.sums) == (set(), {2: (5, False)}, {2: None})


@virtual
async def test_sums_outlive_a_change_of_mode_and_of_policy_and_reads() -> None:
    world = World()
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        for mode in (Mode.WRITETHROUGH, Mode.PASSTHROUGH, Mode.WRITEBACK):
            job = world.jobs.begin("mode")
            await switch_mode(
                world.volume, world.worker, world.flusher, mode, lambda: ToyPolicy(world.cache_blocks), job
            )
            await world.cache.read(5 * BLOCK, BLOCK)
            assert world.mapping.sum_of(2) == OLD


@virtual
async def test_a_demoted_block_leaves_its_sum_behind() -> None:
    world = World()
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        world.ask(Op.DEMOTE, 5, 2)
        await settle()
        assert world.record.sums == {}
        world.origin.data[6 * BLOCK] = 1
        world.ask(Op.PROMOTE, 6, 2)
        await settle()
        assert world.mapping.sum_of(2) == crc32c(world.origin_block(6))


def test_after_a_crash_only_what_is_surely_clean_has_a_sum() -> None:
    geometry = Geometry(16 * BLOCK, BLOCK, 4)
    rows = [
        Row(0, 10, dirty=False, hint=None, crc=1),
        Row(1, 11, dirty=True, hint=None, crc=None),
        Row(2, 12, dirty=False, hint=None, crc=3),
        Row(3, 13, dirty=False, hint=None, crc=None),
    ]
    recovered = recover(rows, {2}, geometry=geometry, region_blocks=1, policy=ToyPolicy(4), hints_valid=False)
    assert [recovered.mapping.sum_of(cblock) for cblock in range(4)] == [1, None, None, None]
    assert recovered.mapping.dirty_blocks() == [1, 2]
    recovered.mapping.check()
