"""Lives of a mount and the ways in which they end, drawn from a seed, for the loops of crashes.

A :class:`Story` is told line by line as it happens, so that a failure says what led to it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from tests.integration.judges import MODES, PAGE_CACHES, POLICIES
from tests.integration.mounts import COMMAND_SECONDS, PAGE_CACHE, Mount, program

PAIRS = list(itertools.product(MODES, POLICIES))
GEOMETRIES = [("512KiB", "16KiB"), ("1MiB", "4KiB"), ("512KiB", "64KiB"), ("760KiB", "76KiB")]
"""Sizes of caches and of their blocks; small enough for everything to happen soon."""
_MOUNT_SECONDS = 0.7
_UNMOUNT_SECONDS = 0.6
_REST_SECONDS = 8.0
"""Enough for commits to fall due, and for regions to be closed."""


class Worker(Protocol):
    """Who uses the image, and remembers what was promised."""

    syncs: int

    def start(self) -> None:
        """Begin to work."""

    def stop(self) -> None:
        """End, with nothing open."""

    def join(self) -> None:
        """Wait for the end, however it came."""


class Story:
    """Random choices from one seed, and what came of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.tell(f"seed {seed}")
        self._pairs = self._shuffled_pairs()
        self._page_caches = self._shuffled_page_caches(seed)

    def tell(self, line: str) -> None:
        """Say what happens; pytest shows it where a test fails."""
        print(line, flush=True)  # noqa: T201 - see above

    def pair(self) -> tuple[str, str]:
        """Return the mode and policy of the next life; each pair has its turn."""
        return next(self._pairs)

    def page_cache(self) -> str:
        """Return what the page cache of the next life holds; each has its turn."""
        return next(self._page_caches)

    def chance(self, probability: float) -> bool:
        """Return True as often as that."""
        return self.random.random() < probability

    def _shuffled_pairs(self) -> Iterator[tuple[str, str]]:
        while True:
            yield from self.random.sample(PAIRS, len(PAIRS))

    def _shuffled_page_caches(self, seed: int) -> Iterator[str]:
        rng = random.Random(f"page caches {seed}")
        while True:
            yield from rng.sample(PAGE_CACHES, len(PAGE_CACHES))

    def pause(self, longest: float) -> None:
        """Let some time pass, short ones more often than long ones."""
        seconds = longest * self.random.random() ** 2
        self.tell(f"  {seconds:.2f} s pass")
        time.sleep(seconds)


def mount_as(mount: Mount, mode: str, policy: str, page_cache: str = PAGE_CACHE) -> None:
    """Mount in a mode, whatever is dirty: passthrough needs a clean cache, so it is switched to."""
    first_mode = "writethrough" if mode == "passthrough" else mode
    mount.mount("--mode", first_mode, "--policy", policy, "--page-cache", page_cache)
    if mode == "passthrough":
        mount.setxattr("mode", mode)


def end_life(mount: Mount, writer: Worker, story: Story, leave: Callable[[], object] = lambda: None) -> None:
    """Have work done for a while, then kill the server in the midst of something; no process of it is left.

    :param leave: ends all other use of the image, so that it can be unmounted.
    """
    writer.start()
    story.pause(2)
    end = story.random.choice(["work", "work", "rest", "flush", "mode", "policy", "unmount", "clean"])
    story.tell(f"  ends while: {end}, after {writer.syncs} fsyncs in all")
    changes = {
        "flush": ("message", "flush"),
        "mode": ("mode", story.random.choice(MODES)),
        "policy": ("policy", story.random.choice(POLICIES)),
    }
    if end in changes:
        changing = threading.Thread(target=_set_until_killed, args=(mount, *changes[end]))
        changing.start()
        story.pause(0.3)
        mount.crash()
        changing.join(30)
        assert not changing.is_alive()
    elif end in {"work", "rest"}:
        if end == "rest":
            writer.stop()
            story.pause(_REST_SECONDS)
        mount.crash()
    else:
        writer.stop()
        leave()
        with subprocess.Popen([program(), "unmount", mount.mountpoint], stdout=subprocess.PIPE, text=True) as process:
            if end == "unmount":
                story.pause(_UNMOUNT_SECONDS)
                mount.crash()
            output, _ = process.communicate(timeout=COMMAND_SECONDS)
            assert end == "unmount" or process.returncode == 0, output
    writer.join()


def abort_a_mount(mount: Mount, story: Story) -> None:
    """Begin to mount and be killed meanwhile, or shortly after."""
    mode, policy = story.pair()
    story.tell(f"killed while mounting ({mode}, {policy})")
    command = mount.mount_command("--mode", mode, "--policy", policy)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        time.sleep(_MOUNT_SECONDS * story.random.random())
        mount.crash()


def _set_until_killed(mount: Mount, name: str, value: str) -> None:
    with contextlib.suppress(OSError):
        mount.setxattr(name, value)


def seeds(count: int) -> list[int]:
    """Return this run's seeds, or the one in FUSECACHE_SEED."""
    if "FUSECACHE_SEED" in os.environ:
        return [int(os.environ["FUSECACHE_SEED"])]
    first = int(os.environ["FUSECACHE_FIRST_SEED"])
    return list(range(first, first + count))
