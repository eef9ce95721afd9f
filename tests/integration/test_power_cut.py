"""The power of the whole stack fails: origin, cache and metadata lose any subset of what was not synced.

``FUSECACHE_CUTS`` (3 unless set) says how often; ``FUSECACHE_SEED`` tells one world's story again, as far as a real
machine repeats itself.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.integration.judges import MIB
from tests.integration.lives import GEOMETRIES, Story, abort_a_mount, end_life, mount_as, seeds
from tests.integration.mounts import Mount
from tests.integration.power import Power
from tests.integration.writer import Writer

CUTS = int(os.environ.get("FUSECACHE_CUTS", "3"))
CUTS_PER_WORLD = 10
WORLD_SECONDS = 100 + 15 * CUTS_PER_WORLD
SLOTS = 2 * MIB // Writer.SLOT


class World:
    """A mount whose three files lie on three disks that forget, and a writer that remembers; the power is off.

    The cache is an empty file.  Without ``cache_exists`` it is to be made, and a cut may fall into that, too.
    """

    def __init__(self, directory: Path, story: Story, *, cache_exists: bool) -> None:
        self.power = Power(directory, "slow", "fast", "meta")
        (self.power.medium / "slow/origin").write_bytes(Writer.blank(SLOTS) + random.Random(1).randbytes(1000))
        if cache_exists:
            (self.power.medium / "fast/cache").touch()
        (directory / "mnt").mkdir()
        cache_size, block_size = story.random.choice(GEOMETRIES)
        story.tell(f"cache of {cache_size} in blocks of {block_size}")
        self.mount = Mount(
            origin=self.power.disks / "slow/origin",
            cache=self.power.disks / "fast/cache",
            metadata=self.power.disks / "meta/metadata",
            mountpoint=directory / "mnt",
            options=["--cache-size", cache_size, "--block-size", block_size],
        )
        self.writer = Writer(self.mount.image, SLOTS, seed=story.random.randrange(1000))

    def cut(self, story: Story) -> None:
        """Cut the power, and have it back."""
        seed = story.random.randrange(1_000_000)
        story.tell(f"power cut {seed}")
        self.power.cut(seed)
        self.power.on()

    def judge(self) -> None:
        """Hold what is mounted against the promises."""
        self.writer.judge(self.mount.image.read_bytes())

    def discard(self) -> None:
        self.mount.discard()
        self.power.discard()


class MakeWorld(Protocol):
    """What the fixture ``make_world`` gives."""

    def __call__(self, story: Story, *, cache_exists: bool = True) -> World:
        """Make a world, and have the power on."""


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    """Make worlds; nothing of them stays, and none goes on for ever."""
    worlds: list[World] = []

    def make(story: Story, *, cache_exists: bool = True) -> World:
        directory = tmp_path / f"world{len(worlds)}"
        directory.mkdir()
        world = World(directory, story, cache_exists=cache_exists)
        worlds.append(world)
        world.power.on()
        return world

    def discard() -> None:
        for world in worlds:
            world.discard()

    watchdog = threading.Timer(WORLD_SECONDS, discard)
    watchdog.daemon = True
    watchdog.start()
    yield make
    watchdog.cancel()
    discard()


@pytest.mark.parametrize("seed", seeds(-(-CUTS // CUTS_PER_WORLD)))
def test_what_was_fsynced_survives_power_cuts(make_world: MakeWorld, seed: int) -> None:
    story = Story(seed)
    world = make_world(story, cache_exists=story.chance(0.3))
    for _ in range(min(CUTS, CUTS_PER_WORLD)):
        if story.chance(0.3):
            abort_a_mount(world.mount, story)
            world.cut(story)
        mode, policy = story.pair()
        page_cache = story.page_cache()
        story.tell(f"mounted ({mode}, {policy}, page cache {page_cache})")
        mount_as(world.mount, mode, policy, page_cache)
        world.judge()
        end_life(world.mount, world.writer, story)
        world.cut(story)
    mount_as(world.mount, "passthrough", "smq")
    world.judge()
    last = world.mount.image.read_bytes()
    world.mount.unmount()
    world.cut(story)
    assert world.mount.origin.read_bytes() == last


@pytest.mark.parametrize(
    ("sabotage", "mode"),
    [
        ("cache-never-flushed", "writeback"),
        ("origin-never-flushed", "writethrough"),
        ("commits-not-synced", "writeback"),
    ],
)
def test_a_fusecache_that_does_not_sync_is_found_out(make_world: MakeWorld, sabotage: str, mode: str) -> None:
    story = Story(*seeds(1))
    world = make_world(story)
    world.mount.command = [sys.executable, "-m", "tests.integration.sabotage", sabotage]
    with pytest.raises(AssertionError, match=r"promised|was never written|is damaged|malformed|-wal is|of generation"):
        work_and_cut(world, mode, story, times=CUTS_PER_WORLD)


def work_and_cut(world: World, mode: str, story: Story, *, times: int) -> None:
    for _ in range(times):
        world.mount.mount("--mode", mode)
        world.judge()
        world.writer.start()
        world.writer.wait_for_syncs(100)
        world.mount.crash()
        world.writer.join()
        world.cut(story)


def test_what_was_read_after_a_kill_is_there_after_a_power_cut(make_world: MakeWorld) -> None:
    story = Story(*seeds(1))
    world = make_world(story)
    mount, writer = world.mount, world.writer
    mount.mount()
    for _ in range(2):
        for slot in range(SLOTS):
            version = writer.issued[slot] = writer.issued[slot] + 1
            mount.write(slot * Writer.SLOT, writer.content(slot, version))
        mount.crash()
        mount.mount()
        found = mount.image.read_bytes()
        mount.crash()
        world.cut(story)
        mount.mount()
        assert mount.image.read_bytes() == found


def test_a_synchronous_write_is_as_good_as_an_fsync(make_world: MakeWorld) -> None:
    story = Story(*seeds(1))
    world = make_world(story)
    for mode, page_cache in (("passthrough", "image"), ("writeback", "stores"), ("writeback", "none")):
        mount_as(world.mount, mode, "smq", page_cache)
        world.judge()
        fd = os.open(world.mount.image, os.O_WRONLY | os.O_DSYNC)
        for slot in range(0, SLOTS, 3):
            version = world.writer.issued[slot] = world.writer.issued[slot] + 1
            os.pwrite(fd, Writer.content(slot, version), slot * Writer.SLOT)
            world.writer.acknowledged[slot] = version
        os.close(fd)
        world.mount.crash()
        world.cut(story)
    mount_as(world.mount, "passthrough", "smq")
    world.judge()
