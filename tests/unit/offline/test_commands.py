"""The commands from the outside: words in; lines, files and exit codes out."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Protocol

import pytest

from fusecache import cli
from fusecache.attach.stamp import DATA_START
from tests.unit.offline.places import BLOCK, MIXED, Place


class Ran:
    """What a command answered."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Extent(Protocol):
    def __call__(self, *words: str | Path) -> Ran: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Extent:
    def run(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fusecache", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return Ran(caught.value.code, *capsys.readouterr())

    return run


def words(place: Place) -> list[str | Path]:
    return [place.origin, "--cache", place.cache, "--metadata", place.metadata]


def test_a_life(place: Place, run: Extent) -> None:
    place.fill(MIXED)
    xml = place.directory / "xml"
    checked = run("check", "--data", *words(place))
    assert (checked.code, checked.out.splitlines()[-1]) == (0, "no problems found")
    assert run("dump", *words(place), "-o", xml).code == 0
    assert run("dump", *words(place)).out == xml.read_text()
    place.metadata.unlink()
    assert run("check", *words(place)).code == 1
    restored = run("restore", *words(place), "-i", xml)
    assert (restored.code, restored.out) == (0, f"{place.metadata}: 20 blocks, 5 of them dirty\n")
    written = run("writeback", *words(place))
    assert (written.code, written.out) == (0, "5 of 5 dirty blocks were written to the origin\n")
    repaired = run("repair", *words(place), "-o", place.directory / "new")
    assert (repaired.code, repaired.out.splitlines()[0]) == (0, "20 blocks, 0 of them count as dirty")
    assert run("check", "--metadata", place.directory / "new").code == 0


def test_a_restore_without_an_origin_from_stdin(place: Place, run: Extent, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fill(MIXED)
    text = run("dump", "--metadata", place.metadata).out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert run("restore", "-o", place.directory / "new").code == 0
    assert place.mounts(place.directory / "new")


def test_problems_are_exit_code_1_and_say_what_to_type(place: Place, run: Extent) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET oblock = 64 WHERE cblock = 4")
    checked = run("check", *words(place))
    assert checked.code == 1
    assert checked.err == "fusecache: 1 problem found\n"
    assert checked.out.count("problem: ") == checked.out.count("  means: ") == checked.out.count("  next:  ") == 1
    command = checked.out.splitlines()[-1].removeprefix("  next:  fusecache ").split()
    repaired = run(*command)
    assert repaired.code == 0
    assert "lost, the origin has an older version: cache bytes 20480-24575 (block 4)" in repaired.out
    assert place.mounts(Path(f"{place.metadata}.repaired"))


def test_needs_check_is_cleared(place: Place, run: Extent) -> None:
    place.fill(MIXED)
    place.sql("UPDATE meta SET value = '1' WHERE name = 'needs_check'")
    assert run("check", *words(place)).code == 1
    assert run("writeback", *words(place)).code == 1
    assert run("check", "--clear-needs-check", *words(place)).code == 0
    assert run("check", *words(place)).code == 0


def test_rot_is_healed(place: Place, run: Extent) -> None:
    place.fill(MIXED)
    with place.cache.open("r+b") as file:
        file.seek(DATA_START + BLOCK)
        file.write(b"rotten")
    assert run("check", *words(place)).code == 0
    assert run("check", "--data", *words(place)).code == 1
    assert run("check", "--heal", *words(place)).code == 0
    assert run("check", "--data", *words(place)).code == 0


def test_a_stamp_is_written(place: Place, run: Extent) -> None:
    place.fill(MIXED)
    with place.cache.open("r+b") as file:
        file.write(bytes(DATA_START))
    assert run("check", *words(place)).code == 1
    assert run("check", "--write-stamp", *words(place)).code == 0
    assert place.mounts()


def test_default_paths_are_those_of_mount(
    place: Place, run: Extent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    checked = run("check", place.origin)
    assert checked.code == 1
    assert f"there is no metadata {tmp_path}/fusecache/origin-" in checked.err
    assert "name --metadata and --cache as at the mount" in checked.err


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("--nr-blocks 1000", "4894592 bytes (4.7MiB) for 1000 blocks"),
        ("--block-size 64KiB --cache-size 1GiB", "7602176 bytes (7.3MiB) for 16384 blocks"),
        ("--block-size 64KiB --cache-size 65537 -n", "4718944"),
    ],
)
def test_sizes(run: Extent, words: str, size: str) -> None:
    ran = run("metadata-size", *words.split())
    assert (ran.code, ran.out) == (0, f"{size}\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("check", "name the cache: by its ORIGIN, or by --metadata FILE"),
        ("dump", "name the cache: by its ORIGIN"),
        ("restore -i x", "name the cache: by its ORIGIN"),
        ("repair -o x", "name the cache: by its ORIGIN"),
        ("repair --metadata x", "Missing option"),
        ("repair --metadata x -o y --block-size 1000", "block size 1000"),
        ("writeback", "Missing argument"),
        ("writeback o --retry-count -1", "--retry-count"),
        ("metadata-size", "give --block-size and --cache-size, or --nr-blocks"),
        ("metadata-size --cache-size 1G", "give --block-size and --cache-size, or --nr-blocks"),
        ("metadata-size --cache-size 1G --block-size 5", "block size 5"),
        ("metadata-size --cache-size 1G --nr-blocks 5", "stands in place of"),
        ("metadata-size --nr-blocks 0", "--nr-blocks"),
        ("check o p", "unexpected extra argument"),
    ],
)
def test_bad_usage_is_exit_code_2(run: Extent, words: str, complaint: str) -> None:
    ran = run(*words.split())
    assert ran.code == 2
    assert complaint in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("restore --metadata m -i nowhere", "fusecache: cannot read nowhere: No such file or directory\n"),
        ("dump --metadata nowhere", "there is no metadata"),
        ("repair --metadata nowhere -o x", "there is no metadata"),
        ("writeback nowhere --cache c --metadata m", "cannot open"),
    ],
)
def test_what_is_missing_is_exit_code_1(
    run: Extent, words: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(*words.split())
    assert ran.code == 1
    assert complaint in ran.err
    assert ran.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
