from __future__ import annotations

from pathlib import Path

import pytest

from scripts.vm.guest import GuestError, fetch_kernel
from tests.integration.mounts import discard_mount, fuse_mountpoints, run

ROOT = Path(__file__).parents[2]


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
        console = run("env", f"TMPDIR={scratch}", *limited, boot_vm, "--timeout", "60", timeout=440).stdout
    finally:
        for mountpoint in fuse_mountpoints():
            if mountpoint.is_relative_to(scratch):
                discard_mount(mountpoint)
    assert console.count("guest: wrote 40 files") == 2
    assert console.count("guest: verified 40 files") == 2
    assert console.endswith("boot-vm: ok\n")
    assert list(scratch.iterdir()) == []
