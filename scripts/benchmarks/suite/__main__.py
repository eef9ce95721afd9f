"""Measure fusecache, beside the least that pyfuse3 can do and beside its peers, and hold figures against targets."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from scripts.benchmarks.rig import RigError
from scripts.benchmarks.suite import render
from scripts.benchmarks.suite.context import Context, Effort, Skipped
from scripts.benchmarks.suite.figure import Figure
from scripts.benchmarks.suite.registry import SECTIONS, load
from scripts.benchmarks.suite.systems import BARE, FUSECACHE, NONE, SYSTEMS

DEFAULT_SYSTEMS: Final = {
    Effort.FULL: tuple(SYSTEMS),
    Effort.QUICK: (NONE, BARE, FUSECACHE, "qemu"),
    Effort.SMOKE: (NONE, BARE, FUSECACHE),
}
ROUNDS: Final = {Effort.FULL: 7, Effort.QUICK: 2, Effort.SMOKE: 1}
FAST_ROOM: Final = 4 * 2**30
"""How much has to be free in memory for caches and images to lie there."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_notes = Console(stderr=True, highlight=False)


@dataclass(slots=True)
class Report:
    """What was found so far: the figures, the titles of the sections that ran, and what failed."""

    figures: list[Figure] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def of_sections(self) -> dict[str, list[Figure]]:
        """Return the figures of each section that has some."""
        found = {name: [figure for figure in self.figures if figure.section == name] for name in self.titles}
        return {name: figures for name, figures in found.items() if figures}


def main(arguments: list[str] | None = None) -> int:
    """Measure, show, write; exit 0 unless a section failed, whether targets are met or not."""
    options = _parser().parse_args(arguments)
    effort = Effort.SMOKE if options.smoke else Effort.QUICK if options.quick else Effort.FULL
    for number in SIGNALS:
        signal.signal(number, _stop)
    context = Context(
        effort=effort,
        rounds=options.rounds or ROUNDS[effort],
        systems=tuple(options.systems or _installed(DEFAULT_SYSTEMS[effort])),
        fast=options.fast or _fast_directory(),
        disk=options.disk or Path("/var/tmp"),  # noqa: S108 - everything lies below a directory of its own
        say=lambda message: _notes.print(message, style="dim", soft_wrap=True),
    )
    report = Report()
    try:
        measure(context, options.sections or SECTIONS, report)
    finally:  # what was found before an interrupt is not lost
        write(report, gather_facts(context), options)
    return 1 if report.errors else 0


def measure(context: Context, names: Sequence[str], report: Report) -> None:
    """Run sections and show each."""
    for name in names:
        began, before = time.monotonic(), len(report.figures)
        try:
            section = load(name)
            report.titles[name] = section.title
            for figure in section.run(context):
                report.figures.append(figure)
        except Skipped as exc:
            _notes.print(f"{name}: skipped: {exc}", soft_wrap=True)
            continue
        except (RigError, OSError, ValueError, ImportError) as exc:
            report.errors.append(f"{name}: {exc}")
            _notes.print(f"{name}: {exc}", style="red", soft_wrap=True)
        if found := report.figures[before:]:
            output = _output()
            output.print(f"\n{name}: {report.titles[name]}", style="bold", soft_wrap=True)
            output.print(render.rich_table(render.grid(found, SYSTEMS, separator="\n")))
        _notes.print(f"{name}: {time.monotonic() - began:.0f} s", style="dim")


def write(report: Report, facts: dict[str, str], options: argparse.Namespace) -> None:
    """Write the files that were asked for, and sum up."""
    of_sections = report.of_sections()
    if options.json:
        options.json.write_text(render.as_json(report.figures, facts, report.errors) + "\n")
    if options.markdown:
        lines = (
            line
            for name, figures in of_sections.items()
            for line in render.markdown(report.titles[name], render.grid(figures, SYSTEMS))
        )
        options.markdown.write_text("\n".join(lines))
    if options.document:
        parts = {
            name: list(render.rst(render.grid(figures, SYSTEMS, separator="\n")))
            for name, figures in of_sections.items()
        }
        parts["facts"] = [f"* {name}: {value}" for name, value in facts.items()]
        options.document.write_text(render.filled(options.document.read_text(), parts))
    if options.plot:
        from scripts.benchmarks.suite.plot import draw  # noqa: PLC0415 - takes a second, and few ask for it

        draw(report.figures, list(report.titles), options.plot)
    output = _output()
    judged = [figure for figure in report.figures if figure.is_met is not None]
    output.print(f"targets met: {sum(bool(figure.is_met) for figure in judged)} of {len(judged)}")
    output.print("; ".join(f"{name} {value}" for name, value in facts.items()), soft_wrap=True, style="dim")
    for error in report.errors:
        output.print(f"failed: {error}", style="red", soft_wrap=True)


