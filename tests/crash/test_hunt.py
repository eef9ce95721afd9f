"""Crash hunts: whatever a crash leaves behind, what was flushed is there, and nothing goes back in time.

``FUSECACHE_SEEDS=5000`` makes a night's hunt; ``FUSECACHE_SEED=17 pytest tests/crash -k replay`` shows one seed again,
with the log (and with ``FUSECACHE_FAULTS=1`` if it had faults).
"""

from __future__ import annotations

import os

import pytest

from tests.crash.hunter import hunt

_SEEDS = int(os.environ.get("FUSECACHE_SEEDS", "12"))
_PARTS = 4


@pytest.mark.parametrize("faults", [False, True], ids=["sound", "faulty"])
@pytest.mark.parametrize("part", range(_PARTS))
def test_no_crash_loses_what_was_flushed_or_goes_back_in_time(part: int, faults: bool) -> None:
    crashes = sum(hunt(seed, faults=faults) for seed in range(part, _SEEDS * _PARTS, _PARTS))
    assert crashes > 100 * _SEEDS, "the hunter hardly hunts"


@pytest.mark.skipif("FUSECACHE_SEED" not in os.environ, reason="replays the seed in FUSECACHE_SEED")
def test_replay() -> None:
    hunt(int(os.environ["FUSECACHE_SEED"]), faults=os.environ.get("FUSECACHE_FAULTS") == "1")


def test_a_seed_is_one_history() -> None:
    assert hunt(3) == hunt(3)
    assert hunt(3, faults=True) == hunt(3, faults=True)
