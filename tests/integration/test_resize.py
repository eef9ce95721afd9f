"""Other sizes at the next mount: what was cached stays where it can, and what is dirty is never dropped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, MODES, Model, assert_same, fill, read_blocks
from tests.integration.mounts import LoopDevices, Mount, fusecache, program, run, wait_until

BLOCK = 64 * 1024
DATA_START = 4096
SIZE = 4 * MIB


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image, half of which fits into the cache, and say no sizes later on."""
    mount = mounted(size=SIZE + 1000, cache_size="2MiB")
    mount.options = []
    return mount


def files(mount: Mount) -> list[str | Path]:
    return ["--cache", mount.cache, "--metadata", mount.metadata]


def refused(mount: Mount, *options: str) -> str:
    """Try to mount; neither metadata nor the lengths of origin and cache may change.  Returns the one line."""
    before = (
        [path.stat().st_size for path in (mount.origin, mount.cache)],
        fusecache("dump", *files(mount), mount.origin),
    )
    result = run(program(), "mount", mount.origin, mount.mountpoint, *files(mount), *options, check=False)
    assert result.returncode == 1, result
    message = " ".join(result.stderr.split())
    assert "Traceback" not in message
    after = (
        [path.stat().st_size for path in (mount.origin, mount.cache)],
        fusecache("dump", *files(mount), mount.origin),
    )
    assert before == after
    return message


def table(mount: Mount, sectors: int) -> None:
    """Mount by a table, of that length."""
    words = f"{mount.metadata} {mount.cache} {mount.origin} {BLOCK // 512} 1 writeback smq 0"
    fusecache("mount", "--table", f"0 {sectors} cache {words}", mount.mountpoint)


