"""Plumbing that all levels of tests share."""

from __future__ import annotations

import os
from datetime import timedelta

import hypothesis

# Property tests count examples, not milliseconds: the machine is shared.  FUSECACHE_EXAMPLES=5000 makes a night's run.
hypothesis.settings.register_profile(
    "fusecache",
    deadline=timedelta(seconds=20),
    max_examples=int(os.environ.get("FUSECACHE_EXAMPLES", "100")),
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fusecache")
