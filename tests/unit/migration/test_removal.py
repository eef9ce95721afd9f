"""Whole blocks that are discarded: what is done in which order, and what is left where something fails."""

from __future__ import annotations

import pytest
import trio

from fusecache.block import WRITERS_OUT
from fusecache.config import Mode
from fusecache.errors import FusecacheError, MetadataError, StoreError
from fusecache.metadata.record import Transaction
from fusecache.migration import removal
from policies import Op, Work
from tests.unit.worlds import BLOCK, World, settle, virtual

ZEROS = bytes(BLOCK)


def blocks(first: int, count: int = 1) -> tuple[int, int]:
    return first * BLOCK, count * BLOCK


def in_order(world: World) -> list[str]:
    """Have the steps of what follows noted: punches, flushes of the origin, and commits."""
    steps: list[str] = []

    async def note(name: str) -> None:
        steps.append(f"{name} the origin")

    async def note_commit(transaction: Transaction) -> None:
        steps.append(f"unmap {sorted(transaction.unmapped)}")

    world.origin.before = note
    world.record.before = note_commit
    return steps


@pytest.mark.parametrize("mode", Mode)
@virtual
async def test_a_clean_block_is_unmapped_before_the_origin_is_punched(mode: Mode) -> None:
    world = World(mode=mode)
    world.load(5, 2)
    steps = in_order(world)
    async with world.running():
        await world.cache.discard(*blocks(5))
        assert steps == ["unmap [2]", "discard the origin"]
        assert bytes(await world.cache.read(*blocks(5))) == ZEROS == world.origin_block(5)
        assert not world.policy.index
        assert not world.record.rows
        assert world.durability.flushes.origin_unflushed, "the next fsync makes it durable"
        assert (world.volume.counters.discards, world.volume.counters.discarded_bytes) == (1, BLOCK)


@pytest.mark.parametrize("valid", [None, 0b110])
@pytest.mark.parametrize("mode", [Mode.WRITEBACK, Mode.WRITETHROUGH])
@virtual
async def test_a_dirty_block_is_unmapped_when_the_origin_has_its_zeros_durably(mode: Mode, valid: int | None) -> None:
    world = World(mode=mode)
    world.load(5, 2, dirty=True, valid=valid)
    steps = in_order(world)
    async with world.running():
        await world.cache.discard(*blocks(5))
        assert steps == ["discard the origin", "flush the origin", "unmap [2]"]
        assert not world.cached.names(), "nothing is copied"
        assert bytes(await world.cache.read(*blocks(5))) == ZEROS
        assert not world.mapping.dirty_count
        assert not world.policy.dirty
        assert not world.policy.index
        assert not world.record.rows
        assert not world.policy.outstanding


@virtual
async def test_neighbours_are_one_operation_at_the_origin_and_share_their_commits() -> None:
    world = World()
    for oblock, cblock in ((3, 0), (4, 1), (6, 2), (7, 3)):
        world.load(oblock, cblock, dirty=oblock % 2 == 0)
    steps = in_order(world)
    async with world.running():
        await world.cache.discard(*blocks(2, 8))
        assert steps == ["unmap [0, 3]", "discard the origin", "flush the origin", "unmap [1, 2]"]
        assert bytes(await world.cache.read(*blocks(2, 8))) == 8 * ZEROS
        assert world.origin_block(1) == world.origin_block(10) == b"o" * BLOCK


