from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_last_io() -> Iterator[None]:
    """A file in use is given a second, for the last I/O of whoever was killed; here nobody was."""
    with patch("fusecache.attach.lease._LAST_IO_SECONDS", 0.02):
        yield
