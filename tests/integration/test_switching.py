"""Policies and modes change, and caches are flushed, while I/O goes on: no error, no lost byte, no lost mapping."""

from __future__ import annotations

import itertools
import threading

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import (
    MIB,
    MODES,
    POLICIES,
    Model,
    assert_same,
    fill,
    finished,
    fio,
    fio_running,
    read_blocks,
)
from tests.integration.mounts import Mount, wait_until

LOAD = ["ioengine=libaio", "direct=1", "iodepth=8", "loops=4"]
SIZE = 4 * MIB


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image of which half fits into the cache."""
    return mounted(content=bytes(SIZE + 1000), cache_size="2MiB")


def test_policies_while_fio_runs(mount: Mount) -> None:
    switches = 0
    with fio_running(mount.image, *LOAD, size=SIZE) as job:
        for policy in itertools.cycle(POLICIES):
            mount.setxattr("policy", policy)
            assert mount.getxattr("policy") == policy
            switches += 1
            if job.poll() is not None:
                break
        finished(job)
    assert switches > 2 * len(POLICIES)
    mount.remount()
    fio(mount.image, *LOAD, "verify_only=1", size=SIZE)


def test_modes_while_fio_runs(mount: Mount) -> None:
    switches = 0
    with fio_running(mount.image, *LOAD, size=SIZE) as job:
        for mode in itertools.cycle(MODES):
            mount.setxattr("mode", mode)
            assert mount.getxattr("mode") == mode
            if mode != "writeback":
                assert mount.count("dirty_blocks") == 0
            switches += 1
            if job.poll() is not None:
                break
        finished(job)
    assert switches > 2 * len(MODES)
    mount.remount()
    fio(mount.image, *LOAD, "verify_only=1", size=SIZE)


def test_flushes_while_fio_runs(mount: Mount) -> None:
    flushes = 0
    with fio_running(mount.image, *LOAD, size=SIZE) as job:
        while job.poll() is None:
            mount.message("flush")
            wait_until(lambda: not mount.count("flush_pending"), "the flush is done")
            flushes += 1
        finished(job)
    assert flushes > 2
    mount.message("flush")
    wait_until(lambda: not mount.count("flush_pending") and not mount.count("dirty_blocks"), "all is clean")
    mount.unmount()
    fio(mount.origin, *LOAD, "verify_only=1", size=SIZE)


def test_everything_at_once_under_a_stomper(mount: Mount) -> None:
    model = Model(mount, bytes(SIZE + 1000))
    failures: list[BaseException] = []

    def stomp() -> None:
        try:
            model.stomp(1500)
        except BaseException as exc:  # noqa: BLE001 - it is raised again below, where it fails the test
            failures.append(exc)

    stomper = threading.Thread(target=stomp)
    stomper.start()
    changes = itertools.cycle(
        [("policy", policy) for policy in POLICIES] + [("message", "flush")] + [("mode", mode) for mode in MODES]
    )
    while stomper.is_alive():
        mount.setxattr(*next(changes))
    stomper.join()
    if failures:
        raise failures[0]
    model.verify()
    mount.setxattr("mode", "writethrough")
    model.verify(mount.origin)
    mount.remount()
    model.verify()


@pytest.mark.parametrize("first", POLICIES)
def test_a_new_policy_keeps_every_mapping(mounted: Mounted, first: str) -> None:
    mount = mounted("--policy", "mq" if first == "cleaner" else first, content=bytes(SIZE), cache_size="2MiB")
    fill(mount)
    mount.setxattr("mode", "passthrough")  # where nothing is promoted or demoted, so that everything can be counted
    mount.setxattr("policy", first)
    used = mount.count("used_blocks")
    assert used
    for policy in [*POLICIES, first]:
        mount.setxattr("policy", policy)
        before = mount.status()
        assert before["used_blocks"] == used
        read_blocks(mount)
        after = mount.status()
        hits = {name: int(after[name]) - int(before[name]) for name in ("read_hits", "read_misses")}
        assert hits == {"read_hits": used, "read_misses": SIZE // 65536 - used}


def test_a_new_policy_keeps_what_is_dirty(mount: Mount) -> None:
    fill(mount)
    before = mount.status()
    mount.setxattr("policy", "mq")
    after = mount.status()
    assert after["used_blocks"] == before["used_blocks"]
    # What was written back meanwhile counts too: mq does not wait for a quiet origin.
    counts = [int(status["dirty_blocks"]) + int(status["writebacks"]) for status in (before, after)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("mode", ["writethrough", "passthrough"])
def test_leaving_writeback_leaves_nothing_dirty(mount: Mount, mode: str) -> None:
    fill(mount)
    assert mount.count("dirty_blocks")
    assert mount.origin.read_bytes() != mount.image.read_bytes()
    mount.setxattr("mode", mode)
    assert mount.count("dirty_blocks") == 0
    assert_same(mount.origin, mount.image.read_bytes())


def test_passthrough_writes_drop_what_they_hit(mount: Mount) -> None:
    fill(mount)
    mount.setxattr("mode", "passthrough")
    model = Model(mount, mount.image.read_bytes())
    used = mount.count("used_blocks")
    for _ in range(2):
        mount.image.read_bytes()
    assert mount.count("used_blocks") == used, "reads keep every mapping, and make none"
    promotions = mount.count("promotions")
    model.stomp(600)
    assert mount.count("used_blocks") < used
    assert mount.count("promotions") == promotions
    mount.setxattr("mode", "writeback")
    model.verify()
    model.stomp(300)
    model.verify()
