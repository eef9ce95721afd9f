from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from fusecache.block.locks import ALL_OUT, WRITERS_OUT, BlockLocks, Level
from tests.unit.worlds import settle, virtual

B = 7
"""The block that is fought for."""

Take = Callable[[BlockLocks], bool]
HOLDS: dict[str, Take] = {
    "read": lambda locks: locks.try_read(B),
    "write": lambda locks: locks.try_write(B),
    "alone": lambda locks: locks.try_write(B, alone=True),
    "writers out": lambda locks: locks.try_exclusive(B, WRITERS_OUT),
    "all out": lambda locks: locks.try_exclusive(B, ALL_OUT),
}
GIVE_BACK: dict[str, Callable[[BlockLocks], None]] = {
    "read": lambda locks: locks.end_read(B),
    "write": lambda locks: locks.end_write(B),
    "alone": lambda locks: locks.end_write(B),
    "writers out": lambda locks: locks.end_exclusive(B),
    "all out": lambda locks: locks.end_exclusive(B),
}
# Exclusive holds are granted over shared ones, and then wait for them: see ``drain``.
SHARED_BESIDE = {
    "read": {"read", "write", "alone", "writers out"},
    "write": {"read", "write"},
    "alone": {"read"},
}


@pytest.mark.parametrize("first", HOLDS)
@pytest.mark.parametrize("second", HOLDS)
def test_who_excludes_whom(first: str, second: str) -> None:
    locks = BlockLocks()
    assert HOLDS[first](locks)
    locks.check()
    allowed = first in SHARED_BESIDE.get(second, SHARED_BESIDE)  # exclusive holders exclude one another only
    assert HOLDS[second](locks) is allowed
    locks.check()
    if allowed:
        GIVE_BACK[second](locks)
        locks.check()
    GIVE_BACK[first](locks)
    assert not locks.held


@pytest.mark.parametrize("hold", HOLDS)
def test_blocks_do_not_know_each_other(hold: str) -> None:
    locks = BlockLocks()
    HOLDS[hold](locks)
    assert locks.try_write(B + 1, alone=True)
    assert locks.try_exclusive(B + 2, ALL_OUT)
    locks.check()


def test_a_refused_try_changes_nothing() -> None:
    locks = BlockLocks()
    locks.try_exclusive(B, ALL_OUT)
    for take in HOLDS.values():
        assert not take(locks)
    locks.end_exclusive(B)
    assert not locks.held


def test_is_writing_means_writers_and_nobody_else() -> None:
    locks = BlockLocks()
    assert not locks.is_writing(B)
    locks.try_read(B)
    assert not locks.is_writing(B)
    locks.try_write(B)
    assert locks.is_writing(B)
    locks.end_write(B)
    assert not locks.is_writing(B)


@virtual
async def test_a_copier_waits_for_writers_and_not_for_readers() -> None:
    locks = BlockLocks()
    locks.try_read(B)
    locks.try_write(B)
    locks.try_write(B)
    seen: list[str] = []

    async def migrate() -> None:
        assert locks.try_exclusive(B, WRITERS_OUT)
        await locks.drain(B)
        seen.append("drained")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(migrate)
        await settle()
        assert not locks.try_write(B)
        locks.end_write(B)
        await settle()
        assert not seen
        locks.end_write(B)
        await settle()
        assert seen == ["drained"]
        assert locks.try_read(B)


@virtual
async def test_a_switch_waits_for_everybody() -> None:
    locks = BlockLocks()
    locks.try_read(B)
    locks.try_exclusive(B, WRITERS_OUT)
    await locks.drain(B)
    locks.try_read(B)
    with trio.move_on_after(5) as patience:
        await locks.raise_level(B)
    assert patience.cancelled_caught
    assert not locks.try_read(B)
    locks.end_read(B)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(locks.drain, B)
        await settle()
        locks.end_read(B)
    locks.end_exclusive(B)
    assert not locks.held


@virtual
async def test_those_who_parked_all_go_on_when_it_ends_and_none_before() -> None:
    locks = BlockLocks()
    locks.try_exclusive(B, ALL_OUT)
    released: list[int] = []

    async def wait(number: int) -> None:
        await locks.park(B)
        released.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(wait, number)
        await settle()
        locks.check()
        assert not released
        locks.end_exclusive(B)
        await settle()
    assert sorted(released) == [0, 1, 2, 3, 4]
    assert not locks.held


