from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from fusecache.config import MIB, Mode, PolicyChoice
from fusecache.control.control import Control
from fusecache.errors import (
    FusecacheError,
    InvalidError,
    MetadataError,
    ReadOnlyKeyError,
    RefusedError,
    StoreError,
    UnknownKeyError,
    UsageError,
)
from fusecache.grammar import join_words
from fusecache.jobs.switching import switch_policy
from fusecache.volume.policies import new_policy
from policies import Op
from tests.unit.control.statuses import FixedSize, make_facts
from tests.unit.worlds import BLOCK, World, settle, virtual

READABLE = [
    *("copy_rate", "dirty_age", "dirty_limit", "error", "job", "lost", "migration_threshold", "mode"),
    *("policy", "read_ahead", "restart", "scrub", "stats", "status", "table"),
]


def control_of(world: World, *, suspects: int = 0) -> Control:
    facts = make_facts(suspects=suspects)
    return Control(
        world.volume,
        world.worker,
        world.flusher,
        world.jobs,
        cleaning=world.cleaning,
        facts=facts,
        metadata=FixedSize(),
        discard=world.cache.discard,
    )


@asynccontextmanager
async def controlled(world: World, *, suspects: int = 0) -> AsyncIterator[Control]:
    """Run a world with its controls."""
    control = control_of(world, suspects=suspects)
    async with world.running() as nursery:
        nursery.start_soon(control.run)
        yield control


async def with_mq(world: World) -> None:
    """Have a policy with tunables."""
    new = new_policy(world.geometry, PolicyChoice("mq"))
    await switch_policy(world.volume, world.worker, new, world.jobs.begin("policy"))


# Names


@virtual
async def test_the_names_that_can_be_read_can_be_read() -> None:
    world = World()
    async with controlled(world) as control:
        await with_mq(world)
        tunables = [f"policy.{key}" for key in world.volume.policy.config_values()]
        assert tunables
        for name in READABLE + tunables:
            value = control.get(name)
            assert "\n" not in value
        await control.set("policy", "cleaner")
        for name in tunables:
            with pytest.raises(UnknownKeyError):
                control.get(name)


@pytest.mark.parametrize(
    "name", ["", "nonsense", "policy.", "policy.nonsense", "POLICY", "message", "mode ", "policy.policy"]
)
@virtual
async def test_what_cannot_be_read(name: str) -> None:
    with pytest.raises(UnknownKeyError, match="no attribute"):
        control_of(World()).get(name)


@pytest.mark.parametrize("name", ["status", "table", "stats", "error", "job"])
@virtual
async def test_what_can_only_be_read(name: str) -> None:
    control = control_of(World())
    with pytest.raises(ReadOnlyKeyError, match=name):
        await control.set(name, "x")


def everything(world: World) -> tuple[object, ...]:
    volume = world.volume
    values = volume.policy.config_values()
    return volume.mode, volume.policy, values, volume.migration_threshold, list(volume.mapping.mapped())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "1"),
        ("nonsense", "1"),
        ("policy", ""),
        ("policy", "nonsense"),
        ("policy", "SMQ"),
        ("policy", "a-name-much-too-long"),
        ("policy.nonsense", "1"),
        ("policy.", "1"),
        ("policy.sequential_threshold", "-1"),
        ("policy.sequential_threshold", "many"),
        ("policy.sequential_threshold", ""),
        ("mode", ""),
        ("mode", "writesomewhere"),
        ("mode", "WRITEBACK"),
        ("migration_threshold", ""),
        ("migration_threshold", "-1"),
        ("migration_threshold", "1.5"),
        ("migration_threshold", "0x10"),
        ("migration_threshold", "1 2"),
        ("message", ""),
        ("message", "nonsense"),
        ("message", "nonsense 1"),
        ("message", "migration_threshold"),
        ("message", "migration_threshold x"),
        ("message", "migration_threshold 1 2"),
        ("message", "sequential_threshold x"),
        ("message", "flush now"),
        ("message", "decommission now"),
        ("message", "flush\\"),
    ],
)
@virtual
async def test_bad_values_are_one_clear_line_and_change_nothing(name: str, value: str) -> None:
    world = World()
    world.load(5, 1)
    async with controlled(world) as control:
        await with_mq(world)
        before = everything(world)
        with pytest.raises(FusecacheError) as caught:
            await control.set(name, value)
        assert "\n" not in str(caught.value)
        assert everything(world) == before
        assert control.get("error") == str(caught.value)