def _output() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 150)


def gather_facts(context: Context) -> dict[str, str]:
    """Say what was measured on: without that, figures say nothing."""
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "effort": f"{context.effort.value}, {context.rounds} rounds",
        "processors": f"{os.cpu_count()} x {_processor()}",
        "Linux": platform.release().partition("-")[0],
        "fast": f"{context.fast} ({_file_system(context.fast)})",
        "disk": f"{context.disk} ({_file_system(context.disk)})",
        "Python": platform.python_version(),
        "pyfuse3": version("pyfuse3"),
        "trio": version("trio"),
    }
    commands = (
        ("fio", "--version"),
        ("qemu-storage-daemon", "--version"),
        ("nbdkit", "--version"),
        ("rclone", "version"),
    )
    for program, option in commands:
        if shutil.which(program):
            lines = subprocess.run([program, option], capture_output=True, text=True, check=False).stdout.splitlines()
            found = re.search(r"\d+(\.\d+)+", lines[0]) if lines else None
            facts[program] = found[0] if found else "?"
    return facts


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()


def _file_system(directory: Path) -> str:
    return subprocess.run(
        ["stat", "--file-system", "--format=%T", directory], capture_output=True, text=True, check=False
    ).stdout.strip()


def _installed(names: Sequence[str]) -> list[str]:
    missing = [name for name in names if not SYSTEMS[name].is_installed]
    if missing:
        _notes.print(f"not installed, and left out: {', '.join(missing)}", style="dim")
    return [name for name in names if name not in missing]


def _fast_directory() -> Path:
    """Choose memory, if there is enough of it: the speed of a disk would hide everything else."""
    memory = Path("/dev/shm")  # noqa: S108 - likewise
    if memory.is_dir() and shutil.disk_usage(memory).free >= FAST_ROOM:
        return memory
    return Path(tempfile.gettempdir())


def _stop(number: int, _frame: object) -> NoReturn:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # who asks twice gets no less cleaning up
    sys.exit(128 + number)  # so that everything is cleaned up on the way out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=(__doc__ or "").strip(),
        epilog="sections: "
        + ", ".join(SECTIONS)
        + "; systems: "
        + "; ".join(f"{system.name} ({system.what})" for system in SYSTEMS.values()),
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="all sections in three minutes, with less of everything")
    effort.add_argument("--smoke", action="store_true", help="seconds: shows whether all works, proves nothing")
    parser.add_argument("--sections", type=_names_of(SECTIONS), metavar="NAME,...", help="all unless told")
    parser.add_argument("--systems", type=_names_of(SYSTEMS), metavar="NAME,...", help="those installed unless told")
    parser.add_argument("--rounds", type=int, metavar="N", help="of what is compared by turns: 7, quick 2")
    parser.add_argument("--fast", type=Path, metavar="DIR", help="for images and caches: /dev/shm, if 4 GiB are free")
    parser.add_argument("--disk", type=Path, metavar="DIR", help="where an fsync takes time: /var/tmp")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, with all rounds")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables in Markdown")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios: .png, .svg")
    parser.add_argument(
        "--document", type=Path, metavar="FILE.rst", help="put the tables where it says '.. bench SECTION'"
    )
    return parser


def _names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    def parse(words: str) -> list[str]:
        wanted = words.split(",")
        for word in wanted:
            if word not in known:
                msg = f"unknown: {word!r}; there are {', '.join(known)}"
                raise argparse.ArgumentTypeError(msg)
        return [name for name in known if name in wanted]

    return parse


if __name__ == "__main__":
    sys.exit(main())
