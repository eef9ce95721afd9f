"""A policy that raises, or hands out what cannot be, is asked no more, and the disk goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from fusecache.block.health import Health
from fusecache.block.mapping import Mapping
from fusecache.jobs.switching import switch_policy
from fusecache.volume.guard import GuardedPolicy, guarded
from policies import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work, create_policy
from policies.smq import SmqPolicy
from tests.unit.worlds import BLOCK, ToyPolicy, World, virtual


def handed_out(policy: Policy) -> Work:
    """Have a guarded policy hand out an item."""
    assert isinstance(policy, GuardedPolicy)
    policy._inner.get_background_work = lambda _: Work(Op.WRITEBACK, 5, 1)  # type: ignore[method-assign,assignment]
    work = policy.get_background_work(True)
    assert work is not None
    return work


METHODS: dict[str, Callable[[Policy], object]] = {
    "lookup": lambda policy: policy.lookup(5, False, False),
    "lookup_with_work": lambda policy: policy.lookup_with_work(5, True, True)[0],
    "observe_bio": lambda policy: policy.observe_bio(0, 512, False, 0),
    "get_background_work": lambda policy: policy.get_background_work(True),
    "complete_background_work": lambda policy: policy.complete_background_work(handed_out(policy), True),
    "set_dirty": lambda policy: policy.set_dirty(1),
    "clear_dirty": lambda policy: policy.clear_dirty(1),
    "get_hint": lambda policy: policy.get_hint(1),
    "residency": lambda policy: policy.residency(),
    "tick": lambda policy: policy.tick(0),
    "config_values": lambda policy: policy.config_values(),
    "allow_migrations": lambda policy: policy.allow_migrations(True),
    "coldest_first": lambda policy: list(policy.coldest_first()),
    "hint_by_rank": lambda policy: policy.hint_by_rank(1, 2),
}
INSTEAD = {"coldest_first": [], "lookup": 1, "lookup_with_work": 1, "get_hint": 0, "residency": 1, "config_values": {}}


class Wild(SmqPolicy):
    """One that does well until it is told to fail."""


def make(monkeypatch: pytest.MonkeyPatch, method: str, error: type[Exception]) -> tuple[Policy, Health]:
    inner = Wild(cache_blocks=4, origin_blocks=16, block_size=4096)
    policy = guarded(inner, 16)
    mapping, health = Mapping(4), Health()
    mapping.insert(5, 1)
    policy.load_mapping(5, 1, False, None)
    assert isinstance(policy, GuardedPolicy)
    policy.serve(mapping, health)
    assert policy.orders_writebacks

    def fail(*_: object) -> None:
        msg = "out of its mind"
        raise error(msg)

    monkeypatch.setattr(inner, method, fail)
    return policy, health


@pytest.mark.parametrize("error", [ValueError, PolicyError])
@pytest.mark.parametrize("method", METHODS)
def test_whatever_raises_the_mapping_answers_instead(
    method: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, health = make(monkeypatch, method, error)
    assert METHODS[method](policy) == INSTEAD.get(method)
    assert health.state == "degraded"
    assert "policy smq: " in str(health)
    assert "out of its mind" in str(health)
    assert policy.lookup(5, False, False) == 1
    assert policy.lookup(6, False, False) == MISS
    assert policy.hint_size == 0
    assert not policy.orders_writebacks
    assert policy.get_background_work(True) is None
    assert policy.invalidate_mapping(1)
    policy.check()


def test_what_the_contract_lets_it_refuse_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, health = make(monkeypatch, "invalidate_mapping", PolicyError)
    work = handed_out(policy)
    with pytest.raises(PolicyError):
        policy.invalidate_mapping(work.cblock)
    with pytest.raises(PolicyError):
        policy.set_config_value("speed", "9")
    assert health.state == "ok"


def test_whether_it_absorbs_and_what_is_hot_is_passed_on() -> None:
    inner = Wild(cache_blocks=4, origin_blocks=16, block_size=4096)
    inner.load_mappings([(oblock, oblock, False, 9 - oblock) for oblock in range(3)])
    policy = guarded(inner, 16)
    mapping = Mapping(4)
    for block in range(3):
        mapping.insert(block, block)
    assert isinstance(policy, GuardedPolicy)
    policy.serve(mapping, Health())
    assert policy.keeps_heat
    assert [cblock for some in policy.coldest_first() for cblock in some] == [2, 1, 0]
    assert policy.hint_by_rank(1, 2) == 32
    before = policy.absorbs
    policy.set_config_value("absorb", "on")
    assert (before, policy.absorbs, guarded(inner, 16).absorbs) == (False, True, True)


def test_a_policy_that_failed_absorbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _ = make(monkeypatch, "tick", ValueError)
    policy.set_config_value("absorb", "on")
    before = policy.absorbs
    policy.tick(1)
    assert (before, policy.absorbs) == (True, False)


def test_what_it_lists_twice_in_a_slice_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, health = make(monkeypatch, "tick", ValueError)
    assert isinstance(policy, GuardedPolicy)
    monkeypatch.setattr(policy._inner, "coldest_first", lambda: iter([[1, 1, 0], []]))
    assert list(policy.coldest_first()) == [[1, 0], []]
    assert health.state == "ok"


def test_ours_are_not_held_up_by_it() -> None:
    policy = create_policy("smq", cache_blocks=4, origin_blocks=16, block_size=4096)
    assert guarded(policy, 16) is policy


def test_f12_a_refusal_to_forget_a_block_that_nobody_works_at_costs_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, health = make(monkeypatch, "invalidate_mapping", PolicyError)
    assert policy.invalidate_mapping(1)
    assert "does not forget cblock 1, for which no item is out: out of its mind" in health.policy_failed
    policy.check()


def test_f12_an_item_that_is_only_queued_goes_back_and_the_block_is_forgotten() -> None:
    inner = ToyPolicy(4)
    policy = GuardedPolicy(inner, 16)
    mapping, health = Mapping(4), Health()
    for oblock, cblock in ((5, 1), (6, 2)):
        mapping.insert(oblock, cblock)
        policy.load_mapping(oblock, cblock, False, None)
        inner.queue.append(Work(Op.DEMOTE, oblock, cblock))
    policy.serve(mapping, health)
    assert policy.invalidate_mapping(2)
    assert inner.completed == [(Op.DEMOTE, 5, False), (Op.DEMOTE, 6, False)]
    assert health.state == "ok"
    policy.check()


@pytest.mark.parametrize("answer", [4, 10**9, 2, MISS, MISS_QUEUED, -3, -(10**9), None, "1", 1.5])
@pytest.mark.parametrize("method", ["lookup", "lookup_with_work"])
def test_f12_an_answer_that_cannot_be_costs_the_policy_not_the_request(
    method: str, answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, health = make(monkeypatch, "tick", ValueError)
    assert isinstance(policy, GuardedPolicy)
    monkeypatch.setattr(policy._inner, method, lambda *_: answer if method == "lookup" else (answer, None))
    assert METHODS[method](policy) == 1
    assert "is no answer to a lookup of oblock 5, which is in cblock 1" in health.policy_failed
    assert policy.lookup(6, False, False) == MISS


def test_f12_a_block_that_is_not_cached_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, health = make(monkeypatch, "tick", ValueError)
    assert isinstance(policy, GuardedPolicy)
    assert policy.lookup(7, False, False) in {MISS, MISS_QUEUED}
    assert health.state == "ok"
    monkeypatch.setattr(policy._inner, "lookup", lambda *_: 1)
    assert policy.lookup(7, False, False) == MISS
    assert "oblock 7, which is not cached" in health.policy_failed


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        *(("get_hint", hint) for hint in (-1, 2**32, None, "9")),
        *(("residency", count) for count in (-1, 5, 10**9, None)),
        *(("hint_by_rank", hint) for hint in (-1, 2**32, "9", 0.5)),
        *(("coldest_first", cblocks) for cblocks in (7, [7], [[4]], [[-1]], [["1"]], [None, 0])),
        *(("config_values", values) for values in (None, 7, {"a": 1}, {2: "a"}, {"a": "1\n2"})),
    ],
)
def test_f12_figures_that_cannot_be_cost_the_policy(
    method: str, answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, health = make(monkeypatch, "tick", ValueError)
    assert isinstance(policy, GuardedPolicy)
    monkeypatch.setattr(policy._inner, method, lambda *_: answer)
    assert METHODS[method](policy) == INSTEAD.get(method)
    assert health.state == "degraded"


@virtual
async def test_f12_reads_and_writes_go_on_when_lookups_are_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    world = strange_world()
    async with world.running():
        monkeypatch.setattr(world.policy, "lookup", lambda *_: 10**6)
        monkeypatch.setattr(world.policy, "lookup_with_work", lambda *_: (10**6, None))
        assert await world.cache.read(9 * BLOCK, 1) == b"c"
        assert await world.cache.read(8 * BLOCK, 1) == b"o"
        assert await world.cache.write(9 * BLOCK, b"new" + bytes(BLOCK - 3)) == BLOCK
        assert await world.cache.read(9 * BLOCK, 3) == b"new"
        assert world.volume.health.policy_failed


@virtual
async def test_f12_a_block_is_dropped_and_a_pause_ends_although_the_policy_refuses_to_forget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = strange_world()

    def refuse(_: int) -> bool:
        msg = "never"
        raise PolicyError(msg)

    monkeypatch.setattr(world.policy, "invalidate_mapping", refuse)
    async with world.running():
        with trio.fail_after(10):
            assert await world.worker.invalidate(9)
            async with world.worker.paused():
                pass  # as at the end of the mount
        assert world.mapping.mapped_count == 0
        assert world.origin_block(9) == b"c" * BLOCK
        assert "never" in world.volume.health.policy_failed


@virtual
async def test_f12_a_policy_that_fails_while_it_learns_the_mapping_fails_no_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(cache_blocks=2000, origin_blocks=2000)
    for number in range(2000):
        world.load(number, number)
    inner = ToyPolicy(2000)

    def fail(_: int) -> None:
        msg = "dirt"
        raise KeyError(msg)

    monkeypatch.setattr(inner, "set_dirty", fail)
    async with world.running():
        world.durability.regions.open.update(range(1000))
        world.record.regions.update(range(1000))
        failed: list[Exception] = []

        async def switch() -> None:
            try:
                await switch_policy(world.volume, world.worker, GuardedPolicy(inner, 2000), world.jobs.begin("policy"))
            except KeyError as exc:
                failed.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(switch)
            while not any(world.volume.handed_over):
                await trio.lowlevel.checkpoint()
            assert await world.cache.write(0, b"new") == 3
        assert failed
        assert world.volume.policy is world.policy


# Items that cannot be


def strange_world() -> World:
    """A world whose policy is another package's, with block 9 cached and dirty."""
    world = World()
    world.load(9, 2, dirty=True)
    world.volume.take_over(guarded(world.policy, world.origin_blocks))
    return world


