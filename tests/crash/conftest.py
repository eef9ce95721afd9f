from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from tests.crash.rig import simulated


@pytest.fixture(autouse=True)
def _simulation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Virtual time, the wild policy, and silence but for a replay."""
    before = structlog.get_config()
    if "replay" not in request.node.name:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with simulated():
        yield
    structlog.configure(**before)


@pytest.fixture
def first_seed() -> int:
    return int(os.environ["FUSECACHE_FIRST_SEED"])
