"""Blocks of which the cache has some sectors: how they are read, written, made whole, written back, and let go."""

from __future__ import annotations

import pytest
import trio
from crc32c import crc32c

from fusecache.block import DIRTY, PARTIAL, WRITERS_OUT
from fusecache.config import COPY_SIZE, Mode
from fusecache.errors import FusecacheError, MetadataError, StoreError
from fusecache.jobs.evacuation import evacuate
from fusecache.jobs.scrub import Scrub
from fusecache.jobs.switching import switch_mode, switch_policy
from fusecache.migration.neighbours import dirty_around
from policies import Op
from tests.unit.worlds import BLOCK, ToyPolicy, World, settle, virtual

SECTOR = 512
START = 5 * BLOCK
PLACE = 2 * BLOCK


def part_world(valid: int = 0b0000_0110, *, dirty: bool = True, mode: Mode = Mode.WRITEBACK) -> World:
    """Make a world with block 5 in cache block 2, of which only these sectors count."""
    world = World(mode=mode)
    world.load(5, 2, dirty=dirty, valid=valid)
    return world


def image(valid: int) -> bytes:
    """Return what block 5 shows then."""
    return b"".join((b"c" if valid >> sector & 1 else b"o") * SECTOR for sector in range(8))


def done_at_origin(world: World, name: str) -> list[tuple[int, int]]:
    """List the reads or writes of the origin within block 5: where, and how long."""
    return [(offset - START, length) for what, offset, length in world.origin.calls if what == name]


# Reads


@virtual
async def test_a_read_of_valid_sectors_is_a_hit_like_any_other() -> None:
    world = part_world()
    async with world.running():
        assert await world.cache.read(START + SECTOR + 3, 2 * SECTOR - 3) == b"c" * (2 * SECTOR - 3)
        assert not world.origin.calls
        assert world.mapping.valid == {2: 0b110}
        assert world.volume.counters.read_hits == 1


@pytest.mark.parametrize(
    ("valid", "hull"),
    [(0b0000_0110, (0, BLOCK)), (0b1111_1100, (0, 2 * SECTOR)), (0b1100_0011, (2 * SECTOR, 4 * SECTOR))],
)
@virtual
async def test_a_read_of_other_sectors_makes_the_block_whole_by_one_read(valid: int, hull: tuple[int, int]) -> None:
    world = part_world(valid)
    async with world.running():
        assert await world.cache.read(START, BLOCK) == image(valid)
        await settle()
        assert done_at_origin(world, "read") == [hull]
        assert world.cache_block(2) == image(valid)
        assert not world.mapping.valid
        assert world.mapping.flags[2] & (DIRTY | PARTIAL) == DIRTY
        assert world.volume.counters.completions == 1
        assert await world.cache.read(START, BLOCK) == image(valid)
        assert len(world.origin.calls) == 1