@pytest.mark.parametrize(("bound", "value"), [("SLICE", 4), ("SLICE_BYTES", 5 * BLOCK - 1)])
@virtual
async def test_a_long_discard_goes_on_in_slices_and_lets_others_in_between(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(removal, bound, value)
    world = World()
    most = 0

    async def look(name: str) -> None:
        nonlocal most
        most = max(most, len(world.locks.held))

    world.origin.before = look
    async with world.running():
        await world.cache.discard(*blocks(0, 16))
        assert [call for call in world.origin.calls if call[0] == "discard"] == [
            ("discard", begin * BLOCK, 4 * BLOCK) for begin in (0, 4, 8, 12)
        ]
        assert most == 4


@virtual
async def test_blocks_that_somebody_migrates_are_done_when_he_is_done() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.locks.try_exclusive(5, WRITERS_OUT)
    async with world.running() as nursery:
        nursery.start_soon(world.cache.discard, *blocks(3, 4))
        await settle()
        assert world.origin_block(4) == world.origin_block(6) == ZEROS
        assert world.mapping.find(5) == 2
        assert list(world.locks.held) == [5], "nobody waits for it with other blocks in his hands"
        world.locks.end_exclusive(5)
        await settle()
        assert world.origin_block(5) == ZEROS
        assert world.mapping.find(5) == -1


@virtual
async def test_writers_wait_for_it_and_it_for_them_and_readers_for_the_unmapping_only() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.locks.try_write(5)
    world.origin.held[5 * BLOCK] = trio.Event()
    async with world.running() as nursery:
        nursery.start_soon(world.cache.discard, *blocks(5))
        await settle()
        assert not world.origin.calls
        world.locks.end_write(5)
        await settle()
        assert bytes(await world.cache.read(5 * BLOCK, 4)) == b"cccc"
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"new")
        await settle()
        world.origin.held[5 * BLOCK].set()
        await settle()
        assert bytes(await world.cache.read(5 * BLOCK, 4)) == b"new\0"


@virtual
async def test_an_item_that_the_policy_has_out_is_taken_back() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        world.policy.queue.append(Work(Op.DEMOTE, 5, 2))
        await world.cache.discard(*blocks(5))
        assert world.policy.index == {}
        assert (Op.DEMOTE, 5, False) in world.policy.completed


@virtual
async def test_if_the_origin_takes_no_hole_a_dirty_block_stays_as_it_was() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.load(6, 3)
    world.origin.errors["discard"] = StoreError("broken")
    async with world.running():
        with pytest.raises(StoreError, match="broken"):
            await world.cache.discard(*blocks(5, 2))
        assert bytes(await world.cache.read(*blocks(5))) == b"c" * BLOCK
        assert world.policy.index == {5: 2}
        assert world.policy.dirty == {2}
        assert world.durability.flushes.origin_unflushed, "some of it may be zero there"


@virtual
async def test_if_the_unmapping_cannot_be_committed_the_cache_still_counts() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.record.error = MetadataError("disk is full")
    async with world.running():
        with pytest.raises(MetadataError, match="full"):
            await world.cache.discard(*blocks(5))
        assert bytes(await world.cache.read(*blocks(5))) == b"c" * BLOCK
        assert world.mapping.dirty_count == 1
        assert world.policy.dirty == {2}
        assert world.record.rows == {2: (5, True)}
        with pytest.raises(FusecacheError, match="read-only"):
            await world.cache.discard(*blocks(7))
        assert world.origin_block(7) == b"o" * BLOCK


@virtual
async def test_what_could_not_be_read_is_not_missed_any_more() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.volume.health.lost.add(5 * BLOCK + 512, 5 * BLOCK + 1024)
    world.volume.health.writeback_failed(5, "no space")
    async with world.running():
        await world.cache.discard(*blocks(5))
        assert not len(world.volume.health.lost)
        assert world.volume.health.state == "ok"


@virtual
async def test_a_pause_waits_for_a_slice_and_a_slice_for_the_end_of_a_pause() -> None:
    world = World()
    world.load(5, 2)
    async with world.running() as nursery:
        async with world.worker.paused():
            nursery.start_soon(world.cache.discard, *blocks(5))
            await settle()
            assert world.mapping.find(5) == 2
        await settle()
        assert world.mapping.find(5) == -1


@virtual
async def test_without_passdown_the_origin_is_written_full_of_zeros() -> None:
    world = World()
    world.volume.discard_passdown = False
    world.load(5, 2, dirty=True)
    async with world.running():
        await world.cache.discard(*blocks(4, 3))
        assert "discard" not in world.origin.names()
        assert bytes(await world.cache.read(*blocks(4, 3))) == 3 * ZEROS
