from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

import pytest
import trio

from fusecache.attach.recovery import hint_signature, recover
from fusecache.block.states import DIRTY
from fusecache.config import Mode
from fusecache.errors import FusecacheError, MetadataError, StoreError
from fusecache.jobs.switching import drop, switch_mode, switch_policy
from fusecache.metadata.record import Row
from policies import Op, Policy, create_policy
from tests.unit.worlds import BLOCK, ToyPolicy, World, virtual


class NewPolicy(ToyPolicy):
    name = "new"


class Listening(ToyPolicy):
    """Writes down by what methods it is called."""

    def __getattribute__(self, name: str) -> object:
        if name in Policy.__dict__ and callable(Policy.__dict__[name]):
            self.calls.append(name)
        return super().__getattribute__(name)

    def __init__(self, cache_blocks: int) -> None:
        self.calls: list[str] = []
        super().__init__(cache_blocks)


class Impolite(ToyPolicy):
    """Refuses to be told of anything."""

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        msg = "no"
        raise MetadataError(msg)


POLICIES = ["smq", "mq", "cleaner"]
BY_HEAT = ["smq", "adaptive", "lru", "arc", "twoq", "s3fifo", "tinylfu"]
"""Policies that can tell each other which blocks are hot."""
PAIRS = [*itertools.product(POLICIES, POLICIES), ("lru", "mq"), ("mq", "lru"), ("lru", "cleaner"), ("lru", "lru")]
HINT = 7
"""Means something to each of them."""

Told = list[tuple[int, int, bool, int | None]]


def real_policy(name: str, blocks: int) -> tuple[Policy, Told]:
    """Make a policy, and a list of what it is told to be cached."""
    policy = create_policy(name, cache_blocks=blocks, origin_blocks=2 * blocks, block_size=BLOCK)
    told: Told = []
    load: Callable[[Iterable[tuple[int, int, bool, int | None]]], None] = policy.load_mappings

    def report(mappings: Iterable[tuple[int, int, bool, int | None]]) -> None:
        some = list(mappings)
        told.extend(some)
        load(some)

    policy.load_mappings = report  # type: ignore[method-assign]
    return policy, told


def busy_world(blocks: int = 4) -> World:
    world = World(cache_blocks=blocks, origin_blocks=2 * blocks)
    for number in range(0, blocks, 2):
        world.load(2 * number, number, dirty=number % 4 == 0)
    return world


async def change(world: World, mode: Mode) -> None:
    await switch_mode(
        world.volume, world.worker, world.flusher, mode, lambda: NewPolicy(world.cache_blocks), world.jobs.begin("mode")
    )


# Policies


@virtual
async def test_a_new_policy_knows_every_mapping_and_dirty_bit() -> None:
    world = busy_world(8)
    new = NewPolicy(8)
    async with world.running():
        await switch_policy(world.volume, world.worker, new, world.jobs.begin("policy"))
        assert world.volume.policy is new
        assert world.volume.incoming is None
        assert new.index == world.policy.index
        assert new.dirty == world.policy.dirty == {0, 4}
        assert new.allowed


@pytest.mark.parametrize(("kind", "kept"), [(ToyPolicy, True), (NewPolicy, False)])
@virtual
async def test_hints_are_kept_if_they_mean_the_same(kind: type[ToyPolicy], kept: bool) -> None:
    world = busy_world()
    world.policy.hints = {0: 7, 2: 9}
    async with world.running():
        await switch_policy(world.volume, world.worker, new := kind(4), world.jobs.begin("policy"))
        assert new.hints == ({0: 7, 2: 9} if kept else {0: None, 2: None})


@virtual
async def test_running_work_goes_back_to_the_old_policy_and_the_result_to_the_new_one() -> None:
    world = World()
    world.origin.at_once = False

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with world.running():
        world.ask(Op.PROMOTE, 5, 2)
        await trio.sleep(1)
        await switch_policy(world.volume, world.worker, new := NewPolicy(4), world.jobs.begin("policy"))
        assert trio.current_time() == 10
        assert world.policy.completed == [(Op.PROMOTE, 5, True)]
        assert new.index == {5: 2}


@virtual
async def test_overwrites_that_were_decided_go_back_to_the_old_policy() -> None:
    world = World()
    world.policy.overwrites = {0: 0, 1: 1}
    async with world.running():
        async with trio.open_nursery() as nursery:  # one of the two comes after the write, whatever the order
            nursery.start_soon(switch_policy, world.volume, world.worker, NewPolicy(4), world.jobs.begin("policy"))
            nursery.start_soon(world.cache.write, 0, b"n" * 2 * BLOCK)
            nursery.start_soon(switch_policy, world.volume, world.worker, NewPolicy(4), world.jobs.begin("policy"))
        assert await world.cache.read(0, 2 * BLOCK) == b"n" * 2 * BLOCK


