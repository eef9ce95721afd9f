"""Lay figures out as tables in reStructuredText, for a terminal as well as for a document, and as JSON.

Each section becomes a table: a line for each thing measured, a column for each system, at last the target and whether
it is met, and what is hoped for beyond it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest

from scripts.benchmarks.suite.measuring import Figure


def rows(figures: Sequence[Figure], systems: Iterable[str]) -> list[list[str]]:
    """Lay out the figures of one section, the heading first; columns are in the order of ``systems``, others follow."""
    present = dict.fromkeys(figure.system for figure in figures)
    columns = [system for system in systems if system in present]
    columns += [system for system in present if system not in columns]
    lines: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
        lines.setdefault(name, {})[figure.system] = figure
    has_targets = any(figure.target for figure in figures)
    has_aims = any(figure.aim is not None for figure in figures)
    table = [["what", *columns, *(("target", "met") if has_targets else ()), *(("aim",) if has_aims else ())]]
    for name, cells in lines.items():
        row = [name, *(cell(cells[system]) if system in cells else "" for system in columns)]
        if has_targets:
            judged = [figure for figure in cells.values() if figure.target]
            row.append("; ".join(dict.fromkeys(figure.target for figure in judged)))
            row.append("; ".join(verdict(figure) for figure in judged))
        if has_aims:
            row.append("; ".join(f"{figure.aim:g}" for figure in cells.values() if figure.aim is not None))
        table.append(row)
    return table


def verdict(figure: Figure) -> str:
    """Say whether the target is met, and whether more is."""
    return "aim" if figure.reaches_aim else "yes" if figure.is_met else "NO"


def summary(figures: Sequence[Figure]) -> list[list[str]]:
    """List all that has an aim, the heading first: what was measured, how it is, what it must be and what is hoped."""
    lines = [["what", "system", "is", "must", "aim", "met"]]
    for figure in figures:
        if figure.aim is not None:
            name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
            sign = "x" if figure.ratio is not None else ""
            measure = f"{sign}{number(figure.measure)}"
            lines.append([name, figure.system, measure, figure.target, f"{sign}{figure.aim:g}", verdict(figure)])
    return lines


def cell(figure: Figure) -> str:
    """Write a figure: its value and its ratio, in further lines the spread of its rounds, and its note."""
    words = [number(figure.value) + ("" if figure.ratio is None else f" x{figure.ratio:.2f}")]
    if figure.spread:
        words.append(f"({number(figure.spread[0])}..{number(figure.spread[1])})")
    if figure.note:
        words.append(figure.note)
    return "\n".join(words)


def number(value: float) -> str:
    """Write a number with three digits or more."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def table(figures: Sequence[Figure], systems: Iterable[str]) -> Iterator[str]:
    """Write the table of one section, line by line."""
    return drawn(rows(figures, systems))


def drawn(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write a table, line by line, the heading first; what does not begin a cell's text goes to lines below."""
    cells = [[word.split("\n") for word in row] for row in lines]
    widths = [max(len(line) for lines in column for line in lines) for column in zip(*cells, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for place, row in enumerate(cells):
        for words in zip_longest(*row, fillvalue=""):
            yield "  ".join(map(str.ljust, words, widths)).rstrip()
        if place == 0:
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
    objects = [asdict(figure) | {"target": figure.target, "is_met": figure.is_met} for figure in figures]
    return json.dumps({"facts": facts, "figures": objects, "errors": errors}, indent=1)
