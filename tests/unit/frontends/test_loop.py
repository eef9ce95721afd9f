"""pyfuse3's workers behind the front that stands in for trio: here in small, with a pipe for the descriptor."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import ParamSpec

import pyfuse3
import pytest
import trio
import trio.testing

from fusecache.frontends.fuse import loop as fuse_loop
from fusecache.frontends.fuse import polling

P = ParamSpec("P")
Serve = Callable[[int], Awaitable[None]]


class Clock:
    """Stands in for perf_counter; time passes by hand, and a little with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


class Loop:
    """What pyfuse3 does: workers that lock, wait, unlock, receive and serve, and are started when none stands by.

    :ivar served: numbers of the requests served, in the order of their arrival.
    :ivar workers: how many workers have been started.
    """

    def __init__(self, serve: Serve, *, most: int) -> None:
        self.front = fuse_loop._Front()
        self.readable, self.writable = os.pipe()
        self.served = 0
        self.workers = 0
        self.over = False
        self._serve = serve
        self._most = most
        self._standing_by = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._start(nursery)

    def ask(self, requests: int) -> None:
        """Let requests arrive."""
        os.write(self.writable, bytes(requests))

    def end(self) -> None:
        """Tell the workers to end, as pyfuse3.terminate() does."""
        self.over = True
        trio.lowlevel.notify_closing(self.readable)

    def has_ended(self) -> bool:
        """Ask as pyfuse3 does: at any time."""
        return self.over

    def close(self) -> None:
        os.close(self.readable)
        os.close(self.writable)

    def _start(self, nursery: trio.Nursery) -> None:
        self.workers += 1
        nursery.start_soon(self._work, nursery)

    async def _work(self, nursery: trio.Nursery) -> None:
        lock = self.front.Lock()
        while not self.over and self._standing_by <= fuse_loop._STANDING_BY:
            self._standing_by += 1
            try:
                async with lock:
                    if self.has_ended():
                        return
                    await lock.wait_readable(self.readable)
            except trio.ClosedResourceError:
                return
            finally:
                self._standing_by -= 1
            os.read(self.readable, 1)
            if not self._standing_by:
                self._start(nursery)
            self.served += 1
            if self.served == self._most:
                self.end()
            await self._serve(self.served)


@contextmanager
def looping(serve: Serve, *, most: int = -1) -> Iterator[Loop]:
    loop = Loop(serve, most=most)
    try:
        yield loop
    finally:
        loop.close()


def in_trio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        trio.run(functools.partial(test, *args, **kwargs))

    return run


async def at_once(number: int) -> None:
    """Answer as a hit does."""


