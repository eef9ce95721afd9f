"""What a section is given, and what it gives: how much to do, where, and on which systems; a figure and its target."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

from scripts.benchmarks.rig import mounts

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How to measure.

    :ivar effort: how much: ``full``; ``quick``, all sections in three minutes; ``smoke``, seconds of each, which proves
        nothing.
    :ivar rounds: how often to measure what is compared, by turns.
    :ivar systems: the names of the systems that were asked for; see ``systems.py``.
    :ivar fast: a directory on what is as fast as memory: caches and their origins lie there.
    :ivar disk: a directory on a disk, where an fsync takes time.
    :ivar say: tells, while it goes on, what is going on.
    :ivar verdicts: what verifying a system found, so that each is verified but once; see ``sections/verify.py``.
    """

    effort: str
    rounds: int
    systems: tuple[str, ...]
    fast: Path
    disk: Path
    say: Callable[[str], None] = lambda _: None
    verdicts: dict[str, dict[str, str]] = field(default_factory=dict)

    def pick(self, *, full: T, quick: T, smoke: T) -> T:
        """Choose by effort."""
        return {"full": full, "quick": quick, "smoke": smoke}[self.effort]

    @contextmanager
    def scratch(self, *, on_disk: bool = False) -> Iterator[Path]:
        """Make an empty directory, and remove it with all that is in it; on the disk, or else on the fast one."""
        directory = Path(tempfile.mkdtemp(prefix="fusecache-bench-", dir=self.disk if on_disk else self.fast))
        try:
            yield directory
        finally:
            # Not so if something is mounted there still: deleting would go on inside.
            if not any(mount.is_relative_to(directory) for mount in mounts()):
                shutil.rmtree(directory)


def in_turn(names: Sequence[T], number: int) -> list[T]:
    """Return the order in which systems are measured in a round: another one begins each time."""
    first = number % max(1, len(names))
    return [*names[first:], *names[:first]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure.

    :ivar section: which section it is of; the runner fills it in.
    :ivar name: what was measured: a line of the section's table, together with ``unit``.
    :ivar system: on what: a column of the table.
    :ivar rounds: the figures of each round, if there were several; ``value`` is their median.
    :ivar ratio: how many times that of the baseline it is, if there is one.
    :ivar at_least: the target; of the ratio where there is one, else of the value.
    :ivar at_most: likewise.
    :ivar aim: what is hoped for beyond the target.
    :ivar note: what is to be known before believing it, such as "wrong data".
    """

    section: str = ""
    name: str
    system: str = "fusecache"
    value: float
    unit: str = ""
    rounds: tuple[float, ...] = ()
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the most of the rounds; None if there were not several."""
        return (min(self.rounds), max(self.rounds)) if len(self.rounds) > 1 else None

    @property
    def target(self) -> str:
        """The target in words, empty without one."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        of = "x" if self.ratio is not None else ""
        return ", ".join(f"{sign} {of}{bound:g}" for sign, bound in bounds if bound is not None)

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_least is None and self.at_most is None:
            return None
        measure = self.measure
        return (self.at_least is None or measure >= self.at_least) and (self.at_most is None or measure <= self.at_most)

    @property
    def measure(self) -> float:
        """What targets are of: the ratio, or else the value."""
        return self.value if self.ratio is None else self.ratio

    @property
    def reaches_aim(self) -> bool:
        """Whether it is as good as was hoped for."""
        if self.aim is None:
            return False
        return self.measure >= self.aim if self.at_most is None else self.measure <= self.aim


def compared(
    name: str,
    rounds: Mapping[str, Sequence[float]],
    *,
    unit: str,
    baseline: str = "",
    target_of: str = "fusecache",
    at_least: float | None = None,
    at_most: float | None = None,
    aim: float | None = None,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Figure]:
    """Make the figures of systems that were measured by turns.

    A ratio is the median of the rounds' ratios: what the machine did meanwhile to one round it did to both.  A system
    with a note has none.  Raises ValueError if the numbers of rounds differ.

    :param rounds: the rounds of each system.
    :param baseline: the system that the ratios refer to; without rounds of it, there are no ratios and no targets of
        them.  Without a name, targets are of the values.
    :param target_of: the system that ``at_least``, ``at_most`` and ``aim`` are for.
    :param notes: what is wrong with a system.
    """
    base = rounds.get(baseline, ())
    for system, values in rounds.items():
        note = (notes or {}).get(system, "")
        has_ratio = bool(base) and system != baseline and not note
        is_judged = system == target_of and (has_ratio or not baseline)
        yield Figure(
            name=name,
            system=system,
            value=median(values),
            unit=unit,
            rounds=tuple(values),
            ratio=median(value / of for value, of in zip(values, base, strict=True)) if has_ratio else None,
            at_least=at_least if is_judged else None,
            at_most=at_most if is_judged else None,
            aim=aim if is_judged else None,
            note=note,
        )
