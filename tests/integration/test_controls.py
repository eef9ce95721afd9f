"""The extended attributes of the image, name for name and errno for errno; and the commands that go through them."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, POLICIES, fill, read_blocks
from tests.integration.mounts import Mount, fusecache, program, run, wait_until

PREFIX = "user.fusecache."
SETTABLE = {"policy", "mode", "migration_threshold", "copy_rate", "dirty_age", "dirty_limit", "read_ahead", "scrub"}
READ_ONLY = {"status", "table", "stats", "error", "lost", "job"}
AT_LEAST_IN_STATS = {
    *("origin_bytes", "cache_blocks", "used_blocks", "dirty_blocks", "block_bytes", "migration_threshold"),
    *("read_hits", "read_misses", "write_hits", "write_misses", "promotions", "demotions", "writebacks"),
    *("policy", "mode", "needs_check"),
}
UNKNOWN = ["nonsense", "", "policy.nonsense", "policy.", "Mode", "stats.x", "x" * 200]
BAD_VALUES = [
    *(("policy", value) for value in ("lru9", "", "smq mq", "SMQ", "x" * 300)),
    *(("mode", value) for value in ("writearound", "", "writeback writethrough")),
    *(("migration_threshold", value) for value in ("-1", "many", "1.5", "", "1 2")),
    *(("policy.sequential_threshold", value) for value in ("-1", "x", "")),
    *((name, value) for name in ("copy_rate", "read_ahead", "scrub") for value in ("-1", "fast", "", "1 MiB")),
    *((name, value) for name in ("dirty_age", "dirty_limit") for value in ("-1", "30x", "", "101%", "1 2")),
    *(("message", text) for text in ("", "nonsense", "nonsense 1", "flush now", "trailing\\", "migration_threshold x")),
    *(("message", f"sequential_threshold{rest}") for rest in ("", " 1 2", " x")),
]
BAD_RANGES = ["50..60", "50--60", "-60", "50-", "fred", "60-50", "7-7", "128", "0-129", "1-2-3"]


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount a small image; the cache takes half of it."""
    return mounted(size=2 * MIB, cache_size="1MiB")


def get_error(mount: Mount, name: str) -> int:
    """Return the errno with which reading an attribute fails."""
    with pytest.raises(OSError, match=r".") as caught:
        mount.getxattr(name)
    assert caught.value.errno is not None
    return caught.value.errno


def set_error(mount: Mount, name: str, value: str) -> int:
    """Return the errno with which setting an attribute fails."""
    with pytest.raises(OSError, match=r".") as caught:
        mount.setxattr(name, value)
    assert caught.value.errno is not None
    return caught.value.errno


def settings(mount: Mount) -> dict[str, str]:
    """Read everything that can be set."""
    tunables = {name for name in mount.status() if name.startswith("policy.")}
    return {name: mount.getxattr(name) for name in sorted(SETTABLE | tunables)}


