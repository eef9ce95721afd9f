from __future__ import annotations

import random

import pytest
import trio
from crc32c import crc32c

from fusecache.block.geometry import Geometry
from fusecache.block.locks import ALL_OUT, WRITERS_OUT, Level
from fusecache.config import Mode
from fusecache.errors import MetadataError, StoreError
from fusecache.jobs.scrub import Scrub
from tests.crash.rig import Rig, SimDisk, simulate, simulated
from tests.unit.worlds import BLOCK, World, settle, virtual

_FAST = 10**9


def load_clean(world: World, oblock: int, cblock: int, *, summed: bool = True) -> None:
    """Have a block cached that is as the origin's."""
    world.load(oblock, cblock)
    world.cached.data[cblock * BLOCK : (cblock + 1) * BLOCK] = world.origin_block(oblock)
    if summed:
        world.mapping.sum_known(cblock, crc32c(world.origin_block(oblock)))


def rot(world: World, cblock: int) -> None:
    """Change one bit of a cache block behind everybody's back."""
    world.cached.data[cblock * BLOCK + 1234] ^= 4


async def scrub_once(world: World) -> None:
    """Look at every block once, without haste."""
    await Scrub(world.volume, world.worker, world.jobs, _FAST).round()


@virtual
async def test_what_is_right_is_counted_and_left_alone() -> None:
    world = World()
    load_clean(world, 5, 2)
    load_clean(world, 6, 3)
    async with world.running():
        await scrub_once(world)
    stats = world.volume.counters
    assert (stats.scrubbed, stats.healed, stats.cache_errors) == (2, 0, 0)
    assert world.cached.names() == ["read", "read"]
    assert not world.origin.calls
    assert not world.record.batches


@virtual
async def test_rot_is_healed_from_the_origin_before_anybody_reads_it_again() -> None:
    world = World()
    load_clean(world, 5, 2)
    rot(world, 2)
    async with world.running():
        await scrub_once(world)
        assert world.volume.counters.healed == 1
        assert world.cache_block(2) == b"o" * BLOCK
        assert world.mapping.find(5) == 2
        await world.durability.commit()
        assert world.record.sums == {2: crc32c(b"o" * BLOCK)}
        await scrub_once(world)
        assert world.volume.counters.healed == 1


@virtual
async def test_a_sum_that_is_wrong_by_itself_is_put_right_and_nothing_was_rotten() -> None:
    world = World()
    load_clean(world, 5, 2)
    world.mapping.sum_known(2, 12345)
    async with world.running():
        await scrub_once(world)
        assert world.volume.counters.healed == 0
        assert "write" not in world.cached.names()
        await world.durability.commit()
        assert world.record.sums == {2: crc32c(b"o" * BLOCK)}


@pytest.mark.parametrize("rotten", [False, True])
@virtual
async def test_a_block_without_a_sum_is_held_against_the_origin_and_gets_one(rotten: bool) -> None:
    world = World()
    load_clean(world, 5, 2, summed=False)
    if rotten:
        rot(world, 2)
    async with world.running():
        await scrub_once(world)
        assert world.volume.counters.healed == rotten
        assert world.cache_block(2) == b"o" * BLOCK
        assert world.mapping.sum_of(2) == crc32c(b"o" * BLOCK)
        await scrub_once(world)
        assert world.origin.names().count("read") == 1 + rotten, "read again after a flush, before it is believed"


@virtual
async def test_an_origin_that_has_forgotten_what_was_written_to_it_heals_nothing() -> None:
    world = World()
    load_clean(world, 5, 2, summed=False)
    rot(world, 2)  # in truth the cache is right, and the origin has lost the writeback
    before = bytes(world.cache_block(2))

    async def forget() -> None:
        msg = "flush of origin failed"
        raise StoreError(msg)

    world.origin.flush = forget  # type: ignore[method-assign]
    async with world.running():
        await scrub_once(world)
        assert world.cache_block(2) == before
        assert world.volume.counters.healed == 0
        assert world.mapping.find(5) == 2, "it is not dropped either"
        assert world.mapping.sum_of(2) is None


@virtual
async def test_dirty_blocks_are_read_and_not_judged() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        await scrub_once(world)
    assert world.cached.names() == ["read"]
    assert not world.origin.calls
    assert world.cache_block(2) == b"c" * BLOCK
    assert world.volume.counters.scrubbed == 1


@virtual
async def test_a_block_that_turns_dirty_while_it_is_read_is_not_judged() -> None:
    world = World()
    load_clean(world, 5, 2)
    rot(world, 2)

    async def write_meanwhile(name: str) -> None:
        if name == "read":
            world.cached.before = None
            await world.cache.write(5 * BLOCK, b"newest")

    world.cached.before = write_meanwhile
    async with world.running():
        await scrub_once(world)
        assert world.mapping.dirty_count == 1
        assert world.volume.counters.healed == 0
        assert world.cache_block(2)[:6] == b"newest"


