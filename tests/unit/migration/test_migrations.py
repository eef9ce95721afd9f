from __future__ import annotations

import pytest
import trio
from crc32c import crc32c

from fusecache.block.locks import ALL_OUT, WRITERS_OUT
from fusecache.block.states import DIRTY
from fusecache.config import COPY_SIZE
from fusecache.errors import BusyError, MetadataError, StoreError
from fusecache.metadata.record import Transaction
from fusecache.migration.batches import Batch
from policies import Op, Work
from tests.unit.worlds import BLOCK, MemoryStore, World, settle, virtual


@virtual
async def test_a_promotion_copies_then_maps_clean() -> None:
    world = World()
    world.origin.data[5 * BLOCK : 6 * BLOCK] = b"5" * BLOCK
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        assert world.mapping.find(5) == 2
        assert world.cache_block(2) == b"5" * BLOCK
        assert not world.mapping.flags[2] & DIRTY
        assert world.policy.completed == [(Op.PROMOTE, 5, True)]
        assert world.volume.counters.promotions == 1


@virtual
async def test_a_writeback_copies_and_the_block_stays_mapped_clean() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert world.mapping.find(5) == 2
        assert world.origin_block(5) == b"c" * BLOCK
        assert world.mapping.dirty_count == 0
        assert world.policy.dirty == set()
        assert world.volume.counters.writebacks == 1


@virtual
async def test_a_writeback_of_a_clean_block_copies_nothing() -> None:
    world = World()
    world.load(5, 2)
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert world.origin_block(5) == b"o" * BLOCK
        assert world.policy.completed == [(Op.WRITEBACK, 5, True)]
        assert world.volume.counters.writebacks == 0


@pytest.mark.parametrize("dirty", [False, True])
@virtual
async def test_a_demotion_unmaps_durably_and_saves_what_is_dirty(dirty: bool) -> None:
    world = World()
    world.load(5, 2, dirty=dirty)
    steps: list[str] = []

    async def origin(name: str) -> None:
        steps.append(f"origin {name}")

    async def record(batch: Transaction) -> None:
        steps.append("commit")

    world.origin.before, world.record.before = origin, record
    async with world.running():
        world.ask(Op.DEMOTE, 5, 2)
        await settle()
        assert world.mapping.find(5) == -1
        assert world.record.rows == {}
        assert world.policy.completed == [(Op.DEMOTE, 5, True)]
        assert world.volume.counters.demotions == 1
    assert world.origin_block(5) == (b"c" if dirty else b"o") * BLOCK
    assert steps == (["origin write", "origin flush", "commit"] if dirty else ["commit"])


@virtual
async def test_a_demoted_cache_block_is_written_only_after_the_commit() -> None:
    world = World()
    world.load(5, 0)

    async def slow(batch: Transaction) -> None:
        await trio.sleep(10)

    world.record.before = slow
    async with world.running():
        world.ask(Op.DEMOTE, 5, 0)
        await trio.sleep(5)
        assert world.mapping.find(5) == -1
        world.ask(Op.PROMOTE, 6, 0)
        await trio.sleep(4)
        assert world.cache_block(0) == b"c" * BLOCK
        await trio.sleep(60)
        assert world.mapping.find(6) == 0
        assert world.cache_block(0) == b"o" * BLOCK


@virtual
async def test_reads_and_writes_go_on_while_a_block_is_copied_that_is_to_be_demoted() -> None:
    world = World()
    world.load(5, 2, dirty=True)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running() as nursery:
        world.ask(Op.DEMOTE, 5, 2)
        await trio.sleep(1)
        assert bytes(await world.cache.read(5 * BLOCK, 4)) == b"cccc"
        assert trio.current_time() == 1
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"new!")
        await trio.sleep(5)
        assert world.cache_block(2)[:4] == b"new!", "the copy has been taken"
        await trio.sleep(30)
        assert world.mapping.find(5) < 0
        assert world.origin_block(5)[:5] == b"new!c"


@virtual
async def test_writes_go_on_while_a_block_is_written_back_and_it_stays_dirty() -> None:
    world = World()
    world.load(5, 2, dirty=True)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await trio.sleep(1)
        await world.cache.write(5 * BLOCK, b"new!")
        assert trio.current_time() == 1
        assert world.cache_block(2)[:4] == b"new!"
        world.volume.check()
        await trio.sleep(10)
        assert world.origin_block(5)[:4] == b"cccc"
        assert world.mapping.flags[2] & DIRTY
        world.volume.check()
        world.ask(Op.WRITEBACK, 5, 2)
        await trio.sleep(11)
        assert world.origin_block(5)[:4] == b"new!"
        assert not world.mapping.flags[2] & DIRTY


@virtual
async def test_a_hit_never_waits_for_the_copy_of_another_block() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.load(6, 3)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        world.ask(Op.WRITEBACK, 5, 2)
        await trio.sleep(1)
        assert bytes(await world.cache.read(6 * BLOCK, 4)) == b"cccc"
        await world.cache.write(6 * BLOCK, b"new!")
        assert trio.current_time() == 1
        await trio.sleep(20)


@virtual
async def test_nobody_reads_a_cache_block_that_is_being_given_up() -> None:
    world = World()
    world.load(5, 2)

    async def slow(batch: Transaction) -> None:
        await trio.sleep(10)

    world.record.before = slow
    async with world.running():
        world.ask(Op.DEMOTE, 5, 2)
        await trio.sleep(1)
        assert bytes(await world.cache.read(5 * BLOCK, 4)) == b"oooo"
        assert trio.current_time() == 10


