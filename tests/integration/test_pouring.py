"""Hits that come without end keep nothing else from going on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.conftest import MIB, Mounted
from tests.integration.mounts import fusecache, wait_until

_HOT = 1 * MIB
_BLOCK = 64 * 1024
_POUR_SECONDS = 60


@contextmanager
def pouring(image: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Keep 16 reads of the image's first megabyte under way."""
    job = ("--rw=randread", "--bs=4k", "--iodepth=16", f"--size={_HOT}", "--time_based", f"--runtime={_POUR_SECONDS}")
    command = ["fio", "--name=pour", f"--filename={image}", "--ioengine=libaio", "--direct=1", "--norandommap", *job]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as fio:
        try:
            yield fio
        finally:
            fio.terminate()


def test_flushes_and_controls_go_on_while_hits_pour(mounted: Mounted) -> None:
    mount = mounted()
    mount.read(0, _HOT)
    dirty = 32
    for block in range(dirty):  # whole blocks are promoted by the write itself
        mount.write(4 * MIB + block * _BLOCK, os.urandom(_BLOCK))
    assert mount.count("dirty_blocks") == dirty
    with pouring(mount.image) as fio:
        before = mount.count("read_hits")
        wait_until(lambda: mount.count("read_hits") > before + 10_000, "hits pour")
        fusecache("flush", mount.mountpoint)
        mount.setxattr("policy", "mq")
        assert mount.count("dirty_blocks") == 0
        assert mount.count("writebacks") >= dirty
        hits = mount.count("read_hits")
        wait_until(lambda: mount.count("read_hits") > hits + 1000, "hits still pour")
        assert fio.poll() is None
