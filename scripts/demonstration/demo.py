"""See fusecache work: a disk image on a slow disk, used bare, through a cold cache, and through a warm one.

The slow disk is simulated (slow_disk.py, profile hdd: 5 ms for a random access, 150 MB/s); everything else is real: the
image holds an ext4 with files of this machine, mounted through a loop device, and each pass reads, searches and writes
them (workload.py).  First a cache decides as dm-cache does (smq), then an empty one as fusecache does unless told
(adaptive).  Midway that policy is switched and switched back, while everything is mounted.  Before each pass all that
is in memory is dropped, so that what is measured is the cache, not memory.  At last the cache is decommissioned, and
checksums show that the origin alone is, byte for byte, what the image was.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import matplotlib as mpl
from matplotlib import pyplot as plt
from rich import box
from rich.console import Console
from rich.table import Table

from scripts.benchmarks.counters import drop_cached
from scripts.benchmarks.rig import Cache, RigError, fusecache, operations, run, slow_disk
from scripts.demonstration.workload import (
    FILE_SYSTEM_BYTES,
    IMAGE_BYTES,
    MIB,
    FileWorkload,
    RangeWorkload,
    Times,
    Workload,
    content_commands,
    timed,
)

CACHE_SIZE: Final = "256MiB"
CACHES: Final = (("smq",) * 3, ("adaptive", "adaptive", "smq", "adaptive", "adaptive"))
"""For each cache the policy of each pass; the first finds it cold."""

_FREE_SECONDS: Final = 60

BARE: Final = "bare"
PICTURE: Final = Path(__file__).parents[2] / "build" / "demo.png"
COLOURS: Final = {BARE: "0.6", "smq": "tab:blue", "adaptive": "tab:green"}

console = Console(highlight=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass of the workload cost."""

    name: str
    policy: str
    times: Times
    hit_ratio: float | None
    origin_reads: int
    origin_writes: int


