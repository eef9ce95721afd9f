"""Scenarios of dm-cache's, Open CAS's and other caches' own test suites, by number: see ``tests/README.rst``.

Whole mounts without FUSE, on simulated stores and virtual time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from itertools import count, product
from typing import Any, Final

import pytest
import structlog
import trio

from fusecache.block.geometry import Geometry
from fusecache.block.mapping import Mapping
from fusecache.config import Mode
from fusecache.errors import FusecacheError, InvalidError, RefusedError, StoreError
from fusecache.metadata.record import Transaction
from policies import Op, create_policy, policy_names
from tests.crash.rig import BLOCK, Rig, SimDisk, simulate, simulated
from tests.model import Oracle, judge_crash
from tests.unit.control.test_control import controlled
from tests.unit.worlds import World, settle, virtual

_CELL: Final = 512
_BLOCKS: Final = 8
_IMAGE: Final = Geometry(2 * _BLOCKS * BLOCK + 1024, BLOCK, _BLOCKS)
POLICIES: Final = [name for name in policy_names() if name != "default"]
CACHING: Final = [Mode.WRITEBACK, Mode.WRITETHROUGH]


@pytest.fixture(autouse=True)
def _simulation() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with simulated(tick_seconds=1.0):
        yield


def cached_disk(*, dirty: bool, blocks: int = _BLOCKS) -> SimDisk:
    """Return a disk with every other block of the origin cached; dirty ones differ from the origin."""
    disk = SimDisk.new(_IMAGE, region_blocks=1, cell_bytes=_CELL)
    for cblock in range(blocks):
        oblock = 2 * cblock
        content = disk.origin.durable[oblock * BLOCK : (oblock + 1) * BLOCK]
        if dirty:
            content = bytearray(byte ^ 0xFF for byte in content)
        disk.cache.durable[cblock * BLOCK : (cblock + 1) * BLOCK] = content
        disk.record.rows[cblock] = (oblock, dirty, None, None, None)
    return disk


def image_of(disk: SimDisk) -> bytearray:
    """Return what a mount has to show."""
    image = bytearray(disk.origin.durable)
    for cblock, (oblock, dirty, *_) in disk.record.rows.items():
        if dirty:
            copy = disk.cache.newest()[cblock * BLOCK : (cblock + 1) * BLOCK]
            image[oblock * BLOCK : (oblock + 1) * BLOCK] = copy
    return image


def play(scenario: Callable[..., Coroutine[Any, Any, None]], *args: object, seed: int = 1) -> None:
    simulate(seed, scenario, *args)


def operations(rig: Rig) -> Counter[str]:
    """Count all that was done to the stores and the record, by part and kind."""
    return Counter(
        {f"{part} {kind}": number for part, faults in rig.faults.items() for kind, number in faults.counts.items()}
    )


async def cleaned(rig: Rig, within: float = 60) -> None:
    """Wait until nothing is dirty."""
    with trio.fail_after(within):
        while rig.volume.mapping.dirty_count:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.1)


async def stomp(rig: Rig, image: bytearray, rng: random.Random, requests: int) -> None:
    """Write and read anywhere, any length, as the one client that there is."""
    for _ in range(requests):
        offset = rng.randrange(len(image))
        length = min(rng.choice((1, 512, 700, BLOCK, 3 * BLOCK)), len(image) - offset)
        if rng.random() < 0.6:
            image[offset : offset + length] = rng.randbytes(length)
            await rig.cache.write(offset, bytes(image[offset : offset + length]))
        else:
            assert await rig.cache.read(offset, length) == image[offset : offset + length]


# Clean and dirty


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", CACHING)
def test_scenario_01_clean_data_is_never_written_back(policy: str, mode: Mode) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=False)
        rig = Rig(disk, 1, policy=policy, mode=mode)
        async with rig.running():
            for _ in range(30):
                await trio.sleep(3)
                assert await rig.read_all() == image_of(disk)
            assert rig.volume.mapping.mapped_count, "some are on their way in and out all the time"
            assert rig.origin.faults.counts["write"] == 0
            assert rig.volume.counters.writebacks == 0

    play(scenario)


@pytest.mark.parametrize("policy", ["smq", "cleaner"])
@pytest.mark.parametrize("mode", CACHING)
def test_scenario_02_scenario_03_dirty_data_is_written_back_once_and_never_again(policy: str, mode: Mode) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=True)
        rig = Rig(disk, 1, policy=policy, mode=mode)
        async with rig.running():
            assert rig.volume.mapping.dirty_count == _BLOCKS
            await cleaned(rig)
            assert rig.origin.faults.counts["write"] == rig.volume.counters.writebacks == _BLOCKS
        after = rig.freeze(random.Random(1))
        assert after.origin.durable == image_of(disk)
        assert after.record.values["clean_shutdown"] == "1"
        again = Rig(after, 2, policy=policy, mode=mode)
        async with again.running():
            assert again.volume.mapping.dirty_count == 0
            assert again.volume.mapping.mapped_count == _BLOCKS
            await trio.sleep(60)
            assert again.origin.faults.counts["write"] == 0

    play(scenario)


@pytest.mark.parametrize("threshold", [0, 100 * 2**20])
@virtual
async def test_scenario_04_large_blocks_and_a_large_threshold_come_to_an_end(threshold: int) -> None:
    size = 2 * 2**20
    world = World(cache_blocks=4, origin_blocks=8, block_size=size)
    world.volume.migration_threshold = threshold
    for cblock in range(4):
        world.load(cblock, cblock, dirty=True)
    async with world.running():
        for cblock in range(3):
            world.ask(Op.WRITEBACK, cblock, cblock)
        await trio.sleep(10)
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        assert world.origin.data[: 4 * size] == b"c" * 4 * size


def test_scenario_05_the_cleaner_on_a_fresh_cache_has_nothing_to_wait_for() -> None:
    async def scenario() -> None:
        rig = Rig(SimDisk.new(_IMAGE, region_blocks=1, cell_bytes=_CELL), 1, policy="cleaner")
        async with rig.running():
            began = trio.current_time()
            await rig.flusher.flush()
            assert trio.current_time() - began < 0.2
            assert rig.volume.mapping.mapped_count == 0

    play(scenario)


@pytest.mark.parametrize("how", ["at the mount", "live"])
@pytest.mark.parametrize("mode", CACHING)
def test_scenario_06_scenario_08_the_cleaner_empties_a_dirty_cache_and_the_image_stays_what_it_was(
    how: str, mode: Mode
) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=True)
        image = image_of(disk)
        assert image != disk.origin.durable
        rig = Rig(disk, 1, policy="cleaner" if how == "at the mount" else "mq", mode=mode)
        async with rig.running():
            if how == "live":
                await rig.control.set("policy", "cleaner")
            assert await rig.read_all() == image
            await cleaned(rig)
            assert await rig.read_all() == image
        after = rig.freeze(random.Random(1))
        assert after.origin.durable == image
        passthrough = Rig(after, 2, mode=Mode.PASSTHROUGH)
        async with passthrough.running():
            assert await passthrough.read_all() == image
            assert passthrough.volume.mapping.mapped_count == _BLOCKS

    play(scenario)


@pytest.mark.parametrize("policy", POLICIES)
def test_scenario_07_a_cache_is_left_while_somebody_writes(policy: str) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=True)
        image = image_of(disk)
        rig = Rig(disk, 1, policy=policy)
        async with rig.running():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stomp, rig, image, random.Random(1), 1500)
                await trio.sleep(1)
                await rig.control.set("policy", "cleaner")
                await rig.control.set("mode", "writethrough")
                rig.control.begin("message", "decommission")
                with trio.fail_after(100):
                    while not rig.control.status().decommissioned:  # noqa: ASYNC110
                        await trio.sleep(0.1)
                assert nursery.child_tasks, "the writer ended too early to prove anything"
            assert rig.volume.mapping.mapped_count == 0
            await rig.cache.flush()
            assert rig.freeze(random.Random(1)).origin.durable == image

    play(scenario)


@pytest.mark.parametrize("policy", POLICIES)
def test_scenario_08_decommissioning_makes_the_origin_the_image(policy: str) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=True)
        image = image_of(disk)
        rig = Rig(disk, 1, policy=policy)
        async with rig.running():
            rig.control.begin("message", "decommission")
            assert await rig.read_all() == image
            await trio.sleep(30)
            assert rig.control.status().decommissioned
            assert await rig.read_all() == image
            assert rig.freeze(random.Random(1)).origin.durable == image

    play(scenario)


def test_scenario_10_a_restart_with_the_cleaner_twice() -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=True)
        image = image_of(disk)
        for seed in range(2):
            rig = Rig(disk, seed, policy="cleaner")
            async with rig.running():
                assert await rig.read_all() == image
                image[:] = bytes([seed + 1]) * len(image)
                await rig.cache.write(0, bytes(image))
            disk = rig.freeze(random.Random(seed))
        last = Rig(disk, 3)
        async with last.running():
            assert await last.read_all() == image

    play(scenario)


@pytest.mark.parametrize("policy", POLICIES)
def test_scenario_11_writethrough_leaves_nothing_dirty_at_any_time(policy: str) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=False)
        image = image_of(disk)
        rig = Rig(disk, 1, policy=policy, mode=Mode.WRITETHROUGH)

        async def look() -> None:
            while True:
                assert rig.volume.mapping.dirty_count == 0
                await trio.sleep(0.01)

        async with rig.running(), trio.open_nursery() as nursery:
            nursery.start_soon(look)
            for seed in range(10):
                await stomp(rig, image, random.Random(seed), 30)
                assert rig.origin._image == image, "the origin is complete without the cache"
            await rig.cache.flush()
            assert rig.freeze(random.Random(1)).origin.durable == image
            nursery.cancel_scope.cancel()

    play(scenario)


@pytest.mark.parametrize("crashed", [False, True])
def test_scenario_12_writethrough_cleans_what_a_crash_left_dirty(crashed: bool) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=True)
        image = image_of(disk)
        disk.record.values["clean_shutdown"] = "0" if crashed else "1"
        rig = Rig(disk, 1, mode=Mode.WRITETHROUGH)
        async with rig.running():
            assert rig.volume.mapping.dirty_count == _BLOCKS
            await rig.flusher.flush()
            assert rig.volume.mapping.dirty_count == 0
        again = Rig(rig.freeze(random.Random(1)), 2, mode=Mode.WRITETHROUGH)
        async with again.running():
            assert again.volume.mapping.dirty_count == 0
            assert await again.read_all() == image

    play(scenario)


@pytest.mark.parametrize("policy", POLICIES)
def test_scenario_13_passthrough_promotes_nothing_keeps_what_is_read_and_drops_what_is_written(policy: str) -> None:
    async def scenario() -> None:
        disk = cached_disk(dirty=False)
        rig = Rig(disk, 1, policy=policy, mode=Mode.PASSTHROUGH)
        async with rig.running():
            for _ in range(20):
                await rig.read_all()
                await trio.sleep(1)
            assert rig.volume.mapping.mapped_count == _BLOCKS
            assert rig.volume.counters.promotions == rig.store.faults.counts["read"] == 0
            await rig.cache.write(2 * BLOCK + 5, b"drops block 2")
            await rig.cache.write(3 * BLOCK, b"n" * BLOCK)
            assert rig.volume.mapping.mapped_count == _BLOCKS - 1
            await rig.cache.write(0, bytes(_IMAGE.image_bytes))
            await trio.sleep(20)
            assert rig.volume.mapping.mapped_count == 0
            assert rig.volume.counters.promotions == 0
            assert rig.store.faults.counts["write"] == 0

    play(scenario)


# Messages, status and tables


_RANGES: Final = "0 5 11 50-60 91-99"


@virtual
async def test_scenario_14_exactly_the_blocks_that_were_named_are_dropped() -> None:
    world = World(cache_blocks=128, origin_blocks=256, mode=Mode.PASSTHROUGH)
    named = {0, 5, 11, *range(50, 60), *range(91, 99)}
    async with controlled(world) as control:
        await control.set("message", f"invalidate_cblocks {_RANGES}")  # empty: nothing to drop
        assert world.mapping.mapped_count == 0
        for cblock in range(128):
            world.load(cblock + 7, cblock)
        await control.set("message", f"invalidate_cblocks {_RANGES}")
        assert {cblock for cblock, _ in world.mapping.mapped()} == set(range(128)) - named
        assert set(world.record.rows) == set(range(128)) - named


@pytest.mark.parametrize("text", ["50..60", "50--60", "-60", "50-", "fred", "60-50", "7-7", "128", "0-129", "1-2-3"])
@virtual
async def test_scenario_14_malformed_ranges_drop_nothing(text: str) -> None:
    world = World(cache_blocks=128, origin_blocks=256, mode=Mode.PASSTHROUGH)
    for cblock in range(128):
        world.load(cblock + 7, cblock)
    async with controlled(world) as control:
        with pytest.raises(FusecacheError):
            await control.set("message", f"invalidate_cblocks {text}")
        assert world.mapping.mapped_count == 128


@pytest.mark.parametrize("mode", CACHING)
@virtual
async def test_scenario_14_only_in_passthrough(mode: Mode) -> None:
    world = World(mode=mode)
    world.load(5, 0)
    async with controlled(world) as control:
        with pytest.raises(RefusedError, match="passthrough mode only"):
            await control.set("message", "invalidate_cblocks 0-4")
        assert world.mapping.mapped_count == 1


_STATES: Final = ["fresh", "clean", "dirty once", "written once"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("state", _STATES)
def test_scenario_21_nothing_is_done_when_nobody_asks_for_anything(policy: str, mode: Mode, state: str) -> None:
    async def scenario() -> None:
        if state == "fresh":
            disk = SimDisk.new(_IMAGE, region_blocks=1, cell_bytes=_CELL)
        else:
            disk = cached_disk(dirty=state == "dirty once" and mode is not Mode.PASSTHROUGH)
        rig = Rig(disk, 1, policy=policy, mode=mode)
        async with rig.running():
            if state == "written once":
                await rig.cache.write(0, bytes(_IMAGE.image_bytes))
            if policy == "mq":  # which leaves dirty blocks alone
                await rig.flusher.flush()
            await trio.sleep(60)
            before = operations(rig)
            await trio.sleep(30)
            assert operations(rig) == before
            assert rig.volume.mapping.dirty_count == 0

    play(scenario)


def test_scenario_23_a_cache_of_4_tb_before_an_origin_of_48_tb_takes_little_memory_and_time() -> None:
    geometry = Geometry(48 * 10**12, 4 * 2**20, 4 * 10**12 // (4 * 2**20))
    blocks = geometry.cache_blocks
    assert blocks > 950_000
    mapping = Mapping(blocks)
    taken = sum(len(part) * part.itemsize for part in (mapping.oblock_of, mapping.sums, mapping._slots)) + len(
        mapping.flags
    )
    assert taken <= 32 * blocks
    stride = geometry.origin_blocks // blocks
    for cblock in range(0, blocks, 50):
        mapping.insert(cblock * stride, cblock)
    assert mapping.find(stride * 50) == 50
    for name in POLICIES:
        policy = create_policy(
            name, cache_blocks=blocks, origin_blocks=geometry.origin_blocks, block_size=geometry.block_size
        )
        policy.load_mapping(stride * 50, 50, False, None)
        assert policy.lookup(stride * 50, False, False) == 50
        assert policy.residency() == 1


@virtual
async def test_scenario_27_the_status_line_can_be_parsed_and_a_refusal_leaves_everything_as_it_was() -> None:
    world = World()
    async with controlled(world) as control:
        await control.set("policy", "mq")
        await control.set("migration_threshold", "4096")
        line = control.get("status")
        words = line.split()
        assert words[:4] == ["8", "2/3", "8", "0/4"]
        assert words[11:15] == ["1", "writeback", "2", "migration_threshold"]
        assert words[15] == "4096"
        assert words[16] == "mq"
        assert len(words) == 18 + int(words[17]) + 2
        tunables = dict(zip(words[18:-2:2], words[19:-2:2], strict=True))
        assert tunables == world.volume.policy.config_values()
        for name, value in (
            ("policy", "unknown"),
            ("policy", "mq,sequential_threshold=x"),
            ("policy", "mq,sequential_threshold"),
            ("policy.sequential_threshold", "-1"),
            ("policy.nonsense", "1"),
            ("migration_threshold", "many"),
            ("message", "migration_threshold"),
            ("message", "migration_threshold 1 2"),
            ("message", "nonsense 1"),
            ("mode", "writearound"),
        ):
            with pytest.raises(FusecacheError):
                await control.set(name, value)
            assert control.get("status") == line
        with pytest.raises(InvalidError, match="unknown policy 'unknown'"):
            await control.set("policy", "unknown")


# Faults


async def _busy(rig: Rig, oracle: Oracle) -> None:
    """Write, cover, flush, switch: whatever there is that commits."""
    began = oracle.now()
    for first, held in ((3, 2), (17, 8), (40, 20), (3, 1)):
        write, data = oracle.begin_write(first, held)
        try:
            await rig.cache.write(first * _CELL, data)
        except FusecacheError:
            oracle.end_write(write, failed=True)
        else:
            oracle.end_write(write)
    began = oracle.now()
    await rig.cache.flush()
    oracle.end_flush(began)
    await rig.flusher.flush()
    await trio.sleep(20)
    await rig.control.set("mode", "passthrough")
    write, data = oracle.begin_write(0, 24)
    await rig.cache.write(0, data)
    oracle.end_write(write)


@pytest.mark.parametrize("policy", POLICIES)
def test_scenario_32_a_surprise_at_any_metadata_write_leaves_the_old_state_or_the_new_one(policy: str) -> None:
    async def scenario(nth: int) -> bool:
        held = _IMAGE.image_bytes // _CELL
        disk = SimDisk.new(_IMAGE, region_blocks=1, cell_bytes=_CELL)
        for cblock in range(4):
            content = disk.origin.durable[2 * cblock * BLOCK : (2 * cblock + 1) * BLOCK]
            disk.cache.durable[cblock * BLOCK : (cblock + 1) * BLOCK] = content
            disk.record.rows[cblock] = (2 * cblock, False, None, None, None)
        oracle = Oracle([0] * held, _CELL)
        rig = Rig(disk, nth, policy=policy)
        rig.record.faults.fail("commit", nth, 10**6)
        rng = random.Random(nth)
        completed = False
        try:
            async with rig.running():
                try:
                    await _busy(rig, oracle)
                    completed = True
                except FusecacheError:
                    pass
                for _ in range(3):
                    frozen = rig.freeze(rng)
                    judge_crash(frozen.after_kill(rng).image(), oracle.allowed, _CELL)
                    judge_crash(frozen.after_power_cut(rng).image(), oracle.allowed, _CELL)
        except FusecacheError:
            completed = False  # the end was not clean
        after = rig.freeze(rng).after_power_cut(rng)
        shows = judge_crash(after.image(), oracle.allowed, _CELL)
        if after.record.values["clean_shutdown"] != "1":
            after.record.values["needs_check"] = "0"  # as fusecache check --clear-needs-check does
        again = Rig(after, nth + 1, policy=policy)
        async with again.running():
            assert Oracle(shows, _CELL).settled(await again.read_all()) == shows
        return completed

    for nth in count():
        assert nth < 100, "it never succeeds"
        if simulate(nth, scenario, nth):
            break
    assert nth > 3


_EDGES: Final = [within + block * BLOCK for block in range(3) for within in (0, 1, 512, BLOCK - 1)] + [3 * BLOCK]


class Meter:
    """Adds up what is read from and written to the stores of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.reset()

    def reset(self) -> None:
        self._world.cached.calls.clear()
        self._world.origin.calls.clear()

    def bytes(self, kind: str) -> tuple[int, int]:
        """Return how many bytes of the cache and of the origin were read or written."""
        stores = (self._world.cached, self._world.origin)
        cached, origin = (sum(length for name, _, length in store.calls if name == kind) for store in stores)
        return cached, origin


