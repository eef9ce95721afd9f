from __future__ import annotations

from collections.abc import Callable
from enum import Flag, auto

import pytest
import trio

from fusecache.durability.group_commit import GroupCommit, PartError
from fusecache.errors import FusecacheError, StoreError
from tests.unit.worlds import settle, virtual


class Want(Flag):
    ROWS = auto()
    CACHE = auto()


class Work:
    """What a round does: a second's work, and then perhaps an error."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.wanted: list[Want] = []
        self.error: FusecacheError | None = None
        self.broken: Want | None = None
        """A part that fails."""

    async def __call__(self, begin: Callable[[], Want]) -> None:
        want = begin()
        self.began.append(trio.current_time())
        self.wanted.append(want)
        await trio.sleep(1)
        if self.error is not None:
            raise self.error
        if self.broken is not None and want & self.broken:
            raise PartError(self.broken, StoreError("dead"))


@virtual
async def test_a_round_begins_when_the_one_before_has_ended_and_serves_all_who_asked_meanwhile() -> None:
    work = Work()
    group = GroupCommit(work)
    ended: list[float] = []

    async def ask(at: float) -> None:
        await trio.sleep(at)
        await group.join(Want.ROWS)
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for at in (0, 0.25, 0.5, 0.75, 1.5, 5):
            nursery.start_soon(ask, at)
    assert work.began == [0, 1, 2, 5]
    assert ended == [1, 2, 2, 2, 3, 6]


@virtual
async def test_an_error_reaches_those_of_its_round_only() -> None:
    work = Work()
    group = GroupCommit(work)
    errors: list[str] = []

    async def ask() -> None:
        try:
            await group.join(Want.ROWS)
        except FusecacheError as exc:
            errors.append(str(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.5)
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.sleep(1)
        work.error = StoreError("dead")
    assert errors == ["dead"] * 3
    work.error = None
    await group.join(Want.ROWS)
    assert len(work.began) == 3


@virtual
async def test_whoever_leaves_leaves_nobody_waiting() -> None:
    work = Work()
    group = GroupCommit(work)
    served: list[int] = []

    async def ask(number: int, patience: float) -> None:
        with trio.move_on_after(patience):
            await group.join(Want.ROWS)
            served.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 0, 0.5)  # leaves in the middle of its round
        await settle()
        nursery.start_soon(ask, 1, 0.25)  # leaves while it waits
        nursery.start_soon(ask, 2, 1)  # leads the next round, and leaves in the middle of it
        await settle()
        nursery.start_soon(ask, 3, 100)
        nursery.start_soon(ask, 4, 100)
    assert sorted(served) == [3, 4]
    assert work.began == [0, 0.5, 1]
    await group.join(Want.ROWS)
    assert work.began == [0, 0.5, 1, 2]


@virtual
async def test_whoever_is_being_served_may_leave_and_so_may_the_one_who_serves() -> None:
    group = GroupCommit(Work())
    served: list[str] = []

    async def ask(name: str, patience: float) -> None:
        with trio.move_on_after(patience):
            await group.join(Want.ROWS)
            served.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first", 100)
        await settle()
        nursery.start_soon(ask, "serves, and leaves", 1.75)
        await settle()
        nursery.start_soon(ask, "is served, and leaves", 1.5)
        nursery.start_soon(ask, "is served after all", 100)
    assert served == ["first", "is served after all"]
    await group.join(Want.ROWS)


@virtual
async def test_a_round_does_what_all_of_them_want() -> None:
    work = Work()
    group = GroupCommit(work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.join, Want.ROWS)
        await settle()
        for want in (Want.ROWS, Want.CACHE, Want.ROWS):
            nursery.start_soon(group.join, want)
    assert work.wanted == [Want.ROWS, Want.ROWS | Want.CACHE]


@virtual
async def test_whoever_asks_before_the_leader_has_begun_is_served_by_its_round() -> None:
    lock = trio.Lock()
    served: list[frozenset[int]] = []

    async def work(begin: Callable[[], frozenset[int]]) -> None:
        async with lock:
            served.append(begin())
            await trio.sleep(1)

    group = GroupCommit(work)
    async with trio.open_nursery() as nursery, lock:
        for number in range(5):
            nursery.start_soon(group.join, frozenset({number}))
        await trio.sleep(1)
    assert served == [frozenset(range(5))]


@virtual
async def test_whoever_asks_alone_waits_for_nothing_but_the_work() -> None:
    async def work(begin: Callable[[], Want]) -> None:
        begin()

    group = GroupCommit(work)
    with trio.testing.assert_no_checkpoints():
        for _ in range(3):
            await group.join(Want.CACHE)


@pytest.mark.parametrize("leader", [Want.ROWS, Want.CACHE])
@virtual
async def test_whoever_wanted_the_part_that_failed_is_told_and_the_others_get_another_round(leader: Want) -> None:
    work = Work()
    group = GroupCommit(work)
    ended: list[tuple[Want, str]] = []

    async def ask(want: Want) -> None:
        try:
            await group.join(want)
        except FusecacheError as exc:
            ended.append((want, str(exc)))
        else:
            ended.append((want, ""))
        group.check()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, Want.ROWS)
        await settle()
        nursery.start_soon(ask, leader)  # of the second round
        await settle()
        for want in Want:
            nursery.start_soon(ask, want)
        await trio.sleep(0.5)
        work.broken = Want.CACHE
    assert work.wanted == [Want.ROWS, Want.ROWS | Want.CACHE, Want.ROWS]
    assert sorted(ended, key=str) == sorted(
        [(Want.ROWS, ""), (leader, "" if leader is Want.ROWS else "dead"), (Want.ROWS, ""), (Want.CACHE, "dead")],
        key=str,
    )
    assert trio.current_time() == 3


@virtual
async def test_those_who_get_another_round_share_it_with_those_who_asked_meanwhile() -> None:
    work = Work()
    work.broken = Want.CACHE
    group = GroupCommit(work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.join, Want.ROWS)
        await settle()

        async def ask_in_vain() -> None:
            with pytest.raises(StoreError, match="dead"):
                await group.join(Want.CACHE)

        nursery.start_soon(ask_in_vain)
        nursery.start_soon(group.join, Want.ROWS)
        await trio.sleep(1.5)
        nursery.start_soon(group.join, Want.ROWS)
    assert work.wanted == [Want.ROWS, Want.ROWS | Want.CACHE, Want.ROWS]


@virtual
async def test_a_leader_and_the_next_one_may_be_cancelled_in_the_same_moment() -> None:
    for _ in range(20):  # trio shuffles who runs first
        group = GroupCommit(Work())
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.5):
                async with trio.open_nursery() as doomed:
                    for _ in range(2):
                        doomed.start_soon(group.join, Want.ROWS)
                        await settle()
                    nursery.start_soon(group.join, Want.ROWS)
        group.check()


@virtual
async def test_a_leader_that_is_cancelled_before_it_begins_leads_nobody() -> None:
    began = 0

    async def work(begin: Callable[[], Want]) -> None:
        nonlocal began
        await trio.sleep(1)
        begin()
        began += 1

    group = GroupCommit(work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ask_until, 0.5, group)
        await settle()
        nursery.start_soon(_ask_until, 100, group)
        nursery.start_soon(_ask_until, 100, group)
    assert began == 1
    assert trio.current_time() == 1.5


async def _ask_until(moment: float, group: GroupCommit[Want]) -> None:
    with trio.move_on_at(moment):
        await group.join(Want.ROWS)
