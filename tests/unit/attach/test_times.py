"""G01: with which times the image begins, after whatever has happened."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from fusecache.attach.times import times_at_mount
from fusecache.metadata import Identity, ImageTimes, Superblock

LAST, ORIGIN, NOW = ImageTimes(100, 110), ImageTimes(200, 90), 1_000
AT_ONCE = ImageTimes(NOW, NOW)
RECORDED = Superblock(
    uuid="u",
    block_size=4096,
    cache_blocks=8,
    region_blocks=1,
    image_bytes=1 << 20,
    origin=Identity("/o", "1:2", "200", 1 << 20),
    clean_shutdown=True,
    generation="4-aa",
    image_times=LAST.pack("4-aa"),
)


def begin(
    recorded: Superblock | None = RECORDED,
    own: ImageTimes | None = ORIGIN,
    *,
    unchanged: bool = True,
    newer: bool = False,
) -> ImageTimes:
    return times_at_mount(recorded, own, unchanged=unchanged, newer=newer, now_ns=NOW)


def test_g01_the_first_time_they_are_the_origins() -> None:
    assert begin(None) == ORIGIN
    assert begin(None, None) == AT_ONCE


@pytest.mark.parametrize("newer", [True, False])
def test_g01_after_a_clean_end_they_go_on_whatever_we_wrote_back(newer: bool) -> None:
    assert begin(newer=newer) == LAST
    assert begin(own=None, newer=newer) == LAST


def test_g01_after_a_crash_nobody_knows() -> None:
    assert begin(replace(RECORDED, clean_shutdown=False)) == AT_ONCE


def test_g01_times_of_another_end_say_nothing() -> None:
    """A version that does not know of them has ended since, or a tool that does not write them."""
    assert begin(replace(RECORDED, generation="6-bb")) == AT_ONCE
    assert begin(replace(RECORDED, image_times="yesterday")) == AT_ONCE


def test_g01_an_older_version_left_none() -> None:
    assert begin(replace(RECORDED, image_times="")) == ORIGIN
    assert begin(replace(RECORDED, image_times=""), newer=True) == AT_ONCE


def test_g01_an_origin_that_others_changed_tells_itself() -> None:
    assert begin(unchanged=False) == ORIGIN
    assert begin(own=None, unchanged=False) == AT_ONCE
    older = ImageTimes(1, 2)
    assert begin(own=older, unchanged=False) == older, "a golden image was put there, with its own time"


def test_g01_an_origin_that_has_grown_under_newer_blocks_has_the_later_times() -> None:
    assert begin(unchanged=False, newer=True) == ImageTimes(200, 110)


def test_g01_it_never_looks_older_than_what_is_in_it() -> None:
    for clean, text, unchanged, own in itertools.product(
        [True, False], ["", LAST.pack("4-aa"), LAST.pack("3-aa")], [True, False], [ORIGIN, ImageTimes(1, 1), None]
    ):
        recorded = replace(RECORDED, clean_shutdown=clean, image_times=text)
        assert begin(recorded, own, unchanged=unchanged, newer=True).modified_ns >= LAST.modified_ns
