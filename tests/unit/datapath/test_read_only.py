"""The metadata cannot be written: the image can be read, and nothing else is different from then on."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pyfuse3
import pytest
import trio

from fusecache.config import Mode
from fusecache.control.control import Control
from fusecache.errors import FusecacheError, MetadataError, ReadOnlyError
from fusecache.frontends.fuse.operations import Operations
from fusecache.jobs.evacuation import evacuate
from policies import Op
from tests.unit.control.statuses import FixedSize, make_facts
from tests.unit.frontends.backing import attributes_of
from tests.unit.worlds import BLOCK, World, settle, virtual

_WAY_BACK: Final = "fusecache check --clear-needs-check"


@asynccontextmanager
async def read_only(world: World) -> AsyncIterator[trio.Nursery]:
    """Run a world whose metadata has failed; it would not fail again, but is not to be asked."""
    async with world.running() as nursery:
        world.record.error = MetadataError("disk is full")
        world.durability.rows.summed(1)
        with pytest.raises(MetadataError, match="full"):
            await world.durability.commit()
        world.record.error = None
        yield nursery


def cached_world(mode: Mode = Mode.WRITEBACK) -> World:
    """Return a world with block 5 dirty, block 6 clean, and block 7 of the origin."""
    world = World(mode=mode)
    if mode is not Mode.PASSTHROUGH:
        world.load(5, 2, dirty=True)
    world.load(6, 1)
    return world


def with_a_dirty_block_that_has_no_row() -> World:
    world = cached_world()
    world.load(9, 3)
    world.durability.rows.promoted(3)
    world.volume.set_dirty(3)
    return world


def control_of(world: World) -> Control:
    return Control(
        world.volume,
        world.worker,
        world.flusher,
        world.jobs,
        cleaning=world.cleaning,
        facts=make_facts(),
        metadata=FixedSize(),
        discard=world.cache.discard,
    )


@pytest.mark.parametrize("mode", Mode)
@virtual
async def test_everything_can_be_read(mode: Mode) -> None:
    world = cached_world(mode)
    async with read_only(world):
        expected = bytearray(world.origin.data)
        if mode is not Mode.PASSTHROUGH:
            expected[5 * BLOCK : 7 * BLOCK] = b"c" * 2 * BLOCK
        assert await world.cache.read(0, len(expected)) == expected
        assert await world.cache.read(5 * BLOCK + 10, 3) == expected[5 * BLOCK + 10 : 5 * BLOCK + 13]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (5 * BLOCK, 1),
        (6 * BLOCK + 5, 100),
        (7 * BLOCK, BLOCK),
        (5 * BLOCK + 1, 2 * BLOCK),
        (0, 16 * BLOCK + 512),
        (16 * BLOCK, 512),
    ],
    ids=["dirty", "clean", "uncached", "crossing", "everything", "tail"],
)
@virtual
async def test_no_write_is_taken_and_nothing_of_it_is_done(mode: Mode, offset: int, length: int) -> None:
    world = cached_world(mode)
    async with read_only(world):
        before = bytes(world.cached.data), bytes(world.origin.data), list(world.mapping.mapped())
        with pytest.raises(ReadOnlyError, match=_WAY_BACK):
            await world.cache.write(offset, b"n" * length)
        assert (bytes(world.cached.data), bytes(world.origin.data), list(world.mapping.mapped())) == before
        assert not world.record.batches


@virtual
async def test_a_write_that_waits_when_it_happens_is_refused_or_done() -> None:
    world = cached_world()

    async def fail_slowly(transaction: object) -> None:
        await trio.sleep(10)
        msg = "disk is full"
        raise MetadataError(msg)

    refused: list[int] = []

    async def write(oblock: int) -> None:
        try:
            await world.cache.write(oblock * BLOCK, b"new")
        except FusecacheError:
            refused.append(oblock)

    world.record.before = fail_slowly
    async with world.running() as nursery:
        for oblock in (6, 5, 7):  # clean: it has to be covered first
            nursery.start_soon(write, oblock)
        await trio.sleep(1)
        assert world.cache_block(2)[:3] == world.origin_block(7)[:3] == b"new"
        await trio.sleep(30)
        assert refused == [6]
        assert world.cache_block(1) == b"c" * BLOCK
        assert await world.cache.read(5 * BLOCK, 3) == b"new"


@virtual
async def test_an_empty_write_is_nothing() -> None:
    world = cached_world()
    async with read_only(world):
        assert await world.cache.write(5 * BLOCK, b"") == 0


@virtual
async def test_fsync_is_refused_as_long_as_the_only_copy_of_something_is_unrecorded() -> None:
    world = with_a_dirty_block_that_has_no_row()
    async with read_only(world):
        for _ in range(2):
            with pytest.raises(MetadataError, match="full"):
                await world.cache.flush()
        assert not world.record.batches


@virtual
async def test_fsync_succeeds_if_what_is_unrecorded_is_nothing_to_the_users_writes() -> None:
    world = cached_world()
    async with world.running():
        await world.cache.write(5 * BLOCK, b"new")
        await world.cache.write(7 * BLOCK, b"new")
    async with read_only(world):
        await world.cache.flush()
        assert world.cached.names()[-1] == world.origin.names()[-1] == "flush"


@virtual
async def test_no_block_moves() -> None:
    world = cached_world()
    async with read_only(world) as nursery:
        nursery.start_soon(evacuate, world.volume, world.worker, world.jobs)
        for op, oblock, cblock in ((Op.PROMOTE, 7, 0), (Op.WRITEBACK, 5, 2), (Op.DEMOTE, 6, 1)):
            world.ask(op, oblock, cblock)
        await trio.sleep(1000)
        assert dict(world.mapping.mapped()) == {1: 6, 2: 5}
        assert not world.policy.outstanding
        assert world.origin_block(5) == b"o" * BLOCK
        assert not world.record.batches
        world.policy.queue.clear()


@virtual
async def test_an_unreadable_clean_block_is_still_served_from_the_origin_and_stays() -> None:
    world = cached_world()
    world.cached.dead = {BLOCK}
    async with read_only(world):
        for _ in range(2):
            assert await world.cache.read(6 * BLOCK, 3) == b"ooo"
            await settle()
        assert world.mapping.find(6) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("mode", "writethrough"), ("mode", "passthrough"), ("message", "flush"), ("message", "decommission")],
)
@virtual
async def test_what_has_to_be_recorded_is_refused_or_told_of(name: str, value: str) -> None:
    world = cached_world()
    async with read_only(world) as nursery:
        control = control_of(world)
        nursery.start_soon(control.run)
        await control.set("policy", "smq")  # a policy is not recorded before the end
        with pytest.raises(FusecacheError, match="full"):
            await control.set(name, value)
        assert "full" in control.get("error")
        await trio.sleep(60)
        assert control.get("mode") == "writeback"
        assert control.status().flush_failed == 1
        assert not control.status().decommissioned
        assert dict(world.mapping.mapped()) == {1: 6, 2: 5}
        assert world.record.rows == {1: (6, False), 2: (5, True)}
        assert not world.record.batches


@virtual
async def test_the_status_says_why_and_what_to_do() -> None:
    world = cached_world()
    async with read_only(world):
        control = control_of(world)
        status = control.status()
        assert (status.read_only, status.needs_check, status.state) == (True, True, "read-only")
        assert "disk is full" in status.health
        assert _WAY_BACK in status.health
        assert control.get("status").split()[-2:] == ["ro", "needs_check"]


@virtual
async def test_the_kernel_hears_erofs_for_writes_and_eio_for_fsync() -> None:
    world = with_a_dirty_block_that_has_no_row()
    async with read_only(world):
        operations = Operations(world.cache, control_of(world), attributes_of(world.geometry.image_bytes))
        handle = pyfuse3.FileHandleT(1)
        with pytest.raises(pyfuse3.FUSEError) as refused:
            await operations.write(handle, 0, b"new")
        assert refused.value.errno == errno.EROFS
        with pytest.raises(pyfuse3.FUSEError) as failed:
            await operations.fsync(handle, datasync=False)
        assert failed.value.errno == errno.EIO
        assert await operations.read(handle, 0, 3) == b"ooo"


@virtual
async def test_the_end_is_not_clean_and_the_need_of_a_check_is_recorded() -> None:
    world = cached_world()
    async with read_only(world):
        pass
    with pytest.raises(MetadataError, match="full"):
        await world.durability.settle()
    assert world.record.values == {"needs_check": "1"}
    assert world.record.rows == {1: (6, False), 2: (5, True)}
