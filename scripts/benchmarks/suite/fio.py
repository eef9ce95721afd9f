"""fio's work as data: what a job is, one run of it, and what that found."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import RigError, run

NAME: Final = "target"
"""fio seeds its random numbers with the file's name: under the same one, all systems get the same sequence."""
GRACE_SECONDS: Final = 100
SECONDS_PER_REQUEST: Final = 0.02
"""None of our disks is slower."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    :ivar rw: as fio calls it: ``randread``, ``randwrite``, ``read``, ``write``, ``randrw``.
    :ivar block: bytes of a request, as fio writes it: ``4k``.
    :ivar start: where the range begins, as a part of the image.
    :ivar part: how large the range is, likewise.
    :ivar more: fio's other options.
    """

    rw: str
    block: str = "4k"
    depth: int = 1
    start: float = 0
    part: float = 1
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was done.

    :ivar operations: how many, in the seconds that counted.
    :ivar percentiles: latencies in microseconds: of 50, 99 and 99.9, and others; with that of an fsync after each.
    """

    operations: int
    bytes: int
    seconds: float
    percentiles: dict[float, float]

    def speed(self, unit: str = "1/s") -> float:
        """Return what was done in a second: operations, or MiB."""
        return (self.bytes / 2**20 if unit == "MiB/s" else self.operations) / self.seconds


def fio(
    image: Path, job: Job, directory: Path, *, seconds: float = 0, ramp: float = 0, seed: int = 1, requests: int = 0
) -> Result:
    """Run a job on an image, past the page cache; raises RigError.

    :param directory: where a link to the image may lie.
    :param seconds: how long; with 0, until the range is done.
    :param ramp: seconds before that, which are not counted.
    :param seed: of the random numbers.
    :param requests: how many; with 0, as many as there is time for.  For one seed they are the same on every image of
        one size, so systems that are faster are not asked for more.
    """
    link = directory / NAME
    link.unlink(missing_ok=True)
    link.symlink_to(image)
    with image.open("rb") as file:
        size = file.seek(0, os.SEEK_END)  # also of a block device
    options = [
        f"--filename={NAME} --offset={int(job.start * size)} --size={int(job.part * size)} --direct=1 --invalidate=0",
        f"--rw={job.rw} --bs={job.block} --ioengine=libaio --iodepth={job.depth}",
        f"--norandommap=1 --randrepeat=0 --randseed={seed}",
        "--name=job --output-format=json --lat_percentiles=1 --clat_percentiles=0",
        f"--clocksource=clock_gettime --ramp_time={ramp * 1000:.0f}ms",  # other clocks are calibrated first
    ]
    if seconds:
        options.append(f"--time_based=1 --runtime={seconds * 1000:.0f}ms")
    if requests:
        options.append(f"--number_ios={requests} --io_size=1t")  # more than the range has: fio goes round
    command = ("fio", *" ".join(options).split(), *job.more)
    grace = GRACE_SECONDS + requests * SECONDS_PER_REQUEST
    return parsed(run(*command, seconds=seconds + ramp + grace, cwd=directory))


def offsets(job: Job, size: int, directory: Path, *, requests: int, seed: int = 1) -> list[int]:
    """List where the requests of a job go, on an image of ``size`` bytes, in their order."""
    log, image = directory / "requests", directory / "nothing"
    image.touch()
    os.truncate(image, size)
    fio(image, replace(job, more=(*job.more, f"--write_iolog={log.name}")), directory, seed=seed, requests=requests)
    lines = (line.split() for line in log.read_text().splitlines())
    return [int(words[3]) for words in lines if words[2:3] in (["read"], ["write"])]


def parsed(output: str) -> Result:
    """Read fio's JSON, which warnings may precede; raises RigError if nothing was done."""
    found = json.loads(output[output.index("{") :])["jobs"][0]
    sides = [found[side] for side in ("read", "write") if found[side]["total_ios"]]
    if not sides:
        msg = "fio: nothing was done"
        raise RigError(msg)
    slower = max(sides, key=lambda side: side["lat_ns"]["mean"])["lat_ns"].get("percentile", {})
    syncs = found.get("sync", {}).get("lat_ns", {}).get("percentile", {})
    return Result(
        operations=sum(side["total_ios"] for side in sides),
        bytes=sum(side["io_bytes"] for side in sides),
        seconds=max(1, *(side["runtime"] for side in sides)) / 1000,  # it counts milliseconds
        percentiles={float(at): (value + syncs.get(at, 0)) / 1000 for at, value in slower.items()},
    )
