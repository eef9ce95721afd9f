"""Long work that somebody asked for: nobody waits in a setter, and each hears what became of their own."""

from __future__ import annotations

import pytest
import trio

from fusecache.config import Mode
from fusecache.errors import BusyError, FusecacheError, InvalidError, RefusedError, UnknownKeyError, UsageError
from fusecache.jobs.job import Job
from tests.unit.control.test_control import controlled
from tests.unit.worlds import BLOCK, World, virtual


def slowly(world: World) -> None:
    """Have each read and write of the origin take ten seconds."""

    async def slow(name: str) -> None:
        if name != "flush":
            await trio.sleep(10)

    world.origin.before = slow


@virtual
async def test_f10_no_setter_waits() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    slowly(world)
    async with controlled(world) as control:
        await control.set("policy", "smq")
        jobs = [
            control.begin(name, value)
            for name, value in (
                ("mode", "writethrough"),
                ("policy", "mq"),
                ("mode", "passthrough"),
                ("message", "invalidate_cblocks 0-4"),
                ("message", "flush"),
                ("message", "decommission"),
            )
        ]
        assert trio.current_time() == 0
        ended: list[str] = []

        async def wait(job: Job) -> None:
            await job.wait()
            ended.append(job.title)

        async with trio.open_nursery() as nursery:
            for job in jobs:
                assert job is not None
                nursery.start_soon(wait, job)
        assert [title for title in ended if title != "flush"] == [
            "mode writethrough",
            "policy mq",
            "mode passthrough",
            "invalidate",
            "decommission",
        ]
        assert control.get("mode") == "passthrough"
        assert control.get("policy") == "mq"
        assert control.status().decommissioned


@virtual
async def test_f10_a_request_tells_what_became_of_it() -> None:
    world = World(cache_blocks=8)
    for number in range(8):
        world.load(2 * number, number, dirty=True)
    slowly(world)
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("request", "one mode writethrough")
        control.begin("request", "two policy mq,sequential_threshold=7")
        control.begin("request", "3 migration_threshold 8")
        await trio.sleep(16)
        assert control.get("request.one") == "running 4 8 mode writethrough 4/8 blocks, 1KiB/s"
        assert control.get("request.two") == "waiting 0 0 policy mq (waiting)"
        assert control.get("request.3") == "done 0 0 migration_threshold"
        await trio.sleep(60)
        assert control.get("request.one") == "done 8 8 mode writethrough"
        assert control.get("request.two") == "done 8 8 policy mq"
        for name in ("request.four", "request.", "request"):
            with pytest.raises(UnknownKeyError):
                control.get(name)
        assert control.status().outcomes == {"mode": "done", "policy": "done"}


@virtual
async def test_f10_two_who_ask_for_the_same_each_hear_of_their_own() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    world.origin.dead = {5 * BLOCK}
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("request", "first mode writethrough")
        control.begin("request", "second mode writethrough")
        await trio.sleep(0.5)
        world.origin.dead.clear()
        await trio.sleep(60)
        assert control.get("request.first").startswith("failed 1 1 1 blocks could not be written to the origin")
        assert control.get("request.second").startswith("done")
        assert control.get("mode") == "writethrough"


@pytest.mark.parametrize(
    "text",
    ["", "x", "one two three 4", "a/b mode writeback", "x" * 65 + " mode writeback", "x request y mode writeback"],
)
@virtual
async def test_f10_requests_that_cannot_be(text: str) -> None:
    world = World()
    async with controlled(world) as control:
        with pytest.raises(FusecacheError):
            control.begin("request", text)
        assert control.get("error")


@virtual
async def test_f10_a_refusal_is_told_to_the_ticket_too() -> None:
    world = World()
    async with controlled(world) as control:
        with pytest.raises(UsageError):
            control.begin("request", "one mode sideways")
        control.begin("copy_rate", "0")
        assert not control.get("error"), "others have asked since"
        assert control.get("request.one").startswith("failed 0 0 ")
        assert "sideways" in control.get("request.one")
        with pytest.raises(InvalidError, match="not in use"):
            control.begin("request", "one mode writeback")


