"""The note on the origin that tells whose cache may have newer data of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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


@pytest.mark.parametrize(
    "note", [b"[" * 60_000, b'{"uuid": "1", "metadata": ["/a"]}', b'{"uuid": 1, "metadata": "/a"}', b"[]", b"\xff"]
)
def test_f19_a_note_that_is_no_claim_is_none(note: bytes) -> None:
    assert Claim.unpack(note) is None


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
def test_f01_no_second_cache_in_front_of_an_origin_that_lacks_dirty_data(place: Place, clean: bool) -> None:
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


@pytest.mark.parametrize("clean", [True, False])
def test_f01_a_disk_that_is_not_mounted_disproves_nothing(place: Place, clean: bool) -> None:
    place.mount(rows=DIRTY, clean=clean)
    ssd = place.directory / "ssd"
    ssd.mkdir()
    for path in (place.cache, place.metadata):
        path.rename(ssd / path.name)
    assert str(place.metadata) in place.refused(RefusedError, OTHER)
    place.refused(RefusedError, OTHER, format=1)
    for path in (place.cache, place.metadata):
        (ssd / path.name).rename(path)
    with place.bound():
        pass
    assert place.blocks() == list(DIRTY)


def test_f01_after_format_twice_the_other_cache_is_refused_when_it_returns(place: Place) -> None:
    place.mount(rows=DIRTY)
    place.mount(**other_cache(place), format=2, rows=CLEAN)
    assert "another cache was in front of it" in place.refused(RefusedError, "1 newer blocks")
    place.mount(**other_cache(place), rows=DIRTY, clean=False)
    place.refused(RefusedError, OTHER)


def test_clean_data_elsewhere_is_in_nobodys_way(place: Place) -> None:
    place.mount(rows=CLEAN)
    with place.bound(**other_cache(place)):
        pass


def test_f01_clean_blocks_are_stale_once_another_cache_was_there(place: Place) -> None:
    place.mount(rows=CLEAN)
    place.mount(**other_cache(place), rows=CLEAN)
    with place.bound() as binding:
        other, dropped = binding.notes
    assert other.startswith(f"last used: {other_cache(place)['cache']}, which has nothing that the origin lacks")
    assert dropped == "the origin was changed outside fusecache: 2 cached blocks were dropped"


def test_the_note_says_whether_all_is_well(place: Place) -> None:
    def said() -> bool:
        claim = claim_on(place.origin)
        assert claim is not None
        assert claim.metadata == str(place.metadata)
        return claim.clean

    with place.bound():
        assert not said()
    place.mount(rows=DIRTY)
    assert not said()
    place.mount(rows=((0, 3, False),))
    assert said()


def test_an_end_with_nothing_cached_takes_the_note_away(place: Place) -> None:
    place.mount()
    assert claim_on(place.origin) is None
    with place.bound():
        pass


def test_f01_a_note_that_is_gone_shows_another_origin(place: Place) -> None:
    place.mount(rows=DIRTY)
    os.removexattr(place.origin, "user.fusecache.claim")
    assert "note that fusecache left on it is gone" in place.refused(RefusedError, "1 newer blocks")
    place.mount(format=2, rows=CLEAN)
    os.removexattr(place.origin, "user.fusecache.claim")
    with place.bound() as binding:
        assert binding.notes == ["the origin was changed outside fusecache: 2 cached blocks were dropped"]


def test_f01_only_metadata_that_opens_and_says_so_disproves(place: Place) -> None:
    def is_disproved(claim: Claim) -> bool:
        before = place.contents()
        try:
            return claim.is_disproved()
        finally:
            assert place.contents() == before

    def claim() -> Claim:
        found = claim_on(place.origin)
        assert found is not None
        return replace(found, clean=False)

    place.mount(rows=DIRTY)
    assert not is_disproved(claim())
    assert is_disproved(replace(claim(), clean=True))
    place.mount(rows=((0, 3, False),))
    assert is_disproved(claim())
    assert not is_disproved(replace(claim(), uuid="another"))
    place.mount(clean=False)
    assert is_disproved(claim())
    older = place.metadata.read_bytes()
    place.mount(rows=DIRTY)
    place.metadata.write_bytes(older)
    assert not is_disproved(claim()), "an older copy of the metadata, from when nothing was dirty"
    place.metadata.write_bytes(b"no database")
    assert not is_disproved(claim())
    for name in ("nowhere", "nul\0", "x" * 5000):
        assert not is_disproved(replace(claim(), metadata=name))


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
        deep = b'{"uuid": ' + b"[" * 30_000
        for text in (b"", b"[1]", b'{"uuid": "u"}', b"\xff", b'{"uuid": 1, "metadata": "m"}', deep):
            assert Claim.unpack(text) is None
        for text in (b"", b"[1]", b'{"uuid": "u"}', b"\xff"):
            os.setxattr(path, "user.fusecache.claim", text)
            assert origin.claim() is None
        assert origin.write_claim(Claim("u", "/m"))
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
    place.refused(RefusedError, "may be in the cache that metadata .*forged describes", **other_cache(place))


def test_f17_a_claim_waits_for_no_fifo(place: Place) -> None:
    fifo = place.directory / "fifo"
    os.mkfifo(fifo)
    with opened(place.origin) as origin:
        origin.write_claim(Claim("other", str(fifo)))
    place.refused(RefusedError, "may be in the cache that metadata .*fifo describes", **other_cache(place))


@pytest.mark.parametrize("clean", [True, False])
def test_f07_the_note_stays_while_nothing_is_written_to_the_origin(place: Place, clean: bool) -> None:
    place.mount(rows=DIRTY)
    note = os.getxattr(place.origin, "user.fusecache.claim")
    for _ in range(3):
        place.mount(read_only=True, clean=clean)
        assert os.getxattr(place.origin, "user.fusecache.claim") == note
    for _ in range(2):
        with place.bound():
            assert place.origin.read_bytes()
    assert place.blocks() == list(DIRTY)
    assert os.getxattr(place.origin, "user.fusecache.claim") != note


def test_f03_a_note_older_than_what_was_mounted_read_only_is_refused(place: Place) -> None:
    place.mount(rows=DIRTY)
    note = os.getxattr(place.origin, "user.fusecache.claim")
    place.mount(rows=DIRTY)
    place.mount(read_only=True)
    os.setxattr(place.origin, "user.fusecache.claim", note)
    place.refused(RefusedError, "does not fit the note on the origin")