@pytest.mark.parametrize("states", list(product("icd", repeat=3)), ids="".join)
@pytest.mark.parametrize("mode", CACHING)
@virtual
async def test_scenario_33_any_range_over_any_blocks_reads_as_it_should_from_where_it_should(
    states: tuple[str, ...], mode: Mode
) -> None:
    world = World(mode=mode, region_blocks=1)
    expected = bytearray(world.origin.data)
    for oblock, state in enumerate(states):
        block = slice(oblock * BLOCK, (oblock + 1) * BLOCK)
        if state != "i":
            world.load(oblock, oblock, dirty=state == "d")
            content = bytes([65 + oblock]) * BLOCK if state == "d" else world.origin_block(oblock)
            world.cached.data[block] = expected[block] = content
    meter = Meter(world)

    def cached_bytes(begin: int, end: int, kinds: str) -> int:
        blocks = [oblock for oblock, state in enumerate(states) if state in kinds]
        return sum(max(0, min(end, (b + 1) * BLOCK) - max(begin, b * BLOCK)) for b in blocks)

    async with world.running():
        for begin, end in ((b, e) for b in _EDGES for e in _EDGES if b < e):
            meter.reset()
            assert await world.cache.read(begin, end - begin) == expected[begin:end]
            cached = cached_bytes(begin, end, "cd")
            assert meter.bytes("read") == (cached, end - begin - cached)
        for number, (begin, end) in enumerate((b, e) for b in _EDGES for e in _EDGES if b < e):
            expected[begin:end] = bytes([number % 251]) * (end - begin)
            meter.reset()
            await world.cache.write(begin, bytes(expected[begin:end]))
            cached = cached_bytes(begin, end, "cd")
            dirty = cached if mode is Mode.WRITEBACK else cached_bytes(begin, end, "d")
            assert meter.bytes("write") == (cached, end - begin - dirty)
            assert await world.cache.read(0, len(expected)) == expected
        await world.cache.flush()


