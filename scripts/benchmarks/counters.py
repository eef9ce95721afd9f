"""What the kernel counts: of processes their time, task switches and memory, of files what is in the page cache."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS: Final = 0.1
_IDLE_SHARE: Final = 0.15
"""Processes that use less of a processor are idle."""
_IDLE_LOOKS: Final = 50
_CACHESTAT: Final = 451
"""The number of the system call, in Linux 6.5 and later."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of processor time, and task switches: by waiting, and by being preempted."""

    user: float
    kernel: float
    waits: float
    preemptions: float

    @property
    def seconds(self) -> float:
        """All processor time."""
        return self.user + self.kernel


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
    return Usage(user / _CLOCK_TICKS, kernel / _CLOCK_TICKS, waits, preemptions)


def wait_until_idle(pids: Sequence[int]) -> None:
    """Wait until processes have little to do, but not for long: what one does afterwards must not slow down another."""
    before = usage(pids).seconds
    for _ in range(_IDLE_LOOKS):
        time.sleep(_LOOK_SECONDS)
        after = usage(pids).seconds
        if after - before < _IDLE_SHARE * _LOOK_SECONDS:
            break
        before = after


def memory(pid: int) -> int:
    """Return the bytes of memory that a process takes, its part of what it shares included."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(lines["Pss"].split()[0]) * 1024


def cached_bytes(fd: int) -> int:
    """Count what an open file has in the page cache; raises OSError where the kernel cannot tell.

    Nothing is mapped or read for it, so files that know no mmap can be asked, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    whole, answer = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if libc.syscall(_CACHESTAT, fd, whole, answer, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"cachestat: {os.strerror(code)}")
    return int(answer[0]) * os.sysconf("SC_PAGESIZE")


def drop_cached(fd: int) -> None:
    """Have nothing of an open file in the page cache, as far as the kernel lets go of it."""
    os.fsync(fd)  # dirty pages stay
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
