"""What is dirty for long, or too much of it, goes to the origin while nobody asks for that."""

from __future__ import annotations

import random

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import wait_until

BLOCK = 64 * 1024


def test_the_origin_gets_what_is_old_and_what_is_too_much(mounted: Mounted) -> None:
    content = random.Random(7).randbytes(8 * MIB)
    mount = mounted("--dirty-age", "0", "--dirty-limit", "100%", size=8 * MIB, cache_size="4MiB")
    mount.setxattr("migration_threshold", "0")  # then the policy orders no writebacks
    for block in range(0, 64, 2):  # no neighbours, which would go along
        mount.write(block * BLOCK, content[block * BLOCK : (block + 1) * BLOCK])
    wait_until(lambda: mount.count("dirty_blocks") >= 16, "much is dirty")
    dirty = mount.count("dirty_blocks")

    mount.setxattr("dirty_limit", f"{8 * BLOCK}")
    wait_until(lambda: mount.count("dirty_blocks") <= 8, "no more is dirty than may be")
    assert 0 < mount.count("dirty_blocks") <= 8 < dirty

    mount.setxattr("dirty_age", "1s")
    wait_until(lambda: mount.count("dirty_blocks") == 0, "what was dirty for a second is clean")
    image = mount.origin.read_bytes()
    assert all(
        image[start : start + BLOCK] == content[start : start + BLOCK] for start in range(0, 64 * BLOCK, 2 * BLOCK)
    )
