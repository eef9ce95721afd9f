"""The note on the origin that tells whose cache may have newer data of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fusecache.attach.claim import Claim, read_claim, remove_claim, write_claim
from fusecache.errors import RefusedError
from tests.unit.places import CLEAN, DIRTY, Place

OTHER = "describes: mount it with that one"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"")
    except OSError:
        pytest.skip("no extended attributes of users on this file system")
    probe.unlink()
    return Place(tmp_path)


def other_cache(place: Place) -> dict[str, Any]:
    return {"cache": place.directory / "cache 2", "metadata": place.directory / "metadata 2"}


def claim_on(path: Path) -> Claim | None:
    fd = os.open(path, os.O_RDWR)
    try:
        return read_claim(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("clean", [True, False])
def test_no_second_cache_in_front_of_an_origin_that_lacks_dirty_data(place: Place, clean: bool) -> None:
    place.mount(rows=DIRTY, clean=clean)
    line = place.refused(RefusedError, OTHER, **other_cache(place))
    assert str(place.metadata) in line
    with place.bound():
        pass


def test_told_twice_it_is_given_up(place: Place) -> None:
    place.mount(rows=DIRTY)
    place.refused(RefusedError, OTHER, **other_cache(place), format=1)
    with place.bound(**other_cache(place), format=2):
        claim = claim_on(place.origin)
    assert claim is not None
    assert claim.metadata == str(place.directory / "metadata 2")


def test_clean_data_elsewhere_is_in_nobodys_way(place: Place) -> None:
    place.mount(rows=CLEAN)
    with place.bound(**other_cache(place)):
        pass


def test_an_end_with_nothing_dirty_takes_the_note_away(place: Place) -> None:
    binding = place.mount()
    assert claim_on(place.origin) == Claim(binding.uuid, str(place.metadata))
    with place.bound() as binding:
        binding.release_origin()
    assert claim_on(place.origin) is None


def test_metadata_that_is_gone_claims_nothing(place: Place) -> None:
    place.mount(rows=DIRTY)
    place.metadata.unlink()
    with place.bound(**other_cache(place)):
        pass


def test_metadata_that_is_damaged_or_another_one_claims_nothing(place: Place) -> None:
    binding = place.mount(rows=DIRTY)
    mtime_ns = str(place.origin.stat().st_mtime_ns)
    assert Claim(binding.uuid, str(place.metadata)).holds(mtime_ns)
    assert not Claim("another", str(place.metadata)).holds(mtime_ns)
    place.metadata.write_bytes(b"no database")
    assert not Claim(binding.uuid, str(place.metadata)).holds(mtime_ns)


def test_an_origin_that_was_written_anew_since_is_free(place: Place) -> None:
    place.mount(rows=DIRTY)
    place.origin.write_bytes(place.origin.read_bytes()[::-1])
    os.utime(place.origin, ns=(1, 1))
    with place.bound(**other_cache(place)):
        pass


def test_the_note_is_not_in_the_data(place: Place) -> None:
    before = (place.origin.read_bytes(), place.origin.stat().st_mtime_ns)
    place.mount(rows=DIRTY)
    assert (place.origin.read_bytes(), place.origin.stat().st_mtime_ns) == before


def test_what_is_no_claim_is_none(tmp_path: Path) -> None:
    path = tmp_path / "origin"
    path.write_bytes(b"o")
    fd = os.open(path, os.O_RDWR)
    try:
        assert read_claim(fd) is None
        remove_claim(fd)
        for text in (b"", b"[1]", b'{"uuid": "u"}', b"\xff"):
            os.setxattr(fd, "user.fusecache.claim", text)
            assert read_claim(fd) is None
        write_claim(fd, Claim("u", "/m"))
        assert read_claim(fd) == Claim("u", "/m")
    finally:
        os.close(fd)