@virtual
async def test_f10_requests_take_no_more_room_than_they_must() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    slowly(world)
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("request", "mine mode writethrough")
        for number in range(1000):
            control.begin("request", f"t{number} copy_rate 0")
        assert len(control._requests) <= 256
        assert control.get("request.mine").startswith("running")
        assert control.get("request.t999").startswith("done")
        with pytest.raises(UnknownKeyError):
            control.get("request.t0")
        await trio.sleep(60)


@virtual
async def test_f10_there_is_a_limit_to_what_waits() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    slowly(world)
    async with controlled(world) as control:
        await control.set("policy", "smq")
        for _ in range(8):
            control.begin("mode", "writethrough")
        for name, value in (("mode", "writeback"), ("policy", "mq"), ("message", "decommission")):
            with pytest.raises(BusyError, match="try again"):
                control.begin(name, value)
        for _ in range(64):
            control.begin("message", "flush")
        with pytest.raises(BusyError, match="try again"):
            control.begin("message", "flush")
        await trio.sleep(60)
        await control.set("mode", "writeback")


@virtual
async def test_f10_what_is_asked_for_while_a_change_waits_is_held_against_what_will_be() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    slowly(world)
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("mode", "writethrough")
        with pytest.raises(RefusedError, match="passthrough mode only"):
            control.begin("message", "invalidate_cblocks 0")
        control.begin("policy", "mq,migration_threshold=9")
        control.begin("policy.sequential_threshold", "77")
        with pytest.raises(InvalidError):
            control.begin("policy.sequential_threshold", "many")
        control.begin("migration_threshold", "5")
        control.begin("mode", "passthrough")
        job = control.begin("message", "invalidate_cblocks 0-4")
        assert job is not None
        await job.wait()
        assert (control.get("policy"), control.get("policy.sequential_threshold")) == ("mq", "77")
        assert control.get("migration_threshold") == "5", "it was asked for last"
        assert world.mapping.mapped_count == 0


@virtual
async def test_f10_blocks_are_not_dropped_if_passthrough_mode_was_not_reached() -> None:
    world = World()
    world.load(5, 1, dirty=True)
    world.origin.dead = {5 * BLOCK}
    async with controlled(world) as control:
        await control.set("policy", "smq")
        control.begin("mode", "passthrough")
        with pytest.raises(RefusedError, match="not reached"):
            await control.set("message", "invalidate_cblocks 0-4")
        assert world.mapping.mapped_count == 1


@virtual
async def test_f10_the_end_of_the_mount_waits_for_no_change() -> None:
    world = World(cache_blocks=8)
    for number in range(8):
        world.load(2 * number, number, dirty=True)
    world.worker.copy_rate.set_rate(1)
    async with controlled(world) as control:
        await control.set("policy", "smq")
        jobs = [control.begin("mode", "writethrough"), control.begin("policy", "mq"), control.begin("message", "flush")]
        await trio.sleep(5)
        world.jobs.close("the mount is ending")
        world.worker.copy_rate.set_rate(0)
        with trio.fail_after(1):
            for job in jobs:
                assert job is not None
                with pytest.raises(FusecacheError, match="the mount is ending"):
                    await job.wait()
            async with world.worker.paused():
                pass
        assert control.get("mode") == "writeback"
        assert world.mapping.dirty_count


@virtual
async def test_f10_dropping_a_large_cache_ends_with_the_mount() -> None:
    world = World(cache_blocks=3000, origin_blocks=3000, mode=Mode.PASSTHROUGH)
    for number in range(3000):
        world.load(number, number)

    async def slow(_: object) -> None:
        await trio.sleep(1)

    world.record.before = slow
    async with controlled(world) as control:
        job = control.begin("message", "invalidate_cblocks 0-3000")
        assert job is not None
        await trio.sleep(2)
        world.jobs.close("the mount is ending")
        with trio.fail_after(5), pytest.raises(RefusedError, match="ending"):
            await job.wait()
        assert world.mapping.mapped_count


@virtual
async def test_f10_a_change_that_fails_as_nobody_expected_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with controlled(world) as control:
        with monkeypatch.context() as patched:
            patched.setattr("fusecache.jobs.changes.switch_mode", fail)
            with pytest.raises(FusecacheError, match="ZeroDivisionError"):
                await control.set("mode", "writethrough")
        await control.set("mode", "writethrough")
