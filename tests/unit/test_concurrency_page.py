"""The page docs/concurrency.rst names every coroutine that it is about, with as many awaits as that has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "concurrency.rst"
ROOMS = ("datapath", "migration", "durability")
MODULES = [
    path for room in ROOMS for path in sorted((PROJECT / "fusecache" / room).glob("*.py")) if path.stem != "__init__"
]


def awaits_of(node: ast.AST) -> int:
    """Count the places in a function at which others may run, without those of functions inside it."""
    count = 0
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            count += isinstance(child, ast.Await | ast.AsyncWith | ast.AsyncFor) + awaits_of(child)
    return count


def coroutines_of(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Find the coroutines in a module that wait for anything, with their awaits."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{child.name}"
            if isinstance(child, ast.AsyncFunctionDef) and (count := awaits_of(child)):
                yield name, count
            yield from coroutines_of(child, f"{name}.")
        else:
            yield from coroutines_of(child, prefix)


def in_the_code() -> dict[str, int]:
    return {
        f"{path.parent.name}/{path.name} {name}": count
        for path in MODULES
        for name, count in coroutines_of(ast.parse(path.read_text()))
    }


def on_the_page() -> dict[str, int]:
    """Read the headings, which are modules, and the first cells of rows, which are coroutines and how many awaits."""
    listed: dict[str, int] = {}
    module = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.fullmatch(r"(\w+/\w+\.py)", line):
            module = heading[1]
        elif row := re.fullmatch(r" +\* - ``([\w.]+)`` \((\d+)\)", line):
            assert f"{module} {row[1]}" not in listed, f"{module}: {row[1]} is there twice"
            listed[f"{module} {row[1]}"] = int(row[2])
    return listed


def test_every_await_is_on_the_page() -> None:
    code, page = in_the_code(), on_the_page()
    assert len(code) > len(MODULES)
    assert page == code, f"edit docs/concurrency.rst: {sorted(page.items() ^ code.items())}"


def test_awaits_are_counted_where_they_are() -> None:
    source = """
class A:
    async def f(self):
        async with x:
            await y
        async def g():
            async for z in await w:
                pass
        await g()
    async def h(self):
        pass
"""
    assert dict(coroutines_of(ast.parse(source))) == {"A.f": 3, "A.f.g": 2}