@virtual
async def test_the_last_error_can_be_asked_for() -> None:
    control = control_of(World())
    assert not control.get("error")
    for name in ("one", "two"):
        with pytest.raises(UnknownKeyError):
            await control.set(name, "")
    assert "two" in control.get("error")


# Values


@virtual
async def test_the_threshold_is_in_sectors() -> None:
    world = World()
    async with controlled(world) as control:
        assert control.get("migration_threshold") == "2048"
        await control.set("migration_threshold", " 4096 ")
        assert control.get("migration_threshold") == "4096"
        assert world.volume.migration_threshold == 2 * MIB
        await control.set("message", "MIGRATION_THRESHOLD 0")
        assert world.volume.migration_threshold == 0


@virtual
async def test_tunables_by_name_and_by_message() -> None:
    world = World()
    async with controlled(world) as control:
        await with_mq(world)
        await control.set("policy.sequential_threshold", "1024 ")
        assert control.get("policy.sequential_threshold") == "1024"
        await control.set("message", "sequential_threshold 77")
        assert control.get("policy.sequential_threshold") == "77"
        assert world.volume.policy.config_values()["sequential_threshold"] == "77"


@pytest.mark.parametrize("name", ["smq", "mq", "cleaner", " smq "])
@virtual
async def test_policies_are_switched_with_their_mappings(name: str) -> None:
    world = World()
    world.load(5, 1, dirty=True)
    async with controlled(world) as control:
        await control.set("policy", name)
        assert control.get("policy") == name.strip()
        assert world.volume.policy.lookup(5, False, False) == 1
        assert world.mapping.dirty_count == 1


@virtual
async def test_an_alias_is_answered_with_the_real_name() -> None:
    world = World()
    async with controlled(world) as control:
        await control.set("policy", "default")
        assert control.get("policy") == "smq"


@pytest.mark.parametrize("mode", Mode)
@virtual
async def test_modes(mode: Mode) -> None:
    world = World()
    async with controlled(world) as control:
        await control.set("policy", "smq")
        await control.set("mode", f"{mode.value} ")
        assert control.get("mode") == mode.value
        assert world.volume.mode is mode


@virtual
async def test_a_policy_comes_with_tunables_or_not_at_all() -> None:
    world = World()
    async with controlled(world) as control:
        await control.set("policy", "mq,sequential_threshold=64")
        assert (control.get("policy"), control.get("policy.sequential_threshold")) == ("mq", "64")
        for text in ("smq,sequential_threshold=64", "mq,random_threshold", "mq,"):
            with pytest.raises((InvalidError, UsageError)):
                await control.set("policy", text)
        assert control.get("policy.sequential_threshold") == "64"


@virtual
async def test_a_policy_may_come_with_the_caches_own_threshold() -> None:
    world = World()
    async with controlled(world) as control:
        await control.set("policy", "mq,migration_threshold=7,random_threshold=2")
        assert control.get("migration_threshold") == "7"
        assert control.get("policy.random_threshold") == "2"
        with pytest.raises(InvalidError):
            await control.set("policy", "smq,migration_threshold=8,random_threshold=2")
        assert control.get("migration_threshold") == "7"


@virtual
async def test_a_mode_keeps_the_policys_tunables() -> None:
    world = World()
    async with controlled(world) as control:
        await with_mq(world)
        await control.set("policy.sequential_threshold", "99")
        await control.set("mode", "passthrough")
        assert control.get("policy.sequential_threshold") == "99"


