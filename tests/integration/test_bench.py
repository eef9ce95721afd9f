from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.benchmarks.suite.__main__ import SECTIONS
from scripts.benchmarks.suite.systems import SYSTEMS
from tests.integration.mounts import discard_mount, fuse_mountpoints, run

ROOT = Path(__file__).parents[2]
SECONDS = 110

pytestmark = pytest.mark.skipif(not shutil.which("fio"), reason="fio is not installed")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where the bench works: what it should leave behind after all, we find and remove."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    yield directory
    for device, _ in loop_devices_below(directory):
        run("losetup", "--detach", device)
    for mountpoint in mountpoints_below(directory):
        discard_mount(mountpoint)


def loop_devices_below(directory: Path) -> list[tuple[str, str]]:
    lines = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").stdout.splitlines()
    devices = [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]
    return [(device, file) for device, file in devices if Path(file).is_relative_to(directory)]


def mountpoints_below(directory: Path) -> list[Path]:
    return [mountpoint for mountpoint in fuse_mountpoints() if mountpoint.is_relative_to(directory)]


def processes_about(directory: Path) -> list[str]:
    """List the command lines in which a directory occurs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if str(directory) in words and path.parent.name != str(os.getpid()):
            found.append(words)
    return found


def bench(scratch: Path, *options: str | Path) -> subprocess.Popen[str]:
    places = ("--fast", scratch, "--disk", scratch)
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.benchmarks.suite", "--smoke", *places, *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, errors = process.communicate(timeout=SECONDS)
    finally:
        process.terminate()  # not kill(): it is to clean up
        process.wait(timeout=SECONDS)
    return process.returncode, output + errors


def assert_nothing_is_left(scratch: Path) -> None:
    assert mountpoints_below(scratch) == []
    assert loop_devices_below(scratch) == []
    assert processes_about(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != "boots"])  # minutes: test_boot_times
def test_each_section_runs_and_leaves_nothing(scratch: Path, section: str) -> None:
    result = scratch.parent / "result.json"
    status, output = outcome(bench(scratch, "--sections", section, "--json", result))
    assert status == 0, output
    figures = json.loads(result.read_text())["figures"]
    assert {figure["section"] for figure in figures} == {section}
    columns = {"policies": "smq", "engines": "io_uring", "interference": "its blocks move"}
    assert columns.get(section, "fusecache") in {figure["system"] for figure in figures}, output
    assert_nothing_is_left(scratch)


@pytest.mark.parametrize("name", [name for name, system in SYSTEMS.items() if system.programs])
def test_each_peer_that_is_installed_is_used_and_leaves_nothing(scratch: Path, name: str) -> None:
    if not SYSTEMS[name].is_installed:
        pytest.skip(f"{name} is not installed")
    result = scratch.parent / "result.json"
    status, output = outcome(bench(scratch, "--sections", "verify", "--systems", name, "--json", result))
    assert status == 0, output
    notes = {figure["name"]: figure["note"] for figure in json.loads(result.read_text())["figures"]}
    assert len(notes) == 3
    assert set(notes.values()) <= {"", "wrong data"}, notes  # whatever it does with data, it was mounted and used
    assert_nothing_is_left(scratch)


def test_a_bench_that_is_interrupted_cleans_up(scratch: Path) -> None:
    result = scratch.parent / "result.json"
    process = bench(scratch, "--sections", "verify,hits", "--rounds", "1000", "--json", result)
    assert process.stderr
    try:
        assert any(line.startswith("round 2") for line in process.stderr)  # all is mounted, and fio runs
        assert mountpoints_below(scratch) != []
    finally:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)  # cleaning up goes on all the same
        status, output = outcome(process)
    assert status == 128 + signal.SIGINT, output
    assert {figure["section"] for figure in json.loads(result.read_text())["figures"]} == {"verify"}
    assert_nothing_is_left(scratch)
