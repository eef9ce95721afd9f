"""Whether each system gives back what was written.

A system that does not is not compared with others: wrong data is cheap.  Three trials, each on an image that is four
times the cache, so that what is dirty must leave it: reads side by side, writes one by one, writes side by side.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import RigError
from scripts.benchmarks.suite.context import Context
from scripts.benchmarks.suite.figure import Figure
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.systems import NONE, SYSTEMS, Sizes, System

MIB: Final = 2**20
RATIO: Final = 4
DEPTH: Final = 16
BLOCK: Final = 4096

READS: Final = "reads side by side"
SINGLE_WRITES: Final = "writes one by one, read back"
WRITES: Final = "writes side by side, read back"

RIGHT: Final = "right"
WRONG: Final = "wrong data"


def run(context: Context) -> Iterator[Figure]:
    """Try each system that was asked for: 1 is right, 0 is wrong."""
    for name in context.systems:
        if name != NONE:
            for trial, verdict in verdicts(context, SYSTEMS[name]).items():
                is_right = verdict == RIGHT
                yield Figure(name=trial, system=name, value=float(is_right), note="" if is_right else verdict)


def notes(context: Context, names: list[str], trial: str) -> dict[str, str]:
    """Tell what is wrong with systems that failed a trial, or could not be tried."""
    found = {name: verdicts(context, SYSTEMS[name])[trial] for name in names if name != NONE}
    return {name: verdict for name, verdict in found.items() if verdict != RIGHT}


def verdicts(context: Context, system: System) -> dict[str, str]:
    """Try a system, once; return what each trial found: right, wrong data, or why it could not be told."""
    if system.name not in context.verdicts:
        context.say(f"verifying {system.name}")
        context.verdicts[system.name] = _try(context, system)
    return context.verdicts[system.name]


def _try(context: Context, system: System) -> dict[str, str]:
    """Hold the trials."""
    cache_bytes = context.pick(full=16 * MIB, quick=16 * MIB, smoke=4 * MIB)
    content = random.Random(RATIO).randbytes(RATIO * cache_bytes)
    found = {}
    try:
        with context.scratch() as directory:
            for name in ("origin", "system"):
                (directory / name).mkdir()
            origin = directory / "origin" / "disk"
            origin.write_bytes(content)
            with system.open(origin, directory / "system", Sizes(cache_bytes, 65536)) as exposed:
                for trial, is_right in TRIALS.items():
                    found[trial] = RIGHT if is_right(context, exposed.image, directory, content) else WRONG
    except (RigError, OSError) as exc:
        return dict.fromkeys(TRIALS, str(exc)) | found
    return found


def _reads_are_right(context: Context, image: Path, _directory: Path, content: bytes) -> bool:
    """Read blocks past the page cache, in as many threads as requests are to be under way."""
    count = context.pick(full=1000, quick=300, smoke=50)

    def read(seed: int) -> bool:
        rng = random.Random(seed)
        fd = os.open(image, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap(-1, BLOCK) as buffer:  # aligned, as reads past the page cache must be
                for offset in (rng.randrange(0, len(content), BLOCK) for _ in range(count)):
                    if os.preadv(fd, [buffer], offset) != BLOCK or buffer[:] != content[offset : offset + BLOCK]:
                        return False
        finally:
            os.close(fd)
        return True

    with ThreadPoolExecutor(DEPTH) as readers:
        return all(readers.map(read, range(DEPTH)))


def _single_writes_are_right(_context: Context, image: Path, directory: Path, content: bytes) -> bool:
    return _write_and_read_back(image, directory, len(content), depth=1)


def _writes_are_right(_context: Context, image: Path, directory: Path, content: bytes) -> bool:
    return _write_and_read_back(image, directory, len(content), depth=DEPTH)


def _write_and_read_back(image: Path, directory: Path, size: int, *, depth: int) -> bool:
    """Write single blocks all over the image, then read them; each block says which it is."""
    checks = ("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--norandommap=0")
    most = f"--io_size={size // RATIO // 4}"  # as many blocks of the cache as four caches have, if blocks are 64 KiB
    try:
        fio(image, Job(rw="randwrite", depth=depth, size=size, more=(most, *checks)), directory)
    except RigError as exc:
        if "verify" in str(exc):
            return False
        raise
    return True


TRIALS: Final = {READS: _reads_are_right, SINGLE_WRITES: _single_writes_are_right, WRITES: _writes_are_right}
"""Each is given the exposed image, a directory, and what the image held at first, and tells whether all is right."""
