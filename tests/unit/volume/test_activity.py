from __future__ import annotations

import pytest
import trio

from fusecache.volume.activity import CALM_SECONDS, QUIET_SECONDS, Activity
from tests.unit.worlds import settle, virtual


def test_quiet_is_more_than_a_second_without_anything_under_way() -> None:
    activity = Activity()
    assert activity.is_quiet(0.001)
    mark = activity.begin()
    assert not activity.is_quiet(1000)
    activity.end(1000, mark=mark)
    assert not activity.is_quiet(1000 + QUIET_SECONDS)
    assert activity.is_quiet(1000 + QUIET_SECONDS + 0.001)
    activity.check()


def test_quiet_begins_with_the_last_end() -> None:
    activity = Activity()
    marks = [activity.begin(), activity.begin()]
    activity.end(10, mark=marks[0])
    assert not activity.is_quiet(100)
    activity.end(20, mark=marks[1])
    assert not activity.is_quiet(20.9)
    assert activity.is_quiet(21.1)


def test_one_marked_at_a_time() -> None:
    activity = Activity()
    assert activity.begin()
    assert not activity.begin()
    activity.end(1, mark=False)
    assert not activity.begin()
    activity.end(1, mark=True)
    activity.check()
    assert activity.begin()
    assert activity.in_flight == 2


@virtual
async def test_giving_way_lasts_until_it_is_calm() -> None:
    activity = Activity()
    mark = activity.begin()

    async def user() -> None:
        await trio.sleep(2)
        activity.end(trio.current_time(), mark=mark)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(user)
        await activity.give_way(60)
        assert trio.current_time() == pytest.approx(2 + CALM_SECONDS)


@virtual
async def test_a_gap_between_two_requests_is_no_calm() -> None:
    activity = Activity()

    async def user() -> None:
        for _ in range(10):
            mark = activity.begin()
            await trio.sleep(0.5)
            activity.end(trio.current_time(), mark=mark)
            await trio.sleep(CALM_SECONDS / 2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(user)
        await trio.sleep(0.1)
        assert not activity.is_calm(trio.current_time())
        await activity.give_way(60)
        assert trio.current_time() == pytest.approx(10 * 0.5 + 9 * CALM_SECONDS / 2 + CALM_SECONDS)


@virtual
async def test_patience_ends() -> None:
    activity = Activity()
    activity.begin()
    await activity.give_way(0.25)
    assert trio.current_time() == 0.25


@virtual
async def test_nobody_gives_way_to_nobody() -> None:
    activity = Activity()
    await activity.give_way(60)
    assert trio.current_time() == 0


@virtual
async def test_several_who_gave_way_all_go_on() -> None:
    activity = Activity()
    mark = activity.begin()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(activity.give_way, 60)
        await settle()
        activity.end(0, mark=mark)
    assert trio.current_time() == CALM_SECONDS


@pytest.mark.parametrize("name", ["in_flight", "hits_until_tick"])
def test_check_sees_impossible_counts(name: str) -> None:
    activity = Activity()
    setattr(activity, name, -1)
    with pytest.raises(AssertionError):
        activity.check()
