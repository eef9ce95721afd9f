"""Discards: whole blocks, parts of them, the tail, and what is refused."""

from __future__ import annotations

import pytest
import trio

from fusecache.block import DIRTY
from fusecache.config import Mode
from fusecache.datapath.disk import Disk
from fusecache.errors import OutOfRangeError, ReadOnlyError, StoreError
from tests.unit.worlds import BLOCK, World, settle, virtual

SECTOR = 512
START = 5 * BLOCK


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize(("offset", "length"), [(100, 50), (0, SECTOR), (SECTOR, BLOCK - SECTOR), (BLOCK - 10, 20)])
@virtual
async def test_a_part_of_a_block_is_zero_and_the_rest_as_it_was(
    mode: Mode, dirty: bool, offset: int, length: int
) -> None:
    if mode is Mode.PASSTHROUGH and dirty:
        return  # cannot be
    world = World(mode=mode)
    world.load(5, 2, dirty=dirty)
    world.cached.data[2 * BLOCK : 3 * BLOCK] = (b"c" if dirty else b"o") * BLOCK
    async with world.running():
        before = bytearray(await world.cache.read(START, 2 * BLOCK))
        world.policy.index.setdefault(5, 2)
        await world.cache.discard(START + offset, length)
        before[offset : offset + length] = bytes(length)
        assert bytes(await world.cache.read(START, 2 * BLOCK)) == before
        if mode is not Mode.WRITEBACK and not dirty:
            assert world.origin_block(5) == before[:BLOCK]
        assert world.mapping.find(5) == (-1 if mode is Mode.PASSTHROUGH else 2)
        assert bool(world.mapping.flags[2] & DIRTY) == (dirty or mode is Mode.WRITEBACK)


@virtual
async def test_a_partial_block_gets_sectors_of_zeros() -> None:
    world = World()
    world.load(5, 2, dirty=True, valid=0b0110)
    async with world.running():
        await world.cache.discard(START + 2 * SECTOR, 2 * SECTOR)
        assert world.mapping.valid == {2: 0b1110}
        assert "discard" not in world.origin.names()
        expected = b"o" * SECTOR + b"c" * SECTOR + bytes(2 * SECTOR) + b"o" * 4 * SECTOR
        assert bytes(await world.cache.read(START, BLOCK)) == expected


@virtual
async def test_where_nothing_is_cached_the_origin_gets_a_hole_and_the_policy_is_not_asked() -> None:
    world = World()
    world.admit(5, 2)
    world.policy.overwrites[6] = 3
    async with world.running():
        await world.cache.discard(START + SECTOR, 2 * BLOCK)
        assert sorted(world.origin.calls) == [
            ("discard", START + SECTOR, BLOCK - SECTOR),
            ("discard", START + BLOCK, BLOCK),
            ("discard", START + 2 * BLOCK, SECTOR),
        ]
        assert not world.mapping.mapped_count
        assert not world.volume.counters.requests
        assert world.volume.written, "the image has another time"
        await world.cache.flush()
        assert "flush" in world.origin.names()


@virtual
async def test_the_tail_is_discarded_at_the_origin() -> None:
    world = World(tail=700)
    async with world.running():
        end = world.geometry.image_bytes
        await world.cache.discard(world.geometry.tail_start - BLOCK, BLOCK + 600)
        assert bytes(await world.cache.read(end - 700, 700)) == bytes(600) + b"o" * 100
        await world.cache.discard(end - 50, 50)
        assert bytes(await world.cache.read(end - 60, 60)) == b"o" * 10 + bytes(50)


@virtual
async def test_a_large_block_is_zeroed_in_steps() -> None:
    size = 4 * 1024 * 1024
    world = World(cache_blocks=2, origin_blocks=3, block_size=size)
    world.load(1, 0)
    async with world.running():
        await world.cache.discard(size + 100, size - 200)
        assert max(length for name, _, length in world.cached.calls if name == "write") <= size // 4
        assert bytes(await world.cache.read(size, size)) == b"c" * 100 + bytes(size - 200) + b"c" * 100


@virtual
async def test_what_was_read_ahead_is_not_believed_afterwards() -> None:
    world = World()
    world.worker.read_ahead.set_size(64 * BLOCK)
    async with world.running():
        for oblock in range(4):
            await world.cache.read(oblock * BLOCK, BLOCK)
        await settle()
        await world.cache.discard(0, 16 * BLOCK)
        assert bytes(await world.cache.read(0, 16 * BLOCK)) == bytes(16 * BLOCK)


@virtual
async def test_a_write_during_it_comes_before_or_after_it() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.origin.held[START] = trio.Event()
    async with world.running() as nursery:
        nursery.start_soon(world.cache.discard, START, BLOCK)
        await settle()
        nursery.start_soon(world.cache.write, START, b"w" * BLOCK)
        await settle()
        world.origin.held[START].set()
        await settle()
        assert bytes(await world.cache.read(START, BLOCK)) == b"w" * BLOCK


@virtual
async def test_what_passes_the_end_is_refused_and_nothing_is_done() -> None:
    world = World()
    async with world.running():
        for offset, length in [(world.geometry.image_bytes - 1, 2), (-1, 1)]:
            with pytest.raises(OutOfRangeError):
                await world.cache.discard(offset, length)
        await world.cache.discard(0, 0)
        assert not world.origin.calls


@virtual
async def test_nothing_is_discarded_where_nothing_is_written() -> None:
    world = World()
    world.volume.health.origin_read_only = "mounted with --read-only"
    disk = Disk(world.volume, world.worker)
    with pytest.raises(ReadOnlyError, match="--read-only"):
        await disk.discard(0, BLOCK)


@virtual
async def test_the_rest_is_done_where_one_part_fails() -> None:
    world = World()
    world.origin.dead.add(START)
    async with world.running():
        with pytest.raises(StoreError):
            await world.cache.discard(START - SECTOR, BLOCK + 2 * SECTOR)
        assert world.origin_block(4)[-SECTOR:] == world.origin_block(6)[:SECTOR] == bytes(SECTOR)


@virtual
async def test_on_a_lost_cache_a_part_goes_to_the_origin() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        world.cached.errors["flush"] = StoreError("dead")
        with pytest.raises(StoreError):
            await world.cache.flush()
        await world.cache.discard(START + SECTOR, SECTOR)
        await world.cache.discard(START + 2 * BLOCK, BLOCK)
        assert world.mapping.find(5) == -1
        assert world.origin_block(5) == b"c" * SECTOR + bytes(SECTOR) + b"c" * 6 * SECTOR
