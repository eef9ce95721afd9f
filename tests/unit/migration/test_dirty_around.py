from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.block.locks import WRITERS_OUT
from fusecache.config import COPY_SIZE, KIB
from fusecache.migration import neighbours
from fusecache.migration.neighbours import dirty_around
from tests.unit.worlds import BLOCK, World

BLOCKS = 40
MOST = 8
"""Blocks that go into one write, in these tests."""

some = st.sets(st.integers(0, BLOCKS - 1))


@given(dirty=some, clean=some, migrated=some, left_out=some, oblock=st.integers(0, BLOCKS - 1))
def test_a_block_goes_with_its_dirty_neighbours_that_are_free(
    dirty: set[int], clean: set[int], migrated: set[int], left_out: set[int], oblock: int
) -> None:
    world = World(cache_blocks=BLOCKS, origin_blocks=BLOCKS)
    for cblock, cached in enumerate(sorted(dirty | clean | {oblock}, reverse=True)):
        world.load(cached, cblock, dirty=cached in dirty)
    for locked in migrated:
        world.locks.try_exclusive(locked, WRITERS_OUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "COPY_SIZE", MOST * BLOCK)
        works = dirty_around(world.volume, oblock, left_out)
    around = [work.oblock for work in works]
    assert oblock in around
    assert around == list(range(around[0], around[-1] + 1))
    assert all(world.mapping.find(work.oblock) == work.cblock for work in works)
    may_join = dirty - migrated - left_out
    assert set(around) - {oblock} <= may_join
    assert len(around) <= MOST
    if len(around) < MOST:
        assert around[0] - 1 not in may_join
        assert around[-1] + 1 not in may_join


def test_a_block_that_is_as_large_as_a_write_goes_alone() -> None:
    world = World(block_size=COPY_SIZE + 4 * KIB)
    for oblock in range(3):
        world.load(oblock, oblock, dirty=True)
    assert [work.oblock for work in dirty_around(world.volume, 1)] == [1]
