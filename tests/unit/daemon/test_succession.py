"""What the next daemon is to be, after what was set in this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusecache.config import DirtyAge, DirtyLimit, Mode, MountConfig, PolicyChoice
from fusecache.daemon.succession import as_it_is
from policies import create_policy, policy_names
from tests.unit.control.statuses import make_status

CONFIG = MountConfig(origin="/o", mountpoint=Path("/m"), policy=PolicyChoice("mq", (("random_threshold", "4"),)))


def test_where_nothing_was_set_everything_is_as_it_was_told() -> None:
    assert as_it_is(CONFIG, make_status(), make_status(read_hits=99)) == CONFIG


@pytest.mark.parametrize(
    ("set_since", "expected"),
    [
        ({"mode": Mode.WRITETHROUGH}, {"mode": Mode.WRITETHROUGH}),
        ({"copy_rate": 7}, {"copy_rate": 7}),
        ({"scrub_rate": 8}, {"scrub": 8}),
        ({"read_ahead": 9}, {"read_ahead": 9}),
        ({"dirty_age": "5s,7"}, {"dirty_age": DirtyAge(5, 7)}),
        ({"dirty_limit": "4096"}, {"dirty_limit": DirtyLimit(size=4096)}),
    ],
)
def test_what_was_set_goes_on(set_since: dict[str, Any], expected: dict[str, Any]) -> None:
    assert as_it_is(CONFIG, make_status(), make_status(**set_since)) == replace(CONFIG, **expected)


def test_a_tunable_is_set_beside_those_that_were_told() -> None:
    now = make_status(policy_values={"random_threshold": "4", "sequential_threshold": "99"})
    choice = as_it_is(CONFIG, make_status(), now).policy
    assert choice.name == "mq"
    assert dict(choice.tunables) == {"random_threshold": "4", "sequential_threshold": "99"}


def test_another_policy_has_its_own() -> None:
    now = make_status(policy="lru", policy_values={}, migration_threshold=512)
    assert as_it_is(CONFIG, make_status(), now).policy == PolicyChoice("lru", (), 512)


@pytest.mark.parametrize("name", policy_names())
def test_what_a_policy_shows_can_be_set_in_the_next_one(name: str) -> None:
    sizes = {"cache_blocks": 100, "origin_blocks": 1000, "block_size": 4096, "now_ms": 0}
    values = create_policy(name, **sizes).config_values()
    again = create_policy(name, **sizes)
    for key, value in values.items():
        again.set_config_value(key, value)
    assert again.config_values() == values
