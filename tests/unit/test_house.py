"""The house: rooms are entered by their faces, faces export and do nothing else, modules stay short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
MOST_LINES = 400
FACES = sorted(
    path.parent for package in ("fusecache", "policies") for path in PROJECT.glob(f"{package}/**/__init__.py")
)
MODULES = sorted(path for package in ("fusecache", "policies") for path in PROJECT.glob(f"{package}/**/*.py"))
SCRIPTS = sorted(path for path in PROJECT.glob("scripts/**/*") if path.suffix == ".py")
DOCUMENTS = sorted([*PROJECT.glob("*.rst"), *PROJECT.glob("docs/**/*.rst")])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts)


ROOMS = {name_of(face) for face in FACES} - {"fusecache", "policies"}


def room_of(module: str) -> str:
    """Return the innermost room in which a module lies, or the module itself if it lies in none."""
    parts = module.split(".")
    inner = [room for end in range(len(parts), 0, -1) if (room := ".".join(parts[:end])) in ROOMS]
    return inner[0] if inner else module


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (
                f"{node.module}.{alias.name}" for alias in node.names if is_module(f"{node.module}.{alias.name}")
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def is_module(name: str) -> bool:
    path = PROJECT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def test_there_are_rooms_and_modules() -> None:
    assert {"fusecache.block", "fusecache.frontends.fuse", "policies.structures"} <= ROOMS
    assert len(MODULES) > len(ROOMS)


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=name_of)
def test_other_rooms_are_entered_by_their_face(path: Path) -> None:
    mine = room_of(name_of(path.parent if path.name == "__init__.py" else path))
    for module in imports_of(path):
        room = room_of(module)
        if room in ROOMS - {"policies.structures"} and room != mine:
            assert module == room, f"{name_of(path)} imports {module} past the face of {room}"


@pytest.mark.parametrize("face", [face for face in FACES if name_of(face) in ROOMS - {"fusecache.cli"}], ids=name_of)
def test_a_face_exports_and_does_nothing_else(face: Path) -> None:
    docstring, *statements = ast.parse((face / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr), "it says what the room is for"
    for statement in statements:
        if isinstance(statement, ast.Assign):
            assert [ast.unparse(target) for target in statement.targets] == ["__all__"]
        else:
            assert isinstance(statement, ast.ImportFrom)
            assert str(statement.module).startswith(f"{name_of(face)}.")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_modules_that_documents_name_are_there(document: Path) -> None:
    for name in re.findall(r"``([a-z_]+(?:/[a-z_0-9]+)+\.py)", document.read_text()):
        assert any((PROJECT / root / name).is_file() for root in ("", "fusecache", "tests")), f"{document.name}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