class TestNames:
    """Which attributes there are, and which are not."""

    def test_g03_a_fresh_mount_answers_and_lists_nothing(self, mount: Mount) -> None:
        assert os.listxattr(mount.image) == []
        for name in READ_ONLY:
            mount.getxattr(name)
        in_statistics = {name.removesuffix("_rate") if name == "scrub_rate" else name for name in mount.status()}
        assert in_statistics >= SETTABLE, "who wants to see all of them asks for stats"
        expected = {"policy": "smq", "mode": "writeback", "migration_threshold": "2048"}
        expected |= {"dirty_age": "30s,10000", "dirty_limit": "75%"}
        expected |= {"copy_rate": "0", "read_ahead": mount.getxattr("read_ahead"), "scrub": "0"}
        assert settings(mount) == expected

    def test_tunables_are_those_of_the_policy(self, mount: Mount) -> None:
        for policy in POLICIES:
            mount.setxattr("policy", policy)
            words = mount.getxattr("status").split()
            start = words.index(policy) + 2
            tunables = dict(zip(words[start:-2:2], words[start + 1 : -2 : 2], strict=True))
            listed = {name: value for name, value in settings(mount).items() if name.startswith("policy.")}
            assert listed == {f"policy.{name}": value for name, value in tunables.items()}
            for name, value in listed.items():
                mount.setxattr(name, value)

    def test_no_long_work_is_under_way(self, mount: Mount) -> None:
        mount.message("flush")
        fusecache("flush", mount.mountpoint)
        assert mount.getxattr("job") == mount.status()["job"] == ""

    def test_unknown_names(self, mount: Mount) -> None:
        before = settings(mount)
        for name in UNKNOWN:
            assert (name, get_error(mount, name)) == (name, errno.ENODATA)
            assert (name, set_error(mount, name, "1")) == (name, errno.EINVAL)
        assert settings(mount) == before

    def test_other_name_spaces_are_empty_but_answered(self, mount: Mount) -> None:
        for name in ("user.other", "security.capability", "user.fusecache"):
            with pytest.raises(OSError, match=r".") as caught:
                os.getxattr(mount.image, name)
            assert caught.value.errno == errno.ENODATA, name
        with pytest.raises(OSError, match=r".") as caught:
            os.setxattr(mount.image, "user.other", b"1")
        assert caught.value.errno != errno.ENOSYS
        assert mount.getxattr("policy") == "smq", "the kernel asks no more once it hears ENOSYS"

    def test_the_directory_has_none(self, mount: Mount) -> None:
        assert os.listxattr(mount.mountpoint) == []
        with pytest.raises(OSError, match=r".") as caught:
            os.getxattr(mount.mountpoint, PREFIX + "policy")
        assert caught.value.errno == errno.ENODATA

    def test_read_only_names(self, mount: Mount) -> None:
        for name in READ_ONLY:
            assert (name, set_error(mount, name, "x")) == (name, errno.EPERM)

    def test_messages_cannot_be_read(self, mount: Mount) -> None:
        assert get_error(mount, "message") == errno.ENODATA

    def test_none_can_be_removed(self, mount: Mount) -> None:
        for name in ("policy", "status", "nonsense"):
            with pytest.raises(OSError, match=r".") as caught:
                os.removexattr(mount.image, PREFIX + name)
            assert caught.value.errno in {errno.EPERM, errno.ENODATA, errno.EINVAL}
        assert mount.getxattr("policy") == "smq"


class TestValues:
    """What can be set, and what cannot."""

    def test_every_value_reads_back(self, mount: Mount) -> None:
        values = [
            *(("mode", mode) for mode in ("writethrough", "passthrough", "writeback")),
            *(("policy", policy) for policy in POLICIES),
            *(("migration_threshold", number) for number in ("0", "1", "204800")),
            *(("dirty_age", age) for age in ("10s", "500", "10s,500", "0")),
            *(("dirty_limit", limit) for limit in ("0%", "100%", "524288")),
            *((name, rate) for name in ("copy_rate", "read_ahead", "scrub") for rate in ("4096", "0")),
        ]
        for name, value in values:
            mount.setxattr(name, value)
            assert mount.getxattr(name) == value
            assert str(mount.status()["scrub_rate" if name == "scrub" else name]) == value

    def test_a_final_newline_or_nul_is_no_part_of_it(self, mount: Mount) -> None:
        mount.setxattr("mode", "writethrough\n")
        assert mount.getxattr("mode") == "writethrough"
        mount.setxattr("mode", "writeback\0")
        assert mount.getxattr("mode") == "writeback"

    def test_bad_values_change_nothing_and_are_explained(self, mount: Mount) -> None:
        mount.setxattr("policy", "mq")
        before = settings(mount)
        told = set()
        for name, value in BAD_VALUES:
            assert (name, value, set_error(mount, name, value)) == (name, value, errno.EINVAL)
            assert settings(mount) == before
            told.add(mount.getxattr("error"))
        assert "" not in told
        assert len(told) > len(BAD_VALUES) // 2, told

    def test_bytes_that_are_no_text(self, mount: Mount) -> None:
        with pytest.raises(OSError, match=r".") as caught:
            os.setxattr(mount.image, PREFIX + "policy", b"\xff\xfe")
        assert caught.value.errno == errno.EINVAL


