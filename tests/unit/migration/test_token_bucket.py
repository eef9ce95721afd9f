from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.migration.token_bucket import TokenBucket


def test_without_a_rate_everything_goes() -> None:
    bucket = TokenBucket(0, 100)
    assert [bucket.take(100, now) for now in (0, 0, 0)] == [0, 0, 0]


def test_a_burst_goes_at_once_and_then_it_takes_its_time() -> None:
    bucket = TokenBucket(10, 100)
    assert bucket.take(60, 1000) == 0
    assert bucket.take(40, 1000) == 0
    assert bucket.take(30, 1000) == pytest.approx(3)
    assert bucket.take(30, 1002) == pytest.approx(1)
    assert bucket.take(30, 1003) == 0
    bucket.check()


def test_what_flows_in_meanwhile_is_no_more_than_a_burst() -> None:
    bucket = TokenBucket(10, 100)
    bucket.take(100, 0)
    assert bucket.take(100, 10**6) == 0
    assert bucket.take(10, 10**6) == pytest.approx(1)


def test_what_was_not_taken_is_still_there() -> None:
    bucket = TokenBucket(10, 100)
    bucket.take(100, 0)
    for _ in range(5):
        assert bucket.take(50, 4) == pytest.approx(1)
    assert bucket.take(40, 4) == 0


def test_another_rate_holds_from_then_on() -> None:
    bucket = TokenBucket(10, 100)
    bucket.take(100, 0)
    bucket.set_rate(20, 1)
    assert bucket.take(50, 1) == pytest.approx(2)
    bucket.set_rate(0, 1)
    assert bucket.take(50, 1) == 0
    bucket.set_rate(20, 9)
    assert bucket.take(50, 9) == pytest.approx(2.5), "a limit begins with an empty bucket"


@given(
    rate=st.integers(1, 10**9),
    burst=st.integers(1, 10**7),
    asked=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1), st.booleans()), min_size=1, max_size=50),
)
def test_in_no_window_goes_more_than_rate_and_burst(
    rate: int, burst: int, asked: list[tuple[float, float, bool]]
) -> None:
    bucket = TokenBucket(rate, burst)
    now = 0.0
    granted: list[tuple[float, int]] = []
    for pause, part, patient in asked:
        now += pause
        amount = int(part * burst)
        while wait := bucket.take(amount, now):
            assert wait <= amount / rate + 1e-6
            if not patient:
                break
            now += wait
        else:
            granted.append((now, amount))
        bucket.check()
    for first in range(len(granted)):
        total = 0
        for at, amount in granted[first:]:
            total += amount
            window = at - granted[first][0]
            assert total <= (rate * window + burst) * (1 + 1e-9) + 1


@given(rate=st.integers(1, 10**9), amounts=st.lists(st.integers(1, 1000), min_size=2, max_size=50))
def test_whoever_waits_gets_what_the_rate_allows(rate: int, amounts: list[int]) -> None:
    bucket = TokenBucket(rate, 1000)
    now = 0.0
    for amount in amounts:
        while wait := bucket.take(amount, now):
            now += wait
    assert now <= sum(amounts) / rate + 1e-4
