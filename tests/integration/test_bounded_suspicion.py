"""After kill -9 little counts as dirty: what was being written, and its neighbours, not the whole cache.

The large state is made by hand, as hours of promotions would leave it: rows in the metadata, and files with holes.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import closing
from pathlib import Path

import pytest

from fusecache.attach.stamp import DATA_START
from fusecache.metadata.database import Database
from fusecache.metadata.record import Transaction
from tests.integration.conftest import Mounted
from tests.integration.mounts import Mount, fusecache

pytestmark = pytest.mark.alone  # it measures how long a mount takes

BLOCK = 4096
BLOCKS = 100_000
WRITTEN = 5
AT_REST = "smq,migration_threshold=0"
"""A policy whose blocks stay where they are: nothing is small enough to be migrated."""
MARK = b"cached".ljust(BLOCK, b".")
MARKED_EVERY = 16


MOUNT_SECONDS = 3
ATTEMPTS = 3
"""The machine may be busy with something else, but hardly three times."""


def cached_mount(mounted: Mounted, directory: Path, blocks: int) -> Mount:
    """Make a mount, not mounted now, with ``blocks`` clean blocks in a full cache; the origin is all zeros.

    One cached block in sixteen bears a mark that the origin does not have.  In truth clean blocks never differ from the
    origin; here that shows which ones were copied back.
    """
    origin = directory / "origin"
    with origin.open("wb") as file:
        file.truncate(2 * blocks * BLOCK)
    mount = mounted(origin=origin, cache_size=str(blocks * BLOCK), block_size=str(BLOCK))
    mount.unmount()
    oblocks = random.Random(4).sample(range(2 * blocks), blocks)
    with closing(Database.open(mount.metadata)) as database:
        database.apply(
            Transaction(mapped=[(cblock, oblock, False, None, None) for cblock, oblock in enumerate(oblocks)])
        )
    with mount.cache.open("r+b") as file:
        for cblock in range(0, blocks, MARKED_EVERY):
            os.pwrite(file.fileno(), MARK, DATA_START + cblock * BLOCK)
    return mount


def rows(mount: Mount) -> dict[int, int]:
    """Return the recorded blocks, oblock by cblock."""
    with closing(Database.open(mount.metadata)) as database:
        return {row.cblock: row.oblock for row in database.rows()}


def suspects(mount: Mount) -> set[int]:
    """Return the origin blocks that recovery has to take for dirty, as the record of a killed mount has it."""
    with closing(Database.open(mount.metadata)) as database:
        regions, size = database.regions(), int(database.values()["region_blocks"])
        return {row.oblock for row in database.rows() if row.dirty or row.cblock // size in regions}


def write_some(mount: Mount, oblocks: list[int]) -> None:
    """Write into cached blocks, a few bytes each; the last one is left unsynced."""
    for oblock in oblocks:
        mount.write(oblock * BLOCK + 100, b"new", sync=oblock != oblocks[-1])
    assert mount.count("write_hits") >= len(oblocks)


def changed(origin: Path) -> set[int]:
    """Return the blocks of a file of zeros and holes that are something else now."""
    found = set()
    with origin.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        position = 0
        while position < size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # nothing but holes from here on
                break
            block = position // BLOCK
            found.add(block)
            position = (block + 1) * BLOCK
    return found


def test_few_are_suspected_and_no_others_are_copied_back(mounted: Mounted, tmp_path: Path) -> None:
    mount = cached_mount(mounted, tmp_path, BLOCKS)
    before = rows(mount)
    written = [before[cblock] for cblock in random.Random(5).sample(range(BLOCKS), WRITTEN)]
    mount.mount("--policy", AT_REST)
    assert mount.count("used_blocks") == BLOCKS
    write_some(mount, written)
    suspected, seconds = set[int](), 0.0
    for _ in range(ATTEMPTS):
        mount.kill9()
        suspected = suspects(mount)
        assert set(written) <= suspected
        assert len(suspected) <= BLOCKS // 50
        began = time.monotonic()
        mount.mount("--policy", AT_REST)
        seconds = time.monotonic() - began
        print(  # noqa: T201 - pytest -rP shows it
            f"{len(suspected)} of {BLOCKS} blocks are suspected; mounted after {seconds:.2f} s"
        )
        if seconds < MOUNT_SECONDS:
            break
    assert seconds < MOUNT_SECONDS
    assert mount.count("used_blocks") == BLOCKS
    assert mount.count("dirty_blocks") == len(suspected)
    fusecache("flush", mount.mountpoint)
    assert mount.count("dirty_blocks") == 0
    assert mount.count("writebacks") <= len(suspected)
    assert set(written) <= changed(mount.origin) <= suspected
    for oblock in written:
        assert mount.read(oblock * BLOCK + 100, 3) == b"new"
    mount.unmount()
    assert set(written) <= changed(mount.origin) <= suspected
    assert rows(mount) == before


def test_without_a_write_nothing_is_suspected(mounted: Mounted, tmp_path: Path) -> None:
    mount = cached_mount(mounted, tmp_path, 4096)
    mount.mount()
    mount.image.read_bytes()
    mount.kill9()
    assert not suspects(mount)
    mount.mount()
    assert mount.count("dirty_blocks") == 0
    fusecache("flush", mount.mountpoint)
    mount.unmount()
    assert not changed(mount.origin)


@pytest.mark.parametrize("blocks", [23, 513, 1023, 4095])
def test_scenario_15_mappings_survive_a_kill(mounted: Mounted, tmp_path: Path, blocks: int) -> None:
    """Scenario 15: the same mappings as before; what was not written does not turn dirty."""
    mount = cached_mount(mounted, tmp_path, blocks)
    before = rows(mount)
    mount.mount("--policy", AT_REST)
    write_some(mount, [before[0]])
    mount.kill9()
    assert rows(mount) == before
    mount.mount("--policy", AT_REST)
    assert mount.count("used_blocks") == blocks
    assert mount.count("dirty_blocks") <= 1 + blocks // 50
    mount.unmount()
    assert rows(mount) == before
