"""How it grows with the cache: mounting with a full map, memory, and the time of a hit.

Files are sparse, so that terabytes fit anywhere; maps are random, and full.  *empty* is a cache of the same size with
nothing in it, *tiny* one of 100 blocks, all in use; all have images of one size.  Memory is the proportional set size
of the daemon.  Hits are reads of 4 KiB, at random, over all blocks of the full and of the tiny mount, and over a
hundred blocks of the full one, by turns.  As the kernel, too, takes longer to find pages among many, a bare server for
each cache file reads the very same ones.  The caches are in memory: on a disk, what is read once in a while does not
stay in the page cache everywhere (some virtual machines have whatever was not used for seconds paged out).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from fusecache.attach import DATA_START
from scripts.benchmarks.full_maps import Layout, Place, make_place
from scripts.benchmarks.rig import RigError, python_server
from scripts.benchmarks.rig import run as run_command
from scripts.benchmarks.suite.context import Context, in_turn
from scripts.benchmarks.suite.figure import Figure, compared
from scripts.benchmarks.suite.processes import usage
from scripts.benchmarks.suite.systems import FUSECACHE

KIB: Final = 2**10
GIB: Final = 2**30
TIB: Final = 2**40
PAGE: Final = 4096
FULL: Final = FUSECACHE
"""The column of the full cache."""
TINY_BLOCKS: Final = 100
MOUNT_SECONDS: Final = 3.0
BYTES_PER_BLOCK: Final = 64.0
HIT_RATIO: Final = 1.2
END_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Size:
    """One size of cache; ``is_judged``: the targets are of this one."""

    blocks: int
    block_size: int
    image_bytes: int
    is_judged: bool

    @property
    def name(self) -> str:
        """Say which it is."""
        return f"{self.blocks:,} blocks of {self.block_size // KIB} KiB"


LARGE: Final = Size(100 * GIB // (256 * KIB), 256 * KIB, TIB, is_judged=True)
HUGE: Final = Size(4_000_000, 64 * KIB, TIB, is_judged=False)
MEDIUM: Final = Size(100_000, 256 * KIB, TIB, is_judged=False)
SMALL: Final = Size(1000, 64 * KIB, GIB, is_judged=False)


def run(context: Context) -> Iterator[Figure]:
    """Measure each size."""
    for size in context.pick(full=(LARGE, HUGE), quick=(MEDIUM,), smoke=(SMALL,)):
        with context.scratch(on_disk=True) as scratch, context.scratch() as memory:
            yield from _measure(context, scratch, memory, size)


def _measure(context: Context, scratch: Path, caches: Path, size: Size) -> Iterator[Figure]:
    def make(name: str, blocks: int, used: int) -> tuple[Place, array[int]]:
        layout = Layout(image_bytes=size.image_bytes, block_size=size.block_size, blocks=blocks, used=used)
        return make_place(scratch / name, caches / name, layout)

    context.say(f"scale: making {size.name}")
    full, oblocks = make("full", size.blocks, size.blocks)
    empty, _ = make("empty", size.blocks, 0)
    tiny, tiny_oblocks = make("tiny", TINY_BLOCKS, TINY_BLOCKS)
    yield from _times(context, size, full, empty)
    with _mounted(full) as full_pid, _mounted(tiny) as tiny_pid, _mounted(empty) as empty_pid:
        memory = {FULL: _memory(full_pid), "empty": _memory(empty_pid), "tiny": _memory(tiny_pid)}
        yield from _grown(size, "memory", memory)
        yield from _hits(context, scratch, size, _Mount(full, oblocks), _Mount(tiny, tiny_oblocks))
        memory |= {FULL: _memory(full_pid), "tiny": _memory(tiny_pid)}
        yield from _grown(size, "memory after these hits", memory)


def _times(context: Context, size: Size, full: Place, empty: Place) -> Iterator[Figure]:
    """Mount and unmount, after a clean end and after a crash."""
    mounts: dict[str, list[float]] = {FULL: [], "empty": []}
    ends: dict[str, list[float]] = {FULL: [], "empty": []}
    processor: dict[str, list[float]] = {FULL: [], "empty": []}
    crashed: list[float] = []
    for _ in range(context.pick(full=context.rounds, quick=1, smoke=1)):
        for name, place in ((FULL, full), ("empty", empty)):
            with _mounting(place, mounts[name], ends[name]):
                processor[name].append(_processor_seconds(place))
        with _mounted(full) as pid:
            os.kill(pid, signal.SIGKILL)
        with _mounting(full, crashed, []):
            pass
    found = (
        ("mount", mounts, MOUNT_SECONDS),
        ("mount after kill -9", {FULL: crashed}, MOUNT_SECONDS),
        ("mount, processor time of the daemon", processor, None),
        ("unmount", ends, MOUNT_SECONDS),
    )
    for what, times, limit in found:
        for name, values in times.items():
            yield Figure(
                name=f"{size.name}: {what}",
                system=name,
                value=median(values),
                unit="s",
                rounds=tuple(values),
                at_most=limit if name == FULL and size.is_judged else None,
            )


def _grown(size: Size, name: str, memory: dict[str, int]) -> Iterator[Figure]:
    for system, measured in memory.items():
        yield Figure(name=f"{size.name}: {name}", system=system, value=measured / 2**20, unit="MiB")
    for other in ("empty", "tiny"):
        yield Figure(
            name=f"{size.name}: {name} above {other}",
            system=FULL,
            value=(memory[FULL] - memory[other]) / size.blocks,
            unit="B/block",
            at_most=BYTES_PER_BLOCK if size.is_judged else None,
        )


@dataclass(frozen=True, slots=True)
class _Mount:
    """A place that is mounted, and the block of the image in each of its cache blocks."""

    place: Place
    oblocks: array[int]

    def pages(self, size: Size, cblocks: Sequence[int], count: int) -> list[_Page]:
        """Choose pages, of as many of these blocks as there are."""
        rng = random.Random(2)
        order = rng.sample(cblocks, min(count, len(cblocks)))
        found = []
        for number in range(count):
            cblock = order[number % len(order)]
            within = rng.randrange(size.block_size // PAGE) * PAGE
            offset = self.oblocks[cblock] * size.block_size + within
            found.append(_Page(offset, DATA_START + cblock * size.block_size + within))
        return found


class _Page(NamedTuple):
    """Where a page is in the image, and in the cache file."""

    in_image: int
    in_cache: int


@dataclass(frozen=True, slots=True)
class _Reads:
    """What is read by turns: places in a file; ``place``: whose hits they are, if any's."""

    file: Path
    offsets: Sequence[int]
    place: Place | None = None

    def time(self, offsets: Sequence[int]) -> float:
        """Return the microseconds of a read; raises RigError if some were no hits."""
        before = _hit_count(self.place) if self.place else 0
        fd = os.open(self.file, os.O_RDONLY)
        try:
            began = time.perf_counter()
            for offset in offsets:
                os.pread(fd, PAGE, offset)
            taken = time.perf_counter() - began
        finally:
            os.close(fd)
        if self.place and _hit_count(self.place) - before < len(offsets):
            msg = f"scale: not all of {len(offsets)} reads through {self.file} were hits"
            raise RigError(msg)
        return taken / len(offsets) * 1e6