class Demo:
    """The story; ``directory`` is all its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.backing = directory / "backing"
        self._is_root = os.geteuid() == 0
        self.passes: list[Pass] = []

    def make_image(self) -> None:
        """Write the origin: an ext4 with real files."""
        with self.backing.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        eager = "lazy_itable_init=0,lazy_journal_init=0"  # nothing left for the kernel to do while we measure
        run("mkfs.ext4", "-q", "-F", "-E", eager, self.backing, f"{FILE_SYSTEM_BYTES // MIB}M")
        commands = self._directory / "commands"
        commands.write_text("".join(f"{command}\n" for command in content_commands()))
        run("debugfs", "-w", "-f", commands, self.backing)

    def use_bare(self, disk: Path) -> None:
        """Do the work without fusecache."""
        self._pass(BARE, BARE, disk, disk, None)

    def use_cached(self, disk: Path) -> bool:
        """Do the work through one cache after the other; tell whether the origin holds all of it in the end."""
        wrong = [passes for passes in CACHES if not self._use_cache(disk, passes)]
        return not wrong

    def _use_cache(self, disk: Path, passes: Sequence[str]) -> bool:
        """Do the work through an empty cache, again and again; tell whether the origin holds all of it then."""
        policy = passes[0]
        directory = self._directory / policy
        with fusecache(disk, directory, "--cache-size", CACHE_SIZE, "--policy", policy) as cache:
            say(f"$ fusecache mount disk mnt --cache-size {CACHE_SIZE} --policy {policy}")
            for number, wanted in enumerate(passes):
                if wanted != policy:
                    policy = wanted
                    command = ("setfattr", "-n", "user.fusecache.policy", "-v", policy, cache.image)
                    say(f"$ {shlex.join(map(str, command))}")
                    run(*command)
                name = "cold" if number == 0 else "warm" if number == len(passes) - 1 else f"pass {number + 1}"
                self._pass(name, policy, disk, cache.image, cache)
            say("checksum of the image, through the cache")
            through_cache = checksum(cache.image)
            say(f"$ fusecache decommission mnt    ({cache.status()['dirty_blocks']} dirty blocks)")
            run("fusecache", "decommission", cache.mountpoint)
            say("$ fusecache unmount mnt")
            run("fusecache", "unmount", cache.mountpoint)
        say("checksum of the origin alone")
        return checksum(self.backing) == through_cache

    def _pass(self, name: str, policy: str, disk: Path, image: Path, cache: Cache | None) -> None:
        """Do the work once, with nothing of the image in memory, and note what it cost."""
        if cache:
            with cache.file.open("r+b") as file:
                drop_cached(file.fileno())
        with self._workload(image) as workload, console.status(name):
            reached = operations(disk)
            hits, accesses = hits_and_accesses(cache)
            times = timed(workload)
            hits_after, accesses_after = hits_and_accesses(cache)
            reached_after = operations(disk)
        measured = Pass(
            name=name,
            policy=policy,
            times=times,
            hit_ratio=(hits_after - hits) / (accesses_after - accesses) if cache else None,
            origin_reads=reached_after["reads"] - reached["reads"],
            origin_writes=reached_after["writes"] - reached["writes"],
        )
        say(f"{name if name == policy else f'{name} ({policy})'}: {times.total:.1f} s")
        self.passes.append(measured)

    @contextmanager
    def _workload(self, image: Path) -> Iterator[Workload]:
        """Prepare the work on the image: a mount of its own, which begins with nothing in memory."""
        if self._is_root:
            with file_system(image, self._directory / "files") as root:
                yield FileWorkload(root)
        else:
            yield RangeWorkload(image)


@contextmanager
def file_system(image: Path, mountpoint: Path) -> Iterator[Path]:
    """Mount the ext4 in ``image`` through a loop device; needs root."""
    mountpoint.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
    try:
        run("mount", "-t", "ext4", "-o", "noatime", device, mountpoint)
        try:
            yield mountpoint
        finally:
            run("umount", mountpoint)
    finally:
        run("losetup", "--detach", device)
        _wait_until_free(device)


def _wait_until_free(device: str) -> None:
    """Wait until a file system is unmounted for good: in mount namespaces that others have made meanwhile it stays.

    Only when the last of them has ended it writes that it is clean.
    """
    deadline = time.monotonic() + _FREE_SECONDS
    while run("losetup", "--list", "--noheadings", "--output", "BACK-FILE", device).strip():
        if time.monotonic() > deadline:
            msg = f"{device} stays in use: another program has the file system in a mount namespace of its own"
            raise RigError(msg)
        time.sleep(0.05)


def hits_and_accesses(cache: Cache | None) -> tuple[int, int]:
    """Count the hits, and the hits and misses together, of reads and writes."""
    status = cache.status() if cache else dict.fromkeys(("read_hits", "write_hits", "read_misses", "write_misses"), 0)
    hits: int = status["read_hits"] + status["write_hits"]
    return hits, hits + status["read_misses"] + status["write_misses"]


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table(passes: list[Pass]) -> Table:
    """Show the passes, one a line."""
    result = Table(
        title=f"Seconds for the same work, bare and behind a cache of {CACHE_SIZE}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    result.add_column("pass", no_wrap=True)
    headings = ("read", "search", "write", "total", "gain", "hits", "origin\nreads", "origin\nwrites")
    for heading in headings:
        result.add_column(heading, justify="right")
    bare = passes[0].times.total
    for item in passes:
        seconds = (item.times.read, item.times.search, item.times.write, item.times.total)
        result.add_row(
            item.name if item.name == item.policy else f"{item.name} ({item.policy})",
            *(f"{value:.1f}" for value in seconds),
            f"{bare / item.times.total:.1f}x",
            "" if item.hit_ratio is None else f"{item.hit_ratio:.0%}",
            str(item.origin_reads),
            str(item.origin_writes),
            style="bold" if item.name in {BARE, "cold", "warm"} else None,
        )
    return result


def draw(passes: list[Pass], target: Path) -> None:
    """Draw the passes as bars, coloured by policy, with the share of hits on top."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for position, item in enumerate(passes):
        total = item.times.total
        first = all(earlier.policy != item.policy for earlier in passes[:position])
        axes.bar(position, total, color=COLOURS[item.policy], label=item.policy if first else None)
        note = f"{total:.1f} s" + ("" if item.hit_ratio is None else f"\n{item.hit_ratio:.0%} hits")
        axes.annotate(note, (position, total), ha="center", va="bottom", xytext=(0, 2), textcoords="offset points")
    axes.axhline(passes[0].times.total, color=COLOURS[BARE], linestyle="--", linewidth=1, zorder=0)
    axes.set_xticks(range(len(passes)), ["bare origin", *(item.name for item in passes[1:])])
    axes.set_ylabel("seconds for the same work (less is better)")
    axes.margins(y=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(f"A slow disk behind a cache of {CACHE_SIZE}; each pass begins with nothing in memory", fontsize=11)
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def say(message: str) -> None:
    """Tell what goes on."""
    console.print(message, style="dim", soft_wrap=True)


def main() -> int:
    """Exit 0 when all went well and the origin is what the image was."""

    def stop(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)  # so that everything is cleaned up on the way out

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    summary, _, description = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="demo", description=summary, epilog=description)
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="PNG", help="default: %(default)s")
    picture: Path = parser.parse_args().picture
    if os.geteuid() != 0:
        say("not root: no loop device, no mount; the same work is done on ranges of the bare image")
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fusecache-demo-")))
            demo = Demo(directory)
            say("making an image of 1 GiB with files of /usr")
            demo.make_image()
            disk = stack.enter_context(slow_disk("hdd", demo.backing, directory / "slow"))
            demo.use_bare(disk)
            same = demo.use_cached(disk)
    except (RigError, OSError) as exc:
        sys.exit(f"demo: {exc}")
    draw(demo.passes, picture)
    console.print(table(demo.passes))
    console.print(f"picture: {picture}", soft_wrap=True)
    console.print(f"the origin alone is {'' if same else 'NOT '}byte for byte what the image was")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
