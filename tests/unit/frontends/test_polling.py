"""How long a descriptor is polled before anybody sleeps."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fusecache.frontends.fuse import polling
from fusecache.frontends.fuse.polling import SPIN_SECONDS, Polling

LOOK_SECONDS = 1e-6


class Pipe:
    """A descriptor to poll, and a clock that moves on with each look."""

    def __init__(self) -> None:
        self.readable, self.writable = os.pipe()
        self.now = 0.0
        self.yields = 0
        self.comes_at = -1

    def clock(self) -> float:
        self.now += LOOK_SECONDS
        return self.now

    def sched_yield(self) -> None:
        self.yields += 1
        if self.yields == self.comes_at:
            os.write(self.writable, b"r")


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    pipe = Pipe()
    monkeypatch.setattr(polling, "perf_counter", pipe.clock)
    monkeypatch.setattr(os, "sched_yield", pipe.sched_yield)
    yield pipe
    os.close(pipe.readable)
    os.close(pipe.writable)


def test_a_request_that_is_there(pipe: Pipe) -> None:
    asked = Polling(pipe.readable)
    assert not asked.is_readable(0)
    os.write(pipe.writable, b"r")
    assert asked.is_readable(0)


def test_polling_ends(pipe: Pipe) -> None:
    assert not Polling(pipe.readable).is_soon_readable()
    assert pipe.now == pytest.approx(SPIN_SECONDS, abs=3 * LOOK_SECONDS)
    assert pipe.yields


def test_polling_in_vain_is_left_out_for_longer_each_time(pipe: Pipe) -> None:
    asked = Polling(pipe.readable)
    polled = []
    for _ in range(1000):
        before = pipe.yields
        assert not asked.is_soon_readable()
        polled.append(pipe.yields > before)
        asked.check()
    assert polled[0]
    assert 5 <= sum(polled) <= 12, "1, 2, 4, 8 ... requests apart"


def test_polling_that_succeeds_goes_on(pipe: Pipe) -> None:
    asked = Polling(pipe.readable)
    for _ in range(7):
        asked.is_soon_readable()
    for _ in range(100):
        while asked.is_readable(0):
            os.read(pipe.readable, 1)
        pipe.comes_at = pipe.yields + 2
        while not (found := asked.is_soon_readable()) and pipe.yields < pipe.comes_at:
            pass
        assert found
    assert pipe.yields < 100 * 60