@pytest.mark.parametrize(
    "items",
    [
        [(Op.WRITEBACK, 9, 2), (Op.WRITEBACK, 9, 2)],
        [(Op.WRITEBACK, 9, 2), (Op.DEMOTE, 9, 2)],
        [(Op.PROMOTE, 0, 0), (Op.PROMOTE, 1, 0)],
        [(Op.PROMOTE, 0, 0), (Op.PROMOTE, 0, 1)],
        [(Op.PROMOTE, 0, 4)],
        [(Op.PROMOTE, 0, -1)],
        [(Op.PROMOTE, -1, 0)],
        [(Op.PROMOTE, 16, 0)],
    ],
    ids=str,
)
@virtual
async def test_items_that_cannot_be_cost_the_policy_not_the_mount(items: list[tuple[Op, int, int]]) -> None:
    world = strange_world()
    for oblock in (0, 1):
        world.origin.data[oblock * BLOCK : (oblock + 1) * BLOCK] = bytes([oblock + 1]) * BLOCK
    async with world.running():
        world.policy.queue.extend(Work(*item) for item in items)
        world.worker.wake()
        await trio.sleep(10)
        assert world.volume.health.policy_failed.startswith("toy: ValueError: Work(")
        for oblock, content in [(0, b"\1"), (1, b"\2"), (9, b"c")]:
            assert await world.cache.read(oblock * BLOCK, BLOCK) == content * BLOCK
        async with world.worker.paused():
            pass  # everything that was begun has ended


