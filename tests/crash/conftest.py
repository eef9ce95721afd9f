from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
import structlog

from tests.crash.rig import simulated

_FIRST_SEED = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def _simulation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Virtual time, the wild policy, and silence but for a replay."""
    before = structlog.get_config()
    if "replay" not in request.node.name:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with simulated():
        yield
    structlog.configure(**before)


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    """Choose where this run's hunt begins, and tell it before anything can go wrong."""
    seed = int(os.environ.get("FUSECACHE_FIRST_SEED", random.SystemRandom().randrange(10**9)))
    config.stash[_FIRST_SEED] = seed
    return f"crash hunt: seeds from {seed} on (the same again: FUSECACHE_FIRST_SEED={seed})"


@pytest.fixture
def first_seed(pytestconfig: pytest.Config) -> int:
    return pytestconfig.stash[_FIRST_SEED]
