from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.block.geometry import Geometry
from fusecache.config import GIB, KIB
from fusecache.errors import FusecacheError, OutOfRangeError

BLOCK_SIZES = st.integers(1, 20).map(lambda pages: pages * 4096)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Geometry, int, int]:
    """An image, and a range inside it; ends of blocks and of the image are likely."""
    block = draw(BLOCK_SIZES)
    geometry = Geometry(draw(st.integers(1, 12 * block)), block, 1)
    edges = st.integers(0, geometry.image_bytes // block).map(lambda number: number * block)
    places = st.integers(0, geometry.image_bytes) | edges | st.just(geometry.image_bytes)
    begin, end = sorted((draw(places), draw(places)))
    return geometry, begin, end - begin


@given(ranges())
def test_pieces_cover_the_range_exactly_in_order_and_cross_no_block(drawn: tuple[Geometry, int, int]) -> None:
    geometry, offset, length = drawn
    position = offset
    for oblock, within, piece in geometry.pieces(offset, length):
        assert piece > 0
        assert oblock * geometry.block_size + within == position
        assert within + piece <= geometry.block_size
        assert 0 <= oblock <= geometry.origin_blocks
        assert (oblock == geometry.origin_blocks) == (position >= geometry.tail_start)
        position += piece
    assert position == offset + length


@given(ranges(), st.integers(0, 100_000))
def test_reads_are_clipped_at_the_end(drawn: tuple[Geometry, int, int], beyond: int) -> None:
    geometry, offset, length = drawn
    assert geometry.clip(offset, length) == length
    assert geometry.clip(offset, geometry.image_bytes - offset + beyond) == geometry.image_bytes - offset
    assert geometry.clip(geometry.image_bytes + beyond, length) == 0


@given(ranges(), st.integers(1, 100_000))
def test_writes_are_never_clipped(drawn: tuple[Geometry, int, int], beyond: int) -> None:
    geometry, offset, length = drawn
    geometry.require(offset, length)
    with pytest.raises(OutOfRangeError, match="passes the end"):
        geometry.require(offset, geometry.image_bytes - offset + beyond)
    with pytest.raises(OutOfRangeError):
        geometry.require(-beyond, length)


@given(st.integers(1, 10**7), BLOCK_SIZES)
def test_the_tail_is_what_whole_blocks_leave(image_bytes: int, block: int) -> None:
    geometry = Geometry(image_bytes, block, 1)
    assert geometry.tail_start == geometry.origin_blocks * block
    assert 0 <= image_bytes - geometry.tail_start < block


def test_an_image_smaller_than_a_block_is_all_tail() -> None:
    geometry = Geometry(100, 4096, 1)
    assert (geometry.origin_blocks, geometry.tail_start) == (0, 0)
    assert list(geometry.pieces(10, 90)) == [(0, 10, 90)]


def test_block_sizes_need_not_be_powers_of_two() -> None:
    geometry = Geometry(100_000, 12 * KIB, 1)
    assert list(geometry.pieces(12 * KIB - 1, 12 * KIB + 2)) == [(0, 12287, 1), (1, 0, 12288), (2, 0, 1)]


def test_nothing_has_no_pieces() -> None:
    assert list(Geometry(8192, 4096, 1).pieces(4096, 0)) == []


@pytest.mark.parametrize(
    ("image_bytes", "block_size", "cache_blocks", "words"),
    [
        (0, 4096, 1, "origin is empty"),
        (-1, 4096, 1, "origin is empty"),
        (8192, 4096, 0, "too small for one block of 4096"),
        (8192, 4096, -1, "too small"),
        (8192, 0, 1, "block size 0"),
        (8192, -4096, 1, "block size"),
        (8192, 2048, 1, "block size"),
        (8192, 4097, 1, "block size"),
        (8192, GIB + 4096, 1, "block size"),
    ],
)
def test_impossible_sizes_are_refused(image_bytes: int, block_size: int, cache_blocks: int, words: str) -> None:
    with pytest.raises(FusecacheError, match=words):
        Geometry(image_bytes, block_size, cache_blocks)


def test_the_largest_block_is_allowed() -> None:
    assert Geometry(3 * GIB, GIB, 1).origin_blocks == 3