@virtual
async def test_an_item_that_is_kept_and_changed_is_not_what_is_carried_out() -> None:
    world = strange_world()
    async with world.running():
        work = Work(Op.PROMOTE, 0, 0)
        world.policy.queue.append(work)
        world.worker.wake()
        released = world.origin.held[0] = trio.Event()
        await trio.sleep(1)
        work.oblock = work.cblock = 1
        released.set()
        await trio.sleep(1)
        assert world.mapping.find(0) == 0
        assert world.mapping.find(1) < 0
        assert not world.policy.outstanding, "the policy gets back the item that it gave"
        world.policy.index = {9: 2, 0: 0}


@pytest.mark.parametrize("work", [Work(Op.PROMOTE, 4, 0), Work(Op.WRITEBACK, 3, 0)], ids=str)
@virtual
async def test_a_write_is_given_no_work_but_the_promotion_of_its_block(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = strange_world()
    monkeypatch.setattr(world.policy, "lookup_with_work", lambda *_: (MISS, work))
    async with world.running():
        assert await world.cache.write(3 * BLOCK, b"n" * BLOCK) == BLOCK
        assert world.volume.health.policy_failed
        assert world.origin_block(3) == b"n" * BLOCK


def test_whether_it_absorbs_is_asked_anew_each_time_and_what_has_failed_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, _ = make(monkeypatch, "lookup", ValueError)
    assert isinstance(policy, GuardedPolicy)
    asked = [policy.absorbs]
    policy._inner.absorbs = True  # which a tunable does
    asked.append(policy.absorbs)
    policy.lookup(5, False, False)
    asked.append(policy.absorbs)
    assert asked == [False, True, False]


@virtual
async def test_a_policy_that_cannot_say_whether_it_absorbs_costs_no_write() -> None:
    class Unsure(ToyPolicy):
        @property
        def absorbs(self) -> bool:  # type: ignore[override]
            msg = "out of its mind"
            raise ValueError(msg)

    world = World()
    world.volume.take_over(guarded(Unsure(4), 16))
    async with world.running():
        assert await world.cache.write(3 * BLOCK, b"n" * 512) == 512
        assert "out of its mind" in world.volume.health.policy_failed
        assert world.origin_block(3)[:512] == b"n" * 512


@pytest.mark.parametrize("write", [False, True])
@virtual
async def test_a_promotion_to_a_place_that_is_taken_costs_no_request(write: bool) -> None:
    world = World()
    world.load(6, 2)
    toy = ToyPolicy(4)
    toy.load_mapping(6, 2, False, None)
    toy.absorbs = True
    toy.admitted[3] = 2
    world.volume.take_over(guarded(toy, 16))
    async with world.running():
        if write:
            assert await world.cache.write(3 * BLOCK, b"n" * 512) == 512
            assert world.origin_block(3)[:512] == b"n" * 512
        else:
            assert await world.cache.read(3 * BLOCK, 512) == b"o" * 512
        assert "cblock 2 is not free" in world.volume.health.policy_failed
        assert await world.cache.read(6 * BLOCK, 512) == b"c" * 512