@virtual
async def test_scenario_34_ranges_that_cannot_be() -> None:
    world = World()
    world.load(15, 1)
    size = world.geometry.image_bytes
    async with world.running():
        before = bytes(world.origin.data), bytes(world.cached.data)
        assert await world.cache.read(size, 10) == b""
        assert await world.cache.read(size + 10**15, 10) == b""
        assert len(await world.cache.read(size - 5, 10**9)) == 5
        assert await world.cache.read(7, 0) == b""
        assert await world.cache.write(7, b"") == 0
        assert await world.cache.write(size + 5, b"") == 0
        for offset, length in ((size, 1), (size - 1, 2), (15 * BLOCK, 2 * BLOCK), (10**18, 1), (0, size + 1)):
            with pytest.raises(FusecacheError, match="passes the end of the image"):
                await world.cache.write(offset, bytes(length))
        assert (bytes(world.origin.data), bytes(world.cached.data)) == before
        await world.cache.write(15 * BLOCK + 1, b"unaligned")
        assert await world.cache.read(15 * BLOCK + 1, 9) == b"unaligned"


@pytest.mark.parametrize("mode", CACHING)
@pytest.mark.parametrize("dirty", [False, True], ids=["clean", "dirty"])
@pytest.mark.parametrize("operation", ["read", "write"])
@virtual
async def test_scenario_35_errors_of_the_cache(mode: Mode, dirty: bool, operation: str) -> None:
    world = World(mode=mode)
    world.load(5, 2, dirty=dirty)
    stats = world.volume.counters
    async with world.running():
        if operation == "read":
            world.cached.dead = {2 * BLOCK + 10}
            if dirty:
                with pytest.raises(StoreError, match=f"bytes {5 * BLOCK} to {5 * BLOCK + 100} of the image"):
                    await world.cache.read(5 * BLOCK, 100)
                assert world.mapping.find(5) == 2
            else:
                assert await world.cache.read(5 * BLOCK, 100) == b"o" * 100
                await settle()
                assert world.mapping.find(5) == -1
        else:
            world.cached.refused = {2 * BLOCK + 10}
            await world.cache.write(5 * BLOCK, b"n" * 100)  # never the user's error
            assert await world.cache.read(5 * BLOCK, 101) == b"n" * 100 + (b"c" if dirty else b"o")
            assert world.mapping.find(5) == -1
            assert world.origin_block(5)[:100] == b"n" * 100
        assert stats.cache_errors == 1
        assert stats.origin_errors == 0


