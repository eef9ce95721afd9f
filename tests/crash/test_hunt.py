"""Crash hunts: whatever a crash leaves behind, what was flushed is there, and nothing goes back in time.

Every run hunts from another seed, which pytest prints; ``FUSECACHE_SEEDS=500`` makes it longer, ``scripts/crash-hunt``
goes on as long as one likes.  ``FUSECACHE_SEED=17 scripts/test tests/crash -k replay`` shows one seed again, with the
log (and with ``FUSECACHE_FAULTS=1`` if it had faults).
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest

from tests.crash.hunter import hunt
from tests.model import Oracle

_SEEDS = int(os.environ.get("FUSECACHE_SEEDS", "8"))
_PARTS = 4
_TOLD = """
import structlog
from tests.crash.hunter import hunt
from tests.crash.rig import simulated

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
with simulated():
    print(hunt(4), hunt(5, faults=True))
"""


@pytest.mark.parametrize("faults", [False, True], ids=["sound", "faulty"])
@pytest.mark.parametrize("part", range(_PARTS))
def test_no_crash_loses_what_was_flushed_or_goes_back_in_time(part: int, faults: bool, first_seed: int) -> None:
    seeds = range(first_seed + part * _SEEDS, first_seed + (part + 1) * _SEEDS)
    assert sum(hunt(seed, faults=faults).crashes for seed in seeds) > 20 * _SEEDS, "the hunter hardly hunts"


@pytest.mark.skipif("FUSECACHE_SEED" not in os.environ, reason="replays the seed in FUSECACHE_SEED")
def test_replay() -> None:
    hunt(int(os.environ["FUSECACHE_SEED"]), faults=os.environ.get("FUSECACHE_FAULTS") == "1")


def test_a_seed_is_one_history() -> None:
    assert hunt(4) == hunt(4) != hunt(5)
    assert hunt(5, faults=True) == hunt(5, faults=True) != hunt(5)


@pytest.mark.parametrize("hash_seed", ["0", "1", "77"])
def test_a_seed_is_one_history_in_every_process(hash_seed: str) -> None:
    """Strings and objects hash otherwise in each process; nothing may hang on the order of a set of them."""
    elsewhere = subprocess.run(
        [sys.executable, "-c", _TOLD],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    assert elsewhere.stdout.strip() == f"{hunt(4)} {hunt(5, faults=True)}"


@pytest.mark.parametrize("lost", [False, True])
def test_what_a_slow_read_returns_is_held_against_the_moment_when_it_began(lost: bool) -> None:
    """Seed 239708327: a write was lost, a read began, and then another write was made durable."""
    oracle = Oracle([0], 512)
    one, content = oracle.begin_write(0, 1)
    oracle.end_write(one)
    oracle.end_flush(oracle.now())
    two, _ = oracle.begin_write(0, 1)
    oracle.end_write(two)
    if lost:
        oracle.doubt()
    began, allowed = oracle.begin_read(0, 1)
    three, _ = oracle.begin_write(0, 1)
    oracle.end_write(three)
    oracle.end_flush(oracle.now())
    with nullcontext() if lost else pytest.raises(AssertionError, match="came after that"):
        oracle.end_read(began, 0, content, allowed)
