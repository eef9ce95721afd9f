"""A policy of another package that fails in earnest: it is dispensed with, and the mount serves and ends as ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, assert_same, fill
from tests.integration.mounts import Mount, fusecache
from tests.unit.policies.installing import installed

SIZE = 4 * MIB
WRONG = '''
from policies import PolicyError, smq


class Refuser(smq.SmqPolicy):
    """One that forgets nothing."""

    name = "refuser"

    def invalidate_mapping(self, cblock):
        raise PolicyError("I forget nothing")


class Dreamer(smq.SmqPolicy):
    """One that takes every block for one that there is not, from the thousandth lookup on."""

    name = "dreamer"
    asked = 0

    def lookup(self, oblock, write, fast_copy):
        self.asked += 1
        return super().lookup(oblock, write, fast_copy) if self.asked < 1000 else 10**9

    def lookup_with_work(self, oblock, write, fast_copy):
        self.asked += 1
        return super().lookup_with_work(oblock, write, fast_copy) if self.asked < 1000 else (10**9, None)
'''
PROJECT = """
[project]
name = "wrong-policies"
version = "1.0.0"

[project.entry-points."fusecache.policies"]
refuser = "wrong_policies:Refuser"
dreamer = "wrong_policies:Dreamer"

[tool.setuptools]
packages = ["wrong_policies"]
"""


@pytest.fixture
def mount(mounted: Mounted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """Mount an image and have dirty blocks in its cache; every process that is started finds the wrong policies."""
    package = tmp_path / "package"
    (package / "wrong_policies").mkdir(parents=True)
    (package / "wrong_policies" / "__init__.py").write_text(WRONG)
    (package / "pyproject.toml").write_text(PROJECT)
    site = tmp_path / "site"
    site.mkdir()
    paths = [*installed(package, site), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    mount = mounted(size=SIZE, cache_size="2MiB")
    fill(mount)
    return mount


def test_f12_a_policy_that_forgets_nothing_keeps_no_mount_from_ending(mount: Mount) -> None:
    content = mount.image.read_bytes()
    mount.setxattr("policy", "refuser")
    fusecache("decommission", mount.mountpoint, timeout=30)
    assert mount.count("used_blocks") == 0
    assert "I forget nothing" in mount.getxattr("stats")
    assert_same(mount.image, content)
    mount.unmount(timeout=30)
    assert_same(mount.origin, content)


def test_f12_a_policy_that_dreams_costs_no_request(mount: Mount) -> None:
    mount.setxattr("policy", "dreamer")
    content = mount.image.read_bytes()
    for _ in range(1200):
        mount.read(SIZE // 2, 4096)
    assert_same(mount.image, content)
    mount.write(0, b"new", sync=True)
    assert mount.read(0, 3) == b"new"
    status = mount.status()
    assert status["state"] == "degraded"
    assert "is no answer to a lookup" in str(status["health"])
    mount.setxattr("policy", "smq")
    assert mount.status()["health"] == "ok"
    mount.unmount(timeout=30)
