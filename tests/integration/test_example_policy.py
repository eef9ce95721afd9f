"""The example of docs/writing-policies.rst serves real mounts: found by its entry point, switched to and from live."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusecache.config import KIB, MIB
from tests.integration.conftest import Mounted
from tests.integration.judges import Model, fill, read_blocks
from tests.integration.mounts import Mount, fusecache, wait_until
from tests.unit.policies.installing import EXAMPLE, installed

SIZE = 4 * MIB
BLOCK = 64 * KIB


@pytest.fixture(autouse=True)
def _clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process that is started find the example as if it were installed."""
    site = tmp_path / "site"
    site.mkdir()
    paths = [*installed(EXAMPLE, site), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def read_half_until(mount: Mount, begin: int, condition: Callable[[], object]) -> None:
    """Read a half of the image, which fits into the cache, again and again with a pause, until something is true."""

    def read() -> object:
        for offset in range(begin, begin + SIZE // 2, BLOCK):
            mount.read(offset, BLOCK)
        time.sleep(0.5)
        return condition()

    wait_until(read, "the policy has noticed")


def test_it_serves_a_mount(mounted: Mounted) -> None:
    mount = mounted("--policy", "clock,patience_ms=900", size=SIZE, cache_size="2MiB")
    content = mount.origin.read_bytes()
    assert (mount.getxattr("policy"), mount.getxattr("policy.patience_ms")) == ("clock", "900")
    assert read_blocks(mount) == content
    assert mount.count("used_blocks") == 0, "what is read once passes by"
    read_half_until(mount, 0, lambda: mount.count("promotions") == SIZE // 2 // BLOCK)
    read_half_until(mount, SIZE // 2, lambda: mount.count("demotions"))
    assert read_blocks(mount) == content
    with pytest.raises(OSError, match="Invalid argument"):
        mount.setxattr("policy.patience_ms", "soon")
    mount.setxattr("policy.patience_ms", "0")
    assert "clock 2 patience_ms 0" in mount.getxattr("status")
    mount.remount("--policy", "clock")
    assert mount.getxattr("policy.patience_ms") == "1000"
    assert mount.count("used_blocks") > SIZE // 4 // BLOCK
    assert read_blocks(mount) == content
    assert mount.count("read_hits")


def test_it_is_switched_to_and_from_under_writes(mounted: Mounted) -> None:
    mount = mounted("--policy", "smq", content=bytes(SIZE + 1000), cache_size="2MiB")
    fill(mount)
    model = Model(mount, mount.image.read_bytes())
    failures: list[BaseException] = []

    def stomp() -> None:
        try:
            model.stomp(3000)
        except BaseException as exc:  # noqa: BLE001 - it is raised again below, where it fails the test
            failures.append(exc)

    stomper = threading.Thread(target=stomp)
    stomper.start()
    rounds = 0
    while stomper.is_alive():
        for policy in ("clock", "mq", "clock", "cleaner", "clock", "smq"):
            mount.setxattr("policy", policy)
            assert mount.getxattr("policy") == policy
            assert mount.count("used_blocks")
            rounds += 1
    stomper.join()
    if failures:
        raise failures[0]
    assert rounds > 12
    model.verify()
    mount.setxattr("policy", "clock")
    mount.setxattr("mode", "writethrough")
    model.verify(mount.origin)
    mount.remount("--policy", "clock")
    model.verify()


def test_it_takes_every_mapping_over_and_hands_it_on(mounted: Mounted) -> None:
    mount = mounted("--policy", "mq", content=bytes(SIZE), cache_size="2MiB")
    fill(mount)
    mount.setxattr("mode", "passthrough")  # where nothing is promoted or demoted, so that everything can be counted
    used = mount.count("used_blocks")
    for policy in ("clock", "smq", "clock", "cleaner", "clock", "clock", "mq"):
        mount.setxattr("policy", policy)
        before = mount.status()
        assert before["used_blocks"] == used
        read_blocks(mount)
        assert int(mount.status()["read_hits"]) - int(before["read_hits"]) == used


def test_without_its_package_a_mount_is_refused(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = mounted("--policy", "clock", size=SIZE, cache_size="2MiB")
    mount.unmount()
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(AssertionError, match=r"unknown policy 'clock'; known are: .*cleaner, default, lru, mq, .*smq"):
        mount.mount("--policy", "clock")
    mount.mount("--policy", "smq")
    assert fusecache("status", mount.mountpoint)


def test_it_is_simulated_like_any_other(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    requests = [f"{second * 1_000_000 + block},r,{block * BLOCK},4096" for second in range(4) for block in range(8)]
    trace.write_text("\n".join(["t_us,op,offset,length", *requests]) + "\n")
    sizes = ["--block-size", "64KiB", "--cache-size", "8blocks"]
    result, *_ = json.loads(fusecache("simulate", trace, "--policy", "clock", *sizes, "--json"))
    assert (result["policy"], result["requests"], result["hits"], result["promotions"]) == ("clock", 32, 16, 8)
