from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fusecache.simulator.sectors import count_runs, hull, runs, sectors_cut, sectors_touched

ranges = st.tuples(st.integers(0, 9000), st.integers(1, 9000)).map(lambda pair: (pair[0], pair[0] + pair[1]))
bitmaps = st.integers(1, 2**16 - 1)


def sectors(bitmap: int) -> set[int]:
    return {sector for sector in range(bitmap.bit_length()) if bitmap >> sector & 1}


@given(ranges)
def test_what_is_touched_and_what_of_it_in_part(extent: tuple[int, int]) -> None:
    start, end = extent
    inside = {at // 512: sum(start <= byte < end for byte in range(at, at + 512)) for at in range(0, end, 512)}
    assert sectors(sectors_touched(start, end)) == {sector for sector, covered in inside.items() if covered}
    assert sectors(sectors_cut(start, end)) == {sector for sector, covered in inside.items() if 0 < covered < 512}


@given(bitmaps)
def test_runs_are_the_bitmap_in_pieces_that_do_not_touch(bitmap: int) -> None:
    found = list(runs(bitmap))
    assert len(found) == count_runs(bitmap)
    assert {sector for start, end in found for sector in range(start // 512, end // 512)} == sectors(bitmap)
    assert all(end < start for (_, end), (start, _) in pairwise(found))
    assert hull(bitmap) == (found[0][0], found[-1][1])


def test_for_example() -> None:
    assert (sectors_touched(0, 512), sectors_cut(0, 512)) == (0b1, 0)
    assert (sectors_touched(100, 200), sectors_cut(100, 200)) == (0b1, 0b1)
    assert (sectors_touched(511, 1025), sectors_cut(511, 1025)) == (0b111, 0b101)
    assert list(runs(0b1011001)) == [(0, 512), (1536, 2560), (3072, 3584)]
    assert count_runs(0) == 0
