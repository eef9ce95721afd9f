"""A cold system in front of a simulated slow disk, which counts: what the sections about slow disks stand on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import make_image, operations, slow_disk
from scripts.benchmarks.suite.fio import Job, Result, fio
from scripts.benchmarks.suite.measuring import Context
from scripts.benchmarks.suite.systems import FUSECACHE, NBDKIT, NONE, QCOW2, SYSTEMS, Exposed

CACHE: Final = 1 / 8
"""Of the image."""
BLOCK: Final = 65536
_LOOK_SECONDS: Final = 0.25
_LOOKS: Final = 20


@dataclass(frozen=True, slots=True)
class Stage:
    """A system that exposes the image of a slow disk.

    :ivar disk: the slow disk's file.
    :ivar directory: for whatever else is needed.
    :ivar cache_bytes: size of the cache.
    """

    exposed: Exposed
    disk: Path
    directory: Path
    cache_bytes: int

    @property
    def blocks(self) -> int:
        """How many blocks the cache has."""
        return self.cache_bytes // BLOCK

    @property
    def reached(self) -> int:
        """How many reads and writes have reached the disk so far."""
        counted = operations(self.disk)
        return counted["reads"] + counted["writes"]

    def fio(self, job: Job, *, requests: int = 0, seconds: float = 0, seed: int = 1) -> Result:
        """Run a job on the image."""
        return fio(self.exposed.image, job, self.directory, requests=requests, seconds=seconds, seed=seed)

    def settle(self) -> None:
        """Wait until nothing more reaches the disk for a moment, such as the rest of a block that is being filled."""
        before = -1
        for _ in range(_LOOKS):
            after = self.reached
            if after == before:
                break
            before = after
            time.sleep(_LOOK_SECONDS)


@contextmanager
def staged(
    context: Context, name: str, profile: str, cache_bytes: int, *, cache_on_disk: bool = False
) -> Iterator[Stage]:
    """Expose, by a system with an empty cache, a slow disk of random bytes that is so many times as large.

    :param profile: the disk's; see ``slow_disk.py``.
    :param cache_on_disk: whether the system's files lie on a disk where an fsync takes time.
    """
    with context.scratch() as directory, context.scratch(on_disk=cache_on_disk) as own:
        (own / "system").mkdir()
        make_image(directory / "backing", int(cache_bytes / CACHE))
        with (
            slow_disk(profile, directory / "backing", directory / "origin") as disk,
            SYSTEMS[name].open(disk, own / "system", cache_bytes, BLOCK) as exposed,
        ):
            yield Stage(exposed, disk, directory, cache_bytes)


def caches(context: Context) -> Context:
    """Leave the systems that can be a cache in front of a disk, and the disk alone.

    nbdkit is among them even if nobody has asked for it: some targets are its figures.
    """
    chosen = {name for name in context.systems if name in {NONE, NBDKIT, QCOW2} or name.startswith(FUSECACHE)}
    if SYSTEMS[NBDKIT].is_installed:
        chosen.add(NBDKIT)
    return replace(context, systems=tuple(name for name in SYSTEMS if name in chosen))


def cold_rounds(context: Context) -> int:
    """Say how often to measure what needs an empty cache, and therefore takes long."""
    return min(context.rounds, context.pick(full=3, quick=1, smoke=1))
