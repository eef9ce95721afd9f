"""Expose a file as a slow disk.

``python -m scripts.benchmarks.slow_disk PROFILE BACKING MOUNTPOINT`` serves BACKING as MOUNTPOINT/disk.

Profiles: ``hdd`` (one head that must travel), ``net`` (distant, but parallel), ``far`` (more of both), ``ram`` (as fast
as FUSE gets).

:class:`Disk` is a pure model: told when a request arrives and where it goes, it answers when a real disk would be done.
The server does the real I/O at once, on the backing file's page cache, and holds the answer back until that moment.
The file is never cached by the kernel (``direct_io``): whatever reaches the model is a true access of the disk.

Requests are served in the order of arrival; a disk that sorts its queue would do better under parallel load.  A flush
takes its time but does not fsync the backing file: a simulated disk need not survive a real power cut.  Counters: the
extended attribute ``user.stats`` of MOUNTPOINT/disk (``reads read_bytes writes write_bytes flushes``), in JSON.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import pyfuse3
import trio

from scripts.benchmarks.bare_server import INODE, BareServer, serve

T = TypeVar("T")

MEAN_ROOT_DISTANCE: Final = 8 / 15
"""Mean of sqrt(\\|x - y\\|) for x, y uniform in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a kind of disk is made of; seconds, bytes and bytes a second."""

    lanes: int
    """Requests that are served at the same time."""
    latency: float
    """What each request costs, except one that goes on where the last one ended, if the disk has a head."""
    stroke: float
    """What moving the head over the whole disk costs on top; shorter ways grow with the root of the distance."""
    bandwidth: float
    """Shared by all lanes."""
    flush: float


PROFILES: Final = {
    # 2 ms for half a turn, and 3 ms for the mean way: 5 ms for a random access.
    "hdd": Profile(lanes=1, latency=0.002, stroke=0.003 / MEAN_ROOT_DISTANCE, bandwidth=150e6, flush=0.004),
    "net": Profile(lanes=16, latency=0.0015, stroke=0.0, bandwidth=250e6, flush=0.0015),
    "far": Profile(lanes=64, latency=0.004, stroke=0.0, bandwidth=math.inf, flush=0.004),
    "ram": Profile(lanes=64, latency=0.0, stroke=0.0, bandwidth=math.inf, flush=0.0),
}


class Disk:
    """When requests are done: pure arithmetic on the times given."""

    def __init__(self, profile: Profile, size: int) -> None:
        self._profile = profile
        self._size = size
        self._lane_free_at = [-math.inf] * profile.lanes
        self._link_free_at = -math.inf
        self._head = 0

    def access(self, now: float, offset: int, length: int) -> float:
        """Return when a read or write that arrives ``now`` (seconds, never decreasing) is done."""
        profile = self._profile
        lane = self._lane_free_at.index(min(self._lane_free_at))
        begin = max(now, self._lane_free_at[lane])
        transfer = length / profile.bandwidth
        # The link carries one request at a time.  A head holds it all the while; else latencies overlap.
        if profile.stroke:
            done = begin + self._travel(offset) + transfer
            self._head = offset + length
        else:
            self._link_free_at = max(begin, self._link_free_at) + transfer
            done = max(begin + profile.latency, self._link_free_at)
        self._lane_free_at[lane] = done
        return done

    def flush(self, now: float) -> float:
        """Return when a flush that arrives ``now`` is done: after all that came before it."""
        done = max(now, *self._lane_free_at, self._link_free_at) + self._profile.flush
        self._lane_free_at = [max(done, free_at) for free_at in self._lane_free_at]
        return done

    def _travel(self, offset: int) -> float:
        """Return the time that the head needs to ``offset``; a short way ahead, it waits for it to come by."""
        gap = offset - self._head
        seek = self._profile.latency + self._profile.stroke * math.sqrt(abs(gap) / self._size)
        return min(seek, gap / self._profile.bandwidth) if gap >= 0 else seek


class SlowDisk(BareServer):
    """What reaches the file takes its time."""

    def __init__(self, profile: Profile, backing: int) -> None:
        super().__init__(backing, b"disk")
        self._disk = Disk(profile, self._size)
        self._counters = dict.fromkeys(("reads", "read_bytes", "writes", "write_bytes", "flushes"), 0)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read when the disk would."""
        size = max(0, min(size, self._size - off))
        return await _answer_at(self._done("read", off, size), lambda: os.pread(self._backing, size, off))

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write when the disk would; a disk does not grow."""
        if off + len(buf) > self._size:
            raise pyfuse3.FUSEError(errno.ENOSPC)
        return await _answer_at(self._done("write", off, len(buf)), lambda: os.pwrite(self._backing, buf, off))

    def _done(self, kind: str, offset: int, length: int) -> float:
        """Count a request; return when it is done."""
        self._counters[f"{kind}s"] += 1
        self._counters[f"{kind}_bytes"] += length
        return self._disk.access(time.monotonic(), offset, length)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Take the time that a flush takes."""
        self._counters["flushes"] += 1
        await _answer_at(self._disk.flush(time.monotonic()), lambda: None)

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Show the counters."""
        if inode != INODE or name != b"user.stats":
            raise pyfuse3.FUSEError(errno.ENODATA)
        return json.dumps(self._counters).encode()


async def _answer_at(done: float, operate: Callable[[], T]) -> T:
    """Do the real I/O now, but return no earlier than ``done``."""

    def operate_and_wait() -> T:
        result = operate()
        # A thread sleeps to some 50 us; trio's own sleep, on epoll, only to the next millisecond.
        time.sleep(max(0.0, done - time.monotonic()))
        return result

    if done <= time.monotonic():
        return operate()
    return await trio.to_thread.run_sync(operate_and_wait)


if __name__ == "__main__":
    profile, *arguments = sys.argv[1:]
    serve(partial(SlowDisk, PROFILES[profile]), *arguments, options={"subtype=slow_disk"})
