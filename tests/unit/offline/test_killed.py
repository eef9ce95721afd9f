"""Every tool, killed at its lines one after the other: it has made nothing worse, and can be run again.

The tool runs in a process of its own, in which a line of the code that it runs is the last one.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fusecache.errors import RefusedError
from fusecache.offline import checking, dumping, repairing, restoring, verifying, writing_back
from tests.unit.offline.places import BLOCK, MIXED, PARTS, Place
from tests.unit.offline.test_verifying import rot_in_cache

POINTS = 16
"""Lines at which each tool is killed, spread evenly over those that it runs."""
KILLED = 77

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Tool = Callable[[Place], object]


def lines_run(place: Place, tool: Tool) -> int:
    """Count the lines of fusecache that a tool runs, in a process of its own."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        with suppress(BaseException):
            counter = Counter(sys.maxsize)
            counter.run(lambda: tool(place))
            os.write(writing, str(counter.lines).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return int(pipe.read())


def run_until(place: Place, tool: Tool, line: int) -> bool:
    """Run a tool in a process that ends at a line; returns whether it came to that."""
    if not (child := os.fork()):
        with suppress(BaseException):
            Counter(line).run(lambda: tool(place))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


class Counter:
    """Counts lines of fusecache's code in all threads, and ends the process at the last one."""

    def __init__(self, last: int) -> None:
        self.lines = 0
        self._last = last

    def run(self, function: Callable[[], object]) -> None:
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        try:
            function()
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if "/fusecache/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.lines += 1
            if self.lines >= self._last:
                os._exit(KILLED)
        return self._trace


@pytest.fixture(autouse=True)
def _temporary_files_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def deaths(tmp_path: Path, prepare: Callable[[Place], object], tool: Tool) -> Iterator[Place]:
    """Yield a place for each line at which the tool was killed there."""

    def prepared(number: int) -> Place:
        directory = tmp_path / f"place{number}"
        directory.mkdir()
        place = Place(directory, origin_blocks=64)
        prepare(place)
        return place

    lines = lines_run(prepared(0), tool)
    assert lines > POINTS
    for number in range(1, POINTS + 1):
        place = prepared(number)
        assert run_until(place, tool, lines * number // (POINTS + 1))
        yield place


def fill(place: Place) -> None:
    place.fill(MIXED, regions=[1, 2], clean=False, parts={7: PARTS[7]})  # a clean one: a dump refuses the others


def dump_text(place: Place) -> str:
    output = io.StringIO()
    dumping.dump(place.files, output)
    return output.getvalue()


def restore(place: Place, *, replace_it: bool = False) -> object:
    source = io.BytesIO((place.directory / "xml").read_bytes())
    return restoring.restore(source, "xml", place.files, replace=replace_it)


def test_dump(tmp_path: Path) -> None:
    def tool(place: Place) -> None:
        dumping.dump_to_file(place.files, place.directory / "xml")

    for place in deaths(tmp_path, fill, tool):
        with suppress(RefusedError):
            tool(place)
        assert (place.directory / "xml").read_text() == dump_text(place)


def dump_and_lose(place: Place) -> None:
    fill(place)
    (place.directory / "xml").write_text(dump_text(place))
    place.metadata.unlink()


def test_restore(tmp_path: Path) -> None:
    for place in deaths(tmp_path, dump_and_lose, restore):
        was_there = place.metadata.exists()
        if was_there:
            with pytest.raises(RefusedError, match="exists already"):
                restore(place)
        else:
            restore(place)
        assert dump_text(place) == (place.directory / "xml").read_text()
        assert place.mounts()


def dump_and_spoil(place: Place) -> None:
    fill(place)
    (place.directory / "xml").write_text(dump_text(place))
    place.sql("UPDATE blocks SET dirty = 7")


def test_restore_in_the_place_of_another(tmp_path: Path) -> None:
    states = set()
    for place in deaths(tmp_path, dump_and_spoil, lambda place: restore(place, replace_it=True)):
        old = place.directory / "metadata.old"
        assert place.metadata.exists() or old.exists()
        states.add((place.metadata.exists(), old.exists()))
        with suppress(RefusedError):
            restore(place, replace_it=True)
        assert old.exists()
        assert dump_text(place) == (place.directory / "xml").read_text()
        assert place.mounts()
    assert (True, False) in states


def damage(place: Place) -> None:
    place.fill(MIXED, regions=[1, 2], clean=False, parts=PARTS)
    with place.metadata.open("r+b") as file:
        file.write(bytes(4096))


def test_repair(tmp_path: Path) -> None:
    def tool(place: Place) -> None:
        repairing.repair(place.files, place.directory / "repaired")

    for place in deaths(tmp_path, damage, tool):
        damaged = place.metadata.read_bytes()
        with suppress(RefusedError):
            tool(place)
        assert place.metadata.read_bytes() == damaged
        assert place.dirty(place.directory / "repaired") == MIXED.keys()
        repaired = place.rows(place.directory / "repaired")
        assert {row.cblock: row.valid for row in repaired if row.valid is not None} == PARTS
        assert place.mounts(place.directory / "repaired")


@pytest.mark.parametrize("clean", [True, False])
def test_writeback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: bool) -> None:
    monkeypatch.setattr(writing_back, "BATCH_BYTES", 2 * BLOCK)

    def prepare(place: Place) -> None:
        place.fill(MIXED, regions=[] if clean else [1, 2], clean=clean, parts=PARTS)

    def tool(place: Place) -> None:
        writing_back.write_back(place.config, {}, lambda *_: None, retries=0)

    remaining = set()
    for place in deaths(tmp_path, prepare, tool):
        truth = b"".join(place.content.values())
        assert b"".join(place.image().values()) == truth
        remaining.add(len(place.dirty()))
        assert place.mounts()
        tool(place)
        assert place.origin.read_bytes()[: len(truth)] == truth
        assert place.dirty() == set()
        # Killed at its very end it leaves an origin that seems to be changed: then what is clean is dropped.
        kept = {row.cblock: row.valid for row in place.rows() if row.valid is not None}
        assert kept == (PARTS if place.rows() else {})
    assert len(remaining) > 2


def test_writeback_by_force(tmp_path: Path) -> None:
    def prepare(place: Place) -> None:
        place.fill(MIXED)
        os.utime(place.origin, ns=(0, 0))

    def tool(place: Place) -> None:
        writing_back.write_back(place.config, {}, lambda *_: None, retries=0, force=True)

    for place in deaths(tmp_path, prepare, tool):
        truth = b"".join(place.content.values())
        assert b"".join(place.image().values()) == truth
        tool(place)
        assert place.origin.read_bytes()[: len(truth)] == truth


def test_clearing_the_mark(tmp_path: Path) -> None:
    def prepare(place: Place) -> None:
        fill(place)
        place.sql("UPDATE meta SET value = '1' WHERE name = 'needs_check'")

    def tool(place: Place) -> None:
        checking.clear_needs_check(place.files, checking.check(place.files))

    for place in deaths(tmp_path, prepare, tool):
        rows = place.rows()
        tool(place)
        assert place.rows() == rows
        assert place.mounts()


def test_writing_a_stamp(tmp_path: Path) -> None:
    def prepare(place: Place) -> None:
        fill(place)
        with place.cache.open("r+b") as file:
            file.write(bytes(4096))

    def tool(place: Place) -> None:
        checking.put_stamp(place.files, checking.check(place.files))

    for place in deaths(tmp_path, prepare, tool):
        with suppress(RefusedError):
            tool(place)
        assert place.mounts()


def test_healing(tmp_path: Path) -> None:
    def prepare(place: Place) -> None:
        place.fill(MIXED)
        rot_in_cache(place, 1)

    def tool(place: Place) -> None:
        verifying.verify(place.files, checking.Report(), heal=True)

    for place in deaths(tmp_path, prepare, tool):
        tool(place)
        assert place.image() == place.content
        assert place.mounts()
