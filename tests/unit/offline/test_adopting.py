"""Binding a cache to an origin that was copied, moved or restored: shown to agree first, or refused in one line."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache.attach.claim import Claim
from fusecache.attach.stamp import Stamp, read_stamp, write_stamp
from fusecache.config import KIB
from fusecache.errors import BusyError, FusecacheError, RefusedError
from fusecache.metadata import TOUCHED
from fusecache.offline.adopting import Adopted, adopt
from fusecache.offline.checking import check
from fusecache.offline.opening import Files
from fusecache.offline.verifying import verify
from tests.unit.offline.places import BLOCK, MIXED, TAIL, Blocks, Place
from tests.unit.offline.test_commands import Extent, run, words
from tests.unit.offline.test_killed import deaths
from tests.unit.offline.test_verifying import rot_in_origin

__all__ = ["run"]  # a fixture

CLEAN: Blocks = {cblock: (cblock, False) for cblock in range(20)}
ALL_DIRTY: Blocks = {cblock: (cblock, True) for cblock in range(5)}
CLAIM = "user.fusecache.claim"


def adopted(place: Place, *, force: bool = False, files: Files | None = None) -> Adopted:
    return adopt(files or place.files, {}, lambda *_: None, force=force)


def refused(place: Place, expected: str, *, force: bool = False, files: Files | None = None) -> None:
    """It is refused in one line, and nothing was changed."""
    before = place.contents()
    with pytest.raises(FusecacheError, match=expected) as caught:
        adopted(place, force=force, files=files)
    assert "\n" not in str(caught.value)
    assert place.contents() == before


def copied(place: Place, name: str = "copy", *, copy: Callable[[Path, Path], object] = shutil.copy2) -> Place:
    """Copy all three parts to a place of their own."""
    directory = place.directory.parent / name
    directory.mkdir()
    other = Place(directory)
    for path in place.directory.iterdir():
        copy(path, directory / path.name)
    other.content = dict(place.content)
    return other


def touch_claim(path: Path, claim: Claim) -> None:
    os.setxattr(path, CLAIM, claim.pack())


@pytest.mark.parametrize("clean", [True, False])
def test_f03_a_copy_of_all_three_is_refused_adopted_and_mounted_and_so_is_the_original(
    place: Place, clean: bool
) -> None:
    place.fill(MIXED, regions=[] if clean else [1, 2], clean=clean)
    copy = copied(place)
    with pytest.raises(RefusedError, match="belongs to another origin"):
        copy.mounts()
    found = adopted(copy)
    assert found == Adopted(str(copy.origin), 15 if clean else 13, 5 if clean else 7)
    assert copy.mounts()
    assert place.mounts()
    assert copy.image() == place.image() == place.content
    assert copy.dirty() == place.dirty()
    for part in ("cache", "metadata", "origin"):
        mixed = Place(_made(copy.directory.parent / f"mixed {part}"))
        for name in ("origin", "cache", "metadata"):
            setattr(mixed, name, getattr(place if name == part else copy, name))
        mixed.config = replace(
            mixed.config, origin=str(mixed.origin), cache=mixed.cache, metadata=mixed.metadata, cache_size=None
        )
        with pytest.raises(FusecacheError, match=r"of generation|another origin"):
            mixed.mounts()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_adopting_what_belongs_already_changes_nothing_but_the_generation(place: Place) -> None:
    place.fill(MIXED)
    before = place.values()
    adopted(place)
    after = place.values()
    for name in ("generation", TOUCHED):
        assert after.pop(name) != before.pop(name)
    assert after == before
    assert place.mounts()


def test_f03_a_plain_copy_has_no_time_and_no_note(place: Place) -> None:
    """F03: whether it was written since nobody can say; that matters where the cache has something newer."""
    place.fill(MIXED)
    dirty = copied(place, copy=shutil.copyfile)
    refused(dirty, "was written after the last mount, or is a copy .* 5 newer blocks .* use --force")
    assert adopted(dirty, force=True).newer == 5
    assert dirty.mounts()
    assert dirty.image() == place.content


def test_f03_a_plain_copy_of_an_origin_that_has_everything(place: Place) -> None:
    place.fill(CLEAN)
    copy = copied(place, copy=shutil.copyfile)
    adopted(copy)
    assert copy.mounts()
    assert len(copy.rows()) == len(CLEAN)


def test_f02_content_that_differs_is_refused_whatever_is_forced(place: Place) -> None:
    place.fill(MIXED)
    copy = copied(place)
    rot_in_origin(copy, MIXED[1][0])
    for force in (False, True):
        refused(copy, "1 of 15 clean blocks are not what .* 5 blocks in the cache are newer", force=force)


def test_an_origin_that_is_too_short(place: Place) -> None:
    place.fill(MIXED)
    size = place.origin.stat().st_size
    os.truncate(place.origin, size - TAIL)
    refused(place, f"has {size - TAIL} bytes, fewer than the image's {size}", force=True)


def test_where_nothing_can_be_compared_it_has_to_be_forced(place: Place) -> None:
    place.fill(ALL_DIRTY)
    copy = copied(place)
    refused(copy, "nothing that is cached can be compared with .* use --force")
    assert adopted(copy, force=True) == Adopted(str(copy.origin), 0, 5)
    assert copy.mounts()


def test_an_empty_cache_needs_no_proof(place: Place) -> None:
    place.fill({})
    copy = copied(place)
    assert adopted(copy) == Adopted(str(copy.origin), 0, 0)
    assert copy.mounts()


def test_f03_a_cache_of_another_moment_or_of_others(place: Place) -> None:
    place.fill(MIXED)
    older = copied(place, "older")
    place.fill(MIXED)
    copy = copied(place)
    shutil.copy2(older.cache, copy.cache)
    refused(copy, "one of the two is an older copy", force=True)
    fd = os.open(copy.cache, os.O_RDWR)
    try:
        stamp = read_stamp(fd)
        assert stamp is not None
        write_stamp(fd, Stamp("another", stamp.generation))
        refused(copy, "does not belong to metadata", force=True)
        os.pwrite(fd, bytes(4096), 0)
        refused(copy, "does not belong to metadata", force=True)
    finally:
        os.close(fd)


def test_f01_an_origin_that_another_cache_claims(place: Place) -> None:
    place.fill(MIXED)
    copy = copied(place)
    touch_claim(copy.origin, Claim("another", "/nowhere"))
    refused(copy, "newer data of origin .* may be in the cache that metadata /nowhere", force=True)
    touch_claim(copy.origin, Claim("another", "/nowhere", clean=True))
    refused(copy, "another cache was in front of .* 5 newer blocks .* use --force")
    adopted(copy, force=True)
    assert copy.mounts()


def test_f03_what_a_copy_wrote_since_is_not_for_the_original_to_overwrite(place: Place) -> None:
    """F03: both had the same newer blocks; the copy wrote them back, and then newer ones."""
    place.fill(MIXED)
    copy = copied(place)
    adopted(copy)
    copy.fill({cblock: (oblock, False) for cblock, (oblock, _) in MIXED.items()})
    mixed = Files(place.metadata, place.cache, str(copy.origin))
    refused(place, "was used by a copy of this cache", files=mixed)
    refused(place, "was used by a copy of this cache", files=mixed, force=True)


def test_what_is_missing(place: Place) -> None:
    place.fill(MIXED)
    none = place.directory / "none"
    for files in (
        replace(place.files, metadata=none),
        replace(place.files, cache=none),
        replace(place.files, origin=str(none)),
        replace(place.files, cache=place.metadata),
        replace(place.files, metadata=place.cache),
        replace(place.files, cache=place.origin),
        replace(place.files, origin=str(place.cache)),
    ):
        refused(place, ".", files=files, force=True)


def test_what_is_mounted_is_left_alone(place: Place) -> None:
    with place.bound(), pytest.raises(BusyError, match="is in use: unmount it first"):
        adopted(place)


def test_damaged_metadata(place: Place) -> None:
    place.fill(MIXED)
    place.sql("UPDATE meta SET value = 'x' WHERE name = 'block_size'")
    refused(place, "damaged: block_size is 'x'")


def test_f03_killed_anywhere_it_can_be_done_again_and_nothing_is_lost(tmp_path: Path) -> None:
    content: dict[int, bytes] = {}

    def prepare(place: Place) -> None:
        place.fill(MIXED, regions=[1, 2], clean=False)
        shutil.copyfile(place.origin, place.directory / "moved")
        place.origin.unlink()
        (place.directory / "moved").rename(place.origin)
        content.update(place.content)

    for place in deaths(tmp_path, prepare, adopted):
        with suppress(FusecacheError):  # before the first step it is refused as it was
            assert place.mounts()
            assert place.image() == content
        adopted(place)
        assert place.mounts()
        assert place.image() == content


# The command


def test_the_command_says_what_it_found(place: Place, run: Extent) -> None:
    place.fill(MIXED)
    copy = copied(place)
    answered = run("adopt", *words(copy))
    assert (answered.code, answered.err) == (0, "")
    assert answered.out.splitlines() == [
        f"15 clean blocks were compared with {copy.origin}, and agree",
        "5 blocks in the cache are newer, and stay dirty",
        f"the cache belongs to {copy.origin} from now on",
    ]


def test_the_command_refuses_in_one_line(place: Place, run: Extent) -> None:
    place.fill(ALL_DIRTY)
    copy = copied(place)
    answered = run("adopt", *words(copy))
    assert (answered.code, answered.out) == (1, "")
    assert answered.err.startswith("fusecache: nothing that is cached can be compared")
    assert answered.err.count("\n") == 1
    assert run("adopt", *words(copy), "--force").code == 0
    assert run("adopt").code == 2
    helped = run("adopt", "--help")
    assert helped.code == 0
    assert "--force" in helped.out


def test_on_a_terminal_it_shows_how_far_it_is(place: Place) -> None:
    place.fill(MIXED)
    command = [sys.executable, "-c", "from fusecache.cli import main; main()", "adopt", *map(str, words(place))]
    ours, its = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    try:
        subprocess.run(command, stderr=its, stdout=subprocess.PIPE, check=True, timeout=60, env=environ)
        shown = os.read(ours, 100 * KIB).decode()
    finally:
        os.close(its)
        os.close(ours)
    assert "comparing" in shown
    assert "15/15" in shown


def test_f02_the_command_that_a_refusal_tells_is_the_right_one(place: Place, run: Extent) -> None:
    place.fill(MIXED)
    copy = copied(place, "a 'strange; name")
    with pytest.raises(RefusedError) as caught:
        copy.mounts()
    _, *told = shlex.split(str(caught.value).partition("(next: `")[2].partition("`)")[0])
    assert run(*told).code == 0
    assert copy.mounts()


# Healing the origin


def test_f04_what_is_healed_is_claimed_before_it_is_dirty(place: Place) -> None:
    """F01: the note on the origin said that nothing was dirty, and another cache would have been let in."""
    place.fill(CLEAN)
    before = place.values()["generation"]
    rot_in_origin(place, 3)
    report = check(place.files)
    verify(place.files, report, heal_origin=True)
    assert not report.problems
    assert place.dirty() == {3}
    claim = Claim.unpack(os.getxattr(place.origin, CLAIM))
    assert claim is not None
    assert not claim.clean
    assert claim.generation == place.values()["generation"] != before
    assert place.mounts()
    assert place.image() == place.content


def test_f04_the_command_heals_the_origin(place: Place, run: Extent) -> None:
    place.fill(CLEAN)
    rot_in_origin(place, 3)
    assert run("check", "--data", *words(place)).code == 1
    healed = run("check", "--data", "--heal-origin", *words(place))
    assert healed.code == 0
    assert "1 blocks count as dirty now: `fusecache writeback` writes them" in healed.out
    assert run("writeback", *words(place)).code == 0
    assert place.origin.read_bytes()[3 * BLOCK : 4 * BLOCK] == place.content[3]
    assert run("check", "--data", *words(place)).code == 0


def test_f04_an_origin_that_others_changed_is_not_healed(place: Place, run: Extent) -> None:
    place.fill(CLEAN)
    with place.origin.open("r+b") as file:
        file.write(b"newer")
    before = place.contents()
    run("check", "--data", "--heal-origin", *words(place))
    assert place.contents()["origin"] == before["origin"]
    assert place.dirty() == set()
