"""F07: nothing is written to the origin: the image can be read, dirty blocks stay, clean ones come and go."""

from __future__ import annotations

import errno
import os

import pyfuse3
import pytest

from fusecache.config import Mode
from fusecache.control.control import Control
from fusecache.datapath.disk import Disk
from fusecache.errors import ReadOnlyError, RefusedError, StoreError
from fusecache.frontends.fuse.attributes import IMAGE_INODE
from fusecache.frontends.fuse.operations import Operations
from fusecache.stores import ReadOnlyStore
from policies import Op
from tests.unit.control.statuses import FixedSize, make_facts
from tests.unit.frontends.backing import attributes_of
from tests.unit.worlds import BLOCK, World, settle, virtual

REASON = "asked for with -o ro"


def read_only_world(mode: Mode = Mode.WRITEBACK) -> World:
    """Return a world over an origin that is not to be written, with block 5 dirty, block 6 clean, block 7 uncached."""
    world = World(mode=mode)
    world.load(5, 2, dirty=True)
    world.load(6, 1)
    world.volume.health.origin_read_only = REASON
    world.volume.origin = ReadOnlyStore(world.origin, REASON)
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


@pytest.mark.parametrize("mode", [Mode.WRITEBACK, Mode.WRITETHROUGH])
@virtual
async def test_f07_reads_go_on_and_writes_are_refused(mode: Mode) -> None:
    world = read_only_world(mode)
    disk = Disk(world.volume, world.worker)
    before = bytes(world.origin.data)
    async with world.running():
        assert await disk.read(5 * BLOCK, BLOCK) == world.cache_block(2)
        assert await disk.read(7 * BLOCK, BLOCK) == world.origin_block(7)
        for oblock in (5, 6, 7):
            with pytest.raises(ReadOnlyError, match="the image is read-only: asked for"):
                await disk.write(oblock * BLOCK, b"x" * BLOCK)
        await disk.flush()
    assert world.origin.data == before


@pytest.mark.parametrize("op", [Op.WRITEBACK, Op.DEMOTE])
@virtual
async def test_f07_the_policy_may_ask_but_what_is_dirty_stays(op: Op) -> None:
    world = read_only_world()
    before = bytes(world.origin.data)
    async with world.running():
        for _ in range(5):
            world.ask(op, 5, 2)
            world.worker.wake()
            await settle()
        world.ask(Op.PROMOTE, 7, 3)
        world.worker.wake()
        await settle()
    assert world.volume.is_dirty(2)
    assert world.volume.mapping.find(5) == 2
    assert world.volume.mapping.find(7) == 3
    assert world.origin.data == before
    assert world.volume.counters.origin_errors == 0


@virtual
async def test_f07_clean_blocks_may_go() -> None:
    world = read_only_world()
    async with world.running():
        world.ask(Op.DEMOTE, 6, 1)
        world.worker.wake()
        await settle()
    assert world.volume.mapping.find(6) < 0


@virtual
async def test_f07_what_would_have_to_write_back_is_refused_in_words() -> None:
    world = read_only_world()
    control = control_of(world)
    async with world.running():
        for name, value in (
            ("message", "flush"),
            ("message", "decommission"),
            ("mode", "writethrough"),
            ("mode", "passthrough"),
        ):
            with pytest.raises(RefusedError, match=r"nothing is written to the origin .*1 dirty blocks stay"):
                await control.set(name, value)
        await control.set("migration_threshold", "100")
    status = control.status()
    assert (status.state, status.read_only, status.needs_check) == ("read-only", False, False)
    assert status.health == f"the image is read-only: {REASON}"
    assert control.get("job") == ""


@virtual
async def test_f07_a_dirty_block_is_not_dropped() -> None:
    world = read_only_world()
    async with world.running():
        with pytest.raises(StoreError, match="nothing is written to the origin"):
            await world.worker.invalidate(5)
    assert world.volume.is_dirty(2)


@virtual
async def test_f07_fuse_refuses_what_would_write_as_a_kernel_does() -> None:
    world = read_only_world()
    disk = Disk(world.volume, world.worker)
    operations = Operations(disk, control_of(world), attributes_of(16 * BLOCK), read_only=True)
    context = None
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.open(IMAGE_INODE, pyfuse3.FlagT(flags), context)  # type: ignore[arg-type]  # not looked at
        assert caught.value.errno == errno.EROFS
    opened = await operations.open(IMAGE_INODE, pyfuse3.FlagT(os.O_RDONLY), context)  # type: ignore[arg-type]
    for request in (
        operations.write(opened.fh, 0, b"x"),
        operations.setattr(IMAGE_INODE, None, pyfuse3.SetattrFields(), None, context),  # type: ignore[arg-type]
    ):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await request
        assert caught.value.errno == errno.EROFS
    await operations.fsync(opened.fh, datasync=True)
