"""Rule by rule: what is durable before what.  Whole crashes are for the crash tests."""

from __future__ import annotations

import pytest
import trio

from fusecache.block.states import DIRTY, RECORDED, WRITE_INTENT
from fusecache.errors import MetadataError, ReadOnlyError, StoreError
from fusecache.metadata import region_blocks_for
from fusecache.metadata.record import Transaction
from tests.unit.worlds import BLOCK, World, settle, virtual


@pytest.mark.parametrize(("blocks", "expected"), [(1, 1), (1023, 1), (1024, 1), (2048, 2), (65536, 64), (10**7, 64)])
def test_regions_are_small_in_small_caches(blocks: int, expected: int) -> None:
    assert region_blocks_for(blocks) == expected


def promote(world: World, oblock: int, cblock: int, *, dirty: bool = False) -> None:
    """Map a block as a promotion does."""
    world.mapping.insert(oblock, cblock)
    world.policy.load_mapping(oblock, cblock, dirty, None)
    world.durability.rows.promoted(cblock)
    if dirty:
        world.volume.set_dirty(cblock)


@virtual
async def test_a_row_comes_after_its_data() -> None:
    world = World()
    order: list[str] = []

    async def store(name: str) -> None:
        order.append(f"cache {name}")

    async def record(transaction: Transaction) -> None:
        order.append(f"commit {[row[:3] for row in transaction.mapped]}")

    world.cached.before, world.record.before = store, record
    async with world.running():
        promote(world, 5, 0)
        await world.durability.commit()
    assert order == ["cache flush", "commit [(0, 5, False)]"]
    assert world.record.rows == {0: (5, False)}


@virtual
async def test_no_row_is_committed_if_its_data_cannot_be_flushed() -> None:
    world = World()
    async with world.running():
        promote(world, 5, 0, dirty=True)
        world.cached.errors["flush"] = StoreError("flush of cache failed: dead")
        with pytest.raises(StoreError, match="dead"):
            await world.durability.flush()
        assert not world.record.batches
        assert world.durability.flushes.cache_failed.is_set()
        assert "dead" in world.volume.health.cache_lost
        del world.cached.errors["flush"]
        with pytest.raises(StoreError, match="dead: 1 blocks have still to be brought to safety"):
            await world.durability.flush()  # what a flush lost does not come back with the next one
        await world.durability.commit()
        assert not world.record.batches
        assert await world.worker.invalidate(5)
        await world.durability.flush()
        assert world.record.rows == {}
        assert world.origin_block(5) == b"o" * BLOCK  # what the cache has of it may be what another block has left


@virtual
async def test_a_clean_row_waits_for_the_origin_and_a_dirty_one_does_not() -> None:
    world = World()
    async with world.running():
        promote(world, 5, 0, dirty=True)
        await world.durability.commit()
        assert "flush" not in world.origin.names()
        world.volume.set_clean(0, 0)
        world.origin.errors["flush"] = StoreError("flush of origin failed: dead")
        with pytest.raises(StoreError, match="dead"):
            await world.durability.commit()
        assert world.record.rows == {0: (5, True)}
        del world.origin.errors["flush"]
        await world.durability.commit()
        assert world.record.rows == {0: (5, False)}


@virtual
async def test_a_flush_flushes_both_stores_and_a_commit_only_what_it_depends_on() -> None:
    world = World()
    async with world.running():
        await world.durability.commit()
        assert world.cached.names() == world.origin.names() == []
        await world.durability.flush()
        assert world.cached.names() == world.origin.names() == ["flush"]
        assert not world.record.batches


@virtual
async def test_flushes_share_rounds() -> None:
    world = World()

    async def slow(name: str) -> None:
        await trio.sleep(1)

    world.cached.before = slow
    async with world.running():
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(world.durability.flush)
        assert world.durability.rounds == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.durability.flush)
            await settle()
            for _ in range(10):
                nursery.start_soon(world.durability.flush)
        assert world.durability.rounds == 3


@virtual
async def test_whoever_asks_while_a_round_runs_gets_the_next_one() -> None:
    world = World()

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.cached.before = slow
    async with world.running() as nursery:
        nursery.start_soon(world.durability.flush)
        await trio.sleep(1)
        promote(world, 5, 0, dirty=True)
        await world.durability.flush()
        assert trio.current_time() == 20
        assert world.record.rows == {0: (5, True)}


