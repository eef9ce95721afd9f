"""Sectors of a block as bits."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fusecache.block.sectors import SECTOR, all_sectors, byte_runs, is_aligned, sectors_of

BLOCK = 4096


@given(st.sets(st.integers(0, 200)))
def test_runs_are_the_sectors_joined(sectors: set[int]) -> None:
    runs = list(byte_runs(sum(1 << sector for sector in sectors)))
    assert {at // SECTOR for begin, end in runs for at in range(begin, end, SECTOR)} == sectors
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(runs)), "neighbours are one run"


@given(st.integers(0, BLOCK - 1), st.integers(1, BLOCK))
def test_a_range_touches_the_sectors_of_its_bytes(within: int, length: int) -> None:
    length = min(length, BLOCK - within)
    touched = {at // SECTOR for at in range(within, within + length)}
    assert sectors_of(within, length) == sum(1 << sector for sector in touched)
    assert is_aligned(within, length) == (within % SECTOR == 0 and (within + length) % SECTOR == 0)


def test_all_sectors_of_a_block() -> None:
    assert all_sectors(BLOCK) == 0xFF
    assert list(byte_runs(all_sectors(BLOCK))) == [(0, BLOCK)]
    assert sectors_of(0, BLOCK) == all_sectors(BLOCK)