@virtual
async def test_lone_writers_take_turns_until_all_were_served() -> None:
    locks = BlockLocks()
    inside = 0
    served: set[int] = set()

    async def write(number: int) -> None:
        nonlocal inside
        while not locks.try_write(B, alone=True):
            await locks.park(B)
        inside += 1
        assert inside == 1
        locks.check()
        await trio.sleep(1)
        inside -= 1
        served.add(number)
        locks.end_write(B)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(write, number)
    assert served == set(range(12))
    assert trio.current_time() == 12
    assert not locks.held


@virtual
async def test_a_stream_of_readers_does_not_starve_a_copier_nor_a_switch() -> None:
    locks = BlockLocks()
    reading = True

    async def read(start: float) -> None:
        await trio.sleep(start)
        while reading:
            while not locks.try_read(B):
                await locks.park(B)
            await trio.sleep(2)
            locks.end_read(B)

    async with trio.open_nursery() as nursery:
        for start in range(2):  # one of them is in there at any time
            nursery.start_soon(read, start)
        await trio.sleep(10.5)
        await locks.take_exclusive(B, WRITERS_OUT)
        await locks.drain(B)
        assert trio.current_time() == 10.5
        await locks.raise_level(B)
        assert trio.current_time() <= 12.5
        locks.end_exclusive(B)
        await trio.sleep(5)
        reading = False
    assert not locks.held


@virtual
async def test_a_stream_of_writers_does_not_starve_a_copier() -> None:
    locks = BlockLocks()
    writing = True

    async def write(start: float) -> None:
        await trio.sleep(start)
        while writing:
            while not locks.try_write(B):
                await locks.park(B)
            await trio.sleep(2)
            locks.end_write(B)

    async with trio.open_nursery() as nursery:
        for start in range(2):
            nursery.start_soon(write, start)
        await trio.sleep(10.5)
        with trio.fail_after(2):
            await locks.take_exclusive(B, WRITERS_OUT)
            await locks.drain(B)
        await trio.sleep(20)
        assert not locks.is_writing(B)
        locks.end_exclusive(B)
        writing = False
    assert not locks.held


@virtual
async def test_exclusive_holders_come_one_after_the_other() -> None:
    locks = BlockLocks()
    holders = 0

    async def hold(level: Level) -> None:
        nonlocal holders
        await locks.take_exclusive(B, level)
        await locks.drain(B)
        holders += 1
        assert holders == 1
        await trio.sleep(1)
        holders -= 1
        locks.end_exclusive(B)

    async with trio.open_nursery() as nursery:
        for level in [WRITERS_OUT, ALL_OUT] * 3:
            nursery.start_soon(hold, level)
    assert trio.current_time() == 6
    assert not locks.held


@virtual
async def test_drain_writers_waits_for_those_there_and_not_for_those_to_come() -> None:
    locks = BlockLocks()
    locks.try_write(B)
    locks.try_write(B + 1, alone=True)
    locks.try_read(B + 2)
    done = trio.Event()

    async def wait() -> None:
        await locks.drain_writers()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await settle()
        assert locks.try_write(B + 3)  # came later
        locks.end_write(B)
        await settle()
        assert not done.is_set()
        locks.end_write(B + 1)
        await settle()
        assert done.is_set()
        locks.end_write(B + 3)
    locks.end_read(B + 2)
    assert not locks.held


@virtual
async def test_whoever_gives_up_waiting_leaves_nothing_behind() -> None:
    locks = BlockLocks()
    locks.try_exclusive(B, WRITERS_OUT)
    with trio.move_on_after(1):
        await locks.park(B)
    locks.try_read(B)
    with trio.move_on_after(1):
        await locks.raise_level(B)
    locks.end_exclusive(B)
    locks.check()
    locks.end_read(B)
    assert not locks.held


def test_check_sees_unused_locks_and_impossible_holders() -> None:
    locks = BlockLocks()
    locks._lock_of(B)
    with pytest.raises(AssertionError, match="unused"):
        locks.check()
    locks.try_write(B, alone=True)
    locks.check()
    locks.held[B].writers = 2
    with pytest.raises(AssertionError):
        locks.check()
