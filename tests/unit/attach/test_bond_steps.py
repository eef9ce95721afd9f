"""One generation in three parts: ended between any two steps, they still fit; of two moments, they do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusecache.attach.claims import Claims
from fusecache.attach.generation import ANY, count_of, is_accepted, is_outdated, successor
from fusecache.attach.inspection import inspect
from fusecache.attach.stamp import write_stamp
from fusecache.errors import FusecacheError, RefusedError
from fusecache.metadata.database import Database
from tests.unit.attach.test_agreement import RECORDED
from tests.unit.places import CLEAN, DIRTY, Place

STEPS = 9
"""One more than there are in the beginning and the end of a mount."""


class KilledError(BaseException):
    """Nobody catches it."""


class Steps:
    """Ends the process, as it were, before or after one of the steps that make something durable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int, *, after: bool) -> None:
        self.done = 0
        self._last = last
        self._after = after
        monkeypatch.setattr(Database, "set_values", self._step(Database.set_values))
        monkeypatch.setattr(Claims, "write", self._step(Claims.write))
        monkeypatch.setattr("fusecache.attach.claims.write_stamp", self._step(write_stamp))

    def _step(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self.done += 1
            if self.done == self._last and not self._after:
                raise KilledError
            result = real(*arguments)
            if self.done >= self._last:
                raise KilledError
            return result

        return step


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("rows", [CLEAN, DIRTY])
def test_f03_ended_between_any_two_steps_all_three_still_fit(
    tmp_path: Path, rows: tuple[tuple[int, int, bool], ...], after: bool
) -> None:
    finished = set()
    for last in range(1, STEPS + 1):
        directory = tmp_path / str(last)
        directory.mkdir()
        place = Place(directory)
        place.mount(rows=rows)
        for again in range(3):  # several times one after the other
            with pytest.MonkeyPatch.context() as monkeypatch:
                Steps(monkeypatch, last, after=after)
                try:
                    place.mount(rows=rows)
                    finished.add(last)
                except KilledError:
                    pass
            with place.bound(begin=False):
                assert place.origin.exists(), again
        place.mount(rows=rows)
        assert place.blocks() == list(rows)
        with Database.read_only(place.metadata) as database:
            assert database.superblock().previous_generation == ""
    assert finished == {STEPS}


def test_f03_every_mix_of_two_moments_is_refused(tmp_path: Path) -> None:
    """F03: before a mount, within it, after it: any part of the one with any parts of the others."""
    (tmp_path / "place").mkdir()
    place = Place(tmp_path / "place")
    place.mount(rows=DIRTY)

    def keep(name: str) -> None:
        shutil.copytree(place.directory, tmp_path / name)

    keep("1 before")
    with place.bound():
        keep("2 within")
    keep("3 killed")
    place.mount(rows=DIRTY)
    keep("4 after")
    fitting = []
    moments = sorted(path.name for path in tmp_path.iterdir() if path.name != "place")
    for cache in moments:
        for metadata in moments:
            for leftover in place.directory.glob("metadata*"):
                leftover.unlink()
            shutil.copyfile(tmp_path / cache / "cache", place.cache)
            for path in (tmp_path / metadata).glob("metadata*"):
                shutil.copyfile(path, place.directory / path.name)
            with suppress(FusecacheError):
                inspect(replace(place.config, cache_size=None), environ={}).resources.close()
                fitting.append((cache, metadata))
    assert fitting == [("4 after", "4 after")]


def test_f03_an_older_cache_with_its_own_metadata_is_refused_by_the_note(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    place = Place(tmp_path / "place")
    place.mount(rows=DIRTY)
    for name in ("cache", "metadata"):
        shutil.copyfile(place.directory / name, tmp_path / name)
    place.mount(rows=DIRTY)
    for name in ("cache", "metadata"):
        shutil.copyfile(tmp_path / name, place.directory / name)
    place.refused(RefusedError, "does not fit the note on the origin")


def test_generations_follow_one_another_and_no_two_are_the_same() -> None:
    assert count_of("") == count_of("x") == count_of("-1") == count_of("\u0663-x") == count_of("9" * 5000) == 0
    one, other = successor(""), successor("")
    assert one != other
    assert count_of(one) == 1
    assert count_of(successor(one)) == 2


def test_f03_which_generation_is_accepted_and_which_metadata_is_older() -> None:
    interrupted = replace(RECORDED, generation="6-a", previous_generation="5-x")
    assert is_accepted("6-a", interrupted)
    assert is_accepted("5-x", interrupted)
    for generation in ("", "5-y", "7-a"):
        assert not is_accepted(generation, interrupted)
        assert is_accepted(generation, replace(interrupted, previous_generation=f"5-x {ANY}"))
    assert is_accepted("", replace(RECORDED, generation=""))
    assert not is_accepted("5-x", replace(RECORDED, generation=""))
    assert [is_outdated(interrupted, generation) for generation in ("6-a", "5-x", "4-x", "6-b", "7-a")] == [
        *(False, False, False),
        *(True, True),
    ]