@virtual
async def test_a_block_that_turns_dirty_before_it_is_healed_is_not_healed() -> None:
    world = World()
    load_clean(world, 5, 2)
    rot(world, 2)
    async with world.running() as nursery:
        assert world.locks.try_write(5)
        nursery.start_soon(scrub_once, world)
        await settle()  # healing waits for the writer
        await world.durability.record_intent(2)
        world.cached.data[2 * BLOCK : 2 * BLOCK + 6] = b"newest"
        world.volume.set_dirty(2)
        world.locks.end_write(5)
        await settle()
        assert world.volume.counters.healed == 0
        assert world.cache_block(2)[:6] == b"newest"


@virtual
async def test_nobody_reads_or_writes_a_block_while_it_is_healed() -> None:
    world = World()
    load_clean(world, 5, 2)
    rot(world, 2)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    world.origin.at_once = False
    async with world.running() as nursery:
        nursery.start_soon(scrub_once, world)
        await trio.sleep(1)
        nursery.start_soon(world.cache.write, 5 * BLOCK, b"new")
        assert await world.cache.read(5 * BLOCK + 1234, 1) == b"o"
        assert trio.current_time() >= 10
        await settle()
        assert world.cache_block(2)[:3] == b"new"


@pytest.mark.parametrize("level", [WRITERS_OUT, ALL_OUT])
@virtual
async def test_a_block_that_is_being_migrated_is_left_for_the_next_round(level: Level) -> None:
    world = World()
    load_clean(world, 5, 2)
    load_clean(world, 6, 3)
    rot(world, 2)
    rot(world, 3)
    async with world.running():
        assert world.locks.try_exclusive(5, level)
        await scrub_once(world)
        assert world.volume.counters.healed == 1
        world.locks.end_exclusive(5)
        await scrub_once(world)
        assert world.volume.counters.healed == 2


@virtual
async def test_a_block_that_gives_way_to_another_is_not_judged_by_the_other() -> None:
    world = World()
    load_clean(world, 5, 2)

    async def replace(name: str) -> None:
        if name == "read":
            world.cached.before = None
            await world.worker.invalidate(5)
            world.cached.data[2 * BLOCK : 3 * BLOCK] = b"x" * BLOCK

    world.cached.before = replace
    async with world.running():
        await scrub_once(world)
        assert world.mapping.mapped_count == 0
        assert world.volume.counters.healed == 0


@virtual
async def test_a_clean_block_that_cannot_be_read_is_dropped() -> None:
    world = World()
    load_clean(world, 5, 2)
    load_clean(world, 6, 3)
    world.cached.dead = {2 * BLOCK + 3}
    async with world.running():
        await scrub_once(world)
        await settle()
        assert dict(world.mapping.mapped()) == {3: 6}
        assert (world.volume.counters.cache_errors, world.volume.counters.scrubbed) == (1, 1)


@virtual
async def test_a_dirty_block_that_cannot_be_read_is_named_by_its_bytes() -> None:
    world = World(cache_blocks=2, origin_blocks=4, block_size=4 * BLOCK)
    size = world.geometry.block_size
    world.load(3, 1, dirty=True)
    world.cached.dead = {size + BLOCK + 17}
    async with world.running():
        await scrub_once(world)
        assert list(world.volume.health.lost) == [(3 * size + BLOCK, 3 * size + 2 * BLOCK)]
        assert world.mapping.find(3) == 1
        assert world.volume.counters.cache_errors == 1
        world.cached.dead.clear()
        await world.flusher.flush()
        assert not len(world.volume.health.lost)


@pytest.mark.parametrize(("store", "kind"), [("origin", "read"), ("cached", "write")])
@virtual
async def test_rot_that_cannot_be_healed_is_dropped(store: str, kind: str) -> None:
    world = World()
    load_clean(world, 5, 2)
    rot(world, 2)
    getattr(world, store).errors[kind] = StoreError("dead")
    async with world.running():
        await scrub_once(world)
        await settle()
        assert world.mapping.find(5) == -1
        getattr(world, store).errors.clear()
        assert await world.cache.read(5 * BLOCK, BLOCK) == b"o" * BLOCK


# How fast


@virtual
async def test_the_rate_is_obeyed_whatever_a_read_takes() -> None:
    world = World(cache_blocks=8)
    for number in range(8):
        load_clean(world, number, number)
    times: list[float] = []

    async def note(name: str) -> None:
        times.append(trio.current_time())
        await trio.sleep(0.3)

    world.cached.before = note
    world.cached.at_once = False
    async with world.running():
        await Scrub(world.volume, world.worker, world.jobs, BLOCK).round()
        assert times == pytest.approx(range(8))


