"""An origin that takes long and does not read ahead: reads in order come from what was read ahead of them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusecache.config import DEFAULT_READ_AHEAD
from fusecache.linux import is_in_memory
from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import Mount, fusecache
from tests.integration.patient_disk import patient_disk

BLOCK = 64 * 1024
CONTENT = random.Random(6).randbytes(16 * MIB)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with patient_disk(tmp_path / "disk", CONTENT) as disk:
        os.setxattr(disk, "user.seconds", b"0.005")
        yield disk


def count_of(mount: Mount, name: str) -> int:
    return int(mount.status()[name])


def reads_of(disk: Path) -> int:
    return int(json.loads(os.getxattr(disk, "user.stats"))["reads"])


def reads_for(mount: Mount, disk: Path, begin: int, end: int) -> int:
    """Read a part of the image in order; returns how often that has read the disk."""
    before = reads_of(disk)
    for offset in range(begin, end, BLOCK // 2):
        assert mount.read(offset, BLOCK // 2) == CONTENT[offset : offset + BLOCK // 2]
    return reads_of(disk) - before


def test_reads_in_order_cost_a_few_large_reads_of_the_disk(mounted: Mounted, disk: Path) -> None:
    mount = mounted("--policy", "cleaner", origin=disk)
    assert mount.status()["read_ahead"] == DEFAULT_READ_AHEAD, "nobody else reads ahead there"
    assert reads_for(mount, disk, 0, 8 * MIB) < 40
    assert count_of(mount, "read_ahead_used") > 100
    assert count_of(mount, "origin_reads") < 10
    assert "used" in fusecache("status", mount.mountpoint)
    fusecache("set", mount.mountpoint, "read_ahead", "off")
    assert reads_for(mount, disk, 10 * MIB, 12 * MIB) == 64


def test_what_is_written_is_read_and_not_what_was_read_ahead(mounted: Mounted, disk: Path) -> None:
    mount = mounted(origin=disk)
    for number in range(40):
        content = bytes([number]) * 512
        mount.write((number + 4) * BLOCK, content)
        assert mount.read(number * BLOCK + 512, 512) == CONTENT[number * BLOCK + 512 : number * BLOCK + 1024]
        assert mount.read((number + 4) * BLOCK, 512) == content
    assert count_of(mount, "read_aheads") > 0


def test_the_page_cache_reads_ahead_of_a_plain_file(mounted: Mounted) -> None:
    mount = mounted()
    assert mount.status()["read_ahead"] == 0
    assert mount.getxattr("read_ahead") == "0"
    mount.setxattr("read_ahead", "8MiB")
    assert mount.status()["read_ahead"] == 8 * MIB


def test_past_the_page_cache_nobody_does(mounted: Mounted) -> None:
    mount = mounted("--page-cache", "none")
    with mount.origin.open("rb") as file:
        expected = 0 if is_in_memory(file.fileno()) else DEFAULT_READ_AHEAD
    assert mount.status()["read_ahead"] == expected
