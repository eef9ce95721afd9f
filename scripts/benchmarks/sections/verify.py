"""Whether each system gives back what was written.

A system that does not is not compared with others: wrong data is cheap.  Three trials, each on an image that is four
times the cache, so that what is dirty must leave it: reads side by side, writes one by one, writes side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scripts.benchmarks.rig import MIB, RigError
from scripts.benchmarks.suite.fio import Job, fio
from scripts.benchmarks.suite.measuring import Context, Figure
from scripts.benchmarks.suite.systems import NONE, SYSTEMS

RATIO: Final = 4
BLOCK: Final = 4096

READS: Final = "reads side by side"
SINGLE_WRITES: Final = "writes one by one, read back"
WRITES: Final = "writes side by side, read back"

RIGHT: Final = "right"
WRONG: Final = "wrong data"

_OFFSETS: Final = ("--verify=pattern", "--verify_pattern=%o", "--verify_fatal=1")
"""Each block holds its offset."""
_SUMS: Final = ("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--norandommap=0")
"""Each block is written once, with its offset and a sum, and all are read in the end."""
TRIALS: Final = {
    READS: Job("randread", depth=16, more=_OFFSETS),
    SINGLE_WRITES: Job("randwrite", more=(*_SUMS, "--io_size=6%")),
    WRITES: Job("randwrite", depth=16, more=(*_SUMS, "--io_size=6%")),
}
"""6 % are as many blocks as four caches have, if those are of 64 KiB."""


def verify(context: Context) -> Iterator[Figure]:
    """Try whether each system gives back what was written: 1 is right, 0 is wrong."""
    for name in context.systems:
        if name != NONE:
            for trial, verdict in _verdicts(context, name).items():
                is_right = verdict == RIGHT
                yield Figure(name=trial, system=name, value=float(is_right), note="" if is_right else verdict)


def notes_of(context: Context, trial: str) -> dict[str, str]:
    """Tell what is wrong with systems that failed a trial, or could not be tried."""
    if context.effort == "smoke":
        return {}  # what proves nothing needs no proof; that of the section itself is tried all the same
    found = {name: _verdicts(context, name)[trial] for name in context.systems if name != NONE}
    return {name: verdict for name, verdict in found.items() if verdict != RIGHT}


def _verdicts(context: Context, name: str) -> dict[str, str]:
    """Try a system, once; return what each trial found: right, wrong data, or why it could not be told."""
    if name not in context.verdicts:
        context.say(f"verifying {name}")
        context.verdicts[name] = _tried(context, name)
    return context.verdicts[name]


def _tried(context: Context, name: str) -> dict[str, str]:
    cache_bytes = context.pick(full=16 * MIB, quick=16 * MIB, smoke=4 * MIB)
    found: dict[str, str] = {}
    try:
        with context.scratch() as directory:
            for part in ("origin", "system"):
                (directory / part).mkdir()
            origin = directory / "origin" / "disk"
            with origin.open("wb") as file:
                for offset in range(0, RATIO * cache_bytes, BLOCK):
                    file.write(offset.to_bytes(8, "little") * (BLOCK // 8))
            with SYSTEMS[name].open(origin, directory / "system", cache_bytes, 65536) as exposed:
                for trial, job in TRIALS.items():
                    try:
                        fio(exposed.image, job, directory)
                        found[trial] = RIGHT
                    except RigError as exc:
                        if "verif" not in str(exc):
                            raise
                        found[trial] = WRONG
    except (RigError, OSError) as exc:
        return dict.fromkeys(TRIALS, str(exc)) | found
    return found
