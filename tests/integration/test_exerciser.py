"""Random operations through several ways at once, against a model: see ``exerciser.py``.

``FUSECACHE_OPERATIONS`` (200 unless set) says how many for each mount; ``scripts/exerciser`` does the same for minutes.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import TEST_SECONDS
from tests.integration.drawn_worlds import FEWEST, MOST, World
from tests.integration.exerciser import Exerciser
from tests.integration.judges import MODES, PAGE_CACHES, POLICIES
from tests.integration.lives import seeds
from tests.integration.mounts import MAPS_EVERYWHERE, LoopDevices, Mount
from tests.integration.promised import SECTOR, Promised

OPERATIONS = int(os.environ.get("FUSECACHE_OPERATIONS", "200"))
CHOSEN = [name for name in ("smq", "mq", "adaptive", "lru") if name in POLICIES]
"""Policies to begin with; all have their turn when policies are switched."""
FIRST_SEED = seeds(1)[0]


def exercises() -> list[tuple[int, str, str, str]]:
    """Give each policy each mode, each with a seed of its own; what the page cache holds goes round."""
    pairs = enumerate(itertools.product(CHOSEN, MODES))
    return [
        (FIRST_SEED + number, policy, mode, PAGE_CACHES[(number + number // len(MODES)) % len(PAGE_CACHES)])
        for number, (policy, mode) in pairs
    ]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[Mount]]:
    """Where mounts are noted that are to be gone at the end, or when they hang."""
    mounts: list[Mount] = []

    def discard() -> None:
        for mount in mounts:
            mount.discard()

    watchdog = threading.Timer(TEST_SECONDS, discard)
    watchdog.daemon = True
    watchdog.start()
    yield mounts
    watchdog.cancel()
    discard()


@pytest.fixture
def loops_if_any(opened: list[Mount]) -> Iterator[LoopDevices | None]:
    """Loop devices, which go before the mounts they lie on; only root has them."""
    devices = LoopDevices() if os.geteuid() == 0 else None
    yield devices
    if devices:
        devices.discard()


def exerciser(world: World, directory: Path, opened: list[Mount], loops: LoopDevices | None) -> Exerciser:
    opened.append(world.mount_in(directory))
    return Exerciser(world, opened[-1], loops)


@pytest.mark.parametrize(("seed", "policy", "mode", "page_cache"), exercises())
def test_what_is_read_is_what_was_written(
    tmp_path: Path,
    opened: list[Mount],
    loops_if_any: LoopDevices | None,
    seed: int,
    policy: str,
    mode: str,
    page_cache: str,
) -> None:
    world = World.drawn(seed, policy=policy, mode=mode, page_cache=page_cache)
    exerciser(world, tmp_path / "world", opened, loops_if_any).run(OPERATIONS)


# The exerciser itself


def test_a_fault_is_found_and_told_with_its_seed_and_the_last_operations(
    tmp_path: Path, opened: list[Mount], loops_if_any: LoopDevices | None
) -> None:
    world = World.drawn(7, mode="writethrough", page_cache="stores")
    faulty = exerciser(world, tmp_path / "world", opened, loops_if_any)
    read, place = faulty.model.wrong, world.size // 2

    def wrong(offset: int, found: bytes, length: int) -> str:
        """Have the mount return one wrong bit."""
        if offset <= place < offset + length:
            found = found[: place - offset] + bytes([found[place - offset] ^ 1]) + found[place - offset + 1 :]
        return read(offset, found, length)

    faulty.model.wrong = wrong  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=f"1 bytes are wrong from {place} to {place}") as caught:
        faulty.run(OPERATIONS)
    (note,) = caught.value.__notes__
    assert f"scripts/exerciser --seed 7 --mode writethrough --page-cache stores --operations {OPERATIONS}" in note
    assert faulty.story[-1] in note


def test_one_seed_draws_the_same_operations(
    tmp_path: Path, opened: list[Mount], loops_if_any: LoopDevices | None
) -> None:
    stories = []
    for name in ("once", "again"):
        exercised = exerciser(World.drawn(3), tmp_path / name, opened, loops_if_any)
        exercised.run(30)
        stories.append(exercised.story)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 30


def test_worlds_differ_and_what_is_asked_for_changes_nothing_else() -> None:
    worlds = [World.drawn(seed) for seed in range(100)]
    assert all(FEWEST <= world.blocks <= MOST for world in worlds)
    assert {world.mode for world in worlds} == set(MODES)
    assert {world.policy for world in worlds} == set(POLICIES)
    assert any(world.size % SECTOR for world in worlds)
    assert all(("mapped" in world.ways) == (world.page_cache == "image" or MAPS_EVERYWHERE) for world in worlds)
    pinned = World.drawn(5, mode="passthrough", policy="mq", page_cache="none")
    assert (pinned.size, pinned.block, pinned.blocks) == (worlds[5].size, worlds[5].block, worlds[5].blocks)
    assert (pinned.mode, pinned.policy, pinned.page_cache) == ("passthrough", "mq", "none")
    assert World.drawn(5, policy="mq,sequential_threshold=0").policies.count("mq,sequential_threshold=0") == 1


# What may be left after a crash


def test_a_crash_leaves_what_was_durable_or_what_was_written_since() -> None:
    for writes_left in range(3):
        model = Promised(bytes(4 * SECTOR))
        images = [bytes(model.expected)]
        for data in (b"a" * SECTOR, b"b" * SECTOR):
            model.write((SECTOR, data))
            images.append(bytes(model.expected))
        assert model.crash(images[writes_left]) == ""
        assert bytes(model.expected) == images[writes_left]
        assert all(("sector 1" in model.crash(image)) == (image != images[writes_left]) for image in images)


def test_what_was_flushed_does_not_go_back() -> None:
    model = Promised(bytes(2 * SECTOR))
    before = bytes(model.expected)
    model.write((100, b"x"))
    model.flush()
    assert re.match(r"sector 0 \(byte 0\) is 0+\.\., allowed are 0+\.\.", model.crash(before))


def test_a_page_that_is_mapped_and_dirty_is_not_durable_with_the_rest() -> None:
    model = Promised(bytes(8192))
    before = bytes(model.expected)
    model.write((0, b"x"), (5000, b"y"))
    model.flush(but_pages={1})
    assert "sector 0" in model.crash(before)
    assert model.crash(b"x" + before[1:]) == ""


def test_writes_side_by_side_in_one_sector_may_have_happened_in_any_order() -> None:
    for left in (b"....", b"ab..", b"..cd", b"abcd"):
        model = Promised(b"." * SECTOR)
        model.write((0, b"ab"), (2, b"cd"))
        assert model.crash(left + b"." * (SECTOR - 4)) == ""
    model = Promised(b"." * SECTOR)
    model.write((0, b"ab"), (2, b"cd"))
    assert model.crash(b"a..." + b"." * (SECTOR - 4)) != ""
