"""A policy that raises is asked no more, and the disk goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fusecache.guard import GuardedPolicy, guarded
from fusecache.health import Health
from fusecache.mapping import Mapping
from policies import MISS, Op, Policy, PolicyError, Work, create_policy
from policies.smq import SmqPolicy

METHODS: dict[str, Callable[[Policy], object]] = {
    "lookup": lambda policy: policy.lookup(5, False, False),
    "lookup_with_work": lambda policy: policy.lookup_with_work(5, True, True)[0],
    "observe_bio": lambda policy: policy.observe_bio(0, 512, False, 0),
    "get_background_work": lambda policy: policy.get_background_work(True),
    "complete_background_work": lambda policy: policy.complete_background_work(Work(Op.WRITEBACK, 5, 1), True),
    "set_dirty": lambda policy: policy.set_dirty(1),
    "clear_dirty": lambda policy: policy.clear_dirty(1),
    "get_hint": lambda policy: policy.get_hint(1),
    "residency": lambda policy: policy.residency(),
    "tick": lambda policy: policy.tick(0),
    "config_values": lambda policy: policy.config_values(),
    "allow_migrations": lambda policy: policy.allow_migrations(True),
}
INSTEAD = {"lookup": 1, "lookup_with_work": 1, "get_hint": 0, "residency": 1, "config_values": {}}


class Wild(SmqPolicy):
    """One that does well until it is told to fail."""


def make(monkeypatch: pytest.MonkeyPatch, method: str, error: type[Exception]) -> tuple[Policy, Health]:
    inner = Wild(cache_blocks=4, origin_blocks=16, block_size=4096)
    policy = guarded(inner)
    mapping, health = Mapping(4), Health()
    mapping.insert(5, 1)
    policy.load_mapping(5, 1, False, None)
    assert isinstance(policy, GuardedPolicy)
    policy.serve(mapping, health)

    def fail(*_: object) -> None:
        msg = "out of its mind"
        raise error(msg)

    monkeypatch.setattr(inner, method, fail)
    return policy, health


@pytest.mark.parametrize("error", [ValueError, PolicyError])
@pytest.mark.parametrize("method", METHODS)
def test_whatever_raises_the_mapping_answers_instead(
    method: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, health = make(monkeypatch, method, error)
    assert METHODS[method](policy) == INSTEAD.get(method)
    assert health.state == "degraded"
    assert "policy smq: " in str(health)
    assert "out of its mind" in str(health)
    assert policy.lookup(5, False, False) == 1
    assert policy.lookup(6, False, False) == MISS
    assert policy.hint_size == 0
    assert policy.get_background_work(True) is None
    assert policy.invalidate_mapping(1)
    policy.check()


def test_what_the_contract_lets_it_refuse_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, health = make(monkeypatch, "invalidate_mapping", PolicyError)
    with pytest.raises(PolicyError):
        policy.invalidate_mapping(1)
    with pytest.raises(PolicyError):
        policy.set_config_value("speed", "9")
    assert health.state == "ok"


def test_ours_are_not_held_up_by_it() -> None:
    policy = create_policy("smq", cache_blocks=4, origin_blocks=16, block_size=4096)
    assert guarded(policy) is policy
