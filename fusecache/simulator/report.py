"""Results for people, and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from fusecache.lines import printable
from fusecache.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.simulator.result import Result

_COLUMNS: Final = ("hits", "ratio", "promoted", "written\nback", "bytes to\ncache", "slow ops\nper 1000")
_WIDEST: Final = 10_000


def results_json(results: Sequence[Result]) -> str:
    """Write results as a list of flat objects."""
    return json.dumps([asdict(result) for result in results], indent=2)


def print_results(console: Console, results: Sequence[Result]) -> None:
    """Print the results of one trace with one block size: a section for each cache size, the limits at its end."""
    first = results[0]
    console.print(
        f"[bold]{escape(printable(first.trace))}[/]: "
        f"{first.requests:,} requests of blocks of {format_size(first.block_size)}, "
        f"{first.unique_blocks:,} different blocks",
        soft_wrap=True,
    )
    if first.notes:
        console.print(escape(printable(first.notes)), soft_wrap=True)
    console.print(escape(_data_paths(results)), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("cache", no_wrap=True)
    table.add_column("policy", overflow="fold")
    for name in (*_COLUMNS, f"{first.disk}\ntime"):
        table.add_column(name, justify="right", overflow="fold")
    for cache_blocks, group in groupby(results, lambda result: result.cache_blocks):
        table.add_section()
        size = format_size(cache_blocks * first.block_size)
        for result in group:
            table.add_row(size, *_texts(result))
            size = ""
    if not console.is_terminal:
        # What goes into a file or a pipe is as wide as it needs to be.
        console.width = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.print(table)


def _data_paths(results: Sequence[Result]) -> str:
    """Say which policy was played by which data path: ``fill: smq; absorb: adaptive, opt``."""
    paths: dict[str, dict[str, None]] = {}
    for result in results:
        paths.setdefault(result.data_path, {})[result.policy] = None
    return "; ".join(f"{path}: {', '.join(policies)}" for path, policies in paths.items())


def _texts(result: Result) -> tuple[str, ...]:
    return (
        escape(result.policy),
        f"{result.hits:,}",
        f"{result.hit_ratio:.2%}",
        f"{result.promotions:,}",
        f"{result.writebacks:,}",
        format_size(result.cache_bytes_written),
        f"{result.slow_ops_per_1000:.1f}",
        f"{result.modelled_seconds:,.0f}s",
    )


@contextmanager
def progress_bar(console: Console, name: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that shows which share of the work on ``name`` is done; only a terminal shows it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("ready in"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(escape(name), total=1.0)
        yield lambda share: progress.update(task, completed=share)