def populate(mount: Mount) -> None:
    """Have the whole cache in use, nothing of it dirty."""
    blocks = mount.count("cache_blocks")
    fill(mount, blocks // 2)
    mount.setxattr("mode", "writethrough")

    def used() -> int:
        read_blocks(mount)
        return mount.count("promotions") - mount.count("demotions")  # blocks in use may be on their way still

    wait_until(lambda: used() == blocks, "the cache is full")


class TestCache:
    """Another size is asked for, or others change the file."""

    def test_scenario_17_grow_keeps_all(self, mount: Mount) -> None:
        fill(mount, 20)
        content = mount.image.read_bytes()
        used, dirty = mount.count("used_blocks"), mount.count("dirty_blocks")
        mount.unmount()
        mount.mount("--cache-size", "3MiB")
        assert (mount.count("cache_blocks"), mount.count("used_blocks")) == (48, used)
        assert mount.count("dirty_blocks") <= dirty
        assert mount.cache.stat().st_size == DATA_START + 3 * MIB
        assert_same(mount.image, content)
        mount.remount()
        assert mount.count("cache_blocks") == 48
        assert_same(mount.image, content)

    @pytest.mark.parametrize("mode", MODES)
    def test_scenario_17_shrink_keeps_what_is_below(self, mount: Mount, mode: str) -> None:
        populate(mount)
        content = mount.image.read_bytes()
        mount.unmount()
        mount.mount("--cache-size", "1MiB", "--mode", mode)
        assert (mount.count("cache_blocks"), mount.count("used_blocks")) == (16, 16)
        assert mount.count("dirty_blocks") == 0
        assert mount.cache.stat().st_size == DATA_START + MIB
        assert_same(mount.image, content)
        model = Model(mount, content)
        model.stomp(200)
        mount.remount()
        model.verify()

    def test_scenario_17_shrink_is_refused_until_it_is_written_back(self, mount: Mount) -> None:
        fill(mount, 20)
        content = mount.image.read_bytes()
        mount.unmount()
        message = refused(mount, "--cache-size", "64KiB")
        assert "blocks are dirty: first run: fusecache writeback ORIGIN" in message
        fusecache("writeback", *files(mount), mount.origin)
        mount.mount("--cache-size", "64KiB")
        assert mount.count("cache_blocks") == 1
        assert_same(mount.image, content)

    def test_scenario_17_shrink_after_a_crash(self, mount: Mount) -> None:
        fill(mount, 20)
        mount.write(SIZE, b"the tail", sync=True)
        content = mount.image.read_bytes()
        mount.kill9()
        assert "blocks are dirty" in refused(mount, "--cache-size", "64KiB")
        mount.mount()
        fusecache("flush", mount.mountpoint)
        mount.unmount()
        mount.mount("--cache-size", "64KiB")
        assert_same(mount.image, content)

    def test_scenario_30_grows_from_mount_to_mount(self, mount: Mount) -> None:
        mount.unmount()
        mount.mount("--cache-size", "64KiB")
        model = Model(mount, mount.image.read_bytes())
        for blocks in (2, 4, 16, 64):
            model.stomp(150)
            mount.unmount()
            mount.mount("--cache-size", str(blocks * BLOCK))
            assert mount.count("cache_blocks") == blocks
            model.verify()

    def test_others_extend_and_cut_the_file(self, mount: Mount) -> None:
        populate(mount)
        content = mount.image.read_bytes()
        mount.unmount()
        os.truncate(mount.cache, DATA_START + 3 * MIB)
        mount.mount()
        assert (mount.count("cache_blocks"), mount.count("used_blocks")) == (48, 32)
        assert_same(mount.image, content)
        mount.unmount()
        os.truncate(mount.cache, DATA_START + MIB)
        mount.mount("--cache-size", "2MiB")
        assert (mount.count("cache_blocks"), mount.count("used_blocks")) == (32, 16)
        assert_same(mount.image, content)

    def test_a_cache_on_a_block_device_follows_it(self, mount: Mount, loops: LoopDevices, tmp_path: Path) -> None:
        mount.unmount()
        disk = tmp_path / "ssd"
        disk.write_bytes(bytes(DATA_START + 2 * MIB))
        mount.cache = loops.attach(disk, direct_io=False)
        mount.metadata = tmp_path / "metadata"
        mount.mount("--block-size", str(BLOCK))
        fill(mount, 8)
        content, used = mount.image.read_bytes(), mount.count("used_blocks")
        mount.unmount()
        message = run(
            program(), "mount", mount.origin, mount.mountpoint, *files(mount), "--cache-size", "3MiB", check=False
        ).stderr
        assert "has room for 2097152 bytes" in " ".join(message.split())
        os.truncate(disk, DATA_START + 3 * MIB)
        run("losetup", "--set-capacity", mount.cache)
        mount.mount()
        assert (mount.count("cache_blocks"), mount.count("used_blocks")) == (48, used)
        assert_same(mount.image, content)
        mount.unmount()
        loops.detach(mount.cache)


class TestOrigin:
    """The image follows it, but not below what it was."""

    def test_scenario_18_grown_with_dirty_blocks(self, mount: Mount) -> None:
        fill(mount, 20)
        content, dirty = mount.image.read_bytes(), mount.count("dirty_blocks")
        mount.unmount()
        os.truncate(mount.origin, SIZE + MIB)
        mount.mount()
        assert mount.count("dirty_blocks") <= dirty
        assert_same(mount.image, content + bytes(MIB - 1000))
        model = Model(mount, mount.image.read_bytes())
        model.stomp(200)
        mount.remount()
        model.verify()
        mount.setxattr("mode", "passthrough")
        mount.unmount()
        model.verify(mount.origin)

    def test_scenario_18_grown_and_clean(self, mount: Mount) -> None:
        populate(mount)
        content = mount.image.read_bytes()
        mount.unmount()
        os.truncate(mount.origin, SIZE + MIB)
        mount.mount()
        assert_same(mount.image, content + bytes(MIB - 1000))

    def test_scenario_18_shrunk_and_clean(self, mount: Mount) -> None:
        populate(mount)
        content = mount.image.read_bytes()
        mount.unmount()
        os.truncate(mount.origin, SIZE - MIB)
        assert "shrunk" in refused(mount)
        table(mount, (SIZE - MIB) // 512)
        assert_same(mount.image, content[: SIZE - MIB])

    def test_scenario_18_shrunk_and_dirty(self, mount: Mount) -> None:
        fill(mount, 20)
        content = mount.image.read_bytes()
        mount.unmount()
        with pytest.raises(AssertionError, match=r"blocks\s+are\s+dirty"):
            table(mount, 2 * BLOCK // 512)
        fusecache("writeback", *files(mount), mount.origin)
        table(mount, 2 * BLOCK // 512)
        assert_same(mount.image, content[: 2 * BLOCK])
        mount.unmount()
        mount.mount()
        assert_same(mount.image, content)


@pytest.mark.parametrize("mode", MODES)
def test_scenario_22_one_block_and_a_tail(mounted: Mounted, mode: str) -> None:
    small = 50 * 1024
    mount = mounted("--mode", mode, size=small, cache_size=str(small), block_size="32KiB")
    assert (mount.count("cache_blocks"), mount.count("origin_bytes")) == (1, small)
    model = Model(mount, mount.image.read_bytes())
    mount.write(0, bytes(small))
    model.expected[:] = bytes(small)
    model.stomp(300)
    mount.write(small - 5, b"tail.", sync=True)
    model.expected[-5:] = b"tail."
    assert mount.origin.read_bytes()[-5:] == b"tail.", "the tail is never cached"
    mount.remount()
    model.verify()
