"""Measure fusecache, beside the least that pyfuse3 can do and beside its peers, and hold figures against targets."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

from scripts.benchmarks.rig import RigError, run
from scripts.benchmarks.sections.boots import boots
from scripts.benchmarks.sections.bursts import bursts
from scripts.benchmarks.sections.engines import engines
from scripts.benchmarks.sections.ext4 import ext4
from scripts.benchmarks.sections.gate import gate
from scripts.benchmarks.sections.hotsets import hotsets
from scripts.benchmarks.sections.interference import interference
from scripts.benchmarks.sections.lifetime import endurance, scale, startup
from scripts.benchmarks.sections.pages import pages
from scripts.benchmarks.sections.policies import policies
from scripts.benchmarks.sections.slow import slow
from scripts.benchmarks.sections.verify import verify
from scripts.benchmarks.sections.warm import against, fsync, hits, profile
from scripts.benchmarks.sections.zipf import zipf
from scripts.benchmarks.suite import render
from scripts.benchmarks.suite.measuring import Context, Figure
from scripts.benchmarks.suite.systems import BARE, FUSECACHE, NO_GATE, NONE, SYSTEMS, C, use_checkout, use_policies

_USE: Final = (verify, hits, gate, fsync, profile, interference, slow, pages, ext4)
_CACHING: Final = (zipf, bursts, hotsets, boots, against)
_REST: Final = (startup, scale, endurance, engines, policies)
_Section = Callable[[Context], Iterator[Figure]]
SECTIONS: Final[dict[str, _Section]] = {each.__name__: each for each in _USE + _CACHING + _REST}
GROUPS: Final = {"caching": [each.__name__ for each in _CACHING]}
"""Names that stand for several sections."""
UNASKED: Final = [name for name in SECTIONS if name not in GROUPS["caching"]]
"""What is measured unless told."""
EFFORTS: Final = {
    "full": (7, tuple(name for name in SYSTEMS if name not in {C, NO_GATE})),
    "quick": (2, (NONE, BARE, FUSECACHE, "qemu")),
    "smoke": (1, (NONE, BARE, FUSECACHE)),
}
"""Rounds and systems, unless told; a section may have systems of its own."""
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - everything lies below a directory of its own
ROOM: Final = 4 * 2**30
"""How much has to be free in memory for caches and images to lie there: the speed of a disk would hide all else."""
DISK: Final = Path("/var/tmp")  # noqa: S108 - likewise
SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
Sections = dict[str, list[Figure]]
"""What was found so far."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, show, write; exit 0 unless a section failed, whether targets are met or not."""
    options = _parser().parse_args(arguments)
    effort = "smoke" if options.smoke else "quick" if options.quick else "full"
    for number in SIGNALS:
        signal.signal(number, _stop)
    rounds, names = EFFORTS[effort]
    systems = options.systems or [name for name in names if SYSTEMS[name].is_installed]
    if options.against:
        use_checkout(options.against)
    has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM
    context = Context(
        effort=effort,
        rounds=options.rounds or rounds,
        systems=(*systems, *use_policies(options.policy)),
        fast=options.fast or (MEMORY if has_room else Path(tempfile.gettempdir())),
        disk=options.disk,
        say=_say,
    )
    found, errors = Sections(), list[str]()
    try:
        measure(context, options.sections or UNASKED, found, errors)
    finally:  # what was found before an interrupt is not lost
        write(found, errors, facts_of(context), options)
    return 1 if errors else 0


def measure(context: Context, names: Iterable[str], found: Sections, errors: list[str]) -> None:
    """Run sections and show each; add to what was found, and to what failed."""
    for name in names:
        began, figures = time.monotonic(), list[Figure]()
        try:
            for figure in SECTIONS[name](context):
                figures = found.setdefault(name, figures)
                figures.append(replace(figure, section=name))
        except (RigError, OSError, ValueError) as exc:
            errors.append(f"{name}: {exc}")
        if figures:
            print(f"\n{name}: {str(SECTIONS[name].__doc__).splitlines()[0]}\n")
            print("\n".join(render.table(figures, SYSTEMS)), flush=True)
        _say(f"{name}: {time.monotonic() - began:.0f} s")


