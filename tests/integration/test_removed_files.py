"""F06: files that are removed or replaced under a running mount."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import Mount, fusecache, is_mounted, program, run, wait_until
from tests.integration.test_health import cache_everything
from tests.integration.test_lifecycle import ended_cleanly, is_running


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    """Mount an image, all of which is cached and dirty."""
    mount = mounted("--policy", "smq,migration_threshold=0", size=MIB, cache_size="2MiB")
    cache_everything(mount)
    return mount


def told_of(mount: Mount, *parts: str) -> str:
    """Wait until the status names what is gone; returns what it says."""
    wait_until(lambda: mount.status()["gone"] == " ".join(parts), f"{parts} are missed")
    assert mount.status()["state"] == "degraded"
    return " ".join(fusecache("status", mount.mountpoint).split())


def commands_work(mount: Mount) -> None:
    """Say something to a mount whose engine is well."""
    fusecache("status", mount.mountpoint)
    fusecache("set", mount.mountpoint, "copy_rate", "0")
    mount.write(0, os.urandom(65536), sync=True)


def test_f06_metadata_that_was_removed_is_written_anew_at_the_end(mount: Mount) -> None:
    mount.metadata.unlink()
    assert "unmount, which writes it anew" in told_of(mount, "metadata")
    commands_work(mount)
    image, dirty = mount.image.read_bytes(), mount.count("dirty_blocks")
    assert f"{dirty} dirty blocks" in fusecache("unmount", mount.mountpoint)
    assert ended_cleanly(mount)
    mount.mount()
    assert (mount.image.read_bytes(), mount.count("dirty_blocks")) == (image, dirty)
    assert mount.status()["state"] == "ok"


@pytest.mark.parametrize("command", ["flush", "decommission"])
def test_f06_commands_work_without_the_names(mount: Mount, command: str) -> None:
    image = mount.image.read_bytes()
    mount.metadata.unlink()
    mount.cache.unlink()
    told_of(mount, "cache", "metadata")
    fusecache(command, mount.mountpoint)
    assert mount.origin.read_bytes() == image
    mount.unmount()
    assert mount.origin.read_bytes() == image


def test_f06_the_metadatas_log_that_was_removed_is_in_the_metadata_at_the_end(mount: Mount) -> None:
    Path(f"{mount.metadata}-wal").unlink()
    assert "unmount and mount again" in told_of(mount, "metadata-log")
    commands_work(mount)
    image, dirty = mount.image.read_bytes(), mount.count("dirty_blocks")
    mount.remount()
    assert (mount.image.read_bytes(), mount.count("dirty_blocks")) == (image, dirty)


def test_f06_metadata_that_was_replaced_is_left_alone_and_ours_goes_beside_it(mount: Mount) -> None:
    image = mount.image.read_bytes()
    mount.metadata.unlink()
    mount.metadata.write_text("precious")
    told_of(mount, "metadata")
    result = run(program(), "unmount", mount.mountpoint, check=False)
    assert result.returncode == 1
    assert "did not end cleanly" in result.stderr
    assert mount.metadata.read_text() == "precious"
    rescued = Path(f"{mount.metadata}.rescued")
    assert str(rescued) in mount.metadata.with_name("metadata.log").read_text()
    rescued.rename(mount.metadata)
    mount.mount()
    assert mount.image.read_bytes() == image


@pytest.mark.parametrize("how", ["unmount", "SIGTERM"])
def test_f06_what_is_dirty_in_a_cache_that_was_removed_is_written_back_at_the_end(mount: Mount, how: str) -> None:
    image, pid = mount.image.read_bytes(), mount.pid
    mount.cache.unlink()
    if how == "unmount":
        assert "to unmount writes everything back" in told_of(mount, "cache")
        assert "safe" not in fusecache("unmount", mount.mountpoint)
    else:
        os.kill(pid, signal.SIGTERM)  # before anybody has missed it
        wait_until(lambda: not is_running(pid), "the daemon has ended")
    assert not is_mounted(mount.mountpoint)
    assert mount.origin.read_bytes() == image
    assert ended_cleanly(mount)
    mount.mount("--format")
    assert mount.image.read_bytes() == image


def test_f06_a_whole_directory_that_was_removed(mounted: Mounted, tmp_path: Path) -> None:
    mount = mounted("--policy", "smq,migration_threshold=0", size=MIB, cache_size="2MiB")
    mount.unmount()
    (tmp_path / "room").mkdir()
    mount.cache = mount.cache.rename(tmp_path / "room" / "cache")
    mount.metadata = mount.metadata.rename(tmp_path / "room" / "metadata")
    mount.mount()
    cache_everything(mount)
    image = mount.image.read_bytes()
    shutil.rmtree(tmp_path / "room")
    told_of(mount, "cache", "metadata", "metadata-log")
    assert run(program(), "unmount", mount.mountpoint, check=False).returncode == 1
    assert mount.origin.read_bytes() == image


def test_f06_an_origin_that_was_removed_is_not_thrown_away_by_unmount(mount: Mount) -> None:
    image = mount.image.read_bytes()
    mount.origin.unlink()
    assert "copy the image to another place" in told_of(mount, "origin")
    result = run(program(), "unmount", mount.mountpoint, check=False)
    assert result.returncode == 1
    assert f"copy {mount.image} first" in result.stderr
    assert mount.image.read_bytes() == image
    shutil.copyfile(mount.image, mount.origin)
    run("fusermount3", "-u", mount.mountpoint)


def test_f06_a_file_that_gets_its_name_back_is_missed_no_more(mount: Mount) -> None:
    kept = mount.cache.rename(f"{mount.cache}.kept")
    told_of(mount, "cache")
    kept.rename(mount.cache)
    wait_until(lambda: mount.status()["state"] == "ok", "it is there again")
    mount.remount()
