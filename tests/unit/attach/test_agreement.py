"""Each sign of an origin is asked, and each that disagrees counts."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from fusecache.attach.agreement import (
    DisagreementError,
    Findings,
    Verdict,
    judge_origin,
    require_same_origin,
    shows_in_content_only,
)
from fusecache.attach.claim import Claim
from fusecache.metadata import Identity, Superblock

ORIGIN = Identity("/o", "1:2", "100", 4096, signs={"inode": "7", "time of birth": "5"}, marks="aa", label="ext4 x")
RECORDED = Superblock(
    uuid="u",
    block_size=4096,
    cache_blocks=8,
    region_blocks=1,
    image_bytes=4096,
    origin=ORIGIN,
    clean_shutdown=True,
    generation="5-x",
    origin_claimed=True,
)
CRASHED = replace(RECORDED, clean_shutdown=False)
CLAIM = Claim("u", "/m", "5-x", host="h")


def found(*, newer: int = 0, claim: Claim | None = CLAIM, differing: int = 0, **origin: Any) -> Findings:
    now = replace(ORIGIN, **origin)
    return Findings(
        now=now, claim=claim, newer=newer, compared=9, differing=differing, is_disproved=lambda claim: claim.clean
    )


def judged(recorded: Superblock, findings: Findings) -> Verdict:
    return judge_origin(recorded, findings, arguments="/o")


@pytest.mark.parametrize("recorded", [RECORDED, CRASHED])
@pytest.mark.parametrize(
    "moved",
    [
        {},
        {"address": "/moved"},
        {"place": "9:9"},
        {"address": "/moved", "place": "9:9"},
        {"address": "/moved", "signs": {"inode": "7"}},
        {"address": "/moved", "label": ""},
    ],
)
def test_f02_the_right_one_is_known_wherever_it_is(recorded: Superblock, moved: dict[str, Any]) -> None:
    assert judged(recorded, found(newer=3, **moved)) is Verdict.SAME


@pytest.mark.parametrize("recorded", [RECORDED, CRASHED])
@pytest.mark.parametrize(
    "other",
    [
        {"signs": {"inode": "8", "time of birth": "5"}},
        {"signs": {"inode": "7", "time of birth": "6"}},
        {"signs": {"time of birth": "6"}},
        {"signs": {}, "address": "/moved", "place": "9:9"},
        {"signs": {}, "address": "/moved"},
        {"signs": {"serial number": "1"}, "address": "/moved", "place": "9:9"},
        {"signs": {}, "label": "ext4 y"},
        {"signs": {}, "label": ""},
    ],
)
def test_f02_one_sign_that_differs_is_another_origin(recorded: Superblock, other: dict[str, Any]) -> None:
    with pytest.raises(DisagreementError, match="belongs to another origin") as caught:
        judged(recorded, found(**other))
    assert caught.value.command == "fusecache adopt /o"
    with pytest.raises(DisagreementError):
        require_same_origin(recorded, replace(ORIGIN, **other), arguments="/o")


def test_another_origin_at_the_same_place_is_not_told_by_its_name() -> None:
    with pytest.raises(DisagreementError, match="another origin, which was at the same place, not to /o "):
        require_same_origin(RECORDED, replace(ORIGIN, signs={"inode": "8"}), arguments="/o")


def test_what_older_metadata_did_not_note_is_in_nobodys_way() -> None:
    before = replace(ORIGIN, signs={}, marks="", label="")
    older = replace(RECORDED, origin=before, generation="", origin_claimed=False)
    assert judged(older, found(claim=None)) is Verdict.SAME
    assert judged(older, found(claim=Claim("u", "/m"))) is Verdict.SAME


CHANGES: list[dict[str, Any]] = [
    {"version": "101"},
    {"marks": "bb"},
    {"claim": None},
    {"claim": replace(CLAIM, uuid="v", clean=True)},
    {"claim": replace(CLAIM, generation="9-x", clean=True)},
    {"claim": replace(CLAIM, generation="", clean=True)},
    {"differing": 1},
]


@pytest.mark.parametrize("change", CHANGES)
def test_f02_whatever_shows_a_change_counts(change: dict[str, Any]) -> None:
    assert judged(RECORDED, found(**change)) is Verdict.CHANGED
    with pytest.raises(DisagreementError, match="changed by others while 2 newer blocks") as caught:
        judged(RECORDED, found(newer=2, **change))
    is_in_content = change in ({"differing": 1}, {"marks": "bb"})
    assert caught.value.in_content_only == is_in_content
    assert shows_in_content_only(RECORDED, found(**change)) == is_in_content


def test_f04_marks_of_a_device_that_differ_are_others_work_and_nothing_rotten() -> None:
    """F04: what has no time of modification would else be healed back to what it was before others used it."""
    for before, now in (("0", "0"), ("boot 1 7", "boot 2 7")):
        recorded = replace(RECORDED, origin=replace(ORIGIN, version=before))
        assert not shows_in_content_only(recorded, found(version=now, marks="bb", differing=1))
        assert shows_in_content_only(recorded, found(version=now, differing=1))


def test_f02_a_device_counts_what_is_written_to_it_until_the_next_start() -> None:
    recorded = replace(RECORDED, origin=replace(ORIGIN, version="boot 1 700+"))
    for version in ("boot 1 700+", "boot 2 900+", "other 1 900+", "0"):
        assert judged(recorded, found(newer=2, version=version)) is Verdict.SAME
    with pytest.raises(DisagreementError, match="it was written after the last mount"):
        judged(recorded, found(newer=2, version="boot 1 708+"))
    assert shows_in_content_only(recorded, found(version="boot 1 700+", marks="bb"))


def test_f02_after_a_crash_the_last_writes_may_have_been_ours() -> None:
    for change in CHANGES[:2]:
        assert judged(CRASHED, found(newer=2, **change)) is Verdict.SAME
    for change in CHANGES[2:]:
        with pytest.raises(DisagreementError):
            judged(CRASHED, found(newer=2, **change))


def test_f01_another_claim_is_refused_whatever_else_there_is() -> None:
    other = replace(CLAIM, uuid="v", metadata="/a b")
    for recorded in (RECORDED, CRASHED):
        with pytest.raises(DisagreementError, match="newer data of origin /o") as caught:
            judged(recorded, found(claim=other))
        assert shlex.split(caught.value.command)[-1] == "/a b"


def test_f03_our_own_claim_of_another_moment_shows_older_metadata() -> None:
    for generation in ("6-x", "5-y", "4-x", ""):
        with pytest.raises(DisagreementError, match="is an older copy"):
            judged(RECORDED, found(claim=replace(CLAIM, generation=generation)))
    interrupted = replace(RECORDED, generation="6-y", previous_generation="5-x 4-x")
    for generation in ("6-y", "5-x", "4-x"):
        assert judged(interrupted, found(claim=replace(CLAIM, generation=generation))) is Verdict.SAME


def test_f03_metadata_that_knew_no_generation_is_older_than_a_claim_that_has_one() -> None:
    """F03: a backup from before the upgrade."""
    older = replace(RECORDED, generation="")
    with pytest.raises(DisagreementError, match="is an older copy"):
        judged(older, found())


def test_f02_a_version_that_was_set_back_drops_what_is_clean_and_refuses_nothing() -> None:
    recorded = replace(RECORDED, origin=replace(ORIGIN, touched="8"))
    for newer in (0, 2):
        assert judged(recorded, found(newer=newer, touched="8")) is Verdict.SAME
        assert judged(recorded, found(newer=newer, touched="9")) is Verdict.TOUCHED
        assert judged(recorded, found(newer=newer, touched="")) is Verdict.SAME
        assert judged(RECORDED, found(newer=newer, touched="9")) is Verdict.SAME
        assert judged(replace(recorded, clean_shutdown=False), found(newer=newer, touched="9")) is Verdict.SAME
    assert judged(recorded, found(touched="9", version="101")) is Verdict.CHANGED


def test_an_origin_that_has_only_grown() -> None:
    longer: dict[str, Any] = {"size": 8192, "version": "101"}
    assert judged(RECORDED, found(newer=2, **longer)) is Verdict.GROWN
    assert judged(CRASHED, found(newer=2, **longer)) is Verdict.SAME
    for change in CHANGES[1:]:
        with pytest.raises(DisagreementError):
            judged(RECORDED, found(newer=2, **{**longer, **change}))
