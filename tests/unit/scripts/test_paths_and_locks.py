"""Scripts import nothing from the directory where they are called, and install nothing that is not in the locks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
SHELL = [
    path
    for directory in ("scripts", ".ci")
    for path in (ROOT / directory).iterdir()
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
]
PYTHON_OF_MODULES = re.compile(r"""python[\w.]*[")}]* (?P<options>(?:-\S+ )*)-[mc] """)
LOCKED = re.compile(
    r"(?m)^(?P<what>[^\s]+==[^\s]+(?: ; [^\\\n]+)?) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)


def dependencies() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by the lock that has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    texts = {
        "install": [*project["project"]["dependencies"], *extras["dev"], *extras["plots"]],
        "build": [*groups["build"], *project["build-system"]["requires"]],
        "lock": groups["lock"],
    }
    return {lock: list(map(Requirement, wanted)) for lock, wanted in texts.items()}


def locked(lock: str) -> dict[str, Requirement]:
    """What a lock has for this Python, by name."""
    found = [Requirement(match["what"]) for match in LOCKED.finditer((ROOT / "locks" / f"{lock}.txt").read_text())]
    return {one.name: one for one in found if one.marker is None or one.marker.evaluate()}


def test_f21_shell_scripts_run_modules_without_the_current_directory() -> None:
    assert len(SHELL) > 10
    runs = [(path.name, match) for path in SHELL for match in PYTHON_OF_MODULES.finditer(path.read_text())]
    assert {"bench", "boot-vm", "demo", "figures", "qemu-drive", "setup", "test"} <= {name for name, _ in runs}
    for name, match in runs:
        assert {"-P ", "-I "} & set(re.findall(r"-\S+ ", match["options"])), (name, match[0])


@pytest.mark.parametrize("words", [["scripts/figures", "--help"], ["scripts/crash-hunt", "--help"]])
def test_f21_modules_beside_the_caller_are_not_imported(tmp_path: Path, words: list[str]) -> None:
    for name in ("argparse", "random", "signal", "trio"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the current directory')")
    script, *arguments = words
    done = subprocess.run(
        [ROOT / script, *arguments], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=600
    )
    assert "taken from" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_f21_simulations_side_by_side_import_nothing_from_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "multiprocessing.py").write_text("raise SystemExit('taken from the current directory')")
    lines = "".join(f"{i},r,{i % 97 * 4096},4096\n" for i in range(60_000))
    (tmp_path / "trace.csv").write_text(f"t_us,op,offset,length\n{lines}")
    command = [str(Path(sys.executable).parent / "fusecache"), "simulate", "trace.csv"]
    options = ["--policy", "smq", "--block-size", "4KiB", "--cache-size", "10%"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, env=environ, check=False, capture_output=True, text=True, timeout=600
    )
    assert "taken from" not in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lock", ["install", "build", "lock"])
def test_f21_every_dependency_is_locked_in_a_version_that_fits(lock: str) -> None:
    found = locked(lock)
    for wanted in dependencies()[lock]:
        one = found[wanted.name.lower().replace("_", "-")]
        (pin,) = one.specifier
        assert pin.version in wanted.specifier, (wanted, one)


@pytest.mark.parametrize("lock", ["install", "build", "lock"])
def test_f21_every_line_of_a_lock_has_hashes(lock: str) -> None:
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    rest = re.sub(r"(?m)^ *#.*\n", "", text)
    assert LOCKED.sub("", rest).strip() == ""


def test_f21_what_is_installed_is_what_is_locked() -> None:
    for name, one in {**locked("install"), **locked("build")}.items():
        (pin,) = one.specifier
        assert version(name) == pin.version