@virtual
async def test_hits_and_dirtying_go_on_while_a_large_cache_is_handed_over() -> None:
    world = World(cache_blocks=2000, origin_blocks=2000)
    for number in range(2000):
        world.load(number, number)
    new = NewPolicy(2000)
    async with world.running():
        for region in range(1000):
            world.durability.regions.open.add(region)
            world.record.regions.add(region)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(switch_policy, world.volume, world.worker, new, world.jobs.begin("policy"))
            while world.volume.incoming is None:
                await trio.lowlevel.checkpoint()
            assert 0 < sum(world.volume.handed_over) < 2000
            for oblock in (0, 1999):
                await world.cache.write(oblock * BLOCK, b"new")
            assert world.volume.policy is world.policy
        assert world.volume.policy is new
        assert new.dirty == {0, 1999}
        assert new.index == {number: number for number in range(2000)}


@virtual
async def test_the_new_policy_hears_only_of_mappings_and_dirt_until_it_takes_over() -> None:
    world = World(cache_blocks=2000, origin_blocks=4000)
    for number in range(2000):
        world.load(number, number)
    new = Listening(2000)
    async with world.running():
        world.durability.regions.open.update(range(1000))
        world.record.regions.update(range(1000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(switch_policy, world.volume, world.worker, new, world.jobs.begin("policy"))
            while world.volume.incoming is None:
                await trio.lowlevel.checkpoint()
            world.volume.tick()
            await world.cache.read(3000 * BLOCK, 10)
            await world.cache.write(0, b"new")
            await world.cache.write(3000 * BLOCK, b"n" * BLOCK)
            world.worker.wake()
        begun = new.calls.index("allow_migrations")
        assert new.calls[:begun].count("load_mapping") == 2000
        assert set(new.calls[:begun]) == {"load_mapping", "load_mappings", "set_dirty"}
        heard = len(world.policy.ticks)
        world.volume.tick()
        assert (len(world.policy.ticks), new.calls[-1]) == (heard, "tick")


@virtual
async def test_a_policy_that_cannot_be_told_changes_nothing() -> None:
    world = busy_world()
    async with world.running():
        with pytest.raises(FusecacheError):
            await switch_policy(world.volume, world.worker, Impolite(4), world.jobs.begin("policy"))
        assert world.volume.policy is world.policy
        assert world.volume.incoming is None
        assert world.worker.accepting


@pytest.mark.parametrize(("first", "second"), PAIRS)
@virtual
async def test_any_policy_takes_over_from_any_other(first: str, second: str) -> None:
    world = World(cache_blocks=600, origin_blocks=1200)  # more than are told in one go
    for number in range(0, 600, 2):
        world.load(2 * number, number, dirty=number % 4 == 0)
    old, _ = real_policy(first, 600)
    for cblock, oblock in world.mapping.mapped():
        old.load_mapping(oblock, cblock, bool(world.mapping.flags[cblock] & DIRTY), HINT)
    world.volume.policy = old
    new, told = real_policy(second, 600)
    world.volume.migration_threshold = 0  # never idle: nothing is written back while we look
    async with world.running():
        await switch_policy(world.volume, world.worker, new, world.jobs.begin("policy"))
        assert world.volume.policy is new
        hint = HINT if first == second else None
        assert told == [(2 * number, number, number % 4 == 0, hint) for number in range(0, 600, 2)]
        assert new.residency() == 300
        assert all(new.get_hint(cblock) == old.get_hint(cblock) for cblock in range(600) if first == second)
        for oblock in range(1200):
            cblock = world.mapping.find(oblock)
            answer = new.lookup(oblock, False, False)
            assert answer == cblock if cblock >= 0 else answer < 0
        new.check()


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(BY_HEAT, 2)))
@virtual
async def test_what_is_hot_stays_hot(first: str, second: str) -> None:
    world = World(cache_blocks=900, origin_blocks=1800)
    for cblock in range(600):
        world.load(cblock * 7 % 1800, cblock)
    old, _ = real_policy(first, 900)
    for heat, cblock in enumerate(random.Random(1).sample(range(600), 600)):
        old.load_mapping(cblock * 7 % 1800, cblock, False, old.hint_by_rank(heat, 600))
    old.tick(1)
    for cblock in range(0, 600, 3):
        old.lookup(cblock * 7 % 1800, False, False)
    before = [cblock for some in old.coldest_first() for cblock in some]
    world.volume.policy = old
    new, told = real_policy(second, 900)
    async with world.running():
        await switch_policy(world.volume, world.worker, new, world.jobs.begin("policy"))
    assert [cblock for _, cblock, _, _ in told] == before
    after = [cblock for some in new.coldest_first() for cblock in some]
    assert sorted(after) == list(range(600))
    place = {cblock: number for number, cblock in enumerate(before)}
    coarseness = {"smq": 600 // 64 + 1, "adaptive": 600 // 8}.get(second, 0)  # of its levels, or its ages
    assert all(abs(place[cblock] - number) <= coarseness for number, cblock in enumerate(after))
    new.check()


@virtual
async def test_what_is_not_listed_or_twice_is_told_once_and_last() -> None:
    world = World(cache_blocks=2000, origin_blocks=4000)
    for number in range(1500):
        world.load(number, number, dirty=number % 2 == 0)
    world.policy.listed = [[], [9, 1600, 7], [7, 8], list(range(20, 800))]
    new, told = real_policy("lru", 2000)
    async with world.running():
        world.volume.migration_threshold = 0
        await switch_policy(world.volume, world.worker, new, world.jobs.begin("policy"))
    listed = [9, 7, 8, *range(20, 800)]
    rest = [cblock for cblock in range(1500) if cblock not in listed]
    assert told == [(cblock, cblock, cblock % 2 == 0, None) for cblock in [*listed, *rest]]
    assert new.residency() == 1500


@virtual
async def test_hits_and_dirtying_go_on_while_heat_is_told() -> None:
    world = World(cache_blocks=2000, origin_blocks=2000)
    for number in range(2000):
        world.load(number, number)
    world.policy.listed = [[number] for number in range(1999, -1, -1)]
    new = NewPolicy(2000)
    async with world.running():
        world.durability.regions.open.update(range(1000))
        world.record.regions.update(range(1000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(switch_policy, world.volume, world.worker, new, world.jobs.begin("policy"))
            while world.volume.incoming is None:
                await trio.lowlevel.checkpoint()
            assert 0 < sum(world.volume.handed_over) < 2000
            for oblock in (0, 1999):
                await world.cache.write(oblock * BLOCK, b"new")
            assert world.volume.policy is world.policy
        assert new.dirty == {0, 1999}
        assert list(new.index) == list(range(1999, -1, -1))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_any_policy_takes_over_from_any_other_at_a_restart(first: str, second: str) -> None:
    world = World(cache_blocks=8)
    old, _ = real_policy(first, 8)
    new, told = real_policy(second, 8)
    old.load_mapping(3, 1, True, HINT)
    old.load_mapping(9, 4, False, HINT)
    rows = [Row(1, 3, dirty=True, hint=old.get_hint(1)), Row(4, 9, dirty=False, hint=old.get_hint(4))]
    is_valid = hint_signature(new) == hint_signature(old)
    recovered = recover(rows, set(), geometry=world.geometry, region_blocks=2, policy=new, hints_valid=is_valid)
    hint = HINT if first == second else None
    assert told == [(3, 1, True, hint), (9, 4, False, hint)]
    assert list(recovered.mapping.dirty_blocks()) == [1]
    assert [new.lookup(oblock, False, False) for oblock in (3, 9)] == [1, 4]
    new.check()


# Modes


@pytest.mark.parametrize("mode", Mode)
@virtual
async def test_the_present_mode_is_no_change(mode: Mode) -> None:
    world = World(mode=mode)
    async with world.running():
        await change(world, mode)
        assert world.volume.policy is world.policy
        assert world.durability.rounds == 0


@pytest.mark.parametrize("mode", [Mode.WRITETHROUGH, Mode.PASSTHROUGH])
@virtual
async def test_leaving_writeback_writes_everything_back_first(mode: Mode) -> None:
    world = busy_world()
    async with world.running():
        await change(world, mode)
        assert world.volume.mode is mode
        assert world.mapping.dirty_count == 0
        assert world.mapping.mapped_count == 2
        assert world.origin_block(0) == b"c" * BLOCK
        assert not any(dirty for _, dirty in world.record.rows.values())
        assert world.volume.policy.name == ("new" if mode is Mode.PASSTHROUGH else "toy")


@pytest.mark.parametrize("old", Mode)
@pytest.mark.parametrize("new", Mode)
@virtual
async def test_migrations_are_allowed_but_in_passthrough(old: Mode, new: Mode) -> None:
    world = World(mode=old)
    world.policy.allowed = old is not Mode.PASSTHROUGH
    async with world.running():
        await change(world, new)
        assert world.volume.mode is new
        policy = world.volume.policy
        assert isinstance(policy, ToyPolicy)
        assert policy.allowed is (new is not Mode.PASSTHROUGH)


@pytest.mark.parametrize("mode", [Mode.WRITETHROUGH, Mode.PASSTHROUGH])
@virtual
async def test_a_mode_that_cannot_be_reached_is_not_taken(mode: Mode) -> None:
    world = busy_world()
    world.origin.errors["write"] = StoreError("dead")
    async with world.running():
        with pytest.raises(FusecacheError):
            await change(world, mode)
        assert world.volume.mode is Mode.WRITEBACK
        assert world.volume.policy is world.policy
        assert world.policy.allowed
        assert world.mapping.dirty_count == 1
        assert world.worker.accepting


@virtual
async def test_an_origin_that_cannot_be_flushed_does_not_serve_alone() -> None:
    """It may forget what was written back, which is in the cache: seed 399485823, with faults, of the crash hunter."""
    world = busy_world()
    world.volume.mode = Mode.WRITETHROUGH
    async with world.running():
        await world.worker.steps.clean(0)
        assert world.mapping.dirty_count == 0
        world.origin.errors["flush"] = StoreError("forgetful")
        for _ in range(2):
            with pytest.raises(FusecacheError, match="forgetful"):
                await change(world, Mode.PASSTHROUGH)
            assert world.volume.mode is Mode.WRITETHROUGH
            assert world.volume.policy is world.policy


@virtual
async def test_leaving_writeback_ends_while_users_go_on_writing() -> None:
    world = World(cache_blocks=8, origin_blocks=8, region_blocks=1)
    for number in range(8):
        world.load(number, number, dirty=True)
    writing = True
    model = bytearray(b"c" * 8 * BLOCK)

    async def slow(name: str) -> None:
        await trio.sleep(0.3)

    async def write(oblock: int) -> None:
        count = 0
        while writing:
            count += 1
            text = b"%d %04d" % (oblock, count)
            await world.cache.write(oblock * BLOCK, text)
            model[oblock * BLOCK : oblock * BLOCK + len(text)] = text
            await trio.sleep(0.1)

    world.origin.before = slow
    async with world.running():
        async with trio.open_nursery() as nursery:
            for oblock in range(8):
                nursery.start_soon(write, oblock)
            await trio.sleep(1)
            with trio.fail_after(30):
                await change(world, Mode.WRITETHROUGH)
            assert world.mapping.dirty_count == 0
            await trio.sleep(5)
            writing = False
        assert world.mapping.dirty_count == 0
        assert bytes(world.origin.data[: 8 * BLOCK]) == bytes(model)
        assert await world.cache.read(0, 8 * BLOCK) == model


@pytest.mark.parametrize("target", list(Mode))
@pytest.mark.parametrize("source", list(Mode))
@virtual
async def test_what_was_written_is_read_in_every_mode(source: Mode, target: Mode) -> None:
    world = World(mode=source)
    world.load(1, 0)
    world.load(2, 1)
    async with world.running():
        await world.cache.write(BLOCK, b"first")
        await change(world, target)
        assert (await world.cache.read(BLOCK, 5)) == b"first"
        await world.cache.write(BLOCK + 5, b"second")
        await world.cache.write(2 * BLOCK, b"third")
        await change(world, source)
        assert (await world.cache.read(BLOCK, 11)) == b"firstsecond"
        assert (await world.cache.read(2 * BLOCK, 5)) == b"third"
        await world.flusher.flush()
        assert world.origin_block(1)[:11] == b"firstsecond"
        assert world.origin_block(2)[:5] == b"third"


# Dropping


@virtual
async def test_dropping_all_forgets_every_block_durably() -> None:
    world = World(cache_blocks=1000, origin_blocks=1000, mode=Mode.PASSTHROUGH)
    for number in range(1000):
        world.load(number, number)
    async with world.running():
        await drop(world.volume, world.worker, range(world.cache_blocks), world.jobs.begin("drop"))
        assert world.mapping.mapped_count == 0
        assert world.policy.index == {}
        assert world.record.rows == {}


@virtual
async def test_dropping_that_cannot_be_recorded_says_so() -> None:
    world = World(mode=Mode.PASSTHROUGH)
    world.load(1, 0)
    world.load(2, 1)
    world.record.error = MetadataError("full")
    async with world.running():
        with pytest.raises(FusecacheError, match=r"2 blocks could not be dropped from the cache: .*full"):
            await drop(world.volume, world.worker, range(world.cache_blocks), world.jobs.begin("drop"))
        assert world.worker.accepting
