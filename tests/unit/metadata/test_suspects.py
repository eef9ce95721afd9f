"""The rule of suspects: what a row says, and whether its region is open; in every form the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.metadata import Row, Suspects

rows = st.lists(st.builds(Row, st.integers(0, 300), st.just(0), st.booleans(), st.none(), st.just(7)))


@pytest.mark.parametrize(
    ("cblock", "dirty", "suspect"),
    [(0, False, False), (3, False, False), (4, False, True), (7, False, True), (8, False, False), (8, True, True)],
)
def test_dirty_or_in_an_open_region(cblock: int, dirty: bool, suspect: bool) -> None:
    assert Suspects({1}, 4).count_as_dirty(Row(cblock, 0, dirty, None)) == suspect


def test_after_a_clean_end_rows_are_exact() -> None:
    rule = Suspects(set(), 4)
    assert not rule.in_open_region(0)
    assert rule.all_that_count([1, 2], [False, True]) == [False, True]


@given(rows, st.sets(st.integers(0, 40)), st.integers(1, 64))
def test_all_forms_say_the_same(some: list[Row], regions: set[int], region_blocks: int) -> None:
    rule = Suspects(regions, region_blocks)
    expected = [row.dirty or row.cblock // region_blocks in regions for row in some]
    assert [rule.count_as_dirty(row) for row in some] == expected
    assert rule.all_that_count([row.cblock for row in some], [row.dirty for row in some]) == expected
    for row, is_dirty in zip(some, expected, strict=True):
        marked = rule.marked(row)
        assert marked.dirty == is_dirty
        assert (marked.crc is None) == rule.in_open_region(row.cblock)
        assert marked[:2] == row[:2]
