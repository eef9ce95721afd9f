"""What is shown on a terminal, and nowhere else.

Rich takes longer to import than all the rest of a command, so whoever writes into a pipe or a file does without.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def show_table(rows: Mapping[str, str]) -> None:
    """Print names and values on stdout; values that are too long are folded beside their names."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console = Console(highlight=False)
    with console.capture() as shown:
        console.print(table)
    for line in shown.get().splitlines():
        console.out(line.rstrip(), highlight=False)


@contextmanager
def counting(task: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how many blocks are done, and when all are; yields what is told ``(done, total)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks, ready in"))
    with _progress(*columns, TimeRemainingColumn()) as progress:
        shown = progress.add_task(task, total=total)
        yield lambda done, total: progress.update(shown, total=total, completed=done)


@contextmanager
def waiting(task: str) -> Iterator[None]:
    """Show on stderr what is waited for, and for how long already."""
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as progress:
        progress.add_task(task, total=None)
        yield


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=Console(stderr=True), transient=True)
