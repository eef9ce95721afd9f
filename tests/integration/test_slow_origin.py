"""An origin that takes long: it gets as many requests at a time as there are, and nobody else waits for it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusecache.frontends.fuse.connection import raise_request_limit
from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, need
from tests.integration.mounts import GATE, Mount, run, wait_until
from tests.integration.patient_disk import most_under_way, patient_disk, take

pytestmark = pytest.mark.alone  # it measures how long hits wait

BLOCK = 64 * 1024
CONTENT = random.Random(5).randbytes(16 * MIB)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with patient_disk(tmp_path / "disk", CONTENT) as disk:
        yield disk


def fill(mount: Mount, blocks: int) -> None:
    """Have the first blocks cached."""
    for number in range(blocks):
        mount.write(number * BLOCK, CONTENT[number * BLOCK : (number + 1) * BLOCK])
    wait_until(lambda: mount.count("used_blocks") >= blocks, "blocks are cached")


def test_it_runs_on_io_uring_where_there_is_one(mounted: Mounted) -> None:
    disabled = Path("/proc/sys/kernel/io_uring_disabled")
    if os.geteuid() != 0 or not disabled.exists() or disabled.read_text() != "0\n":
        pytest.skip("io_uring may be disabled here")
    assert mounted().status()["engine"] == "io_uring"


def client(mount: Mount, operation: str, depth: int) -> None:
    """Do asynchronous I/O, as a loop device or qemu would."""
    need("fio")
    options = ["--ioengine=libaio", "--direct=1", "--bs=4k", f"--rw={operation}", f"--iodepth={depth}"]
    run("fio", "--name=deep", f"--filename={mount.image}", *options, "--size=16m", f"--number_ios={8 * depth}")


@pytest.fixture
def wide_disk(disk: Path) -> Path:
    """The disk is itself on FUSE, which stands between us and more than 12 writes."""
    if os.geteuid() != 0:
        pytest.skip("more than 12 requests need root, or fusectl")
    assert raise_request_limit(disk.parent) == []
    return disk


def test_all_reads_reach_the_origin_at_a_time(mounted: Mounted, disk: Path) -> None:
    """The kernel alone would let 12 through."""
    if GATE and os.geteuid() != 0:
        pytest.skip("more than 12 requests need root, or fusectl")
    mount = mounted("--policy", "cleaner", "--read-ahead", "off", origin=disk)
    for depth, expected in ((16, 16), (40, 32)):
        take(disk, 0.1)
        client(mount, "randread", depth)
        assert expected <= most_under_way(disk) <= depth
    take(disk, 0)


def test_all_writes_reach_the_origin_at_a_time(mounted: Mounted, wide_disk: Path) -> None:
    mount = mounted("--policy", "cleaner", "--read-ahead", "off", origin=wide_disk)
    for depth, expected in ((16, 16), (40, 32)):
        take(wide_disk, 0.1)
        client(mount, "randwrite", depth)
        assert expected <= most_under_way(wide_disk) <= depth
    take(wide_disk, 0)


def test_an_origin_that_hangs_holds_up_no_hit(mounted: Mounted, disk: Path) -> None:
    mount = mounted("--policy", "smq", "--read-ahead", "off", origin=disk)
    fill(mount, 16)
    ended = threading.Event()
    take(disk, 2)
    image = os.open(mount.image, os.O_RDONLY)

    def miss(number: int) -> None:
        place = (100 + number) * BLOCK
        assert os.pread(image, 4096, place) == CONTENT[place : place + 4096]
        ended.set()

    waits: list[float] = []
    with ThreadPoolExecutor(8) as clients:
        misses = [clients.submit(miss, number) for number in range(8)]
        wait_until(lambda: most_under_way(disk) >= 8, "all misses are under way")
        while not ended.is_set():
            place = random.Random(len(waits)).randrange(16) * BLOCK
            began = time.monotonic()
            assert os.pread(image, 4096, place) == CONTENT[place : place + 4096]
            waits.append(time.monotonic() - began)
        for future in misses:
            future.result()
    take(disk, 0)
    os.close(image)
    assert len(waits) > 500
    assert max(waits) < 0.5
    assert sorted(waits)[len(waits) * 99 // 100] < 0.02
