"""By which an origin is known again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusecache.metadata.identity import Identity

BEFORE = Identity("/o", "1:2", "100", 4096, signs={"inode": "7", "time of birth": "5"}, marks="aa", label="ext4 x")


def test_what_is_packed_is_read_again() -> None:
    assert Identity.unpack(BEFORE.pack()) == BEFORE
    unsized = replace(BEFORE, size=None, signs={}, marks="", label="")
    assert Identity.unpack(unsized.pack()) == unsized


def test_f03_what_older_versions_wrote_is_read() -> None:
    values = {"origin_path": "/o", "origin_inode": "1:2", "origin_mtime_ns": "100"}
    assert Identity.unpack(values) == Identity("/o", "1:2", "100", None)


@pytest.mark.parametrize("text", ["", "x", "[]", "1", "null", '"a"', '{"a": 1, "b": null}', "[" * 60_000, "x" * 70_000])
def test_signs_that_are_none_are_none(text: str) -> None:
    assert Identity.unpack(BEFORE.pack() | {"origin_signs": text}).signs == {}


@pytest.mark.parametrize(
    ("signs", "known", "others"),
    [
        ({"inode": "7", "time of birth": "5"}, True, 0),
        ({"inode": "7"}, True, 0),
        ({"inode": "7", "inode generation": "3"}, True, 0),
        ({"inode": "7", "time of birth": "6"}, False, 1),
        ({"inode": "8", "time of birth": "6"}, False, 2),
        ({"serial number": "1"}, False, 0),
        ({}, False, 0),
    ],
)
def test_f02_those_signs_count_that_both_have(signs: dict[str, str], known: bool, others: int) -> None:
    now = replace(BEFORE, signs=signs)
    assert now.is_known_by_signs(BEFORE) is known
    assert len(now.other_signs_than(BEFORE)) == others


def test_f02_changes_show_in_the_version_and_the_marks() -> None:
    assert not BEFORE.has_changed_since(BEFORE)
    assert replace(BEFORE, version="101").has_changed_since(BEFORE)
    assert replace(BEFORE, marks="bb").has_changed_since(BEFORE)
    assert not replace(BEFORE, marks="").has_changed_since(BEFORE)
    assert not BEFORE.has_changed_since(replace(BEFORE, marks=""))


def test_f02_a_version_counts_within_its_epoch_and_a_time_of_nothing_is_a_time() -> None:
    def changed(now: str, then: str) -> bool:
        return replace(BEFORE, version=now).has_changed_since(replace(BEFORE, version=then))

    assert changed("0", "100")
    assert changed("100", "0")
    assert not changed("0", "0")
    assert changed("boot 1 8", "boot 1 7")
    assert not changed("boot 2 8", "boot 1 7")
    assert not changed("boot 1 7", "0")


def test_it_has_grown_if_it_is_the_same_and_longer() -> None:
    longer = replace(BEFORE, size=5000)
    assert longer.has_grown_since(BEFORE)
    assert replace(longer, address="/p", place="3:4").has_grown_since(BEFORE)
    assert not replace(longer, signs={"inode": "8"}).has_grown_since(BEFORE)
    assert not BEFORE.has_grown_since(longer)
    assert not longer.has_grown_since(replace(BEFORE, size=None))
    assert replace(longer, signs={}, place="3:4").has_grown_since(BEFORE)
    assert not replace(longer, signs={}, address="/p").has_grown_since(BEFORE)


def test_f02_a_place_says_something_only_of_what_has_signs() -> None:
    """F02: file systems without stable inodes gave another image the place of the one that was cached."""
    assert replace(BEFORE, address="/p").is_where_it_was(BEFORE)
    assert replace(BEFORE, address="/p").is_where_it_was(replace(BEFORE, signs={}))
    assert not replace(BEFORE, address="/p", signs={}).is_where_it_was(BEFORE)