@virtual
async def test_changes_are_made_one_at_a_time() -> None:
    world = World()
    world.load(5, 1, dirty=True)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with controlled(world) as control:
        await control.set("policy", "smq")
        async with trio.open_nursery() as nursery:
            for name, value in [
                ("mode", "writethrough"),
                ("policy", "cleaner"),
                ("mode", "passthrough"),
                ("policy", "mq"),
            ]:
                nursery.start_soon(control.set, name, value)
        assert control.get("policy") in {"cleaner", "mq"}
        assert world.mapping.dirty_count == 0


@virtual
async def test_the_status_tells_what_is() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    world.load(6, 2)
    async with controlled(world, suspects=7) as control:
        await world.cache.read(5 * BLOCK, 1)
        await world.cache.write(9 * BLOCK, b"x")
        await trio.sleep(2.5)
        told = json.loads(control.get("stats"))
        expected = {
            "origin_bytes": world.geometry.image_bytes,
            "cache_blocks": 4,
            "used_blocks": 2,
            "dirty_blocks": 1,
            "suspect_blocks": 1,
            "block_bytes": BLOCK,
            "read_hits": 1,
            "write_misses": 1,
            "mode": "writeback",
            "needs_check": False,
            "health": "ok",
            "flush_pending": 0,
            "decommissioned": False,
            "origin": "/the/origin",
            "mountpoint": "/mnt",
            "pid": 4242,
            "uptime_s": 2.5,
        }
        assert {name: told[name] for name in expected} == expected
        words = control.get("status").split()
        assert words[:4] == ["8", "2/3", "8", "2/4"]
        assert words[4:11] == ["1", "0", "0", "1", "0", "0", "1"]
        assert words[-2:] == ["rw", "-"]


@pytest.mark.parametrize("text", ["-1", "18014398509481984", "99999999999999999999", "9" * 5000, "1e3", ""])
@virtual
async def test_f21_a_threshold_that_cannot_be_is_refused_with_its_bounds(text: str) -> None:
    world = World()
    async with controlled(world) as control:
        for name, value in (
            ("migration_threshold", text),
            ("message", f"migration_threshold {text or chr(34)}"),
            ("policy", f"smq,migration_threshold={text or '-'}"),
        ):
            with pytest.raises(UsageError, match="0 to 18014398509481983") as caught:
                control.begin(name, value)
            assert len(str(caught.value)) < 200
        await control.set("migration_threshold", "18014398509481983")


# Messages


@virtual
async def test_ranges_are_dropped_all_or_if_one_is_bad_none() -> None:
    world = World(cache_blocks=8, mode=Mode.PASSTHROUGH)
    for cblock in range(8):
        world.load(cblock + 3, cblock)
    async with controlled(world) as control:
        await control.set("message", "invalidate_cblocks 0 2-4")
        assert [cblock for cblock, _ in world.mapping.mapped()] == [1, 4, 5, 6, 7]
        assert sorted(world.record.rows) == [1, 4, 5, 6, 7]
        with pytest.raises(FusecacheError, match="7-9"):
            await control.set("message", "invalidate_cblocks 4 5-6 7-9 6")
        assert [cblock for cblock, _ in world.mapping.mapped()] == [1, 4, 5, 6, 7]
        await control.set("message", "invalidate_cblocks 0-8")
        await control.set("message", "invalidate_cblocks")
        assert world.mapping.mapped_count == 0
        assert world.policy.index == {}


@pytest.mark.parametrize("text", ["x", "-1", "1-", "3-3", "3-2", "0-5", "4", "1,2", "99999999999999999999"])
@virtual
async def test_bad_ranges(text: str) -> None:
    world = World(mode=Mode.PASSTHROUGH)
    world.load(5, 3)
    async with controlled(world) as control:
        with pytest.raises(FusecacheError):
            await control.set("message", join_words(["invalidate_cblocks", text]))
        assert world.mapping.mapped_count == 1