def _hits(context: Context, scratch: Path, size: Size, full: _Mount, tiny: _Mount) -> Iterator[Figure]:
    count = context.pick(full=100_000, quick=10_000, smoke=500)
    everywhere = full.pages(size, range(size.blocks), count)
    a_hundred = full.pages(size, random.Random(4).sample(range(size.blocks), TINY_BLOCKS), count // 10)
    small = tiny.pages(size, range(TINY_BLOCKS), count // 10)
    _fill(full.place, [page.in_cache for page in everywhere + a_hundred])
    _fill(tiny.place, [page.in_cache for page in small])
    with (
        python_server("bare_server", full.place.cache, scratch / "bare-full"),
        python_server("bare_server", tiny.place.cache, scratch / "bare-tiny"),
    ):

        def through_fusecache(mount: _Mount, pages: Sequence[_Page]) -> _Reads:
            return _Reads(mount.place.mountpoint / "image", [page.in_image for page in pages], mount.place)

        def through_bare(name: str, pages: Sequence[_Page]) -> _Reads:
            return _Reads(scratch / name / "image", [page.in_cache for page in pages])

        taken = _by_turns(
            context,
            {
                "tiny": through_fusecache(tiny, small),
                "full": through_fusecache(full, everywhere),
                "hundred": through_fusecache(full, a_hundred),
                "bare tiny": through_bare("bare-tiny", small),
                "bare full": through_bare("bare-full", everywhere),
            },
        )
    limit = {FULL: HIT_RATIO} if size.is_judged else None
    for name, of_full, of_tiny, target in (
        ("a hit", "full", "tiny", limit),
        (f"a hit, all in {TINY_BLOCKS} blocks", "hundred", "tiny", None),
        ("the same pages through a bare server", "bare full", "bare tiny", None),
    ):
        rounds = {FULL: taken[of_full], "tiny": taken[of_tiny]}
        yield from compared(f"{size.name}: {name}", rounds, unit="µs", baseline="tiny", at_most=target)


def _by_turns(context: Context, all_reads: dict[str, _Reads]) -> dict[str, list[float]]:
    """Return the microseconds of a read in each round."""
    count = context.pick(full=20_000, quick=2_000, smoke=200)
    taken: dict[str, list[float]] = {name: [] for name in all_reads}
    rng = random.Random(3)
    for reads in all_reads.values():
        reads.time(reads.offsets)  # each of them once: what a busy mount does in a second or two
    for number in range(2 * context.rounds):
        for name in in_turn(list(all_reads), number):
            reads = all_reads[name]
            taken[name].append(reads.time(rng.choices(reads.offsets, k=count)))
    return taken


def _fill(place: Place, positions: Sequence[int]) -> None:
    """Have memory for these pages of the cache."""
    fd = os.open(place.cache, os.O_WRONLY)
    try:
        for position in positions:
            os.pwrite(fd, bytes(PAGE), position)
    finally:
        os.close(fd)


def _hit_count(place: Place) -> int:
    return _figure(place, "read_hits")


def _pid(place: Place) -> int:
    return _figure(place, "pid")


def _processor_seconds(place: Place) -> float:
    """Return the processor time that a place's daemon has used so far."""
    used = usage([_pid(place)])
    return used.user + used.kernel


def _figure(place: Place, name: str) -> int:
    return int(json.loads(os.getxattr(place.mountpoint / "image", "user.fusecache.stats"))[name])


def _timed(*command: str | Path) -> float:
    began = time.perf_counter()
    run_command(*command)
    return time.perf_counter() - began


def _mount(place: Place) -> float:
    """Mount; return how many seconds it took."""
    files = ("--cache", place.cache, "--metadata", place.metadata)
    return _timed("fusecache", "mount", place.origin, place.mountpoint, *files)


@contextmanager
def _mounting(place: Place, mounts: list[float], ends: list[float]) -> Iterator[None]:
    """Have it mounted; add how long that took, and how long unmounting does."""
    try:
        mounts.append(_mount(place))
        yield
        ends.append(_timed("fusecache", "unmount", place.mountpoint))
    except BaseException:
        run_command("fusermount3", "-u", "-z", place.mountpoint, check=False)
        raise


@contextmanager
def _mounted(place: Place) -> Iterator[int]:
    """Have it mounted; yields the daemon's process id.  The body may kill it."""
    _mount(place)
    pid = _pid(place)
    try:
        yield pid
    finally:
        run_command("fusermount3", "-u", "-z", place.mountpoint)
        _wait_for_end(pid)


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + END_SECONDS
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            msg = f"scale: the daemon {pid} does not end"
            raise RigError(msg)
        time.sleep(0.02)


def _memory(pid: int) -> int:
    """Return the bytes of memory that a process takes, its part of what it shares included."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIB
    msg = f"scale: no memory figures of {pid}"
    raise RigError(msg)
