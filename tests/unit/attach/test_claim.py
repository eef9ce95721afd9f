"""The note on the origin that tells whose cache may have newer data of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fusecache.attach.claim import Claim
from fusecache.attach.file_origin import FileOrigin
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


@contextmanager
def opened(path: Path) -> Iterator[FileOrigin]:
    """Open an origin, even one that is mounted."""
    fd = os.open(path, os.O_RDWR)
    with ExitStack() as resources:
        resources.callback(os.close, fd)
        yield FileOrigin(path, fd, resources)


def claim_on(path: Path) -> Claim | None:
    with opened(path) as origin:
        return origin.claim()


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
    with opened(place.origin) as origin:
        now = origin.identity()
    assert Claim(binding.uuid, str(place.metadata)).holds(now)
    assert not Claim("another", str(place.metadata)).holds(now)
    place.metadata.write_bytes(b"no database")
    assert not Claim(binding.uuid, str(place.metadata)).holds(now)


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
    with opened(path) as origin:
        assert origin.claim() is None
        origin.remove_claim()
        for text in (b"", b"[1]", b'{"uuid": "u"}', b"\xff"):
            os.setxattr(path, "user.fusecache.claim", text)
            assert origin.claim() is None
        origin.write_claim(Claim("u", "/m"))
        assert origin.claim() == Claim("u", "/m")


@pytest.mark.parametrize(
    "note",
    [
        b'{"uuid": "x", "metadata": []}',
        b'{"uuid": 7, "metadata": "/m"}',
        b'{"uuid": "x", "metadata": "/m", "more": 1}',
        b"[" * 60_000,
        b"\xff",
        b"",
    ],
)
def test_f18_a_note_that_is_no_claim(note: bytes) -> None:
    assert Claim.unpack(note) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_f17_a_claim_opens_no_file_of_others(place: Place) -> None:
    place.mount(rows=DIRTY)
    forged = place.directory / "forged"
    forged.write_bytes(place.metadata.read_bytes())
    os.chown(forged, 65534, 65534)
    with opened(place.origin) as origin:
        origin.write_claim(Claim("other", str(forged)))
    place.refused(RefusedError, "forged belongs to user 65534", **other_cache(place))


def test_f17_a_claim_waits_for_no_fifo(place: Place) -> None:
    fifo = place.directory / "fifo"
    os.mkfifo(fifo)
    with opened(place.origin) as origin:
        origin.write_claim(Claim("other", str(fifo)))
    with place.bound(**other_cache(place)):
        pass