@in_trio
async def test_others_get_their_turn_while_requests_pour() -> None:
    turns: list[int] = []

    async def other() -> None:
        while not loop.over:
            turns.append(loop.served)
            await trio.lowlevel.checkpoint()

    with looping(at_once, most=5000) as loop:
        loop.ask(5000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            nursery.start_soon(other)
    assert loop.served == 5000
    gaps = [after - before for before, after in pairwise(turns)]
    assert max(gaps) <= 2 * polling.BURST_REQUESTS, "early in one pass of the scheduler, late in the next"
    assert len(turns) >= 5000 // polling.BURST_REQUESTS


@in_trio
async def test_long_requests_make_turns_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(fuse_loop, "perf_counter", clock)
    turns: list[int] = []

    async def long(number: int) -> None:
        clock.now += 0.4 * polling.BURST_SECONDS

    async def other() -> None:
        while not loop.over:
            turns.append(loop.served)
            await trio.lowlevel.checkpoint()

    with looping(long, most=300) as loop:
        loop.ask(300)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            nursery.start_soon(other)
    assert max(after - before for before, after in pairwise(turns)) <= 2 * 3


@in_trio
async def test_a_request_that_waits_holds_up_nobody() -> None:
    answers: list[int] = []
    released = trio.Event()

    async def serve(number: int) -> None:
        if number == 1:
            await released.wait()
        answers.append(number)
        if number == 10:
            released.set()

    with looping(serve) as loop:
        loop.ask(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await trio.testing.wait_all_tasks_blocked()
            loop.end()
    assert answers == [2, 3, 4, 5, 6, 7, 8, 9, 10, 1]


@in_trio
async def test_as_many_requests_as_come_are_under_way_together() -> None:
    released = trio.Event()
    under_way = 0

    async def serve(number: int) -> None:
        nonlocal under_way
        under_way += 1
        await released.wait()

    with looping(serve) as loop:
        loop.ask(40)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await trio.testing.wait_all_tasks_blocked()
            assert under_way == 40
            loop.end()
            released.set()


@in_trio
async def test_hits_need_one_worker_and_one_that_stands_by() -> None:
    with looping(at_once, most=5000) as loop:
        loop.ask(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await trio.testing.wait_all_tasks_blocked()
            loop.ask(4999)
    assert loop.workers <= 3


@pytest.mark.parametrize("requests", [0, 1, 100])
@in_trio
async def test_all_workers_end_when_told_so(requests: int) -> None:
    with trio.fail_after(10), looping(at_once) as loop:
        loop.ask(requests)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await trio.testing.wait_all_tasks_blocked()
            assert loop.served == requests
            loop.end()


@in_trio
async def test_told_so_in_the_middle_of_a_turn() -> None:
    async def serve(number: int) -> None:
        if number == 70:
            loop.over = True  # nobody waits for the descriptor at this moment
            trio.lowlevel.notify_closing(loop.readable)

    with trio.fail_after(10), looping(serve) as loop:
        loop.ask(70)
        await loop.run()
    assert loop.served == 70


@in_trio
async def test_polling_that_succeeds_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request comes while it is polled for, each time."""
    monkeypatch.setattr(fuse_loop, "perf_counter", clock := Clock())
    monkeypatch.setattr(polling, "perf_counter", clock)
    with looping(at_once, most=500) as loop:
        monkeypatch.setattr(os, "sched_yield", lambda: loop.ask(1))
        waits = 0
        wait_readable = trio.lowlevel.wait_readable

        async def counted(fd: int) -> None:
            nonlocal waits
            waits += 1
            await wait_readable(fd)

        monkeypatch.setattr(trio.lowlevel, "wait_readable", counted)
        loop.ask(1)
        with trio.fail_after(10):
            await loop.run()
    assert loop.served == 500
    assert waits <= 2, "after a turn of the others, perhaps, and never else"


@in_trio
async def test_everything_else_is_trio() -> None:
    front = fuse_loop._Front()
    assert front.ClosedResourceError is trio.ClosedResourceError
    assert front.open_nursery is trio.open_nursery
    assert front.lowlevel.current_task is trio.lowlevel.current_task


@pytest.mark.parametrize("error", [None, RuntimeError("died")])
@in_trio
async def test_pyfuse3_gets_trio_back(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    fronts: list[object] = []

    async def main(*, min_tasks: int) -> None:
        fronts.append(pyfuse3.trio)  # type: ignore[attr-defined]
        if error is not None:
            raise error

    monkeypatch.setattr(pyfuse3, "main", main)
    with pytest.raises(RuntimeError, match="died") if error else nullcontext():
        await fuse_loop.serve_requests()
    assert isinstance(fronts[0], fuse_loop._Front)
    assert pyfuse3.trio is trio  # type: ignore[attr-defined]


@in_trio
async def test_workers_that_are_cancelled_end_although_requests_pour() -> None:
    with looping(at_once, most=10_000) as loop:
        loop.ask(10_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert loop.served <= 4 * polling.BURST_REQUESTS
        lock = loop.front.Lock()
        with trio.fail_after(1):
            async with lock:
                """Nobody left with it."""
