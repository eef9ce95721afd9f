"""What is left out of a writeback, since the origin has it already, survives crashes as what is written does: F15.

Contents of the hunter are never zeros.  So here any sector is left out that the origin shows already, which has to be
safe for the same reasons; the simulated stores say at random that all is a hole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from fusecache.stores import sparse
from tests.crash import rig
from tests.crash.hunter import HuntError, hunt
from tests.fakes import SECTOR

_SEEDS = range(5000, 5012)


@pytest.fixture(autouse=True)
def any_sector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every sector looked at."""

    def sectors(offset: int, data: memoryview) -> Iterator[tuple[int, int]]:
        first = -offset % SECTOR
        for at in range(first, len(data) - (offset + len(data)) % SECTOR, SECTOR):
            yield offset + at, offset + at + SECTOR

    monkeypatch.setattr(sparse, "_zero_runs", sectors)
    monkeypatch.setattr(sparse, "_PAGE", SECTOR)
    monkeypatch.setattr(sparse, "_LEAST_WITHIN", SECTOR)
    with rig.simulated():
        yield


def test_f15_what_is_left_out_is_there_after_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    reads_as = sparse._reads_as

    async def noted(*what: Any) -> bool:
        answers.append(await reads_as(*what))
        return answers[-1]

    monkeypatch.setattr(sparse, "_reads_as", noted)
    assert sum(hunt(seed).crashes for seed in _SEEDS) > 1000
    assert answers.count(True) > 20
    assert answers.count(False) > 20


def test_f15_a_hint_that_is_believed_loses_data(monkeypatch: pytest.MonkeyPatch) -> None:
    async def believed(*_: Any) -> bool:
        return True

    monkeypatch.setattr(sparse, "_reads_as", believed)
    with pytest.raises(HuntError):
        deque(map(hunt, _SEEDS), maxlen=0)
