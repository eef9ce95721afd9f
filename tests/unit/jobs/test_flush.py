from __future__ import annotations

import json

import pytest
import trio

from fusecache.block.locks import ALL_OUT
from fusecache.errors import FusecacheError, MetadataError, StoreError
from tests.unit.worlds import BLOCK, World, settle, virtual


def dirty_world(*blocks: tuple[int, int]) -> World:
    world = World(cache_blocks=8)
    for oblock, cblock in blocks:
        world.load(oblock, cblock, dirty=True)
    return world


@virtual
async def test_a_flush_leaves_nothing_dirty_durably() -> None:
    world = dirty_world((9, 0), (3, 1), (5, 2))
    world.load(7, 3)
    async with world.running():
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        assert world.mapping.mapped_count == 4
        for oblock in (3, 5, 9):
            assert world.origin_block(oblock) == b"c" * BLOCK
        assert world.origin_block(7) == b"o" * BLOCK
        assert not world.origin.unflushed
        assert not any(dirty for _, dirty in world.record.rows.values())
        assert (world.flusher.pending, world.flusher.failed) == (0, 0)


@virtual
async def test_blocks_are_written_in_the_order_of_the_origin_and_neighbours_as_one() -> None:
    world = dirty_world((9, 0), (3, 1), (12, 2), (5, 3), (1, 4), (8, 5))
    async with world.running():
        await world.flusher.flush()
    writes = [(offset // BLOCK, length // BLOCK) for name, offset, length in world.origin.calls if name == "write"]
    assert writes == [(1, 1), (3, 1), (5, 1), (8, 2), (12, 1)]


@virtual
async def test_a_flush_of_nothing_still_flushes_the_stores() -> None:
    world = World()
    async with world.running():
        await world.flusher.flush()
    assert world.origin.names() == world.cached.names() == ["flush"]


@virtual
async def test_pending_counts_down() -> None:
    world = dirty_world(*((2 * number, number) for number in range(8)))

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        world.flusher.start()
        assert world.flusher.pending == 8
        await trio.sleep(15)
        assert world.flusher.pending == 4
        await trio.sleep(10)
        assert world.flusher.pending == 0


@virtual
async def test_something_is_pending_until_everything_is_durable() -> None:
    world = dirty_world((3, 0))

    async def slow(name: str) -> None:
        if name == "flush":
            await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        world.flusher.start()
        await trio.sleep(5)
        assert world.mapping.dirty_count == 0
        assert json.dumps(world.flusher.pending) == "1"
        await trio.sleep(10)
        assert json.dumps(world.flusher.pending) == "0"


@virtual
async def test_what_turns_dirty_meanwhile_belongs_to_the_next_one() -> None:
    world = dirty_world((3, 0))
    world.load(5, 1)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running() as nursery:
        nursery.start_soon(world.flusher.flush)
        await trio.sleep(1)
        await world.cache.write(5 * BLOCK, b"new")
        await trio.sleep(60)
        assert world.mapping.dirty_blocks() == [1]
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0


@virtual
async def test_whoever_asks_while_one_runs_waits_for_what_was_dirty_when_they_asked() -> None:
    world = dirty_world((3, 0))
    world.load(5, 1)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running() as nursery:
        nursery.start_soon(world.flusher.flush)
        await trio.sleep(15)  # in the flush of the stores by now
        assert world.mapping.dirty_count == 0
        await world.cache.write(5 * BLOCK, b"new")
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        assert world.origin_block(5)[:3] == b"new"


@virtual
async def test_f11_a_flush_ends_when_its_own_blocks_are_written_whoever_asks_after_it() -> None:
    world = dirty_world((1, 0))
    for number in range(1, 8):
        world.load(2 * number + 1, number)

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    ended: dict[int, float] = {}

    async def flush(number: int) -> None:
        await world.flusher.flush()
        ended[number] = trio.current_time()

    async with world.running() as nursery:
        for number in range(1, 8):
            nursery.start_soon(flush, number - 1)
            await trio.sleep(1)
            await world.cache.write((2 * number + 1) * BLOCK, b"new")
        await trio.sleep(4)
        assert list(ended) == [0], "six others asked meanwhile, and their blocks are not its business"
        assert ended[0] <= 11
        await trio.sleep(100)
        assert sorted(ended) == list(range(7))
        assert world.mapping.dirty_blocks() == [7]
        await world.flusher.flush()


@virtual
async def test_f11_what_several_want_is_written_once() -> None:
    world = dirty_world(*((2 * number, number) for number in range(8)))

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(world.flusher.flush)
                await trio.sleep(0.1)
        assert world.origin.names().count("write") == 8
        assert trio.current_time() < 21
        assert (world.flusher.pending, world.flusher.failed) == (0, 0)


@virtual
async def test_f11_each_failure_is_told_to_those_whose_block_it_is() -> None:
    world = dirty_world((3, 0))
    world.load(9, 1)
    world.load(12, 2)
    world.origin.dead = {9 * BLOCK}

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    heard: dict[str, str] = {}

    async def flush(name: str) -> None:
        try:
            await world.flusher.flush()
        except FusecacheError as exc:
            heard[name] = str(exc)
        else:
            heard[name] = "done"

    async with world.running() as nursery:
        nursery.start_soon(flush, "before")
        await trio.sleep(1)
        await world.cache.write(9 * BLOCK, b"new")
        for number in range(40):
            nursery.start_soon(flush, f"bad {number}")
        await trio.sleep(100)
        assert heard.pop("before") == "done"
        assert len(heard) == 40
        assert all(text.startswith("1 blocks could not be written") for text in heard.values()), heard
        world.origin.dead.clear()
        await flush("after")
        assert heard["after"] == "done"


@virtual
async def test_f11_a_cache_block_that_changes_hands_meanwhile_is_not_taken_for_written() -> None:
    """What is dirty in a cache block when a flush is asked for is written, though another flush looked there before."""
    world = dirty_world((3, 0), (5, 1))

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    async with world.running() as nursery:
        nursery.start_soon(world.flusher.flush)
        await trio.sleep(5)
        assert await world.worker.invalidate(3)
        world.load(7, 0)
        await world.cache.write(7 * BLOCK, b"new")
        await world.flusher.flush()
        assert world.origin_block(7)[:3] == b"new"
        assert world.mapping.dirty_count == 0


@virtual
async def test_f11_a_flush_of_a_dead_origin_ends_soon_and_tries_every_block() -> None:
    blocks = 3000
    world = World(cache_blocks=blocks, origin_blocks=2 * blocks)
    for number in range(blocks):
        world.load(2 * number, number, dirty=True)
    world.origin.errors["write"] = StoreError("dead")
    async with world.running():
        with pytest.raises(FusecacheError, match=f"{blocks} blocks could not be written .*: dead"):
            await world.flusher.flush()
        assert trio.current_time() < 60
        assert world.flusher.failed == blocks
        assert len({offset for name, offset, _ in world.origin.calls if name == "write"}) == blocks


@virtual
async def test_f13_a_block_that_is_being_migrated_is_no_failure_to_be_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = dirty_world(*((2 * number, number) for number in range(8)))
    async with world.running() as nursery:
        for number in range(8):
            assert world.locks.try_exclusive(2 * number, ALL_OUT)
        nursery.start_soon(world.flusher.flush)
        await trio.sleep(5)
        for number in range(8):
            world.locks.end_exclusive(2 * number)
        await trio.sleep(5)
        assert world.mapping.dirty_count == 0
    assert "writeback failed" not in capsys.readouterr().out


@virtual
async def test_f13_what_fails_is_logged_but_not_a_million_times(capsys: pytest.CaptureFixture[str]) -> None:
    world = World(cache_blocks=300, origin_blocks=600)
    for number in range(300):
        world.load(2 * number, number, dirty=True)
    world.origin.errors["write"] = StoreError("dead")
    async with world.running():
        with pytest.raises(FusecacheError):
            await world.flusher.flush()
    told = capsys.readouterr().out
    assert told.count("writeback failed") == 16
    assert told.count("flush failed") == 1
    assert "blocks=300" in told


@virtual
async def test_a_hiccup_is_tried_again() -> None:
    world = dirty_world((3, 0))
    attempts = 0

    async def once(name: str) -> None:
        nonlocal attempts
        attempts += name == "write"
        if attempts == 1:
            msg = "a hiccup"
            raise StoreError(msg)

    world.origin.before = once
    async with world.running():
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        assert attempts == 2


@virtual
async def test_what_cannot_be_written_is_counted_and_stays_dirty_and_the_rest_is_written() -> None:
    world = dirty_world((3, 0), (5, 1))

    world.origin.dead = {3 * BLOCK + 100}
    async with world.running():
        with pytest.raises(FusecacheError, match=r"1 blocks? could not be written .* still dirty"):
            await world.flusher.flush()
        assert world.mapping.dirty_blocks() == [0]
        assert (world.flusher.pending, world.flusher.failed) == (0, 1)
        world.origin.dead.clear()
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        assert world.flusher.failed == 0


@virtual
async def test_a_flush_that_cannot_be_recorded_is_no_flush() -> None:
    world = dirty_world((3, 0))
    world.record.error = MetadataError("disk is full")
    async with world.running():
        for _ in range(2):
            with pytest.raises(FusecacheError, match="full"):
                await world.flusher.flush()
            assert world.record.rows == {0: (3, True)}
            assert world.flusher.failed == 1
            world.record.error = None  # read-only from the first failure on
        assert world.record.values == {}


@virtual
async def test_a_flush_that_the_origin_does_not_take_is_no_flush() -> None:
    world = dirty_world((3, 0))
    world.origin.errors["flush"] = StoreError("flush of origin failed: dead")
    async with world.running():
        with pytest.raises(FusecacheError, match="dead"):
            await world.flusher.flush()
        assert world.record.rows == {0: (3, True)}
        assert world.volume.health.state == "failing"


@virtual
async def test_a_block_that_is_demoted_meanwhile_is_done() -> None:
    world = dirty_world((3, 0))
    async with world.running() as nursery:
        assert world.locks.try_exclusive(3, ALL_OUT)
        nursery.start_soon(world.flusher.flush)
        await settle()
        world.volume.set_clean(0, 0)
        world.durability.rows.removing(0)
        world.mapping.remove(0)
        world.volume.forget(0)
        world.locks.end_exclusive(3)
        await settle()
        assert (world.flusher.pending, world.flusher.failed) == (0, 0)


@virtual
async def test_everyone_hears_what_became_of_the_flush_that_they_waited_for() -> None:
    world = dirty_world((3, 0))
    world.origin.dead = {3 * BLOCK}
    heard: list[str] = []

    async def flush_and_begin_the_next() -> None:
        try:
            await world.flusher.flush()
        except FusecacheError as exc:
            heard.append(str(exc))
        world.origin.dead.clear()
        world.flusher.start()

    async with world.running():
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(flush_and_begin_the_next)
        assert len(heard) == 20
        await trio.sleep(5)
        assert (world.flusher.pending, world.flusher.failed) == (0, 0)


@virtual
async def test_a_flush_that_is_stopped_ends_early_and_says_why() -> None:
    world = dirty_world(*((2 * number, number) for number in range(8)))
    world.worker.copy_rate.set_rate(1)
    heard: list[str] = []

    async def flush() -> None:
        with pytest.raises(FusecacheError, match="ending"):
            await world.flusher.flush()
        heard.append("flush")

    async with world.running() as nursery:
        nursery.start_soon(flush)
        await trio.sleep(5)
        assert not heard
        dirty = world.mapping.dirty_count
        assert dirty > 4, "some wait for their bytes"
        world.jobs.close("the mount is ending")
        world.worker.copy_rate.set_rate(0)
        await settle()
        assert heard == ["flush"]
        assert world.mapping.dirty_count >= dirty - 4, "those under way at most"
        assert world.flusher.pending == 0
        with pytest.raises(FusecacheError, match="ending"):
            await world.flusher.flush()
