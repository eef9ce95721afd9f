from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.errors import UsageError
from fusecache.units import MAX_SIZE, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("64KiB", 65536),
        ("64kib", 65536),
        ("64K", 65536),
        ("64k", 65536),
        ("3M", 3 * 1024**2),
        ("1GiB", 1024**3),
        ("1T", 1024**4),
        ("1TiB", 1024**4),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("0.5K", 512),
        ("1.0", 1),
        ("9223372036854775807", MAX_SIZE),
    ],
)
def test_sizes_that_people_write(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "K",
        "1KB",
        "1 K",
        "-1",
        "+1",
        "1e3",
        "0x10",
        "1.",
        ".5K",
        "1.5",
        "1.0001K",
        "1KiBB",
        "12Q",
        "1,5G",
        "٣",
        "9" * 5000,
    ],
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["9223372036854775808", "8192P", "9" * 40 + "T"])
def test_sizes_beyond_the_kernels_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="too large"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1536, "1.5KiB"),
        (1024**2 - 1, "1MiB"),
        (1100, "1.1KiB"),
        (10 * 1024**4, "10TiB"),
        (5 * 1024**6, "5120PiB"),
    ],
)
def test_sizes_are_written_short(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(1, 1023), st.integers(0, 5))
def test_whole_units_come_back_exactly(count: int, power: int) -> None:
    assert parse_size(format_size(count * 1024**power)) == count * 1024**power


@given(st.integers(0, MAX_SIZE))
def test_rounding_is_within_a_twentieth(size: int) -> None:
    written = format_size(size)
    number, unit = float(written.rstrip("BKMGTPi")), written.lstrip("0123456789.").removesuffix("iB").removesuffix("B")
    scale = 1024 ** ("", "K", "M", "G", "T", "P").index(unit)
    assert abs(number * scale - size) <= scale / 20 + size * 1e-12
