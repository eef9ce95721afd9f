"""How much of a file is in the host's page cache; skips the test where the kernel cannot tell."""

from __future__ import annotations

import errno

import pytest

from scripts.benchmarks import page_counts


def cached_bytes(fd: int) -> int:
    """Count what an open file has in the page cache."""
    try:
        return page_counts.cached_bytes(fd)
    except OSError as exc:
        if exc.errno != errno.ENOSYS:
            raise
        pytest.skip(str(exc))


def drop_cached(fd: int) -> None:
    """Have nothing of an open file in the page cache."""
    page_counts.drop_cached(fd)
    assert cached_bytes(fd) == 0
