"""Plumbing that all levels of tests share."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from datetime import timedelta

import hypothesis
import pytest
import structlog

# Property tests count examples, not milliseconds: the machine is shared.  FUSECACHE_EXAMPLES=5000 makes a night's run.
hypothesis.settings.register_profile(
    "fusecache",
    deadline=timedelta(seconds=20),
    max_examples=int(os.environ.get("FUSECACHE_EXAMPLES", "60")),
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fusecache")


def pytest_configure() -> None:
    """Choose where this run's crashes begin, before there are workers: all of them have to collect the same tests."""
    os.environ.setdefault("FUSECACHE_FIRST_SEED", str(random.SystemRandom().randrange(10**9)))


def pytest_report_header() -> str:
    """Tell the choice before anything can go wrong."""
    seed = os.environ["FUSECACHE_FIRST_SEED"]
    return f"crashes: seeds from {seed} on (the same again: FUSECACHE_FIRST_SEED={seed})"


@pytest.fixture(autouse=True)
def _log_as_configured_by_nobody() -> Iterator[None]:
    """Undo what a test configures, such as a log on a stream that is closed when the test ends."""
    yield
    structlog.reset_defaults()
