from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from fusecache.errors import BusyError, RefusedError, UntrustedError, UsageError
from fusecache.linux import directories, rename_to_new, try_lock
from fusecache.offline.checking import check
from fusecache.offline.dumping import dump_to_file
from fusecache.offline.opening import Files, find_files, open_draft
from fusecache.offline.repairing import repair
from fusecache.offline.restoring import restore
from tests.unit.offline.places import MIXED, Place


def test_f20_one_draft_at_a_time(tmp_path: Path) -> None:
    with ExitStack() as first, ExitStack() as second:
        draft = open_draft(tmp_path / "new", first)
        draft.write_bytes(b"first")
        with pytest.raises(BusyError, match=r"new.draft is in use"):
            open_draft(tmp_path / "new", second)
        assert draft.read_bytes() == b"first"
        open_draft(tmp_path / "another", second)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_one_left_is_made_anew(tmp_path: Path) -> None:
    left = tmp_path / "new.draft"
    left.write_bytes(b"left")
    left.chmod(0o600)
    with ExitStack() as resources:
        assert open_draft(tmp_path / "new", resources) == left
        assert left.read_bytes() == b""
    assert not left.exists()


def test_a_draft_that_got_its_name_stays(tmp_path: Path) -> None:
    with ExitStack() as resources:
        rename_to_new(open_draft(tmp_path / "new", resources), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_draft_that_goes_while_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command removes its draft between our opening that and our lock: what we have then is at no name."""

    path = tmp_path / "new.draft"

    def lock_late(fd: int, *, for_writing: bool) -> bool:
        monkeypatch.undo()
        path.unlink()
        path.write_bytes(b"of a third one")
        path.chmod(0o600)
        return try_lock(fd, for_writing=for_writing)

    monkeypatch.setattr("fusecache.attach.lease.try_lock", lock_late)
    with ExitStack() as resources:
        draft = open_draft(tmp_path / "new", resources)
        assert draft.read_bytes() == b""


@pytest.mark.parametrize("plant", ["link", "fifo", "shared"])
def test_f16_what_others_planted_is_no_draft(tmp_path: Path, plant: str) -> None:
    left, victim = tmp_path / "new.draft", tmp_path / "victim"
    victim.write_bytes(b"precious")
    match plant:
        case "link":
            left.symlink_to(victim)
        case "fifo":
            os.mkfifo(left)
        case _:
            left.touch()
            left.chmod(0o666)
    with ExitStack() as resources, pytest.raises(UntrustedError, match=r"new.draft"):
        open_draft(tmp_path / "new", resources)
    assert victim.read_bytes() == b"precious"


def test_f14_all_commands_work_without_hard_links(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(directories, "_rename_noreplace", refuse)
    place.fill(MIXED)
    xml = place.directory / "xml"
    dump_to_file(place.files, xml)
    with pytest.raises(RefusedError, match="exists already"):
        dump_to_file(place.files, xml)
    with xml.open("rb") as source:
        restore(source, "xml", place.files, replace=True)
    repair(place.files, place.directory / "repaired")
    assert place.rows(place.directory / "repaired") == place.rows()
    assert place.mounts()


def test_f16_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RefusedError, match="cannot look at"):
        find_files(None, metadata=tmp_path / "loop", environ={})


# Where the files are


def test_g09_metadata_beside_a_cache_is_found_without_the_origin(tmp_path: Path) -> None:
    cache = tmp_path / "vm.cache"
    with pytest.raises(UsageError, match="name the cache"):
        find_files(None, cache=cache, environ={})
    beside = tmp_path / "vm.cache.metadata"
    beside.touch()
    assert find_files(None, cache=cache, environ={}) == Files(beside, cache, None)


def test_g09_who_names_no_cache_is_told_what_was_last_used(tmp_path: Path) -> None:
    """G09: after a crash, whoever forgot ``--cache`` was told of a file in the home directory that never was."""
    place = Place(tmp_path)
    place.fill(MIXED, clean=False)
    files = Files(tmp_path / "forgotten", tmp_path / "no cache", str(place.origin))
    with pytest.raises(RefusedError) as caught:
        check(files)
    assert f"last used: --cache {place.cache} --metadata {place.metadata}; " in str(caught.value)
    assert "\n" not in str(caught.value)
    place.metadata.unlink()
    with pytest.raises(RefusedError, match=f"last used: --metadata {place.metadata}; "):
        check(files)


def test_g09_an_origin_without_a_claim_tells_of_none(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for origin in (str(place.origin), str(tmp_path / "nowhere")):
        with pytest.raises(RefusedError) as caught:
            check(Files(tmp_path / "forgotten", tmp_path / "no cache", origin))
        assert "last used" not in str(caught.value)
