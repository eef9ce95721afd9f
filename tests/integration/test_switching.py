"""Policies and modes change, and caches are flushed, while I/O goes on: no error, no lost byte, no lost mapping."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from contextlib import closing

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
from tests.integration.mounts import NOTHING_UNASKED, Mount, wait_until

LOAD = ["ioengine=libaio", "direct=1", "iodepth=8", "loops=4"]
SIZE = 4 * MIB
PAIRS = list(itertools.product(["cleaner", "mq", "smq"], repeat=2))
"""What is counted below stays the same with these: they demote nothing just to keep some blocks free."""


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image of which half fits into the cache."""
    return mounted(content=bytes(SIZE + 1000), cache_size="2MiB")


def test_policies_while_fio_runs(mount: Mount) -> None:
    switches = 0
    with fio_running(mount.image, *LOAD, size=SIZE) as job:
        for policy in itertools.cycle([*POLICIES, *itertools.chain.from_iterable(PAIRS)]):
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


def filled_under(mounted: Mounted, policy: str) -> Mount:
    """Mount with some blocks cached and dirty, and a policy that may be one that promotes nothing."""
    first = "mq" if policy == "cleaner" else policy
    mount = mounted("--policy", first, *NOTHING_UNASKED, content=bytes(SIZE), cache_size="2MiB")
    fill(mount)
    mount.setxattr("policy", policy)
    return mount


def is_settled(mount: Mount) -> bool:
    """Tell whether all blocks in use are cached; those of promotions under way may be given back."""
    return mount.count("promotions") - mount.count("demotions") == mount.count("used_blocks")


def used_and_dirty(mount: Mount) -> tuple[int, int]:
    """Count what is cached, and what is or has been dirty: mq and cleaner write back without waiting for quiet."""
    status = mount.status()
    return int(status["used_blocks"]), int(status["dirty_blocks"]) + int(status["writebacks"])


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_new_policy_keeps_every_mapping_and_what_is_dirty(mounted: Mounted, first: str, second: str) -> None:
    mount = filled_under(mounted, first)
    content = mount.image.read_bytes()
    wait_until(lambda: is_settled(mount), "blocks in use are on their way no longer")
    used, dirty = used_and_dirty(mount)
    assert dirty
    mount.setxattr("policy", second)
    assert used_and_dirty(mount) == (used, dirty)
    mount.setxattr("mode", "passthrough")  # where nothing is promoted or demoted, so that everything can be counted
    assert used_and_dirty(mount) == (used, dirty)
    assert_same(mount.origin, content)
    for policy in (second, first):
        mount.setxattr("policy", policy)
        before = mount.status()
        assert read_blocks(mount) == content
        after = mount.status()
        hits = {name: int(after[name]) - int(before[name]) for name in ("read_hits", "read_misses")}
        assert hits == {"read_hits": used, "read_misses": SIZE // 65536 - used}


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_another_policy_after_a_restart_knows_all_that_is_cached_and_dirty(
    mounted: Mounted, first: str, second: str
) -> None:
    mount = filled_under(mounted, first)
    content = mount.image.read_bytes()
    wait_until(lambda: is_settled(mount), "blocks in use are on their way no longer")
    used = mount.count("used_blocks")
    mount.unmount()
    with closing(sqlite3.connect(mount.metadata)) as connection:
        (dirty,) = connection.execute("SELECT sum(dirty) FROM blocks").fetchone()
    mount.mount("--policy", f"{second},migration_threshold=0", *NOTHING_UNASKED)
    assert mount.getxattr("policy") == second
    assert used_and_dirty(mount) == (used, dirty)
    assert_same(mount.image, content)
    mount.setxattr("mode", "writethrough")
    assert_same(mount.origin, content)


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