@virtual
async def test_it_goes_round_and_round_and_the_rate_can_be_changed_at_any_time() -> None:
    world = World()
    for number in range(4):
        load_clean(world, number, number)
    scrub = Scrub(world.volume, world.worker, world.jobs)
    async with world.running() as nursery:
        nursery.start_soon(scrub.run)
        await trio.sleep(1000)
        assert world.volume.counters.scrubbed == 0
        scrub.set_rate(BLOCK)
        await trio.sleep(101)
        assert 75 <= world.volume.counters.scrubbed <= 85  # four seconds a round, and one between two
        rot(world, 0)
        await trio.sleep(6)
        assert world.volume.counters.healed == 1
        scrub.set_rate(0)
        await trio.sleep(1)
        before = world.volume.counters.scrubbed
        await trio.sleep(1000)
        assert world.volume.counters.scrubbed <= before + 1
        scrub.set_rate(4 * BLOCK)
        await trio.sleep(100)
        assert world.volume.counters.scrubbed >= before + 100


@virtual
async def test_a_rate_that_is_raised_counts_at_once() -> None:
    world = World()
    for number in range(4):
        load_clean(world, number, number)
    scrub = Scrub(world.volume, world.worker, world.jobs, 1)
    async with world.running() as nursery:
        nursery.start_soon(scrub.run)
        await trio.sleep(1)
        assert world.volume.counters.scrubbed == 1
        scrub.set_rate(BLOCK)
        await trio.sleep(10)
        assert world.volume.counters.scrubbed >= 5


@virtual
async def test_an_empty_cache_costs_nothing() -> None:
    world = World()
    async with world.running() as nursery:
        nursery.start_soon(Scrub(world.volume, world.worker, world.jobs, _FAST).run)
        await trio.sleep(100)
    assert not world.cached.calls


@pytest.mark.parametrize("broken", ["record", "cache"])
@virtual
async def test_it_stops_when_nothing_may_be_written_any_more(broken: str) -> None:
    world = World()
    load_clean(world, 5, 2)
    rot(world, 2)
    async with world.running() as nursery:
        if broken == "record":
            world.record.error = MetadataError("full")
            world.durability.rows.summed(2)
        else:
            world.cached.errors["flush"] = StoreError("dead")
        with pytest.raises((MetadataError, StoreError)):
            await world.durability.flush()
        nursery.start_soon(Scrub(world.volume, world.worker, world.jobs, _FAST).run)
        await trio.sleep(100)
        assert (world.volume.counters.scrubbed, world.volume.counters.healed) == (0, 0)
        assert "read" not in world.cached.names()


# Beside everything else


@pytest.mark.parametrize("mode", [Mode.WRITEBACK, Mode.WRITETHROUGH])
@pytest.mark.parametrize("seed", range(8))
def test_without_rot_it_never_finds_any_whatever_clients_and_policies_do(
    seed: int, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusecache.jobs.scrub._LEAST_PAUSE", 0.01)
    geometry = Geometry(9 * BLOCK + 512, BLOCK, 4)
    disk = SimDisk.new(geometry, region_blocks=2, cell_bytes=512)
    image = bytearray(disk.origin.durable)

    async def history() -> None:
        rig, rng = Rig(disk, seed, mode=mode), random.Random(seed)
        async with rig.running():
            await rig.control.set("scrub", str(100 * BLOCK))
            for number in range(150):
                offset = rng.randrange(len(image))
                length = min(rng.choice((1, 512, BLOCK, 2 * BLOCK)), len(image) - offset)
                if rng.random() < 0.5:
                    image[offset : offset + length] = rng.randbytes(length)
                    await rig.cache.write(offset, bytes(image[offset : offset + length]))
                else:
                    assert await rig.cache.read(offset, length) == image[offset : offset + length]
                if number % 50 == 49:
                    await rig.flusher.flush()
                    await trio.sleep(0.2)
            assert rig.volume.counters.scrubbed > 50
            assert rig.volume.counters.healed == rig.volume.counters.cache_errors == 0
            await rig.control.set("scrub", "0")
            await trio.sleep(1)
            await rig.check_at_rest()
        assert rig.freeze(rng).image() == image  # which holds every sum against its content

    with simulated():
        simulate(seed, history)


@virtual
async def test_f13_a_block_that_is_being_migrated_is_passed_by_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World()
    world.load(5, 1, dirty=True)
    world.cached.dead = {BLOCK}
    async with world.running():
        assert world.locks.try_exclusive(5, ALL_OUT)
        await Scrub(world.volume, world.worker, world.jobs, rate=BLOCK).round()
        world.locks.end_exclusive(5)
    assert "scrub passes" not in capsys.readouterr().out
