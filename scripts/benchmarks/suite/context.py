"""What a section is given: how much to do, where, and on which systems."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class Skipped(Exception):  # noqa: N818 - not an error
    """A section cannot run here; one line that says why."""


class Effort(Enum):
    """How much to measure."""

    FULL = "full"
    QUICK = "quick"
    """All sections together in three minutes."""
    SMOKE = "smoke"
    """A second or so for each section: shows that it runs and cleans up, proves nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How to measure.

    :ivar rounds: how often to measure what is compared, by turns.
    :ivar systems: the names of the systems that were asked for; see ``systems.py``.
    :ivar fast: a directory on what is as fast as memory: caches and their origins lie there.
    :ivar disk: a directory on a disk, where an fsync takes time.
    :ivar say: tells, while it goes on, what is going on.
    :ivar verdicts: what verifying a system found, so that each is verified but once; see ``sections/verify.py``.
    """

    effort: Effort
    rounds: int
    systems: tuple[str, ...]
    fast: Path
    disk: Path
    say: Callable[[str], None] = lambda _: None
    verdicts: dict[str, dict[str, str]] = field(default_factory=dict)

    def pick(self, *, full: T, quick: T, smoke: T) -> T:
        """Choose by effort."""
        return {Effort.FULL: full, Effort.QUICK: quick, Effort.SMOKE: smoke}[self.effort]

    @contextmanager
    def scratch(self, *, on_disk: bool = False) -> Iterator[Path]:
        """Make an empty directory, and remove it with all that is in it; on the disk, or else on the fast one."""
        directory = Path(tempfile.mkdtemp(prefix="fusecache-bench-", dir=self.disk if on_disk else self.fast))
        try:
            yield directory
        finally:
            # Not so if something is mounted there still: deleting would go on inside.
            mounts = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
            if not any(Path(mount).is_relative_to(directory) for mount in mounts):
                shutil.rmtree(directory)


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """Return the order in which systems are measured in a round: another one begins each time."""
    first = number % max(1, len(names))
    return [*names[first:], *names[:first]]
