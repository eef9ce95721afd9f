"""The times of the image as the record has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.metadata import ImageTimes

moments = st.integers(-(2**62), 2**63 - 1)


@given(moments, moments)
def test_g01_what_is_packed_is_read_again(modified: int, changed: int) -> None:
    times = ImageTimes(modified, changed)
    assert ImageTimes.unpack(times.pack("7-3f9a0c52"), "7-3f9a0c52") == times


@pytest.mark.parametrize(
    "text", ["", "1", "1 2", "1 2 8-other", "1 2 7-x y", "x 2 7-x", "1.5 2 7-x", f"{'9' * 20} 2 7-x", "\u0661 2 7-x"]
)
def test_g01_anything_else_is_nothing(text: str) -> None:
    assert ImageTimes.unpack(text, "7-x") is None


def test_g01_the_later_of_two() -> None:
    assert ImageTimes(1, 20).later(ImageTimes(2, 10)) == ImageTimes(2, 20)
