"""What else goes on at the moment of a fault, or beside a slow store, is neither lost nor held up."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from fusecache.config import Mode
from fusecache.errors import InvalidError, StoreError
from fusecache.jobs.evacuation import evacuate
from fusecache.jobs.scrub import Scrub
from fusecache.jobs.switching import switch_mode
from fusecache.metadata.record import Transaction
from fusecache.volume.guard import GuardedPolicy
from policies import Op
from policies.smq import SmqPolicy
from tests.unit.control.test_control import controlled
from tests.unit.places import Place
from tests.unit.worlds import BLOCK, MemoryStore, ToyPolicy, World, settle, virtual


def hold_writes(store: MemoryStore) -> trio.Event:
    """Let no write of a store begin before the event."""
    released = trio.Event()
    store.at_once = False

    async def wait(name: str) -> None:
        if name == "write":
            await released.wait()

    store.before = wait
    return released


@virtual
async def test_a_write_that_outlasts_the_writeback_of_its_block_is_not_missed_by_a_change_of_mode() -> None:
    world = World(mode=Mode.WRITETHROUGH)
    world.load(3, 0, dirty=True)
    async with world.running() as nursery:
        origin_released = hold_writes(world.origin)
        world.ask(Op.WRITEBACK, 3, 0)
        await settle()
        cache_released = hold_writes(world.cached)
        nursery.start_soon(world.cache.write, 3 * BLOCK, b"new")
        await settle()
        origin_released.set()
        await settle()
        assert world.volume.is_dirty(0)

        def spare() -> ToyPolicy:
            return ToyPolicy(world.cache_blocks)

        nursery.start_soon(
            switch_mode, world.volume, world.worker, world.flusher, Mode.PASSTHROUGH, spare, world.jobs.begin("mode")
        )
        await settle()
        cache_released.set()
        await settle()
        assert world.volume.mode is Mode.PASSTHROUGH
        assert await world.cache.read(3 * BLOCK, 3) == b"new"


@virtual
async def test_an_fsync_that_has_to_fail_does_not_keep_others_from_leaving_the_cache() -> None:
    world = World()
    for block in range(3):
        world.load(block, block)
    committing = trio.Event()

    async def wait(_: Transaction) -> None:
        await committing.wait()

    world.record.before = wait
    async with world.running() as nursery:
        world.volume.health.cache_lost = "dead"

        async def fsync() -> None:
            with pytest.raises(StoreError, match="have still to be brought to safety"):
                await world.cache.flush()

        nursery.start_soon(world.cache.write, 2 * BLOCK, b"new")
        await settle()
        nursery.start_soon(fsync)
        nursery.start_soon(world.cache.write, 0, b"new")  # both wait for the next round
        await settle()
        committing.set()
        await settle()
        assert world.origin_block(0).startswith(b"new")
        assert world.mapping.mapped_count == 1


@virtual
async def test_a_cache_that_is_dead_altogether_costs_no_write_to_a_clean_block() -> None:
    world = World()
    world.load(0, 0)
    world.load(1, 1)
    world.mapping.intent_recorded(0)
    world.durability.regions.open.add(0)
    world.durability.rows.promoted(1)
    async with world.running():
        for kind in ("read", "write", "flush"):
            world.cached.errors[kind] = StoreError(f"{kind} of cache failed: dead")
        await world.cache.write(0, b"new")
        assert world.origin_block(0).startswith(b"new")
        assert world.volume.health.cache_lost


async def lose_the_cache_unseen(world: World) -> None:
    """Have a flush fail that nobody asked for, and the cache forget what was written."""
    world.cached.errors["flush"] = StoreError("flush of cache failed: dead")
    world.cached.data[: world.cached.size] = b"c" * world.cached.size
    world.durability.rows.promoted(1)
    world.durability.commit_later()
    await trio.sleep(5)
    assert not world.mapping.mapped_count


@virtual
async def test_fsync_tells_of_a_loss_that_happened_while_nobody_waited_for_a_flush() -> None:
    world = World()
    world.load(0, 0, dirty=True)
    world.load(1, 1)
    async with world.running() as nursery:
        nursery.start_soon(evacuate, world.volume, world.worker, world.jobs)
        await world.cache.write(0, b"new")
        await lose_the_cache_unseen(world)
        assert not world.origin_block(0).startswith(b"new")
        with pytest.raises(StoreError, match="something may be lost"):
            await world.cache.flush()
        await world.cache.flush()


@virtual
async def test_so_does_the_end_of_the_mount() -> None:
    world = World()
    world.load(0, 0, dirty=True)
    world.load(1, 1)
    async with world.running() as nursery:
        nursery.start_soon(evacuate, world.volume, world.worker, world.jobs)
        await world.cache.write(0, b"new")
        await lose_the_cache_unseen(world)
    with pytest.raises(StoreError, match="something may be lost"):
        await world.durability.settle()


@pytest.mark.parametrize("kind", ["dirty", "clean", "several", "overwrite"])
@virtual
async def test_a_write_that_is_under_way_when_the_cache_is_given_up_reaches_the_origin(kind: str) -> None:
    world = World()
    world.load(0, 0, dirty=kind != "clean")
    world.load(1, 1, dirty=kind == "several")
    world.policy.overwrites = {5: 2}
    start, length = {"several": (0, 2 * BLOCK), "overwrite": (5 * BLOCK, BLOCK)}.get(kind, (0, 512))
    async with world.running() as nursery:
        nursery.start_soon(evacuate, world.volume, world.worker, world.jobs)
        released = hold_writes(world.cached)
        nursery.start_soon(world.cache.write, start, b"n" * length)
        await settle()
        world.cached.errors["flush"] = StoreError("flush of cache failed: dead")
        with pytest.raises(StoreError, match="dead"):
            await world.cache.flush()
        assert world.volume.health.cache_lost
        forgotten = world.cached.data[:]
        released.set()
        while world.cached.data == forgotten:
            await trio.lowlevel.checkpoint()
        world.cached.data[:] = forgotten
        await trio.sleep(5)
        assert not world.mapping.mapped_count
        await world.cache.flush()
        assert world.origin.data[start : start + length] == b"n" * length


@virtual
async def test_fsync_fails_as_long_as_the_state_says_so() -> None:
    world = World()
    world.load(0, 0)
    health = world.volume.health
    async with world.running() as nursery:
        world.cached.errors["flush"] = StoreError("flush of cache failed: dead")
        with pytest.raises(StoreError, match="dead"):
            await world.cache.flush()
        assert health.state == "failing"
        assert "fsync fails until it is empty" in str(health)
        nursery.start_soon(evacuate, world.volume, world.worker, world.jobs)
        await trio.sleep(5)
        assert health.state == "degraded"
        assert "fsync" not in str(health)
        await world.cache.flush()


@virtual
async def test_nothing_is_healed_from_an_origin_that_lost_what_was_written() -> None:
    world = World(mode=Mode.WRITETHROUGH)
    world.load(0, 0)
    world.cached.data[:BLOCK] = world.origin_block(0)
    async with world.running():
        await world.cache.write(0, b"new")
        world.origin.errors["flush"] = StoreError("flush of origin failed: dead")
        with pytest.raises(StoreError, match="dead"):
            await world.cache.flush()
        world.origin.data[:3] = b"ooo"
        await Scrub(world.volume, world.worker, world.jobs, rate=BLOCK).round()
        assert await world.cache.read(0, 3) == b"new"


class Forgetful(SmqPolicy):
    """A policy that cannot be told what is cached."""

    def load_mappings(self, mappings: Iterable[tuple[int, int, bool, int | None]]) -> None:
        raise KeyError(next(iter(mappings)))


@virtual
async def test_a_policy_that_cannot_take_over_costs_the_decommissioning_not_the_mount(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.load(0, 0)
    sizes = {"cache_blocks": world.cache_blocks, "origin_blocks": world.origin_blocks, "block_size": BLOCK}
    async with controlled(world) as control:
        forgetful = GuardedPolicy(Forgetful(**sizes), world.origin_blocks)
        monkeypatch.setattr("fusecache.volume.policies.create_policy", lambda *_, **__: forgetful)
        control.begin("message", "decommission")
        await trio.sleep(5)
        assert world.volume.mode is Mode.WRITEBACK
        assert "does not take over: KeyError" in control.status().outcomes["decommission"]
        with pytest.raises(InvalidError, match="does not take over: KeyError"):
            await control.set("mode", "passthrough")
        assert await world.cache.read(0, 1) == b"c"


def test_an_origin_that_fails_at_the_very_end_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with place.bound() as binding:
        monkeypatch.setattr("fusecache.attach.file_origin.os.fsync", fail)
        with pytest.raises(StoreError, match=r"flush of origin .* failed: Input/output error"):
            binding.end_values()
