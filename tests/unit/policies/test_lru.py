"""LRU against the exact one."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policies.playing import Play


@given(st.integers(2, 12), st.lists(st.integers(0, 20), max_size=200))
def test_it_is_lru(cache_blocks: int, reads: list[int]) -> None:
    play = Play("lru", cache_blocks)
    exact: OrderedDict[int, None] = OrderedDict()
    for oblock in reads:
        assert play.read(oblock) == [oblock in exact]
        exact.pop(oblock, None)
        exact[oblock] = None
        if len(exact) > cache_blocks - 1:  # the reserve is one block
            exact.popitem(last=False)
        assert play.order() == list(exact)
    play.policy.check()


def test_a_scan_empties_it() -> None:
    play = Play("lru", 16)
    play.read(*[1, 2, 3] * 10)
    play.read(*range(100, 115))
    assert not play.cached() & {1, 2, 3}
