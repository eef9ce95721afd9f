from __future__ import annotations

from array import array

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fusecache.block.mapping import Mapping
from fusecache.migration import origin_order
from fusecache.migration.origin_order import SORTED_AT_ONCE, in_origin_order
from tests.unit.worlds import virtual


@given(oblocks=st.lists(st.integers(0, 10_000), max_size=60, unique=True), data=st.data())
def test_what_is_wanted_comes_in_the_order_of_the_origin(oblocks: list[int], data: st.DataObject) -> None:
    mapping = Mapping(64)
    for cblock, oblock in enumerate(oblocks):
        mapping.insert(oblock, cblock)
    wanted = data.draw(st.sets(st.sampled_from(range(len(oblocks))))) if oblocks else set()
    flags = bytearray(int(cblock in wanted) for cblock in range(64))

    @virtual
    async def look() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(origin_order, "SORTED_AT_ONCE", 7)
            found = list(await in_origin_order(mapping, flags.__getitem__))
        assert found == sorted(wanted, key=oblocks.__getitem__)

    look()


@virtual
async def test_a_million_blocks_are_put_in_order_in_small_steps() -> None:
    """Others get a turn after each few thousand; counted, not timed."""
    blocks = 1_000_000
    mapping = Mapping(1)
    mapping.cache_blocks = blocks
    mapping.oblock_of = array("q", range(blocks - 1, -1, -1))
    largest = turns = 0

    def every(part: slice) -> bytearray:
        nonlocal largest
        largest = max(largest, part.stop - part.start)
        return bytearray([1] * (part.stop - part.start))

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        found = await in_origin_order(mapping, every)
        nursery.cancel_scope.cancel()
    assert largest == SORTED_AT_ONCE
    assert turns >= blocks // SORTED_AT_ONCE - 2
    assert [next(found) for _ in range(3)] == [blocks - 1, blocks - 2, blocks - 3]
