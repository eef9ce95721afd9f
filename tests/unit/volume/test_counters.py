from __future__ import annotations

import json
from dataclasses import fields

import pytest

from fusecache.config import Mode
from fusecache.control.status import Status
from fusecache.volume.counters import PERSISTENT, Counters
from tests.unit.control.statuses import make_status


def test_counting_and_listing() -> None:
    stats = Counters()
    stats.read_hits += 2
    stats.promotions += 1
    stats.check()
    assert stats.as_dict() == {field.name: 0 for field in fields(Counters)} | {"read_hits": 2, "promotions": 1}


def test_hits_and_misses_go_on_after_a_restart_and_nothing_else_does() -> None:
    stats = Counters(*range(1, len(fields(Counters)) + 1))
    stats.read_ahead_blocks = stats.read_ahead_used + stats.read_ahead_wasted
    stats.check()
    after = Counters()
    after.restore(stats.persistent())
    after.check()
    assert after == Counters(read_hits=1, read_misses=2, write_hits=3, write_misses=4)


def test_restoring_takes_the_kept_ones_out_of_everything() -> None:
    after = Counters(demotions=7)
    after.restore({"read_hits": 5, "promotions": 9, "of_another_release": 1})
    assert after == Counters(read_hits=5, demotions=7)


@pytest.mark.parametrize(
    "broken",
    [
        Counters(read_hits=-1),
        Counters(origin_read_bytes=1),
        Counters(origin_write_bytes=1),
        Counters(read_aheads=1),
        Counters(read_ahead_blocks=1),
    ],
)
def test_check_sees_impossible_counts(broken: Counters) -> None:
    with pytest.raises(AssertionError):
        broken.check()


def test_every_counter_is_in_the_status() -> None:
    assert {field.name for field in fields(Counters)} <= {field.name for field in fields(Status)}
    assert set(PERSISTENT) <= set(Counters().as_dict())


def test_status_is_one_flat_line_of_json() -> None:
    status = make_status()
    text = status.as_json()
    told = json.loads(text)
    assert "\n" not in text
    assert not [value for value in told.values() if isinstance(value, dict | list)]
    names = (
        "origin_bytes cache_blocks used_blocks dirty_blocks block_bytes read_hits read_misses write_hits write_misses "
        "promotions demotions writebacks policy mode migration_threshold needs_check"
    )
    assert set(names.split()) <= set(told)
    assert told["mode"] == Mode.WRITEBACK.value
    assert told["migration_threshold"] == status.migration_threshold // 512
    assert told["policy"] == "mq"
    assert told["policy.random_threshold"] == "4"
    assert "policy_values" not in told
    assert told["needs_check"] is False
    assert told["features"] == "metadata2"
