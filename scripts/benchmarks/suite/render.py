"""Lay figures out: for a terminal, in Markdown, in reStructuredText, as JSON.

Each section becomes a table: a line for each thing measured, a column for each system, at last the target and whether
it is met.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

from rich import box
from rich.table import Table
from rich.text import Text

from scripts.benchmarks.suite.figure import Figure


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as words: the heading, and lines that are as long."""

    heading: list[str]
    lines: list[list[str]]


def grid(figures: Sequence[Figure], systems: Iterable[str], separator: str = " ") -> Grid:
    """Lay out the figures of one section.

    :param systems: the order of those columns; what is not among them comes after them.
    :param separator: what stands in a cell between a figure and what is to be known of it.
    """
    present = {figure.system for figure in figures}
    columns = [system for system in systems if system in present]
    columns += sorted(present.difference(columns))
    rows: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in figures:
        rows.setdefault((figure.name, figure.unit), {})[figure.system] = figure
    has_targets = any(figure.target for figure in figures)
    lines = []
    for (name, unit), held in rows.items():
        line = [f"{name}, {unit}" if unit else name]
        line += [cell(held[system], separator) if system in held else "" for system in columns]
        if has_targets:
            judged = [figure for figure in held.values() if figure.target]
            line.append("; ".join(figure.target for figure in judged))
            line.append("; ".join("yes" if figure.is_met else "NO" for figure in judged))
        lines.append(line)
    return Grid(["", *columns, *(("target", "met") if has_targets else ())], lines)


def cell(figure: Figure, separator: str) -> str:
    """Write a figure: its value and its ratio, the spread of its rounds, and its note."""
    words = [number(figure.value) + ("" if figure.ratio is None else f" x{figure.ratio:.2f}")]
    if figure.spread:
        words.append(f"({number(figure.spread[0])}..{number(figure.spread[1])})")
    if figure.note:
        words.append(figure.note)
    return separator.join(words)


def number(value: float) -> str:
    """Write a number with three digits or more."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def rich_table(table: Grid) -> Table:
    """Lay a table out for a terminal."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number_, heading in enumerate(table.heading):
        result.add_column(heading, justify="right" if number_ else "left", overflow="fold")
    for line in table.lines:
        result.add_row(*(Text(word, "bold red" if word == "NO" else "") for word in line))
    return result


def markdown(title: str, table: Grid) -> Iterator[str]:
    """Write a table in Markdown, line by line."""
    yield f"### {title}"
    yield ""
    yield _markdown_line(table.heading)
    yield _markdown_line(["---", *("---:" for _ in table.heading[1:])])
    yield from map(_markdown_line, table.lines)
    yield ""


def _markdown_line(words: Iterable[str]) -> str:
    return f"| {' | '.join(word.replace('|', '/') for word in words)} |"


def rst(table: Grid) -> Iterator[str]:
    """Write a table in reStructuredText, line by line; what does not begin a cell's text goes to lines below."""
    rows = [[word.split("\n") for word in row] for row in (["what", *table.heading[1:]], *table.lines)]
    widths = [max(len(line) for cell_ in column for line in cell_) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for number_, row in enumerate(rows):
        for words in zip_longest(*row, fillvalue=""):
            yield "  ".join(map(str.ljust, words, widths)).rstrip()
        if number_ == 0:
            yield rule
    yield rule


def filled(document: str, parts: Mapping[str, Iterable[str]]) -> str:
    """Put parts into a document in reStructuredText that has places for them; what they had before goes.

    A place is what lies between the line ``.. bench NAME`` and the next line ``.. bench end``.  Parts without a place
    are left out, places without a part stay as they are.
    """

    def fill(place: re.Match[str]) -> str:
        name = place["name"]
        return "\n".join((f".. bench {name}", "", *parts[name], "", ".. bench end")) if name in parts else place[0]

    return re.sub(r"^\.\. bench (?P<name>\w+)$.*?^\.\. bench end$", fill, document, flags=re.DOTALL | re.MULTILINE)


def as_json(figures: Iterable[Figure], facts: Mapping[str, str], errors: Sequence[str]) -> str:
    """Write all there is to know."""
    objects = [
        asdict(figure) | {"spread": figure.spread, "target": figure.target, "is_met": figure.is_met}
        for figure in figures
    ]
    return json.dumps({"facts": facts, "figures": objects, "errors": errors}, indent=1)
