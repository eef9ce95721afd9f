"""Loops of kill -9: under fio, under ext4, in all modes and policies, also while mounting and unmounting.

``FUSECACHE_KILLS`` (5 unless set; 50 at night) says how often each loop kills; ``FUSECACHE_SEED`` tells one story
again, as far as a real machine repeats itself.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, e2fsck, fio, fio_running, need
from tests.integration.keeper import Keeper
from tests.integration.lives import GEOMETRIES, Story, abort_a_mount, end_life, mount_as, seeds
from tests.integration.mounts import LoopDevices, Mount, run
from tests.integration.writer import Writer

KILLS = int(os.environ.get("FUSECACHE_KILLS", "5"))
KILLS_PER_WORLD = 5
WORLDS = -(-KILLS // KILLS_PER_WORLD)
PART = 2 * MIB
SLOTS = PART // Writer.SLOT
FIO_JOBS = [
    ["ioengine=libaio", "direct=1", "iodepth=16"],
    ["ioengine=libaio", "direct=0", "iodepth=16", "bs=3k"],
    ["ioengine=psync", "direct=1", "bs=16k"],
]
FILES = 60
FIO_FOUND_A_FAULT = re.compile(r"verify failed|bad (magic )?header|verify: ")


def fresh_mount(mounted: Mounted, content: bytes, story: Story) -> Mount:
    cache_size, block_size = story.random.choice(GEOMETRIES)
    story.tell(f"cache of {cache_size} in blocks of {block_size}")
    mount = mounted(content=content, cache_size=cache_size, block_size=block_size)
    mount.unmount()
    return mount


@pytest.mark.parametrize("seed", seeds(WORLDS))
def test_killed_under_fio(mounted: Mounted, seed: int) -> None:
    """The image has three parts: a writer's slots, what fio has finished, and what fio is at work on at the time."""
    story = Story(seed)
    mount = fresh_mount(mounted, Writer.blank(SLOTS).ljust(PART, b"\0") + bytes(2 * PART + 1000), story)
    writer = Writer(mount.image, SLOTS, seed=seed)
    finished: list[str] = []
    for kill in range(min(KILLS, KILLS_PER_WORLD)):
        mode, policy = story.pair()
        page_cache = story.page_cache()
        story.tell(f"mounted ({mode}, {policy}, page cache {page_cache})")
        mount_as(mount, mode, policy, page_cache)
        writer.judge(mount.read(0, PART))
        if finished:
            fio(mount.image, *finished, "verify_only=1", size=PART)
        job = story.random.choice(FIO_JOBS)
        finished = [*job, f"offset={PART}", f"randseed={seed + kill}", "end_fsync=1"]
        fio(mount.image, *finished, "do_verify=0", size=PART)
        with fio_running(mount.image, *job, f"offset={2 * PART}", "fsync=16", "loops=1000", size=PART) as under_way:

            def leave(under_way: subprocess.Popen[str] = under_way) -> None:
                under_way.terminate()
                under_way.wait(30)

            end_life(mount, writer, story, leave)
            output, _ = under_way.communicate(timeout=30)
        assert not FIO_FOUND_A_FAULT.search(output), output
        if story.chance(0.3):
            abort_a_mount(mount, story)
    mount_as(mount, "passthrough", "smq")
    writer.judge(mount.read(0, PART))
    fio(mount.image, *finished, "verify_only=1", size=PART)
    last = mount.image.read_bytes()
    mount.unmount()
    assert mount.origin.read_bytes() == last


@pytest.mark.parametrize("seed", seeds(WORLDS))
def test_scenario_39_killed_under_ext4(mounted: Mounted, loops: LoopDevices, tmp_path: Path, seed: int) -> None:
    """Every file that was fsynced is there after the journal's replay, and nothing is to mend in the file system."""
    need("mkfs.ext4", "e2fsck")
    story = Story(seed)
    mount = fresh_mount(mounted, bytes(24 * MIB), story)
    run("mkfs.ext4", "-q", mount.origin)
    directory = tmp_path / "ext4"
    keeper = Keeper(directory, FILES, seed=seed)
    for _ in range(min(KILLS, KILLS_PER_WORLD)):
        mode, policy = story.pair()
        page_cache = story.page_cache()
        story.tell(f"mounted ({mode}, {policy}, page cache {page_cache})")
        mount_as(mount, mode, policy, page_cache)
        device = _mount_ext4(mount, loops, directory, direct_io=story.chance(0.5))
        keeper.judge()

        def leave(device: Path = device) -> None:
            loops.unmount(directory)
            loops.detach(device)

        end_life(mount, keeper, story, leave)
        if loops.is_mounted(directory):
            leave()
        if story.chance(0.3):
            abort_a_mount(mount, story)
    mount_as(mount, "passthrough", "smq")
    device = _mount_ext4(mount, loops, directory, direct_io=True)
    keeper.judge()
    loops.unmount(directory)
    loops.detach(device)
    mount.unmount()
    run("e2fsck", "-fn", mount.origin)


def _mount_ext4(mount: Mount, loops: LoopDevices, directory: Path, *, direct_io: bool) -> Path:
    """Replay the journal, find nothing else to mend, and mount."""
    device = loops.attach(mount.image, direct_io=direct_io)
    # What -p mends is what a crash may leave: the journal, files deleted while open, counts of what is free.
    result = run("e2fsck", "-fp", device, check=False)
    assert result.returncode in {0, 1}, result.stdout + result.stderr
    e2fsck(device)
    loops.mount(device, directory)
    return device
