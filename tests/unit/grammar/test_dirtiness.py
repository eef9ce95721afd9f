from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.config import DirtyAge, DirtyLimit
from fusecache.errors import UsageError
from fusecache.grammar import parse_dirty_age, parse_dirty_limit


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30s,10000", DirtyAge()),
        ("10000,30s", DirtyAge()),
        ("30s", DirtyAge(30, 0)),
        ("500", DirtyAge(0, 500)),
        ("0", DirtyAge(0, 0)),
        ("0s", DirtyAge(0, 0)),
        ("0s,7", DirtyAge(0, 7)),
    ],
)
def test_an_age_is_seconds_or_requests_or_both(text: str, age: DirtyAge) -> None:
    assert parse_dirty_age(text) == age


@pytest.mark.parametrize("text", ["", ",", "30s,", "30s,30s", "1,2", "-1s", "1.5s", "30 s", "1h", "s", "100000s"])
def test_what_is_no_age_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="a dirty age is 30s") as caught:
        parse_dirty_age(text)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 99999), st.integers(0, 10**15 - 1))
def test_an_age_is_read_as_it_is_written(seconds: int, requests: int) -> None:
    age = DirtyAge(seconds, requests)
    assert parse_dirty_age(str(age)) == age


@pytest.mark.parametrize(
    ("text", "limit"),
    [("75%", DirtyLimit()), ("0%", DirtyLimit(0)), ("100%", DirtyLimit(100)), ("1GiB", DirtyLimit(size=2**30))],
)
def test_a_limit_is_a_share_or_a_size(text: str, limit: DirtyLimit) -> None:
    assert parse_dirty_limit(text) == limit
    assert parse_dirty_limit(str(limit)) == limit


@pytest.mark.parametrize("text", ["", "%", "101%", "-1%", "7.5%", "1 GiB", "much", "75 %"])
def test_what_is_no_limit_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="a dirty limit is a share") as caught:
        parse_dirty_limit(text)
    assert "\n" not in str(caught.value)
