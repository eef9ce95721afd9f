"""What processes have used so far, by the kernel's own counters."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS: Final = 0.05
IDLE_SHARE: Final = 0.1
"""Processes that use less of a processor are idle."""
MOST_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of processor time, and task switches: by waiting, and by being preempted."""

    user: float
    kernel: float
    waits: float
    preemptions: float


def usage(pids: Sequence[int]) -> Usage:
    """Read what processes have used; task switches of threads that have ended do not count."""
    user = kernel = waits = preemptions = 0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user += int(words[11])
        kernel += int(words[12])
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if "ctxt_switches" in line)
            waits += int(lines["voluntary_ctxt_switches"])
            preemptions += int(lines["nonvoluntary_ctxt_switches"])
    return Usage(user / TICKS, kernel / TICKS, waits, preemptions)


def wait_until_idle(pids: Sequence[int]) -> None:
    """Wait until processes have little to do, but not for long: what one does afterwards must not slow down another."""
    deadline = time.monotonic() + MOST_SECONDS
    before = _nanoseconds(pids)
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        after = _nanoseconds(pids)
        if after - before < IDLE_SHARE * LOOK_SECONDS * 1e9:
            break
        before = after


def _nanoseconds(pids: Sequence[int]) -> int:
    """Add up the processor time of all threads that there are."""
    total = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):  # the thread has ended meanwhile
                total += int(path.read_text().split()[0])
    return total