@pytest.mark.parametrize("mode", [Mode.WRITEBACK, Mode.WRITETHROUGH])
@virtual
async def test_nothing_is_dropped_outside_of_passthrough(mode: Mode) -> None:
    world = World(mode=mode)
    world.load(5, 0, dirty=True)
    async with controlled(world) as control:
        with pytest.raises(RefusedError, match="passthrough"):
            await control.set("message", "invalidate_cblocks 0")
        assert world.mapping.mapped_count == 1


@virtual
async def test_a_flush_is_begun_and_can_be_followed() -> None:
    world = World()
    world.load(5, 1, dirty=True)

    async def slow(name: str) -> None:
        await trio.sleep(10)

    world.origin.before = slow
    async with controlled(world) as control:
        control.begin("message", "flush")
        assert trio.current_time() == 0
        assert control.status().flush_pending == 1
        await trio.sleep(60)
        assert control.status().flush_pending == 0
        assert control.status().dirty_blocks == 0


@virtual
async def test_long_work_can_be_watched() -> None:
    world = World(cache_blocks=8)
    for number in range(8):
        world.load(2 * number, number, dirty=True)

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    async with controlled(world) as control:
        await control.set("policy", "smq")
        assert control.get("job") == control.status().job == ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.set, "mode", "passthrough")
            await trio.sleep(16)
            assert control.get("job") == control.status().job == "mode passthrough 4/8 blocks, 1KiB/s"
            assert control.status().flush_pending == 4
            assert control.get("mode") == "writeback", "until it is what it is to be"
            control.begin("message", "decommission")
            assert control.get("job") == "mode passthrough 4/8 blocks, 1KiB/s; decommission (waiting)"
        await trio.sleep(10)
        assert control.get("job") == ""
        assert control.status().decommissioned


@virtual
async def test_a_scrub_shows_while_it_goes_round() -> None:
    world = World()
    for number in range(4):
        world.load(number, number)
    async with controlled(world) as control:
        await control.set("scrub", str(BLOCK))
        await trio.sleep(1.5)
        assert control.get("job") == "scrub 2/4 blocks, 5.3KiB/s"
        await control.set("scrub", "0")
        await trio.sleep(1)
        assert control.get("job") == ""
        await control.set("scrub", str(BLOCK))
        await trio.sleep(1.5)
        assert control.get("job").startswith("scrub 2/4 blocks")


@virtual
async def test_decommissioning_leaves_a_complete_origin_and_an_empty_cache() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    world.load(6, 2)
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("message", "decommission")
        await trio.sleep(60)
        assert control.status().decommissioned
        assert control.get("mode") == "passthrough"
        assert world.mapping.mapped_count == 0
        assert world.record.rows == {}
        assert world.origin_block(5) == b"c" * BLOCK
        await world.cache.write(5 * BLOCK, b"new")
        assert world.origin_block(5)[:3] == b"new"
        await control.set("mode", "writeback")
        assert not control.status().decommissioned


@virtual
async def test_decommissioning_that_fails_is_not_done_and_can_be_asked_for_again() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    world.origin.dead = {5 * BLOCK}
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("message", "decommission")
        await trio.sleep(60)
        assert not control.status().decommissioned
        assert control.status().flush_failed == 1
        assert control.get("mode") == "writeback"
        assert world.mapping.dirty_count == 1
        world.origin.dead.clear()
        control.begin("message", "decommission")
        await trio.sleep(60)
        assert control.status().decommissioned
        assert control.status().flush_failed == 0


@virtual
async def test_a_decommissioning_that_cannot_be_recorded_says_so_each_time() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    world.record.error = MetadataError("disk is full")
    async with controlled(world) as control:
        await control.set("policy", "smq")
        for _ in range(2):
            with pytest.raises(MetadataError, match="full"):
                await control.set("message", "decommission")
            assert control.status().outcomes["decommission"] == "failed: disk is full"
            assert control.get("error") == "decommission: disk is full"
            assert control.status().flush_failed == 1


