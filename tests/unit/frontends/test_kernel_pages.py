"""Whenever the image reads differently although nobody has written to it, the kernel is told, and in a thread."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial

import pytest
import trio
from crc32c import crc32c

from fusecache.errors import StoreError
from fusecache.frontends.fuse.kernel_pages import KernelPages
from fusecache.jobs.scrub import Scrub
from tests.unit.worlds import BLOCK, World, settle, threaded, virtual


def counting(world: World) -> list[None]:
    """Count how often a world's image is said to have changed."""
    told: list[None] = []
    world.volume.content_changed = lambda: told.append(None)
    return told


@pytest.mark.parametrize("rotten", [True, False])
@virtual
async def test_healing_is_told_and_a_scrub_that_finds_all_well_is_not(rotten: bool) -> None:
    world = World()
    world.load(5, 2)
    world.cached.data[2 * BLOCK : 3 * BLOCK] = world.origin_block(5)
    world.mapping.sum_known(2, crc32c(world.origin_block(5)))
    if rotten:
        world.cached.data[2 * BLOCK] ^= 1
    told = counting(world)
    async with world.running():
        await Scrub(world.volume, world.worker, world.jobs, rate=10**9).round()
        assert len(told) == rotten


@virtual
async def test_dropping_what_cannot_be_healed_is_told() -> None:
    world = World()
    world.load(5, 2)
    world.mapping.sum_known(2, 0)
    world.cached.errors["write"] = StoreError("dead")
    told = counting(world)
    async with world.running():
        await Scrub(world.volume, world.worker, world.jobs, rate=10**9).round()
        await settle()
        assert world.mapping.find(5) < 0
        assert told


@virtual
async def test_writes_that_the_cache_has_lost_are_told() -> None:
    world = World()
    world.policy.overwrites[5] = 2
    told = counting(world)
    async with world.running():
        await world.cache.write(5 * BLOCK, b"n" * BLOCK)
        assert not told
        world.cached.errors["flush"] = StoreError("dead")
        with pytest.raises(StoreError, match="dead"):
            await world.cache.flush()
        assert await world.cache.read(5 * BLOCK, 1) == b"o"
        assert told


class Slow:
    """A kernel that drops pages only when it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: OSError | None = None
        self.may = threading.Event()
        self.may.set()

    def __call__(self) -> None:
        self.asked += 1
        assert self.may.wait(10)
        if self.error is not None:
            raise self.error


@pytest.fixture
def kernel() -> Slow:
    return Slow()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a thread makes it true
            await trio.sleep(0.001)


@threaded
async def test_the_loop_goes_on_meanwhile_and_what_comes_then_is_not_forgotten(kernel: Slow) -> None:
    pages = KernelPages(kernel)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.run)
        kernel.may.clear()
        pages.forget()
        await until(lambda: kernel.asked)
        for _ in range(3):
            pages.forget()
        kernel.may.set()
        await until(lambda: kernel.asked == 2)
        await settle()
        assert kernel.asked == 2
        nursery.cancel_scope.cancel()


@threaded
async def test_settling_waits_for_the_kernel_and_asks_it_no_more(kernel: Slow) -> None:
    pages = KernelPages(kernel)
    settled = trio.Event()

    async def end() -> None:
        await pages.settle()
        settled.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.run)
        kernel.may.clear()
        pages.forget()
        await until(lambda: kernel.asked)
        nursery.start_soon(end)
        pages.forget()
        await trio.sleep(0.05)
        assert not settled.is_set()
        kernel.may.set()
        await settled.wait()
        await settle()
        assert kernel.asked == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOSYS])
@threaded
async def test_a_kernel_that_refuses_ends_nothing(kernel: Slow, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def reached(count: int) -> bool:
        return kernel.asked == count

    pages = KernelPages(kernel)
    kernel.error = OSError(code, os.strerror(code))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.run)
        for count in (1, 2):
            pages.forget()
            await until(partial(reached, count))
            await settle()
        nursery.cancel_scope.cancel()
    assert ("out of date" in capsys.readouterr().out) == (code == errno.ENOSYS)


@virtual
async def test_where_there_is_no_thread_pages_are_dropped_as_soon_as_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused, dropped = 3, trio.Event()

    async def run_sync(_function: Callable[[], None]) -> None:
        nonlocal refused
        if refused:
            refused -= 1
            msg = "can't start new thread"
            raise RuntimeError(msg)
        dropped.set()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    pages = KernelPages(Slow())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pages.run)
        pages.forget()
        with trio.fail_after(60):
            await dropped.wait()
        nursery.cancel_scope.cancel()
