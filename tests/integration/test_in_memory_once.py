"""What is in the host's memory, by ``--page-cache``: once what was read or written, and not twice.

``FUSECACHE_PAGES`` (MiB; 128 unless set) is the size of the image of which pages are counted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import Mount, wait_until
from tests.integration.page_counts import cached_bytes, drop_cached
from tests.integration.test_page_cache import each_page_cache, opened

pytestmark = pytest.mark.alone  # whoever else wants memory may have pages dropped that are counted here

SIZE = int(os.environ.get("FUSECACHE_PAGES", "128")) * MIB
LITTLE = 2 * MIB
"""Stamps and samples that are read at the mount, and what the kernel reads around them."""
MOST = 0.98
"""The kernel is free to drop a page now and then."""


class Pages:
    """Bytes in the page cache of a mount's files, each kept open so that asking changes nothing."""

    def __init__(self, mount: Mount) -> None:
        self._fds = {path: os.open(path, os.O_RDONLY) for path in (mount.origin, mount.cache, mount.image)}
        self._mount = mount
        for path in (mount.origin, mount.cache):
            drop_cached(self._fds[path])

    def of(self, *paths: Path) -> int:
        return sum(cached_bytes(self._fds[path]) for path in paths)

    def of_stores(self) -> int:
        return self.of(self._mount.origin, self._mount.cache)

    def of_all(self) -> int:
        return self.of(*self._fds)

    def read_all(self) -> None:
        for offset in range(0, SIZE, MIB):
            assert os.pread(self._fds[self._mount.image], MIB, offset) == piece(offset)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)


def piece(offset: int) -> bytes:
    return random.Random(offset).randbytes(MIB)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Make an origin that is durable, and not in memory."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        for offset in range(0, SIZE, MIB):
            file.write(piece(offset))
        file.flush()
        drop_cached(file.fileno())
    return path


@contextmanager
def pages_of(mount: Mount) -> Iterator[Pages]:
    pages = Pages(mount)
    try:
        yield pages
    finally:
        pages.close()


@each_page_cache
def test_what_was_read_is_in_memory_once(mounted: Mounted, large: Path, page_cache: str) -> None:
    cache_size = str(SIZE // 4)
    mount = mounted("--page-cache", page_cache, origin=large, cache_size=cache_size, block_size="256KiB")
    with pages_of(mount) as pages:
        for _ in range(3):
            pages.read_all()
        in_stores, in_all = pages.of_stores(), pages.of_all()
    if page_cache == "stores":
        assert in_all - in_stores == 0
        assert MOST * SIZE < in_all < 1.1 * SIZE
    elif page_cache == "image":
        assert in_stores <= LITTLE
        assert MOST * SIZE < in_all < 1.1 * SIZE
    else:
        assert in_all <= LITTLE


@each_page_cache
def test_what_was_written_is_in_memory_once(mounted: Mounted, large: Path, page_cache: str) -> None:
    mount = mounted("--page-cache", page_cache, origin=large, cache_size=str(SIZE // 4), block_size="256KiB")
    written = SIZE // 4
    with pages_of(mount) as pages, opened(mount.image, os.O_WRONLY) as fd:
        for _ in range(2):
            for offset in range(0, written, MIB):
                os.pwrite(fd, piece(offset + 1), offset)
            os.fsync(fd)
        if page_cache == "image":
            assert pages.of_stores() <= LITTLE
            assert MOST * written < pages.of(mount.image) <= written
        elif page_cache == "none":
            assert pages.of_all() <= LITTLE
        else:
            assert pages.of(mount.image) == 0
            wait_until(lambda: pages.of_all() < 1.1 * written, "what is in the cache has left the origin's memory")


def test_what_the_kernel_has_is_not_asked_for_again(mounted: Mounted, large: Path) -> None:
    """So repeated reads run at the speed of memory: fusecache has no part in them."""
    mount = mounted("--page-cache", "image", origin=large, cache_size=str(SIZE // 4), block_size="256KiB")
    with pages_of(mount) as pages:
        pages.read_all()
        asked = mount.count("read_hits") + mount.count("read_misses")
        assert asked >= SIZE // MIB
        for _ in range(3):
            pages.read_all()
        again = mount.image.read_bytes()  # opened anew
        asked_again = mount.count("read_hits") + mount.count("read_misses") - asked
    assert asked_again <= (1 - MOST) * SIZE / 4096  # page by page
    assert all(again[offset : offset + MIB] == piece(offset) for offset in range(0, SIZE, MIB))