@virtual
async def test_a_commit_that_fails_reaches_everybody_and_nothing_is_committed_after_it() -> None:
    world = World()
    caught: list[str] = []

    async def flush() -> None:
        try:
            await world.durability.flush()
        except MetadataError as exc:
            caught.append(str(exc))

    async with world.running():
        promote(world, 5, 0)
        world.record.error = MetadataError("disk is full")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(flush)
        assert caught == ["disk is full"] * 3
        assert world.volume.health.read_only == "disk is full"
        world.record.error = None
        await flush()
        assert caught == ["disk is full"] * 4
        assert world.record.rows == {}
        assert not world.record.batches


@virtual
async def test_a_failure_of_the_origin_reaches_everybody_in_its_round_and_nobody_after_it() -> None:
    world = World()
    caught: list[str] = []

    async def flush() -> None:
        try:
            await world.durability.flush()
        except StoreError as exc:
            caught.append(str(exc))

    async with world.running():
        promote(world, 5, 0)
        world.origin.errors["flush"] = StoreError("dead")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(flush)
        assert caught == ["dead"] * 3
        assert world.record.rows == {}
        del world.origin.errors["flush"]
        await flush()
        assert caught == ["dead"] * 3
        assert world.record.rows == {0: (5, False)}


@virtual
async def test_that_a_check_is_needed_is_recorded_if_that_can_be_done() -> None:
    world = World()
    attempts = 0

    async def fail_once(transaction: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            msg = "disk is full"
            raise MetadataError(msg)

    world.record.before = fail_once
    async with world.running():
        promote(world, 5, 0)
        with pytest.raises(MetadataError, match="full"):
            await world.durability.commit()
        assert world.record.values == {"needs_check": "1"}
        assert [transaction.values for transaction in world.record.batches] == [{"needs_check": "1"}]


@virtual
async def test_the_end_of_a_mount_without_metadata_is_not_clean_and_tries_once_more_to_say_so() -> None:
    world = World()
    promote(world, 5, 0)
    world.record.error = MetadataError("disk is full")
    async with world.running():
        with pytest.raises(MetadataError):
            await world.durability.commit()
        assert world.record.values == {}
        world.durability.commit_later(close_regions=True)
        await settle()
    world.record.error = None
    with pytest.raises(MetadataError, match="full"):
        await world.durability.settle()
    assert world.record.values == {"needs_check": "1"}
    assert world.record.rows == {}


# Covering


@virtual
async def test_a_clean_recorded_block_is_covered_by_opening_its_region_durably() -> None:
    world = World(region_blocks=2)
    for number in range(4):
        world.load(number, number)
    async with world.running():
        world.locks.try_write(1)
        await world.durability.record_intent(1)
        assert world.record.regions == {0}
        assert world.mapping.flags[1] & WRITE_INTENT
        assert not world.mapping.flags[0] & WRITE_INTENT
        world.durability.check()
        world.locks.end_write(1)
        before = len(world.record.batches)
        await world.durability.record_intent(0)
        await world.durability.record_intent(1)
        assert len(world.record.batches) == before
        await world.durability.record_intent(2)
        assert world.record.regions == {0, 1}


@virtual
async def test_covers_that_come_together_share_a_commit_and_do_not_wait_for_a_flush() -> None:
    world = World(cache_blocks=8, region_blocks=1)
    for number in range(8):
        world.load(number, number)

    async def slow(name: str) -> None:
        await trio.sleep(100)

    world.cached.before = slow
    async with world.running() as background:
        background.start_soon(world.durability.flush)
        await settle()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(world.durability.record_intent, number)
        assert trio.current_time() == 0
        assert world.record.regions == set(range(8))
        assert len(world.record.batches) <= 2
        await trio.sleep(200)


@virtual
async def test_a_cover_that_cannot_be_recorded_covers_nothing() -> None:
    world = World(region_blocks=1)
    world.load(0, 0)
    world.load(1, 1)
    async with world.running():
        await world.durability.record_intent(1)
        world.record.error = MetadataError("disk is full")
        with pytest.raises(MetadataError, match="full"):
            await world.durability.record_intent(0)
        assert not world.mapping.flags[0] & WRITE_INTENT
        assert world.volume.health.read_only == "disk is full"
        world.record.error = None
        with pytest.raises(ReadOnlyError, match="fusecache check --clear-needs-check"):
            await world.durability.record_intent(0)
        assert not world.mapping.flags[0] & WRITE_INTENT
        assert world.record.regions == {1}
        await world.durability.record_intent(1)  # covered before


@virtual
async def test_a_promoted_block_is_covered_until_it_is_recorded_clean() -> None:
    world = World()
    async with world.running():
        promote(world, 5, 0)
        assert world.mapping.flags[0] & WRITE_INTENT
        await world.durability.commit()
        assert not world.mapping.flags[0] & WRITE_INTENT
        await world.durability.record_intent(0)
        assert world.record.regions == {0}


@virtual
async def test_a_block_that_is_being_written_is_not_recorded_clean() -> None:
    world = World()
    async with world.running():
        promote(world, 5, 0)
        assert world.locks.try_write(5)
        await world.durability.commit()
        assert world.record.rows == {}
        assert world.mapping.flags[0] & WRITE_INTENT
        world.volume.set_dirty(0)
        world.locks.end_write(5)
        await world.durability.commit()
        assert world.record.rows == {0: (5, True)}


@virtual
async def test_regions_close_when_they_saw_no_new_use_and_take_exact_rows_along() -> None:
    world = World(region_blocks=2)
    world.load(0, 0)
    world.load(1, 1)
    async with world.running():
        await world.durability.record_intent(0)
        world.volume.set_dirty(0)
        world.durability.commit_later(close_regions=True)  # used since the last time
        await settle()
        assert world.record.regions == {0}
        world.durability.commit_later(close_regions=True)
        await settle()
        assert world.record.regions == set()
        assert world.record.rows == {0: (0, True), 1: (1, False)}
        assert world.mapping.flags[0] == DIRTY | WRITE_INTENT | RECORDED
        assert world.mapping.flags[1] == 0


@virtual
async def test_a_region_with_a_write_under_way_stays_open() -> None:
    world = World(region_blocks=2)
    world.load(0, 0)
    async with world.running():
        assert world.locks.try_write(0)
        await world.durability.record_intent(0)
        for _ in range(5):
            world.durability.commit_later(close_regions=True)
            await settle()
        assert world.record.regions == {0}
        world.locks.end_write(0)
        for _ in range(2):
            world.durability.commit_later(close_regions=True)
            await settle()
        assert world.record.regions == set()


@virtual
async def test_a_region_that_is_wanted_again_while_it_closes_stays_open() -> None:
    world = World(region_blocks=2)
    world.load(0, 0)
    async with world.running():
        await world.durability.record_intent(0)
        world.durability.regions.touched.clear()

        async def slow(name: str) -> None:
            await trio.sleep(10)

        world.cached.before = slow
        world.durability.commit_later(close_regions=True)
        await trio.sleep(1)
        assert not world.mapping.flags[0] & WRITE_INTENT
        await world.durability.record_intent(0)
        world.volume.set_dirty(0)
        await trio.sleep(20)
        assert world.record.regions == {0}
        assert world.durability.regions.open == {0}


@virtual
async def test_a_region_that_could_not_be_closed_counts_as_open_and_no_other_block_of_it_is_covered() -> None:
    world = World(region_blocks=2)
    world.load(0, 0)
    world.load(1, 1)
    async with world.running():
        await world.durability.record_intent(0)
        world.volume.set_dirty(0)
        world.durability.regions.touched.clear()
        world.record.error = MetadataError("full")
        world.durability.commit_later(close_regions=True)
        await settle()
        world.durability.check()
        assert world.durability.regions.open == {0}
        assert world.record.regions == {0}
        world.record.error = None
        with pytest.raises(ReadOnlyError):
            await world.durability.record_intent(1)
        for _ in range(3):
            world.durability.commit_later(close_regions=True)
            await settle()
        assert world.record.regions == {0}
        assert world.mapping.flags[0] & DIRTY


@virtual
async def test_a_region_whose_closing_the_origin_held_up_is_closed_later() -> None:
    world = World(region_blocks=2)
    world.load(0, 0)
    async with world.running():
        await world.durability.record_intent(0)
        world.durability.regions.touched.clear()
        world.origin.errors["flush"] = StoreError("dead")
        world.durability.commit_later(close_regions=True)
        await settle()
        world.durability.check()
        assert world.record.regions == {0}
        world.origin.errors.clear()
        world.durability.commit_later(close_regions=True)
        await settle()
        assert not world.record.regions


# Unmapping


@virtual
async def test_a_cache_block_is_vacant_only_when_its_unmapping_is_durable() -> None:
    world = World()
    world.load(5, 0)

    async def slow(transaction: Transaction) -> None:
        await trio.sleep(10)

    world.record.before = slow
    async with world.running():
        await world.durability.wait_reusable(1)  # never mapped
        assert trio.current_time() == 0
        world.durability.rows.removing(0)
        world.mapping.remove(0)
        world.volume.forget(0)
        await world.durability.wait_reusable(0)
        assert trio.current_time() == 10
        assert world.record.rows == {}


@virtual
async def test_vacating_waits_for_a_commit_that_began_after_the_unmapping() -> None:
    world = World()
    world.load(5, 0)
    promote(world, 6, 1)

    async def slow(transaction: Transaction) -> None:
        await trio.sleep(10)

    world.record.before = slow
    async with world.running() as nursery:
        nursery.start_soon(world.durability.commit)
        await trio.sleep(1)
        world.durability.rows.removing(0)
        world.mapping.remove(0)
        world.volume.forget(0)
        await world.durability.wait_reusable(0)
        assert 0 not in world.record.rows
        assert trio.current_time() == 20


@virtual
async def test_a_block_that_was_dirty_leaves_only_when_the_origin_is_durable() -> None:
    world = World()
    world.load(5, 0, dirty=True)
    async with world.running():
        world.volume.set_clean(0, 0)
        world.durability.rows.removing(0)
        world.mapping.remove(0)
        world.volume.forget(0)
        world.origin.errors["flush"] = StoreError("dead")
        with pytest.raises(StoreError):
            await world.durability.commit()
        assert world.record.rows == {0: (5, True)}
        del world.origin.errors["flush"]
        await world.durability.wait_reusable(0)
        assert world.record.rows == {}


@virtual
async def test_a_block_that_turned_clean_while_it_was_recorded_dirty_is_recorded_again() -> None:
    world = World()

    async def slow(transaction: Transaction) -> None:
        await trio.sleep(10)

    world.record.before = slow
    async with world.running() as nursery:
        promote(world, 5, 0, dirty=True)
        nursery.start_soon(world.durability.commit)
        await trio.sleep(1)
        world.volume.set_clean(0, 0)
        await trio.sleep(10)
        assert world.record.rows == {0: (5, True)}
        world.durability.commit_later()
        await trio.sleep(20)
        assert world.record.rows == {0: (5, False)}


# The end


@virtual
async def test_settling_makes_the_record_exact() -> None:
    world = World(region_blocks=2)
    world.load(0, 0)
    world.load(1, 1, dirty=True)
    async with world.running():
        await world.durability.record_intent(0)
        world.volume.set_dirty(0)
        world.volume.set_clean(1, 0)
        promote(world, 9, 3)
    await world.durability.settle()
    assert world.record.regions == set()
    assert world.record.rows == {0: (0, True), 1: (1, False), 3: (9, False)}
    assert world.cached.names().count("flush") == world.origin.names().count("flush") == 1


@virtual
async def test_settling_that_fails_says_so() -> None:
    world = World()
    promote(world, 5, 0)
    world.cached.errors["flush"] = StoreError("dead")
    with pytest.raises(StoreError, match="dead"):
        await world.durability.settle()
    assert not world.record.batches


@pytest.mark.parametrize("written_back", [True, False])
@virtual
async def test_a_block_that_was_spoiled_and_then_turned_dirty_keeps_its_region_open_no_longer(
    written_back: bool,
) -> None:
    world = World()
    world.load(0, 0)
    async with world.running():
        await world.durability.record_intent(0)
        world.durability.rows.mark_divergent(0)  # a write to the cache failed, and so did the way out;
        world.volume.set_dirty(0)  # another write to the block succeeded
        await world.durability.commit()
        if written_back:
            world.volume.set_clean(0, 0)
    await world.durability.settle()
    assert not world.durability.regions.open
    assert not world.record.regions
    assert world.record.rows == {0: (0, not written_back)}
    assert bool(world.mapping.flags[0] & WRITE_INTENT) is not written_back


@virtual
async def test_nothing_to_do_is_no_commit() -> None:
    world = World()
    world.load(0, 0)
    async with world.running():
        for _ in range(3):
            world.durability.commit_later(close_regions=True)
            await trio.sleep(1)
        assert world.durability.rounds == 0
        assert not world.cached.calls


def test_check_sees_dirty_blocks_that_nothing_covers() -> None:
    world = World()
    world.load(0, 0)
    world.durability.check()
    world.mapping.flags[0] = DIRTY
    with pytest.raises(AssertionError, match="no write intent"):
        world.durability.check()
    world.mapping.flags[0] = WRITE_INTENT
    with pytest.raises(AssertionError, match="nothing says so"):
        world.durability.check()
