from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.vm.boot_vm import DRIVE_OPTIONS
from scripts.vm.guest import GuestError, fetch_kernel
from tests.integration.mounts import discard_mount, fuse_mountpoints, run

ROOT = Path(__file__).parents[2]
CHOICE = () if "FUSECACHE_ALL_DRIVES" in os.environ else ("--drive", DRIVE_OPTIONS[0])
"""By day one way to open the image, which takes two boots; at night both."""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where boot-vm works: below this run's directory, so that whatever it leaves is found."""
    try:
        run(ROOT / "scripts" / "setup", "vm", timeout=600)
        fetch_kernel()
    except (AssertionError, GuestError) as exc:
        pytest.skip(f"what a virtual machine needs cannot be had: {exc}")
    return tmp_path


def test_a_virtual_machine_boots_from_the_image_and_finds_what_it_wrote(scratch: Path) -> None:
    limited = ["timeout", "--signal=TERM", "--kill-after=20", "400"]
    boot_vm = ROOT / "scripts" / "boot-vm"
    try:
        console = run("env", f"TMPDIR={scratch}", *limited, boot_vm, *CHOICE, "--timeout", "60", timeout=440).stdout
    finally:
        for mountpoint in fuse_mountpoints():
            if mountpoint.is_relative_to(scratch):
                discard_mount(mountpoint)
    drives = len(CHOICE) // 2 or len(DRIVE_OPTIONS)
    assert console.count("guest: wrote 40 files") == drives
    assert console.count("guest: verified 40 files") == drives
    assert console.endswith("boot-vm: ok\n")
    assert list(scratch.iterdir()) == []
