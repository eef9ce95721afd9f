"""One run of fio, and what it found."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import RigError

NAME: Final = "target"
"""fio seeds its random numbers with the file's name: under the same one, all systems get the same sequence."""
GRACE_SECONDS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do.

    :ivar rw: as fio calls it: ``randread``, ``randwrite``, ``read``, ``write``, ``randrw``.
    :ivar block: bytes of a request, as fio writes it: ``4k``.
    :ivar seconds: how long; with 0, until ``size`` bytes (``io_size``, if given) are done.
    :ivar ramp: seconds before that, which are not counted.
    :ivar size: the range of the image, in bytes, from ``offset``.
    :ivar seed: of the random numbers.
    :ivar windows: into how many equal parts of the time to split the operations.
    :ivar more: fio's other options.
    """

    rw: str
    block: str = "4k"
    depth: int = 1
    seconds: float = 0.0
    ramp: float = 0.0
    offset: int = 0
    size: int
    seed: int = 1
    windows: int = 0
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was done.

    :ivar operations: how many, while it counted; ``seconds`` is how long that was.
    :ivar mean_us: latency; likewise ``p99_us``.
    :ivar windows: operations a second in each part of the time.
    """

    operations: int
    bytes: int
    seconds: float
    mean_us: float
    p99_us: float
    windows: tuple[float, ...] = ()

    @property
    def iops(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    @property
    def mib_per_second(self) -> float:
        """MiB a second."""
        return self.bytes / self.seconds / 2**20


def fio(image: Path, job: Job, directory: Path) -> Result:
    """Run a job on an image, past the page cache; raises RigError.

    :param directory: where a link to the image and fio's logs may lie.
    """
    link, log = directory / NAME, directory / "fio"
    if not link.is_symlink() or link.readlink() != image:
        link.unlink(missing_ok=True)
        link.symlink_to(image)
    options = {
        "filename": NAME,
        "name": "job",
        "ioengine": "libaio",
        "direct": "1",
        "rw": job.rw,
        "bs": job.block,
        "iodepth": str(job.depth),
        "offset": str(job.offset),
        "size": str(job.size),
        "ramp_time": f"{job.ramp * 1000:.0f}ms",
        "randrepeat": "0",
        "randseed": str(job.seed),
        "norandommap": "1",
        "invalidate": "0",
        "lat_percentiles": "1",
        "clat_percentiles": "0",
        "clocksource": "clock_gettime",  # the others are calibrated first, which takes longer than a short job
        "output-format": "json",
    }
    if job.seconds:
        options |= {"time_based": "1", "runtime": f"{job.seconds * 1000:.0f}ms"}
    if job.windows:
        options |= {"write_iops_log": str(log), "log_avg_msec": str(int(job.seconds * 1000 / job.windows / _LINES))}
    command = ["fio", *(f"--{name}={value}" for name, value in options.items()), *job.more]
    limit = job.seconds + job.ramp + GRACE_SECONDS
    try:
        process = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=limit, cwd=directory, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        msg = f"fio {job.rw} of {job.block}: not done after {limit:.0f} s"
        raise RigError(msg) from None
    if process.returncode:
        lines = (process.stderr or process.stdout).strip().splitlines()
        msg = f"fio {job.rw} of {job.block}: {lines[0] if lines else f'exit {process.returncode}'}"
        raise RigError(msg)
    windows = _windows(directory / "fio_iops.1.log", job) if job.windows else ()
    return parsed(process.stdout, windows)


def parsed(output: str, windows: tuple[float, ...] = ()) -> Result:
    """Read fio's JSON, which warnings may precede; raises RigError if nothing was done."""
    found = json.loads(output[output.index("{") :])["jobs"][0]
    sides = [found[side] for side in ("read", "write") if found[side]["total_ios"]]
    if not sides:
        msg = "fio: nothing was done"
        raise RigError(msg)
    operations = sum(side["total_ios"] for side in sides)
    return Result(
        operations=operations,
        bytes=sum(side["io_bytes"] for side in sides),
        seconds=max(side["runtime"] for side in sides) / 1000,
        mean_us=sum(side["lat_ns"]["mean"] * side["total_ios"] for side in sides) / operations / 1000,
        p99_us=max(side["lat_ns"].get("percentile", {}).get("99.000000", 0) for side in sides) / 1000,
        windows=windows,
    )


_LINES: Final = 4
"""Lines of fio's log for each window."""


def _windows(log: Path, job: Job) -> tuple[float, ...]:
    """Split fio's log of operations a second; each line tells about the time before it, and each side has its own."""
    totals = [0.0] * job.windows
    length = job.seconds / job.windows
    for line in log.read_text().splitlines():
        at_ms, rate = line.split(",")[:2]
        middle = int(at_ms) / 1000 - job.ramp - length / _LINES / 2
        totals[min(job.windows - 1, max(0, int(middle / length)))] += float(rate) / _LINES
    return tuple(totals)
