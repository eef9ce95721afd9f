"""Leaving: the origin is byte for byte what the image was, and needs nothing of ours any more."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, Model, assert_same, fill, finished, fio, fio_running
from tests.integration.mounts import Mount, fusecache, wait_until

SIZE = 4 * MIB + 1234


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image, and write to it so that the cache has what the origin lacks."""
    mount = mounted(size=SIZE, cache_size="2MiB")
    fill(mount)
    assert mount.origin.read_bytes() != mount.image.read_bytes()
    return mount


def test_decommission_makes_the_origin_complete(mount: Mount) -> None:
    image = mount.image.read_bytes()
    said = fusecache("decommission", mount.mountpoint)
    assert str(mount.cache) in said
    assert_same(mount.origin, image)
    assert_same(mount.image, image)
    status = mount.status()
    assert (status["used_blocks"], status["dirty_blocks"], status["decommissioned"]) == (0, 0, True)
    mount.unmount()
    assert_same(mount.origin, image)
    mount.cache.unlink()
    mount.metadata.unlink()
    mount.mount()
    assert_same(mount.image, image)


def test_a_decommissioned_image_can_still_be_written(mount: Mount) -> None:
    fusecache("decommission", mount.mountpoint)
    model = Model(mount, mount.image.read_bytes())
    model.stomp(300)
    assert mount.count("used_blocks") == 0
    model.verify(mount.origin)
    fusecache("decommission", mount.mountpoint)
    model.verify()


def test_it_caches_again_when_told_to(mount: Mount) -> None:
    fusecache("decommission", mount.mountpoint)
    mount.setxattr("mode", "writeback")
    assert mount.status()["decommissioned"] is False
    fill(mount)


def test_decommission_under_load(mount: Mount) -> None:
    job = ["ioengine=libaio", "direct=1", "iodepth=8", "loops=3"]
    with fio_running(mount.image, *job, size=4 * MIB) as load:
        fusecache("decommission", mount.mountpoint)
        assert load.poll() is None, "the load ended too early to prove anything"
        finished(load)
    assert mount.count("used_blocks") == 0
    mount.unmount()
    fio(mount.origin, *job, "verify_only=1", size=4 * MIB)


@pytest.mark.parametrize("mode", ["writeback", "writethrough"])
def test_flush_makes_the_origin_complete(mount: Mount, mode: str) -> None:
    mount.setxattr("mode", mode)
    image = mount.image.read_bytes()
    fusecache("flush", mount.mountpoint)
    assert mount.count("dirty_blocks") == 0
    assert_same(mount.origin, image)


def test_cleaner_alone_makes_the_origin_complete(mount: Mount) -> None:
    image = mount.image.read_bytes()
    used = mount.count("used_blocks")
    mount.setxattr("policy", "cleaner")
    wait_until(lambda: mount.count("dirty_blocks") == 0, "cleaner has cleaned")
    assert_same(mount.origin, image)
    assert mount.count("used_blocks") == used, "clean is not empty"
    mount.remount("--mode", "passthrough")
    assert_same(mount.image, image)


def test_a_clean_cache_stays_clean_and_writes_nothing(mount: Mount) -> None:
    fusecache("flush", mount.mountpoint)
    mount.unmount()
    before = mount.origin.stat().st_mtime_ns
    mount.mount()
    image = mount.image.read_bytes()
    fusecache("flush", mount.mountpoint)
    mount.unmount()
    assert mount.origin.stat().st_mtime_ns == before
    assert_same(mount.origin, image)
