from __future__ import annotations

import trio

from fusecache.tasks import QuickLock
from tests.unit.worlds import virtual


@virtual
async def test_a_lock_that_nobody_has_is_taken_at_once() -> None:
    lock, ran = QuickLock(), list[str]()

    async def other() -> None:
        ran.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with lock:
            ran.append("mine")
        assert ran == ["mine"]


@virtual
async def test_a_lock_that_somebody_has_is_taken_in_the_order_of_asking() -> None:
    lock, ran = QuickLock(), list[int]()

    async def take(number: int) -> None:
        async with lock:
            ran.append(number)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(take, number)
            await trio.sleep(0.1)
        with trio.move_on_after(0.1) as scope:
            await take(3)
    assert scope.cancelled_caught
    assert ran == [0, 1, 2]
    async with lock:
        assert trio.current_time() >= 3