@pytest.mark.parametrize("mode", Mode)
@virtual
async def test_scenario_36_an_fsync_reaches_the_stores_and_then_the_record(mode: Mode) -> None:
    world = World(mode=mode)
    order: list[str] = []

    async def cached(name: str) -> None:
        order.append(f"cache {name}")

    async def origin(name: str) -> None:
        order.append(f"origin {name}")

    async def record(batch: Transaction) -> None:
        order.append("commit")

    async with world.running():
        if mode is not Mode.PASSTHROUGH:
            world.ask(Op.PROMOTE, 5, 2)
            await settle()
        world.cached.before, world.origin.before, world.record.before = cached, origin, record
        await world.cache.write(5 * BLOCK, b"new")
        del order[:]
        await world.cache.flush()
    if mode is Mode.WRITEBACK:  # only the cache has it, and the block was promoted just now
        assert sorted(order[:-1]) == ["cache flush", "origin flush"]
        assert order[-1] == "commit"
    else:
        assert sorted(order) == ["cache flush", "origin flush"]


# What lvm's block cache is held to


@virtual
async def test_scenario_37_a_flush_fails_while_a_block_cannot_be_written_and_succeeds_later() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.origin.errors["write"] = StoreError("dead")
    async with world.running():
        with pytest.raises(FusecacheError, match="still dirty"):
            await world.flusher.flush()
        assert world.mapping.dirty_count == 1
        world.origin.errors.clear()
        await world.flusher.flush()
        assert world.mapping.dirty_count == 0
        assert world.origin_block(5) == b"c" * BLOCK