@virtual
async def test_decommissioning_again_while_it_is_under_way_is_done_when_that_is() -> None:
    world = World()
    world.load(5, 1, dirty=True)

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("message", "decommission")
        await trio.sleep(5)
        control.begin("message", "decommission")
        control.begin("message", "decommission")
        assert control.get("job").count("decommission") == 3
        await trio.sleep(60)
        assert control.status().decommissioned
        assert control.get("job") == ""


@virtual
async def test_work_goes_on_while_a_message_is_carried_out() -> None:
    world = World()
    world.load(5, 1, dirty=True)

    async def slow(name: str) -> None:
        if name == "write":
            await trio.sleep(10)

    world.origin.before = slow
    async with controlled(world) as control:
        control.begin("message", "flush")
        world.ask(Op.PROMOTE, 7, 3)
        await settle()
        assert world.mapping.find(7) == 3
        await trio.sleep(20)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (PolicyChoice("nonsense"), "unknown policy"),
        (PolicyChoice("mq", (("nonsense", "1"),)), "nonsense"),
        (PolicyChoice("mq", (("random_threshold", "x"),)), "random"),
    ],
)
@virtual
async def test_policies_that_cannot_be_made(choice: PolicyChoice, words: str) -> None:
    with pytest.raises(FusecacheError, match=words) as caught:
        new_policy(World().geometry, choice)
    assert "\n" not in str(caught.value)


@virtual
async def test_a_store_that_lost_data_shows_in_the_health() -> None:
    world = World()
    async with controlled(world) as control:
        world.cached.errors["flush"] = StoreError("flush of cache failed: dead")
        with pytest.raises(StoreError):
            await world.durability.flush()
        assert "dead" in control.status().health
        world.cached.errors.clear()


@virtual
async def test_f06_the_status_is_told_whatever_of_it_cannot_be_had() -> None:
    class Unknown(FixedSize):
        def size(self) -> int:
            raise FileNotFoundError(2, "No such file or directory")

        used_size = size

    world = World()
    world.volume.health.gone = {"metadata": "/m", "origin": "/o"}
    control = Control(
        world.volume,
        world.worker,
        world.flusher,
        world.jobs,
        cleaning=world.cleaning,
        facts=make_facts(),
        metadata=Unknown(),
        discard=world.cache.discard,
    )
    status = control.status()
    assert (status.metadata_total_bytes, status.metadata_used_bytes) == (0, 0)
    assert (status.state, status.gone) == ("degraded", "metadata origin")
    assert "metadata /m was removed or replaced" in status.health
    assert "unmount, which writes it anew" in status.health
    assert "origin /o was removed or replaced" in status.health
    assert control.get("stats")
    assert control.get("status")


@virtual
async def test_the_message_discard_has_ranges_of_the_image_read_as_zeros() -> None:
    world = World()
    world.load(5, 2, dirty=True)
    changes: list[str] = []
    world.volume.content_changed = lambda: changes.append("changed")
    async with controlled(world) as control:
        await control.set("message", f"discard {4 * BLOCK + 100}-{6 * BLOCK} 0-512")
        shown = bytes(await world.cache.read(0, 7 * BLOCK))
        zeroed = bytes(512) + b"o" * (4 * BLOCK - 412) + bytes(2 * BLOCK - 100) + b"o" * BLOCK
        assert shown == zeroed
        assert changes == ["changed"]
        assert control.status().discards == 2
        assert control.status().outcomes["discard"] == "done"
        await control.set("message", "discard")
        for text in ("5", "5-5", "6-5", "a-b", f"0-{world.geometry.image_bytes + 1}", "-1-5"):
            with pytest.raises(UsageError, match="range"):
                control.begin("message", f"discard 0-512 {text}")
        assert control.status().discards == 2


@virtual
async def test_a_discard_that_fails_says_so() -> None:
    world = World()
    world.origin.errors["discard"] = StoreError("broken")
    async with controlled(world) as control:
        with pytest.raises(StoreError, match="broken"):
            await control.set("message", f"discard 0-{4 * BLOCK}")
        assert control.status().outcomes["discard"] == "failed: broken"
