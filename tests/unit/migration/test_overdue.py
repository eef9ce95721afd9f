from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fusecache.config import DirtyAge
from fusecache.migration import origin_order
from fusecache.migration.overdue import Overdue
from tests.unit.worlds import World, virtual


def overdue_of(world: World, age: DirtyAge) -> Overdue:
    overdue = Overdue(world.volume, age)
    overdue.set_age(age, 0.0)
    return overdue


@virtual
async def test_a_period_is_over_after_so_many_seconds_or_requests() -> None:
    world = World()
    overdue = overdue_of(world, DirtyAge(30, 100))
    assert not overdue.is_over(29.9)
    assert overdue.is_over(30)
    world.volume.counters.read_hits += 60
    world.volume.counters.write_misses += 40
    assert overdue.is_over(1)
    await overdue.end(1)
    assert not overdue.is_over(30.9)
    assert overdue.is_over(31)


@virtual
async def test_without_a_bound_no_period_is_ever_over() -> None:
    world = World()
    overdue = overdue_of(world, DirtyAge(0, 0))
    world.volume.counters.read_hits += 10**9
    assert not overdue.is_over(1e9)
    for age, now, requests in ((DirtyAge(5, 0), 4, 10**9), (DirtyAge(0, 5), 1e9, 4)):
        overdue.set_age(age, 0.0)
        world.volume.counters.read_hits += requests
        assert not overdue.is_over(now)


@given(st.lists(st.sets(st.integers(0, 29)), min_size=1, max_size=6))
def test_overdue_is_what_was_dirty_at_two_ends(ends: list[set[int]]) -> None:
    @virtual
    async def look() -> None:
        world = World(cache_blocks=32, origin_blocks=64)
        overdue = overdue_of(world, DirtyAge(30, 0))
        for cblock in range(30):
            world.load(63 - 2 * cblock, cblock)
            world.mapping.intent_recorded(cblock)
        before: set[int] = set()
        for number, dirty in enumerate(ends):
            for cblock in range(30):
                if cblock in dirty:
                    world.mapping.written(cblock)
                elif world.volume.is_dirty(cblock):
                    world.mapping.cleaned(cblock, 0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(origin_order, "SORTED_AT_ONCE", 5)
                found = list(await overdue.end(30.0 * number))
            assert found == sorted(before & dirty, reverse=True)
            before = dirty
            overdue.check()

    look()


@virtual
async def test_another_age_counts_anew_even_while_a_period_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_order, "SORTED_AT_ONCE", 1)
    world = World()
    world.load(1, 0, dirty=True)
    world.load(2, 3, dirty=True)
    overdue = overdue_of(world, DirtyAge(1, 0))
    await overdue.end(1)
    found: list[list[int]] = []

    async def end() -> None:
        found.append(list(await overdue.end(2)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        for _ in range(2):  # then it has begun, and has not ended
            await trio.lowlevel.checkpoint()
        overdue.set_age(DirtyAge(1, 0), 2.0)
    assert found == [[]]
    overdue.check()
    assert list(await overdue.end(3)) == []
    assert list(await overdue.end(4)) == [0, 3]
