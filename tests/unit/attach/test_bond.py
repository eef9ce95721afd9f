"""Generations: whatever crashes interrupt, the parts fit each other; a part of another moment does not fit the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from fusecache.attach.agreement import DisagreementError, Findings, Verdict, judge_origin
from fusecache.attach.bond import Bond, require_same_generation
from fusecache.attach.claim import Claim
from fusecache.attach.generation import ANY, is_accepted, successor
from fusecache.attach.stamp import Stamp
from fusecache.errors import RefusedError, StoreError
from fusecache.metadata import Identity, Superblock, packed
from tests.unit.places import CLEAN, DIRTY, Place

_ORIGIN: Final = Identity("/origin", "place", "0", 4096, {"inode": "17"})
_NEW: Final = Superblock(
    uuid="ours",
    block_size=4096,
    cache_blocks=1,
    region_blocks=1,
    image_bytes=4096,
    origin=_ORIGIN,
    clean_shutdown=True,
)
_STAMP: Final = Stamp("ours")
_MOUNTS: Final = 3
_BEGINNING: Final = 4
"""Steps; fewer where nothing keeps claims."""


@cache
def _superblock(values: tuple[tuple[str, str], ...]) -> Superblock:
    return Superblock.unpack(dict(values))


@dataclass(frozen=True)
class Parts:
    """What lies there between mounts."""

    values: Mapping[str, str] = field(default_factory=_NEW.pack)
    stamp: Stamp = _STAMP
    claim: Claim | None = None
    served: int = 0
    """How many mounts have served: each leaves another content in each of the parts."""
    dirty: bool = False

    def judge(self) -> Verdict:
        """Judge as a mount would; raises RefusedError."""
        superblock = _superblock(tuple(self.values.items()))
        require_same_generation(self.stamp, superblock, cache=Path("/cache"), metadata=Path("/metadata"))
        found = Findings(
            now=_ORIGIN,
            claim=self.claim,
            newer=self.dirty,
            compared=0,
            differing=0,
            is_disproved=lambda claim: claim.clean,
        )
        return judge_origin(superblock, found, arguments="/origin")


class CrashError(Exception):
    """Comes after so many steps."""


class World:
    """The parts while they are mounted; a crash comes after some steps.

    :param steps: how many are made; no crash if None.
    :param keeps: whether the origin can be given a claim.
    :param frees: whether a claim can be taken from it.
    :param read_only: whether nothing is written to it.
    """

    def __init__(
        self,
        parts: Parts,
        steps: int | None = None,
        *,
        keeps: bool = True,
        frees: bool = True,
        read_only: bool = False,
    ) -> None:
        self.parts = parts
        self.keeps = keeps
        self.frees = frees
        self._left = steps
        superblock = _superblock(tuple(parts.values.items()))
        self.bond = Bond(
            uuid=superblock.uuid,
            generation=superblock.generation,
            previous=superblock.previous_generation,
            metadata="/metadata",
            ledger=self,
            write_stamp=self.write_stamp,
            claims=self,
            claim_generation=superblock.claim_generation,
            keeps_claim=read_only,
        )

    def begin(self) -> None:
        self.set_values(packed(clean_shutdown=False) | self.bond.renewed())
        self.bond.settle()

    def serve(self, *, dirty: bool) -> None:
        self.parts = replace(self.parts, served=self.parts.served + 1, dirty=dirty)

    def end(self, *, empty: bool = False) -> None:
        self.set_values(packed(clean_shutdown=True) | self.bond.renewed())
        self.bond.settle_at_end(clean=not self.parts.dirty, empty=empty)

    def _step(self, **change: object) -> None:
        if self._left == 0:
            raise CrashError
        self._left = None if self._left is None else self._left - 1
        self.parts = replace(self.parts, **change)  # type: ignore[arg-type]

    def set_values(self, values: Mapping[str, str]) -> None:
        self._step(values={**self.parts.values, **values})

    def write_stamp(self, stamp: Stamp) -> None:
        self._step(stamp=stamp)

    def read(self) -> Claim | None:
        return self.parts.claim

    def write(self, claim: Claim) -> str:
        if self.keeps:
            self._step(claim=claim)
        return "/origin" if self.keeps else ""

    def remove(self) -> None:
        if self.frees:
            self._step(claim=None)


def _lives(parts: Parts, **abilities: bool) -> Iterator[Parts]:
    """Mount once, in each way, and crash at each step; yields what each leaves."""
    for dirty, empty in ((True, False), (False, False), (False, True)):
        for steps in count(0 if dirty else _BEGINNING):  # which is the same for all of them
            world = World(parts, steps, **abilities)
            try:
                world.begin()
                world.serve(dirty=dirty)
                world.end(empty=empty)
            except CrashError:
                yield world.parts
            else:
                yield world.parts
                break


def _histories(past: list[Parts], mounts: int, **abilities: bool) -> Iterator[list[Parts]]:
    """Yield what lay there at each moment between mounts, for each sequence of mounts."""
    yield past
    if mounts:
        for parts in _lives(past[-1], **abilities):
            yield from _histories([*past, parts], mounts - 1, **abilities)


def _is_told(parts: Parts) -> bool:
    try:
        return parts.judge() is not Verdict.SAME
    except RefusedError:
        return True


def test_no_crash_makes_the_parts_strangers() -> None:
    histories = 0
    for past in _histories([Parts()], _MOUNTS):
        histories += 1
        verdict = past[-1].judge()
        nothing_cached = past[-1].claim is None
        assert verdict is Verdict.SAME or nothing_cached, past
    assert histories > 5000


def test_no_crash_makes_the_parts_strangers_where_some_mounts_are_read_only(dirty: Parts) -> None:
    left = [dirty]
    for _ in range(_MOUNTS):
        left = [after for before in left for read_only in (True, False) for after in _ends(before, read_only=read_only)]
        for parts in left:
            assert parts.judge() is Verdict.SAME, parts
    assert len(left) > 500


def _ends(parts: Parts, *, read_only: bool) -> Iterator[Parts]:
    """Mount once, with what is dirty, and crash at each step."""
    for steps in count():
        world = World(parts, steps, read_only=read_only)
        try:
            world.begin()
            world.serve(dirty=True)
            world.end()
        except CrashError:
            yield world.parts
        else:
            yield world.parts
            break


def test_beginnings_of_read_only_mounts_that_are_interrupted_do_not_make_the_record_long(dirty: Parts) -> None:
    parts = dirty
    for _ in range(20):
        world = World(parts, 1, read_only=True)
        with pytest.raises(CrashError):
            world.begin()
        parts = world.parts
        assert parts.judge() is Verdict.SAME
    assert len(parts.values["previous_generation"].split()) == 20
    assert len(parts.values["claim_generation"].split()) <= 20


@pytest.mark.parametrize("keeps", [True, False], ids=["claims", "no claims"])
def test_a_part_of_another_moment_is_named(keeps: bool) -> None:
    """Each part alone, and any two; of an origin without claims, the cache and the metadata."""
    told = 0
    for past in _histories([Parts()], _MOUNTS, keeps=keeps):
        now = past[-1]
        for then in past[:-1]:
            if then.served == now.served:
                continue
            stale = [
                replace(now, stamp=then.stamp),
                replace(now, values=then.values, dirty=then.dirty),
            ]
            if now.values.get("origin_claimed") == "1":  # else nothing was cached at the last end
                stale += [
                    replace(now, claim=then.claim),
                    replace(now, stamp=then.stamp, values=then.values, dirty=then.dirty),
                    replace(now, stamp=then.stamp, claim=then.claim),
                    replace(now, values=then.values, claim=then.claim, dirty=then.dirty),
                ]
            for parts in stale:
                told += 1
                assert _is_told(parts), (past, parts)
    assert told > 5000


def test_beginnings_that_are_interrupted_one_after_the_other_all_count() -> None:
    world = World(Parts())
    world.begin()
    world.serve(dirty=True)
    parts = world.parts
    for steps in (1, 1, 2, 1, 3, 1):
        world = World(parts, steps)
        with pytest.raises(CrashError):
            world.begin()
        parts = world.parts
        assert parts.judge() is Verdict.SAME
    assert len(parts.values["previous_generation"].split()) == 6
    world = World(parts)
    world.begin()
    assert world.parts.values["previous_generation"] == ""
    assert world.parts.judge() is Verdict.SAME


# Claims that cannot be written


@pytest.fixture
def dirty() -> Parts:
    world = World(Parts())
    world.begin()
    world.serve(dirty=True)
    world.end()
    return world.parts


@pytest.fixture
def clean() -> Parts:
    world = World(Parts())
    world.begin()
    world.serve(dirty=False)
    world.end()
    return world.parts


@pytest.mark.parametrize("name", ["clean", "dirty"])
def test_where_no_new_claim_can_be_written_no_old_one_stays(name: str, request: pytest.FixtureRequest) -> None:
    """An old one that says that all is well would let another cache in; one that says less would refuse our own."""
    parts = request.getfixturevalue(name)
    for steps in count():
        world = World(parts, steps, keeps=False)
        try:
            world.begin()
        except CrashError:
            assert world.parts.judge() is Verdict.SAME
        else:
            assert world.parts.claim is None
            assert world.parts.values["origin_claimed"] == "0"
            assert world.parts.judge() is Verdict.SAME
            break


def test_no_mount_begins_under_a_claim_that_stays_old(clean: Parts) -> None:
    world = World(clean, keeps=False, frees=False)
    with pytest.raises(StoreError, match="neither replaced nor removed"):
        world.begin()
    assert world.parts.judge() is Verdict.SAME  # as after a crash; nothing was served


@pytest.mark.parametrize("is_dirty", [True, False])
def test_a_claim_that_stays_old_at_an_end_does_not_spoil_it(is_dirty: bool) -> None:
    world = World(Parts())
    world.begin()
    world.serve(dirty=is_dirty)
    world.keeps = world.frees = False
    world.end()
    assert world.parts.values["clean_shutdown"] == "1"
    assert world.parts.judge() is Verdict.SAME
    world = World(world.parts)
    world.begin()
    assert world.parts.judge() is Verdict.SAME
    assert world.parts.values["previous_generation"] == ""


def test_a_stamp_that_cannot_be_written_at_an_end_does_not_spoil_it(clean: Parts) -> None:
    def fail(stamp: Stamp) -> None:
        msg = "cannot write the stamp of the cache: Input/output error"
        raise StoreError(msg)

    world = World(clean)
    world.begin()
    world.serve(dirty=True)
    world.bond.write_stamp = fail
    world.end()
    assert world.parts.judge() is Verdict.SAME


# Metadata that does not know its generation


def _of(generation: str, previous: str = "") -> Superblock:
    return replace(_NEW, generation=generation, previous_generation=previous)


def test_what_fits() -> None:
    assert is_accepted("2-a", _of("2-a"))
    assert not is_accepted("1-a", _of("2-a"))
    assert not is_accepted("", _of("2-a"))
    assert is_accepted("1-a", _of("3-a", "2-a 1-a"))
    assert not is_accepted("", _of("3-a", "2-a 1-a"))
    assert is_accepted("", _of("3-a", "2-a -"))
    assert not is_accepted("1-a", _of("3-a", "2-a -"))
    assert is_accepted("7-a", _of("3-a", f"2-a {ANY}"))


def test_metadata_of_a_version_that_knew_no_generations_fits_parts_that_have_none() -> None:
    assert is_accepted("", _of(""))


def test_an_older_copy_of_a_version_that_knew_no_generations_is_told(dirty: Parts) -> None:
    """What was restored over metadata that a later version had used since."""
    with pytest.raises(RefusedError, match=r"metadata /metadata of none"):
        replace(dirty, values=_NEW.pack()).judge()
    with pytest.raises(DisagreementError, match="does not fit the note"):
        replace(dirty, values=_NEW.pack(), stamp=Stamp("ours")).judge()


@pytest.mark.parametrize("steps", range(4))
def test_the_first_mount_by_this_version_may_be_interrupted(steps: int) -> None:
    older = Parts(claim=Claim("ours", "/metadata"), dirty=True)
    assert older.judge() is Verdict.SAME
    world = World(older, steps)
    with pytest.raises(CrashError):
        world.begin()
    assert world.parts.judge() is Verdict.SAME


def test_repaired_metadata_that_lost_its_generation_takes_parts_of_any(dirty: Parts) -> None:
    values = {**dirty.values, "generation": "", "previous_generation": ANY}
    parts = replace(dirty, values=values)
    assert parts.judge() is Verdict.SAME
    world = World(parts)
    world.begin()
    assert world.parts.judge() is Verdict.SAME
    with pytest.raises(RefusedError):
        replace(world.parts, stamp=dirty.stamp).judge()


def test_generations_are_counted_and_differ() -> None:
    first, other = successor(""), successor("")
    assert first != other
    assert [text.partition("-")[0] for text in (first, successor(first), successor("9-ff"), successor("odd"))] == [
        "1",
        "2",
        "10",
        "1",
    ]


# Real files


def test_a_cache_that_is_made_anew_under_its_uuid_may_be_interrupted_before_it_begins(tmp_path: Path) -> None:
    """Its stamp, and the claim, are still of the metadata that was given up."""
    place = Place(tmp_path)
    place.mount(rows=CLEAN)
    with place.bound(format=1, begin=False):
        pass
    with place.bound() as binding:
        assert binding.was_clean
    with place.bound():
        pass


def test_metadata_from_before_generations_is_refused_once_they_were_used(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.mount(rows=CLEAN)
    older = place.metadata.read_bytes()
    place.mount(rows=DIRTY)
    place.metadata.write_bytes(older)
    for name in ("generation", "previous_generation"):
        place.sql("DELETE FROM meta WHERE name = ?", name)
    place.refused(RefusedError, "metadata .* of none: one of the two is an older copy")