class TestStatus:
    """dm-cache's status line, its table, and the JSON agree."""

    @pytest.mark.parametrize("mode", ["writeback", "passthrough"])
    def test_status_line_field_by_field(self, mount: Mount, mode: str) -> None:
        fill(mount, 8)
        mount.setxattr("mode", mode)
        for policy in POLICIES:
            mount.setxattr("policy", policy)
            read_blocks(mount)
            self.check_line(mount, policy, mode)

    @staticmethod
    def check_line(mount: Mount, policy: str, mode: str) -> None:
        """Hold the line against the JSON."""
        counts = ["used_blocks", "read_hits", "read_misses", "demotions", "promotions"]
        while True:
            stats, words, after = mount.status(), mount.getxattr("status").split(), mount.status()
            if all(stats[name] == after[name] for name in counts):
                break  # no migration has ended meanwhile; there is an end to them, since nobody reads
        assert words[0] == "8"
        used, total = words[1].split("/")
        assert 0 < int(used) <= int(total)
        assert words[2] == str(mount.count("block_bytes") // 512)
        assert words[3] == f"{stats['used_blocks']}/{stats['cache_blocks']}"
        names = ["read_hits", "read_misses", "write_hits", "write_misses", "demotions", "promotions", "dirty_blocks"]
        if policy != "cleaner":  # which goes on cleaning meanwhile
            assert words[4:11] == [str(stats[name]) for name in names]
        features = int(words[11])
        assert words[12 : 12 + features] == [mode]
        assert words[12 + features :][:3] == ["2", "migration_threshold", "0"]
        assert words[15 + features] == policy
        arguments = int(words[16 + features])
        assert words[17 + features + arguments :] == ["rw", "-"]
        assert len(words) == 1 + 1 + 1 + 1 + 4 + 3 + 1 + features + 3 + 1 + 1 + arguments + 2

    def test_statistics_are_one_flat_object(self, mount: Mount) -> None:
        stats = mount.status()
        assert set(stats) >= AT_LEAST_IN_STATS
        assert {type(value) for value in stats.values()} == {int, float, str, bool}
        assert fusecache("status", mount.mountpoint, "--json").startswith("{")
        shown = fusecache("status", mount.mountpoint)
        assert str(mount.origin) in shown.replace("\n", "").replace(" ", "")

    def test_table_mounts_again(self, mount: Mount) -> None:
        fill(mount, 8)
        table = mount.getxattr("table")
        content = mount.image.read_bytes()
        used = mount.count("used_blocks")
        mount.unmount()
        sectors = mount.origin.stat().st_size // 512
        fusecache("mount", "--table", f"0 {sectors} cache {table}", mount.mountpoint)
        assert mount.image.read_bytes() == content
        assert mount.count("used_blocks") >= used
        assert mount.getxattr("table") == table

    def test_table_with_everything_in_it(self, mounted: Mounted, tmp_path: Path) -> None:
        directory = tmp_path / "with blank"
        (directory / "mnt").mkdir(parents=True)
        origin = directory / "origin"
        origin.write_bytes(bytes(MIB))
        mount = mounted(size=MIB)
        mount.unmount()
        cache, metadata, mountpoint = directory / "cache", directory / "metadata", mount.mountpoint
        cache.write_bytes(bytes(MIB))
        paths = " ".join(str(path).replace(" ", "\\ ") for path in (metadata, cache, origin))
        words = f"{paths} 128 2 metadata2 writethrough mq 4 sequential_threshold 100 migration_threshold 4096"
        fusecache("mount", "--table", f"0 1024 cache {words}", mountpoint)
        assert mount.image.stat().st_size == 1024 * 512, "LEN may be less than the origin has"
        assert mount.getxattr("table") == words
        assert mount.getxattr("policy.sequential_threshold") == "100"
        assert mount.getxattr("migration_threshold") == "4096"
        assert " 2 metadata2 writethrough 2 migration_threshold 4096 mq " in mount.getxattr("status")


class TestMessages:
    """dm-cache's messages."""

    def test_thresholds(self, mount: Mount) -> None:
        mount.setxattr("policy", "mq")
        mount.message("sequential_threshold", "1024")
        assert mount.getxattr("policy.sequential_threshold") == "1024"
        mount.message("migration_threshold", "4096")
        assert mount.getxattr("migration_threshold") == "4096"
        fusecache("message", mount.mountpoint, "sequential_threshold", "77")
        assert mount.getxattr("policy.sequential_threshold") == "77"

    def test_invalidation_is_for_passthrough_only(self, mount: Mount) -> None:
        fill(mount, 8)
        for mode in ("writeback", "writethrough"):
            mount.setxattr("mode", mode)
            used = mount.count("used_blocks")
            assert set_error(mount, "message", "invalidate_cblocks 0-2") == errno.EPERM
            assert mount.count("used_blocks") >= used

    @pytest.fixture
    def passthrough(self, mounted: Mounted) -> Mount:
        """Mount with 128 cache blocks, all of them in use, in passthrough mode."""
        mount = mounted(size=MIB, cache_size="512KiB", block_size="4KiB", content=None)
        fill(mount, 64)
        wait_until(lambda: self._touch(mount) == 128, "the cache is full")
        mount.setxattr("mode", "passthrough")
        return mount

    @staticmethod
    def _touch(mount: Mount) -> int:
        size = mount.count("block_bytes")
        for number in range(160):
            mount.write(number * size, bytes(size))
        return mount.count("used_blocks")

    @staticmethod
    def cblocks(mount: Mount) -> set[int]:
        """Read from the metadata, unmounted, which cache blocks are in use."""
        mount.unmount()
        connection = sqlite3.connect(mount.metadata)
        try:
            return {row[0] for row in connection.execute("SELECT cblock FROM blocks")}
        finally:
            connection.close()

    def test_exactly_what_was_named_is_dropped(self, passthrough: Mount) -> None:
        content = passthrough.image.read_bytes()
        passthrough.message("invalidate_cblocks", "0", "5", "11", "50-60", "91-99")
        dropped = {0, 5, 11, *range(50, 60), *range(91, 99)}
        assert passthrough.count("used_blocks") == 128 - len(dropped)
        passthrough.message("invalidate_cblocks", "0", "5", "11", "50-60", "91-99")
        assert passthrough.image.read_bytes() == content
        assert self.cblocks(passthrough) == set(range(128)) - dropped

    def test_bad_ranges_change_nothing(self, passthrough: Mount) -> None:
        for text in BAD_RANGES:
            assert (text, set_error(passthrough, "message", f"invalidate_cblocks {text}")) == (text, errno.EINVAL)
        assert passthrough.count("used_blocks") == 128

    def test_everything(self, passthrough: Mount) -> None:
        passthrough.message("invalidate_cblocks", "0-128")
        assert passthrough.count("used_blocks") == 0
        assert self.cblocks(passthrough) == set()


class TestCommands:
    """``fusecache set`` and ``fusecache message`` say in one line what the errno means."""

    def test_set(self, mount: Mount) -> None:
        fusecache("set", mount.mountpoint, "policy", "mq")
        fusecache("set", mount.mountpoint, "policy.sequential_threshold", "9")
        fusecache("set", mount.mountpoint, "mode", "writethrough")
        assert mount.getxattr("policy.sequential_threshold") == "9"
        assert mount.status()["mode"] == "writethrough"

    def test_refusals_are_one_line(self, mount: Mount) -> None:
        before = settings(mount)
        for told, command, *words in (
            ("lru9", "set", "policy", "lru9"),
            ("nonsense", "set", "nonsense", "1"),
            ("-1", "set", "migration_threshold", "-1"),
            ("status", "set", "status", "1"),
            ("nonsense", "message", "nonsense", "1"),
            ("passthrough", "message", "invalidate_cblocks", "0-1"),
        ):
            result = run(program(), command, mount.mountpoint, *words, check=False)
            assert (result.returncode, result.stdout) == (1, "")
            assert len(result.stderr.splitlines()) == 1
            assert result.stderr.startswith("fusecache: ")
            assert told in result.stderr
        assert settings(mount) == before
