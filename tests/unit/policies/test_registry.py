"""Policies by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import policies
from policies import BadTunableError, Policy, PolicyError, UnknownPolicyError, create_policy, policy_names
from policies.cleaner import CleanerPolicy

SIZES = {"cache_blocks": 8, "origin_blocks": 64, "block_size": 65536}


class Borrowed(CleanerPolicy):
    """Another package's policy."""


class NoPolicy:
    """Something else that another package offers."""


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        name: EntryPoint(name, f"{__name__}:{attribute}", "fusecache.policies")
        for name, attribute in {"borrowed": "Borrowed", "wrong": "NoPolicy", "missing": "Absent"}.items()
    }
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Borrowed.__module__])
    monkeypatch.setattr(policies, "_third_party", lambda: points)


OWN = ["adaptive", "arc", "cleaner", "lru", "mq", "s3fifo", "smq", "tinylfu", "twoq"]


@pytest.mark.parametrize(("name", "real"), [("default", "smq"), *zip(OWN, OWN, strict=True)])
def test_names_and_aliases(name: str, real: str) -> None:
    policy = create_policy(name, **SIZES)
    assert policy.name == real
    assert len(policy.name) < 16
    assert name in policy_names()
    policy.check()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("what", sorted(SIZES))
@pytest.mark.parametrize("size", [0, -1, 2**63])
def test_bad_sizes_are_refused(name: str, what: str, size: int) -> None:
    with pytest.raises(PolicyError, match=f"^{what} must be from 1 to [0-9]+, not {size}$"):
        create_policy(name, **{**SIZES, what: size})


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownPolicyError, match=r"unknown policy 'fifo'; .*arc, cleaner, default, lru, .*twoq"):
        create_policy("fifo", **SIZES)


@pytest.mark.parametrize("name", ["smq", "cleaner"])
def test_policies_without_tunables_accept_none(name: str) -> None:
    policy = create_policy(name, **SIZES)
    assert policy.config_values() == {}
    with pytest.raises(BadTunableError, match="no tunable 'migration_threshold'"):
        policy.set_config_value("migration_threshold", "1")


@pytest.mark.usefixtures("others")
def test_other_packages_bring_policies_along() -> None:
    assert isinstance(create_policy("borrowed", **SIZES), Borrowed)
    assert "borrowed" in policy_names()


@pytest.mark.usefixtures("others")
def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"'wrong' is not a subclass of policies\.Policy"):
        create_policy("wrong", **SIZES)
    with pytest.raises(PolicyError, match="'missing' cannot be loaded"):
        create_policy("missing", **SIZES)


def test_built_in_policies_need_no_search_for_others() -> None:
    code = (
        "import sys; before = set(sys.modules); import policies; p = policies.create_policy('default', cache_blocks=4,"
        "origin_blocks=9, block_size=512); new = set(sys.modules) - before;"
        "assert not new & {'importlib.metadata', 'policies.mq', 'trio', 'asyncio', 'logging'}, new"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_contract_is_reexported() -> None:
    assert issubclass(Borrowed, Policy)
    assert set(policies.__all__) <= set(dir(policies))
