"""What decides in a mount that is told no policy."""

from __future__ import annotations

from tests.integration.conftest import Mounted
from tests.integration.mounts import fusecache, wait_until

BLOCK = 65536


def test_a_mount_that_is_told_no_policy_takes_a_block_at_its_first_miss(mounted: Mounted) -> None:
    mount = mounted("--policy", "smq")
    mount.unmount()
    files = ("--cache", mount.cache, "--metadata", mount.metadata)
    fusecache("mount", mount.origin, mount.mountpoint, *files)
    assert mount.getxattr("policy") == "adaptive"
    content = mount.origin.read_bytes()
    assert mount.read(5 * BLOCK, 4096) == content[5 * BLOCK : 5 * BLOCK + 4096]
    wait_until(lambda: mount.count("fills") == 1, "the block is filled")
    assert mount.read(5 * BLOCK + 8192, 4096) == content[5 * BLOCK + 8192 : 5 * BLOCK + 12288]
    assert mount.count("read_hits") == 1
    mount.write(9 * BLOCK, b"n" * 4096)
    assert mount.count("absorbed") == 1
    assert mount.read(9 * BLOCK, 8192) == b"n" * 4096 + content[9 * BLOCK + 4096 : 9 * BLOCK + 8192]
