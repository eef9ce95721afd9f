"""fio's verdict: random writes, verified at once and again by the next mount, in each mode and under each policy."""

from __future__ import annotations

import itertools

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, MODES, POLICIES, fio
from tests.integration.mounts import wait_until

SIZE = 4 * MIB
JOBS = {
    "libaio-direct": ["ioengine=libaio", "direct=1", "iodepth=16"],
    "libaio-cached": ["ioengine=libaio", "direct=0", "iodepth=16", "bs=3k"],
    "psync-direct": ["ioengine=psync", "direct=1", "bs=16k"],
    "psync-cached": ["ioengine=psync", "direct=0", "bs=5k", "offset=512"],
}
PAIRS = list(itertools.product(MODES, POLICIES))


@pytest.mark.parametrize(
    ("mode", "policy", "job"), [(*pair, job) for pair, job in zip(PAIRS, itertools.cycle(JOBS), strict=False)]
)
def test_verifies_now_and_after_a_remount(mounted: Mounted, mode: str, policy: str, job: str) -> None:
    options = ["--mode", mode, "--policy", policy]
    mount = mounted(*options, content=bytes(SIZE + MIB), cache_size="1MiB")
    fio(mount.image, *JOBS[job], size=SIZE)
    mount.remount(*options)
    fio(mount.image, *JOBS[job], "verify_only=1", size=SIZE)
    if mode != "writeback":
        mount.unmount()
        fio(mount.origin, *JOBS[job], "verify_only=1", size=SIZE)


@pytest.mark.parametrize("job", [["ioengine=psync"], ["ioengine=libaio", "iodepth=16"]], ids=["psync", "libaio"])
@pytest.mark.parametrize(("cache_size", "block_size"), [("512KiB", "64KiB"), ("1MiB", "4KiB"), ("760KiB", "76KiB")])
def test_verifies_any_length_at_any_offset(mounted: Mounted, cache_size: str, block_size: str, job: list[str]) -> None:
    mount = mounted(size=SIZE + 777, cache_size=cache_size, block_size=block_size)
    fio(mount.image, *job, "bsrange=512-160k", "bs_unaligned=1", size=SIZE)
    fio(mount.image, *job, "bsrange=512-20k", "bs_unaligned=1", "rw=randrw", "fsync=20", size=SIZE)


def test_most_of_it_comes_from_the_cache(mounted: Mounted) -> None:
    """Guards the rest: jobs that never touched the cache would prove nothing."""
    mount = mounted(content=bytes(SIZE), cache_size="4MiB")
    fio(mount.image, *JOBS["libaio-direct"], size=2 * MIB)
    wait_until(lambda: mount.read(0, 2 * MIB) and mount.count("used_blocks") >= 32, "all that was written is cached")
    before = mount.count("read_hits")
    fio(mount.image, *JOBS["libaio-direct"], "verify_only=1", size=2 * MIB)
    assert mount.count("read_hits") - before > 2 * MIB // 4096 // 2, mount.status()