def write(found: Sections, errors: list[str], facts: dict[str, str], options: argparse.Namespace) -> None:
    """Write the files that were asked for, and sum up."""
    figures = [figure for each in found.values() for figure in each]
    if options.json:
        options.json.write_text(render.as_json(figures, facts, errors) + "\n")
    if options.document:
        parts = {name: list(render.table(each, SYSTEMS)) for name, each in found.items()}
        parts["facts"] = [f"* {name}: {value}" for name, value in facts.items()]
        options.document.write_text(render.filled(options.document.read_text(), parts))
    if options.plot:
        from scripts.benchmarks.suite.plot import draw  # noqa: PLC0415 - takes a second, and few ask for it

        draw(found, options.plot)
    if len(lines := render.summary(figures)) > 1:
        print("\n" + "\n".join(render.drawn(lines)))
    judged = [figure.is_met for figure in figures if figure.is_met is not None]
    print(f"\ntargets met: {sum(judged)} of {len(judged)}")
    print("; ".join(f"{name} {value}" for name, value in facts.items()))
    for error in errors:
        print(f"failed: {error}")


def facts_of(context: Context) -> dict[str, str]:
    """Say what was measured on: without that, figures say nothing."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "effort": f"{context.effort}, {context.rounds} rounds",
        "processors": f"{os.cpu_count()} x {processor[1] if processor else platform.machine()}",
        "Linux": platform.release().partition("-")[0],
    }
    for name, directory in (("fast", context.fast), ("disk", context.disk)):
        facts[name] = f"{directory} ({run('stat', '--file-system', '--format=%T', directory).strip()})"
    facts |= {"Python": platform.python_version(), "pyfuse3": version("pyfuse3"), "trio": version("trio")}
    for program in ("fio", "qemu-storage-daemon", "nbdkit", "rclone"):
        if shutil.which(program):
            found = re.search(r"\d+(\.\d+)+", run(program, "version" if program == "rclone" else "--version"))
            facts[program] = found[0] if found else "?"
    return facts


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _stop(number: int, _frame: object) -> NoReturn:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # who asks twice gets no less cleaning up
    sys.exit(128 + number)  # so that everything is cleaned up on the way out


def _parser() -> argparse.ArgumentParser:
    systems = "; ".join(f"{system.name} ({system.what})" for system in SYSTEMS.values())
    groups = "; ".join(f"{name} is {', '.join(members)}" for name, members in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=(__doc__ or "").strip(),
        epilog=f"sections: {', '.join(SECTIONS)}; {groups}; systems: {systems}",
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="all sections in three minutes, with less of everything")
    effort.add_argument("--smoke", action="store_true", help="seconds: shows whether all works, proves nothing")
    option = parser.add_argument
    option("--sections", type=_names_of(SECTIONS, GROUPS), metavar="NAME,...", help="all but caching's unless told")
    option("--systems", type=_names_of(SYSTEMS), metavar="NAME,...", help="those installed unless told")
    option(
        "--policy",
        action="append",
        default=[],
        metavar="NAME[,KEY=VALUE...]",
        help="of fusecache; given again, it is one more system",
    )
    option("--against", type=_checkout, metavar="DIR", help="another checkout, for the section of that name")
    option("--rounds", type=int, metavar="N", help="of what is compared by turns: 7, quick 2")
    option("--fast", type=Path, metavar="DIR", help="for images and caches: /dev/shm, if 4 GiB are free")
    option("--disk", type=Path, metavar="DIR", default=DISK, help="where an fsync takes time: /var/tmp")
    option("--json", type=Path, metavar="FILE", help="write all figures, with all rounds")
    option("--plot", type=Path, metavar="FILE", help="draw the ratios: .png, .svg")
    option("--document", type=Path, metavar="FILE.rst", help="put the tables where it says '.. bench SECTION'")
    return parser


def _names_of(known: Iterable[str], groups: Mapping[str, Sequence[str]] | None = None) -> Callable[[str], list[str]]:
    def parse(words: str) -> list[str]:
        wanted = [name for word in words.split(",") for name in (groups or {}).get(word, [word])]
        for word in wanted:
            if word not in known:
                msg = f"unknown: {word!r}; there are {', '.join([*known, *(groups or ())])}"
                raise argparse.ArgumentTypeError(msg)
        return [name for name in known if name in wanted]

    return parse


def _checkout(word: str) -> Path:
    if not (Path(word) / "fusecache" / "__init__.py").is_file():
        msg = f"{word} is no checkout of fusecache"
        raise argparse.ArgumentTypeError(msg)
    return Path(word).absolute()


if __name__ == "__main__":
    sys.exit(main())
