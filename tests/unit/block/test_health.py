from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.block.health import ByteRanges, Health
from fusecache.errors import StoreError

_END = 200
_STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, _END), st.integers(1, 40)).map(lambda s: (s[0], s[1], s[1] + s[2])),
    max_size=40,
)


@given(_STEPS)
def test_ranges_are_the_set_of_their_bytes(steps: list[tuple[bool, int, int]]) -> None:
    ranges, model = ByteRanges(), set[int]()
    for adding, begin, end in steps:
        if adding:
            ranges.add(begin, end)
            model |= set(range(begin, end))
        else:
            ranges.discard(begin, end)
            model -= set(range(begin, end))
        ranges.check()
        assert {byte for begin, end in ranges for byte in range(begin, end)} == model
        assert len(ranges) == len(model)


def test_ranges_that_touch_are_one() -> None:
    ranges = ByteRanges()
    for begin, end in [(10, 20), (30, 40), (20, 30)]:
        ranges.add(begin, end)
    assert list(ranges) == [(10, 40)]
    ranges.discard(15, 16)
    assert list(ranges) == [(10, 15), (16, 40)]


def test_of_very_many_ranges_the_last_are_joined_and_no_byte_is_forgotten() -> None:
    ranges = ByteRanges()
    for number in range(1500):
        ranges.add(10 * number, 10 * number + 1)
        if number % 100 == 0:
            ranges.check()
    ranges.check()
    assert len(list(ranges)) == 1000
    told = {byte for begin, end in ranges for byte in range(begin, end)}
    assert told >= {10 * number for number in range(1500)}


@pytest.mark.parametrize("broken", [[(5, 5)], [(5, 4)], [(1, 3), (3, 4)], [(4, 5), (1, 2)], [(1, 9), (2, 3)]])
def test_check_sees_ranges_that_cannot_be(broken: list[tuple[int, int]]) -> None:
    ranges = ByteRanges()
    ranges._ranges = broken
    with pytest.raises(AssertionError):
        ranges.check()


def test_all_is_well() -> None:
    health = Health()
    assert (health.state, str(health)) == ("ok", "ok")


@pytest.mark.parametrize(
    ("field", "state", "way_back"),
    [
        ("read_only", "read-only", "unmount, fusecache check --clear-needs-check, and mount again"),
        ("origin_lost", "failing", "unmount and mount again"),
        ("cache_lost", "degraded", "unmount and mount again to use it anew"),
        ("policy_failed", "degraded", "until another one is set"),
    ],
)
def test_each_state_has_its_reason_and_its_way_back(field: str, state: str, way_back: str) -> None:
    health = Health()
    setattr(health, field, "this is why")
    assert health.state == state
    assert "this is why" in str(health)
    assert way_back in str(health)
    assert "\n" not in str(health)


def test_what_is_lost_is_told_until_it_is_found_again() -> None:
    health = Health()
    health.lost.add(4096, 8192)
    assert health.state == "degraded"
    assert str(health) == "4096 bytes of the image cannot be read (user.fusecache.lost has the ranges)"
    health.lost.discard(0, 10_000)
    assert (health.state, str(health)) == ("ok", "ok")


def test_f13_blocks_that_cannot_be_written_back_are_told_until_they_are() -> None:
    health = Health()
    for oblock in (3, 7, 3):
        health.writeback_failed(oblock, "write of /o failed: No space left on device")
    assert health.state == "degraded"
    assert str(health).startswith("2 blocks cannot be written back: write of /o failed: No space left on device; ")
    health.written_back(3)
    assert str(health).startswith("1 blocks cannot")
    health.written_back(7)
    health.written_back(9)
    assert (health.state, str(health)) == ("ok", "ok")


def test_f13_promotions_that_fail_are_told_until_one_succeeds() -> None:
    health = Health()
    health.promotion_failed("read of /o failed: Input/output error")
    health.promotion_failed("write of /c failed: No space left on device")
    assert health.state == "degraded"
    assert str(health).startswith("the last 2 promotions failed: write of /c failed: No space left on device; ")
    health.promoted()
    assert (health.state, str(health)) == ("ok", "ok")


def test_a_cache_that_is_being_emptied_is_worse_than_one_that_is_empty() -> None:
    health = Health(cache_lost="this is why", emptying=True)
    assert health.state == "failing"
    assert "fsync fails until it is empty" in str(health)
    health.emptying = False
    assert health.state == "degraded"
    assert "fsync fails" not in str(health)


def test_what_nobody_was_told_is_told_once() -> None:
    health = Health(unreported="flush of cache failed")
    with pytest.raises(StoreError, match="flush of cache failed: of what was written before, something may be lost"):
        health.report()
    health.report()


def test_the_worst_names_the_state_and_everything_is_told() -> None:
    health = Health(cache_lost="the cache", origin_lost="the origin", policy_failed="the policy")
    health.lost.add(0, 1)
    assert health.state == "failing"
    health.read_only = "the metadata"
    assert health.state == "read-only"
    for reason in ("the cache", "the origin", "the policy", "the metadata", "1 bytes"):
        assert reason in str(health)