@virtual
async def test_readers_of_a_block_that_is_being_completed_share_its_read_and_do_not_wait_for_the_cache() -> None:
    world = part_world()
    world.cached.at_once = False
    world.cached.held[PLACE] = trio.Event()
    async with world.running():
        answers: list[bytes] = []

        async def read(at: int, length: int) -> None:
            answers.append(bytes(await world.cache.read(START + at, length)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 0, BLOCK)
            nursery.start_soon(read, SECTOR - 1, 2)
        nursery_end = trio.current_time()
        assert answers in ([image(0b110), b"oc"], [b"oc", image(0b110)])
        assert len(done_at_origin(world, "read")) == 1
        assert world.mapping.valid, "the cache is being written"
        world.cached.held.pop(PLACE).set()
        await settle()
        assert not world.mapping.valid
        assert nursery_end == trio.current_time()


@virtual
async def test_a_clean_block_that_was_completed_has_the_sum_of_all_of_it() -> None:
    world = part_world(dirty=False)
    async with world.running():
        await world.cache.read(START, BLOCK)
        await settle()
        assert world.mapping.sum_of(2) == crc32c(image(0b110))
        await world.durability.commit()
        assert world.record.sums[2] == crc32c(image(0b110))
        assert world.record.parts[2] is None


@virtual
async def test_a_read_that_meets_a_migration_takes_from_each_store_what_it_has() -> None:
    world = part_world()
    async with world.running():
        assert world.locks.try_exclusive(5, WRITERS_OUT)
        assert await world.cache.read(START + 100, BLOCK - 200) == image(0b110)[100:-100]
        world.locks.end_exclusive(5)
        assert world.mapping.valid == {2: 0b110}


@virtual
async def test_a_completion_that_fails_costs_only_the_completion() -> None:
    world = part_world()
    world.origin.dead.add(START + 7 * SECTOR)
    async with world.running():
        assert await world.cache.read(START, 4 * SECTOR) == image(0b110)[: 4 * SECTOR]
        with pytest.raises(StoreError):
            await world.cache.read(START, BLOCK)
        assert world.mapping.valid == {2: 0b110}
        assert await world.cache.read(START + SECTOR, SECTOR) == b"c" * SECTOR


@virtual
async def test_a_completion_that_the_cache_refuses_has_answered_already() -> None:
    world = part_world()
    world.cached.refused.add(PLACE)
    async with world.running():
        assert await world.cache.read(START, BLOCK) == image(0b110)
        await settle()
        assert world.mapping.valid == {2: 0b110}
        assert world.worker.filler.find(5) is None


@virtual
async def test_a_read_of_sectors_that_the_cache_cannot_read_any_more_is_an_error_that_names_them_alone() -> None:
    world = part_world()
    world.cached.at_once = False
    world.cached.dead.add(PLACE + SECTOR)
    async with world.running():
        with pytest.raises(StoreError, match="cannot be read"):
            await world.cache.read(START + SECTOR, SECTOR)
        with pytest.raises(StoreError):
            await world.worker.invalidate(5)
        assert list(world.volume.health.lost) == [(START + SECTOR, START + 3 * SECTOR)]


# Writes


@virtual
async def test_a_write_adds_its_sectors_and_waits_for_nothing() -> None:
    world = part_world()
    async with world.running():
        await world.cache.write(START + 4 * SECTOR, b"n" * SECTOR)
        assert world.mapping.valid == {2: 0b1_0110}
        await world.cache.write(START + SECTOR + 5, b"n")  # within a sector that it has
        assert not world.origin.calls
        assert world.mapping.valid == {2: 0b1_0110}
        await world.cache.write(START, b"n" * BLOCK)
        assert not world.mapping.valid
        assert world.mapping.flags[2] & PARTIAL == 0


@virtual
async def test_a_write_reads_only_the_edge_that_the_cache_does_not_have() -> None:
    world = part_world()
    async with world.running():
        await world.cache.write(START + 2 * SECTOR + 8, b"n" * SECTOR)
        assert done_at_origin(world, "read") == [(2 * SECTOR + 8, 2 * SECTOR - 8)]
        assert world.mapping.valid == {2: 0b1110}
        assert await world.cache.read(START + 2 * SECTOR, 2 * SECTOR) == (
            b"c" * 8 + b"n" * SECTOR + b"o" * (SECTOR - 8)
        )


@virtual
async def test_two_writes_to_parts_of_one_sector_come_one_after_the_other() -> None:
    world = part_world()
    world.origin.at_once = False
    world.origin.held[START] = trio.Event()
    async with world.running() as nursery:
        nursery.start_soon(world.cache.write, START + 10, b"1" * 10)
        await settle()
        nursery.start_soon(world.cache.write, START + 20, b"2" * 10)
        await settle()
        assert world.mapping.valid == {2: 0b110}
        world.origin.held.pop(START).set()
        await settle()
        assert await world.cache.read(START + 5, 30) == b"o" * 5 + b"1" * 10 + b"2" * 10 + b"o" * 5
        assert world.volume.counters.edge_reads == 1


@virtual
async def test_a_write_to_a_partial_block_that_is_clean_records_its_intent_first() -> None:
    world = part_world(dirty=False)
    async with world.running():
        await world.cache.write(START + 4 * SECTOR, b"n" * SECTOR)
        assert world.record.regions == {1}
        assert world.mapping.valid == {2: 0b1_0110}
        assert world.mapping.dirty_count == 1


@virtual
async def test_a_write_that_fails_at_the_cache_goes_to_the_origin_after_what_was_there() -> None:
    world = part_world()
    world.cached.refused.add(PLACE + 4 * SECTOR)
    async with world.running():
        await world.cache.write(START + 4 * SECTOR, b"n" * SECTOR)
        assert world.mapping.find(5) < 0
        assert world.origin_block(5) == image(0b110)[: 4 * SECTOR] + b"n" * SECTOR + b"o" * 3 * SECTOR


@virtual
async def test_an_edge_that_cannot_be_read_leaves_the_block_as_it_was() -> None:
    world = part_world()
    world.origin.dead.add(START + 3 * SECTOR)
    async with world.running():
        with pytest.raises(StoreError):
            await world.cache.write(START + 2 * SECTOR + 8, b"n" * SECTOR)
        assert world.mapping.valid == {2: 0b110}
        assert world.cache_block(2) == b"c" * BLOCK


# Writeback, and leaving


@virtual
async def test_a_writeback_writes_the_runs_that_the_cache_has() -> None:
    world = part_world(0b0110_0011)
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert done_at_origin(world, "write") == [(0, 2 * SECTOR), (5 * SECTOR, 2 * SECTOR)]
        assert world.origin_block(5) == image(0b0110_0011)
        assert not world.mapping.dirty_count
        assert world.mapping.valid == {2: 0b0110_0011}
        assert world.policy.dirty == set()
        await world.durability.commit()
        assert (world.record.rows[2], world.record.parts[2]) == ((5, False), 0b0110_0011)


@virtual
async def test_what_is_in_many_pieces_is_made_whole_and_written_as_one() -> None:
    world = part_world(0b0101_0101)
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert done_at_origin(world, "write") == [(0, BLOCK)], "without giving way to its own read"
        assert world.volume.counters.origin_reads == 0, "which is no user's"
        assert world.origin_block(5) == image(0b0101_0101)
        assert not world.mapping.valid
        assert world.mapping.sum_of(2) == crc32c(image(0b0101_0101))


@virtual
async def test_what_cannot_be_made_whole_is_written_in_pieces() -> None:
    world = part_world(0b0101_0101)
    world.origin.dead.add(START + 3 * SECTOR)
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert done_at_origin(world, "write") == [(2 * sector * SECTOR, SECTOR) for sector in range(4)]
        assert not world.mapping.dirty_count


@virtual
async def test_runs_are_joined_with_those_of_neighbours() -> None:
    world = World()
    world.load(4, 1, dirty=True)
    world.load(5, 2, dirty=True, valid=0b1000_0011)
    world.load(6, 3, dirty=True, valid=0b0000_0001)
    async with world.running():
        for oblock, cblock in ((4, 1), (5, 2), (6, 3)):
            world.policy.queue.append(dirty_around(world.volume, oblock)[oblock - 4])
            assert world.policy.queue[-1].cblock == cblock
        world.worker.wake()
        await settle()
        assert done_at_origin(world, "write") == [(-BLOCK, BLOCK + 2 * SECTOR), (7 * SECTOR, 2 * SECTOR)]
        assert not world.mapping.dirty_count
        assert world.origin_block(5) == image(0b1000_0011)


@virtual
async def test_a_block_that_gets_sectors_while_it_is_written_back_stays_dirty() -> None:
    world = part_world()
    world.origin.at_once = False
    world.origin.held[START + SECTOR] = trio.Event()
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        await world.cache.write(START + 7 * SECTOR, b"n" * SECTOR)
        world.origin.held.pop(START + SECTOR).set()
        await settle()
        assert world.mapping.dirty_count == 1
        assert world.mapping.valid == {2: 0b1000_0110}
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert world.origin_block(5) == image(0b110)[: 7 * SECTOR] + b"n" * SECTOR
        assert not world.mapping.dirty_count


@pytest.mark.parametrize("way", ["demote", "invalidate", "passthrough", "flush", "evacuate"])
@virtual
async def test_whatever_way_it_leaves_the_origin_gets_what_the_cache_has_and_no_more(way: str) -> None:
    world = part_world(0b0110_0011)
    async with world.running() as nursery:
        if way == "demote":
            world.ask(Op.DEMOTE, 5, 2)
        elif way == "invalidate":
            assert await world.worker.invalidate(5)
        elif way == "passthrough":
            await switch_mode(
                world.volume, world.worker, world.flusher, Mode.PASSTHROUGH, lambda: ToyPolicy(4), world.jobs.begin("m")
            )
        elif way == "flush":
            await world.flusher.flush()
        else:
            nursery.start_soon(evacuate, world.volume, world.worker, world.jobs)
            world.cached.errors["flush"] = StoreError("dead")
            with pytest.raises(FusecacheError):
                await world.cache.flush()
        await settle()
        assert not world.mapping.dirty_count
        assert world.origin_block(5) == image(0b0110_0011)
        assert (world.mapping.find(5) < 0) is (way in {"demote", "invalidate", "evacuate"})
        assert await world.cache.read(START, BLOCK) == image(0b0110_0011)


@virtual
async def test_a_demotion_that_cannot_be_committed_leaves_it_partial() -> None:
    world = part_world()
    world.record.error = MetadataError("full")
    async with world.running():
        world.ask(Op.DEMOTE, 5, 2)
        await settle()
        assert world.mapping.find(5) == 2
        assert world.mapping.valid == {2: 0b110}
        assert await world.cache.read(START, 3 * SECTOR) == image(0b110)[: 3 * SECTOR]


@virtual
async def test_what_another_block_has_next_in_its_place_is_not_partial() -> None:
    world = part_world()
    async with world.running():
        world.ask(Op.DEMOTE, 5, 2)
        await settle()
        world.admit(6, 2)
        await world.cache.read(6 * BLOCK, 1)
        await settle()
        assert world.mapping.find(6) == 2
        assert not world.mapping.valid
        await world.durability.commit()
        assert world.record.parts[2] is None


# Modes and other states


@virtual
async def test_passthrough_reads_the_origin_and_a_write_drops_the_block() -> None:
    world = part_world(dirty=False, mode=Mode.PASSTHROUGH)
    async with world.running():
        assert await world.cache.read(START, BLOCK) == b"o" * BLOCK
        assert world.mapping.valid == {2: 0b110}
        await world.cache.write(START, b"n")
        assert world.mapping.find(5) < 0
        assert not world.mapping.valid


@virtual
async def test_leaving_writeback_keeps_it_partial_and_clean_and_then_both_are_written() -> None:
    world = part_world()
    async with world.running():
        await switch_mode(
            world.volume, world.worker, world.flusher, Mode.WRITETHROUGH, lambda: ToyPolicy(4), world.jobs.begin("mode")
        )
        assert world.mapping.valid == {2: 0b110}
        await world.cache.write(START + 2 * SECTOR, b"n" * 2 * SECTOR)
        assert world.mapping.valid == {2: 0b1110}
        assert world.origin_block(5)[2 * SECTOR : 4 * SECTOR] == b"n" * 2 * SECTOR
        assert not world.mapping.dirty_count


@virtual
async def test_a_switch_of_the_policy_keeps_what_is_partial() -> None:
    world = part_world()
    async with world.running():
        new = ToyPolicy(4)
        await switch_policy(world.volume, world.worker, new, world.jobs.begin("policy"))
        assert new.dirty == {2}
        await world.cache.write(START + 7 * SECTOR, b"n" * SECTOR)
        assert world.mapping.valid == {2: 0b1000_0110}
        assert await world.cache.read(START, 3 * SECTOR) == image(0b110)[: 3 * SECTOR]
        world.policy = new


@virtual
async def test_scrubbing_leaves_it_alone() -> None:
    world = part_world(dirty=False)
    world.cached.data[PLACE + SECTOR : PLACE + 3 * SECTOR] = b"o" * 2 * SECTOR
    async with world.running():
        await Scrub(world.volume, world.worker, world.jobs, 10**9).round()
        await world.worker.steps.heal(5, 2)
        assert world.mapping.valid == {2: 0b110}
        assert world.volume.counters.healed == 0
        assert world.mapping.sum_of(2) is None


@virtual
async def test_a_record_that_cannot_be_written_lets_it_be_read_and_completed() -> None:
    world = part_world()
    async with world.running():
        world.record.error = MetadataError("full")
        world.durability.rows.summed(1)
        with pytest.raises(MetadataError):
            await world.durability.commit()
        assert await world.cache.read(START, BLOCK) == image(0b110)
        with pytest.raises(FusecacheError):
            await world.cache.write(START, b"n")


@virtual
async def test_a_pause_waits_for_completions_and_keeps_new_ones_from_beginning() -> None:
    world = part_world()
    world.load(6, 3, dirty=True, valid=0b1)
    world.cached.at_once = False
    world.cached.held[PLACE] = trio.Event()
    log: list[str] = []

    async def pause() -> None:
        async with world.worker.paused():
            log.append("paused")
            assert await world.cache.read(6 * BLOCK, 2 * SECTOR) == b"c" * SECTOR + b"o" * SECTOR
            assert world.mapping.valid[3] == 0b1

    async with world.running() as nursery:
        await world.cache.read(START, BLOCK)
        nursery.start_soon(pause)
        await settle()
        assert log == []
        world.cached.held.pop(PLACE).set()
        await settle()
        assert log == ["paused"]


# An fsync


@virtual
async def test_what_was_written_back_before_the_row_names_it_has_the_origin_flushed() -> None:
    world = part_world()
    async with world.running():
        await world.cache.flush()
        await world.cache.write(START + 7 * SECTOR, b"n" * SECTOR)
        await world.worker.steps.clean(5)
        world.origin.calls.clear()
        await world.cache.flush()
        assert "flush" in world.origin.names()


@virtual
async def test_a_write_to_sectors_that_the_row_names_needs_no_commit() -> None:
    world = part_world()
    async with world.running():
        await world.cache.write(START + SECTOR, b"n" * SECTOR)
        await world.cache.flush()
        assert not world.record.batches


@virtual
async def test_sectors_that_come_during_a_commit_wait_for_the_next_one() -> None:
    world = part_world()
    committing = trio.Event()

    async def hold(_: object) -> None:
        await committing.wait()

    async with world.running() as nursery:
        await world.cache.write(START, b"n" * SECTOR)
        world.record.before = hold
        nursery.start_soon(world.cache.flush)
        await settle()
        await world.cache.write(START + 7 * SECTOR, b"n" * SECTOR)
        committing.set()
        await settle()
        assert world.record.parts[2] == 0b111
        await world.cache.flush()
        assert world.record.parts[2] == 0b1000_0111


@virtual
async def test_large_blocks_are_completed_nowhere_but_read_from_both() -> None:
    """Nothing makes such blocks partial; a table from elsewhere could."""
    world = World(block_size=2 * COPY_SIZE, origin_blocks=2, cache_blocks=1)
    world.load(1, 0, dirty=True, valid=0b1)
    async with world.running():
        assert await world.cache.read(2 * COPY_SIZE, 2 * SECTOR) == b"c" * SECTOR + b"o" * SECTOR
        assert world.mapping.valid == {0: 0b1}
        await world.worker.steps.clean(1)
        assert world.origin_block(1)[: 2 * SECTOR] == b"c" * SECTOR + b"o" * SECTOR


@pytest.mark.parametrize("dirty", [False, True])
@virtual
async def test_while_nothing_can_be_recorded_a_read_makes_no_block_whole(dirty: bool) -> None:
    world = part_world(dirty=dirty)
    async with world.running():
        world.volume.health.read_only = "metadata broke"
        assert await world.cache.read(START, BLOCK) == image(0b110)
        await settle()
        assert "write" not in world.cached.names()
        assert world.mapping.valid == {2: 0b110}
        await world.cache.flush()  # of which nobody has to hear: nothing was written
