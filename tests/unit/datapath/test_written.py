"""G01: whatever changes the image leaves the mark that gives it a new time, and nothing else does."""

from __future__ import annotations

import pytest

from fusecache.config import Mode
from fusecache.errors import FusecacheError, OutOfRangeError, StoreError
from tests.unit.worlds import BLOCK, World, settle, virtual


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("offset", "length"),
    [(5 * BLOCK, 512), (5 * BLOCK, BLOCK), (9 * BLOCK + 100, 100), (4 * BLOCK + 10, 2 * BLOCK), (0, 1)],
)
@virtual
async def test_g01_every_write_leaves_the_mark(mode: Mode, offset: int, length: int) -> None:
    world = World()
    world.load(5, 2)
    world.volume.mode = mode
    async with world.running():
        for _ in range(3):
            assert not world.volume.take_written()
            await world.cache.write(offset, b"n" * length)
            assert world.volume.take_written()


@virtual
async def test_g01_nothing_else_leaves_it() -> None:
    world = World()
    world.load(5, 2)
    async with world.running():
        await world.cache.read(5 * BLOCK, BLOCK)
        await world.cache.read(7 * BLOCK, BLOCK)
        await world.cache.write(0, b"")
        await world.cache.flush()
        with pytest.raises(OutOfRangeError):
            await world.cache.write(world.geometry.image_bytes, b"x")
        await settle()
        assert not world.volume.take_written()


@virtual
async def test_g01_writing_back_leaves_it_not() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        assert await world.worker.invalidate(5)
        assert world.volume.counters.writebacks
        assert not world.volume.take_written()


@virtual
async def test_g01_a_write_that_failed_may_be_there_in_part() -> None:
    world = World()
    async with world.running():
        world.origin.errors["write"] = StoreError("dead")
        with pytest.raises(FusecacheError):
            await world.cache.write(5 * BLOCK, b"x")
        assert world.volume.take_written()


@virtual
async def test_g01_the_mark_comes_after_the_data() -> None:
    """Who asks while a write is under way gets another answer once it is done."""
    world = World()
    seen = []

    async def before(name: str) -> None:
        if name == "write":
            seen.append(world.volume.take_written())

    world.origin.before = before
    async with world.running():
        await world.cache.write(5 * BLOCK, b"x" * 512)
        assert seen == [False]
        assert world.volume.take_written()


@virtual
async def test_g01_what_was_lost_gives_a_new_time_too() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.volume.on_lost_write(2, 0)
    assert world.volume.take_written()