@pytest.mark.parametrize(
    ("op", "store", "operation"),
    [
        (Op.PROMOTE, "origin", "read"),
        (Op.PROMOTE, "cached", "write"),
        (Op.WRITEBACK, "cached", "read"),
        (Op.WRITEBACK, "origin", "write"),
        (Op.DEMOTE, "cached", "read"),
        (Op.DEMOTE, "origin", "write"),
        (Op.DEMOTE, "origin", "flush"),
    ],
)
@virtual
async def test_a_migration_that_fails_leaves_the_old_state_and_is_given_back(
    op: Op, store: str, operation: str
) -> None:
    world = World()
    if op is not Op.PROMOTE:
        world.load(5, 2, dirty=True)
    broken: MemoryStore = getattr(world, store)
    broken.errors[operation] = StoreError("dead")
    async with world.running():
        world.ask(op, 5, 2)
        await settle()
        assert world.policy.completed == [(op, 5, False)]
        if op is Op.PROMOTE:
            assert world.mapping.find(5) == -1
        else:
            assert world.mapping.find(5) == 2
            assert world.record.rows == {2: (5, True)}
            assert world.policy.index == {5: 2}
        if operation != "flush":
            assert world.mapping.dirty_count == (op is not Op.PROMOTE)
        stats = world.volume.counters
        assert (stats.promotions, stats.demotions) == (0, 0)
        broken.errors.clear()
        await trio.sleep(60)
        world.ask(op, 5, 2)
        await settle()
        assert world.policy.completed[1:] == [(op, 5, True)]


@virtual
async def test_a_demotion_that_cannot_be_recorded_leaves_the_block_mapped_and_is_the_last_migration() -> None:
    world = World()
    world.load(5, 2)
    world.record.error = MetadataError("disk is full")
    async with world.running():
        world.ask(Op.DEMOTE, 5, 2)
        await settle()
        assert world.mapping.find(5) == 2
        assert world.policy.completed == [(Op.DEMOTE, 5, False)]
        assert bytes(await world.cache.read(5 * BLOCK, 4)) == b"cccc"
        world.record.error = None
        for op, oblock, cblock in ((Op.DEMOTE, 5, 2), (Op.PROMOTE, 6, 3)):
            world.ask(op, oblock, cblock)
        await trio.sleep(120)
        assert list(world.mapping.mapped()) == [(2, 5)]
        assert world.record.rows == {2: (5, False)}
        assert len(world.policy.queue) == 2
        world.policy.queue.clear()


@virtual
async def test_a_block_that_somebody_is_migrating_is_left_to_them() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        world.locks.try_exclusive(5, WRITERS_OUT)
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert world.policy.completed == [(Op.WRITEBACK, 5, False)]
        world.locks.end_exclusive(5)
        world.ask(Op.WRITEBACK, 5, 2)
        await settle()
        assert world.policy.completed[1:] == [(Op.WRITEBACK, 5, True)]


@virtual
async def test_writebacks_let_users_at_the_origin_go_first_but_not_for_ever() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        world.volume.activity.begin()
        world.ask(Op.WRITEBACK, 5, 2)
        await trio.sleep(0.2)
        assert "write" not in world.origin.names()
        await trio.sleep(0.1)
        assert "write" in world.origin.names()
        world.volume.activity.end(trio.current_time(), mark=True)


@pytest.mark.parametrize("op", [Op.PROMOTE, Op.WRITEBACK, Op.DEMOTE])
@virtual
async def test_blocks_larger_than_a_stretch_are_copied_whole(op: Op) -> None:
    size = 2 * COPY_SIZE + 3 * BLOCK
    world = World(cache_blocks=2, origin_blocks=3, block_size=size)
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    source, start, target, target_start = world.cached, size, world.origin, 2 * size
    if op is Op.PROMOTE:
        source, start, target, target_start = target, target_start, source, start
    else:
        world.load(2, 1, dirty=True)
    source.data[start : start + size] = content
    async with world.running():
        world.ask(op, 2, 1)
        await settle()
        assert target.data[target_start : target_start + size] == content
        assert len(target.data) == target.size
        assert world.mapping.find(2) == (-1 if op is Op.DEMOTE else 1)
        assert op is Op.DEMOTE or world.mapping.sum_of(1) == crc32c(content)
    assert max(length for _, _, length in world.origin.calls) == COPY_SIZE


@virtual
async def test_a_busy_block_is_refused_before_anything_is_touched() -> None:
    world = World()
    world.locks.try_exclusive(5, ALL_OUT)
    work = Work(Op.PROMOTE, 5, 2)
    batch = Batch([work], None)
    await world.worker._migrations.promote(batch)
    assert isinstance(batch.errors[work], BusyError)
    assert not world.origin.calls
    assert not world.cached.calls


@pytest.mark.parametrize("rate", [0, BLOCK])
@virtual
async def test_dirty_neighbours_go_with_a_demotion_if_the_copy_rate_allows_it(rate: int) -> None:
    world = World()
    for oblock in (4, 5, 6):
        world.load(oblock, oblock - 4, dirty=True)
    world.worker.copy_rate.set_rate(rate)
    while rate and world.worker.copy_rate.takes(BLOCK):
        pass
    async with world.running():
        world.ask(Op.DEMOTE, 5, 1)
        await trio.sleep(1.5)
        assert world.mapping.find(5) < 0
        writes = [(offset, length) for name, offset, length in world.origin.calls if name == "write"]
        assert writes == ([(5 * BLOCK, BLOCK)] if rate else [(4 * BLOCK, 3 * BLOCK)])
        assert world.mapping.dirty_count == (2 if rate else 0)