@virtual
async def test_scenario_37_a_block_that_is_held_or_dirty_is_not_dropped_as_it_is() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    world.origin.errors["write"] = StoreError("dead")
    async with world.running() as nursery:
        with pytest.raises(StoreError):
            await world.worker.invalidate(5)
        assert world.mapping.find(5) == 2
        world.origin.errors.clear()
        assert world.locks.try_read(5)
        nursery.start_soon(world.worker.invalidate, 5)
        await settle()
        assert world.mapping.find(5) == 2
        world.locks.end_read(5)
        await settle()
        assert world.mapping.find(5) == -1
        assert world.origin_block(5) == b"c" * BLOCK


@virtual
async def test_scenario_37_a_promotion_is_waited_for_by_nobody() -> None:
    world = World()

    async def slow(name: str) -> None:
        await trio.sleep(100)

    world.cached.before = slow
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        assert await world.cache.read(5 * BLOCK, 1) == b"o"
        assert trio.current_time() == 0
        await trio.sleep(200)


@virtual
async def test_scenario_37_repeated_reads_hit() -> None:
    world = World()
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await settle()
        reads = world.origin.names().count("read")
        for _ in range(10):
            assert await world.cache.read(5 * BLOCK, BLOCK) == b"o" * BLOCK
        assert world.origin.names().count("read") == reads
        assert world.volume.counters.read_hits == 10


@virtual
async def test_scenario_37_a_read_that_failed_reads_again() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    async with world.running():
        world.cached.errors["read"] = StoreError("dead")
        with pytest.raises(StoreError):
            await world.cache.read(5 * BLOCK, 1)
        world.cached.errors.clear()
        assert await world.cache.read(5 * BLOCK, 1) == b"c"
        world.origin.errors["read"] = StoreError("dead")
        world.origin.at_once = False
        with pytest.raises(StoreError):
            await world.cache.read(9 * BLOCK, 1)
        world.origin.errors.clear()
        assert await world.cache.read(9 * BLOCK, 1) == b"o"
