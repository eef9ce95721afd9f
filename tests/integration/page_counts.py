"""How much of a file is in the host's page cache; skips the test where the kernel cannot tell."""

from __future__ import annotations

import errno

import pytest

from scripts.benchmarks import counters


def cached_bytes(fd: int) -> int:
    """Count what an open file has in the page cache."""
    try:
        return counters.cached_bytes(fd)
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise
        pytest.skip(str(exc))


def drop_cached(fd: int) -> None:
    """Have nothing of an open file in the page cache."""
    counters.drop_cached(fd)
    assert cached_bytes(fd) == 0
