"""An image of holes stays one: F15."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import Mount, fusecache, wait_until

BLOCK = 64 * 1024
PAGE = 4096
SIZE = 8 * MIB


def flush(mount: Mount) -> None:
    fusecache("flush", mount.mountpoint)


def flush_past_the_page_cache(mount: Mount) -> None:
    mount.remount("--page-cache", "none")
    fusecache("flush", mount.mountpoint)


def write_back_after_a_crash(mount: Mount) -> None:
    mount.kill9()
    fusecache("writeback", mount.origin, "--cache", mount.cache, "--metadata", mount.metadata)


@pytest.mark.parametrize("bring_home", [flush, flush_past_the_page_cache, write_back_after_a_crash])
def test_f15_a_sparse_origin_grows_by_what_was_written(
    mounted: Mounted, tmp_path: Path, bring_home: Callable[[Mount], None]
) -> None:
    origin = tmp_path / "sparse"
    with origin.open("wb") as file:
        file.truncate(SIZE)
        os.pwrite(file.fileno(), b"o" * BLOCK, 5 * BLOCK)  # of this block, zeros have to be written
    mount = mounted("--policy", "smq,migration_threshold=0", origin=origin, cache_size="9MiB")

    def read() -> bool:
        mount.image.read_bytes()
        return mount.count("promotions") == SIZE // BLOCK  # blocks in use may be on their way still

    mount.setxattr("migration_threshold", "204800")
    wait_until(read, "everything is cached")
    mount.setxattr("migration_threshold", "0")
    wanted = bytearray(origin.read_bytes())
    for offset in range(0, SIZE, BLOCK):
        data = bytes(PAGE) if offset == 5 * BLOCK else os.urandom(PAGE)
        mount.write(offset + 5 * PAGE, data, sync=True)
        wanted[offset + 5 * PAGE : offset + 6 * PAGE] = data
    assert mount.count("dirty_blocks") == SIZE // BLOCK
    bring_home(mount)
    assert origin.read_bytes() == wanted
    assert origin.stat().st_blocks * 512 < BLOCK + SIZE // BLOCK * PAGE + 64 * 1024
