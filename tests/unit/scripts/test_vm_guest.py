from __future__ import annotations

from pathlib import Path

import pytest

from scripts.vm.guest import Kernel


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    modules = tmp_path / "lib" / "modules" / "6.1" / "kernel"
    modules.mkdir(parents=True)
    needs = {
        "virtio": "",
        "virtio_ring": "virtio",
        "virtio-pci-modern": "virtio_ring,virtio",
        "virtio_pci": "virtio-pci-modern,virtio_ring,virtio",
        "virtio_blk": "virtio,virtio_ring",
    }
    for name, depends in needs.items():
        (modules / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0intree=Y\0")
    return Kernel(tmp_path)


def test_modules_come_after_those_they_need_and_only_once(kernel: Kernel) -> None:
    names = [path.stem for path in kernel.modules("virtio_pci", "virtio_blk")]
    assert names == ["virtio", "virtio_ring", "virtio-pci-modern", "virtio_pci", "virtio_blk"]


def test_what_is_built_in_needs_no_module(kernel: Kernel) -> None:
    assert [path.stem for path in kernel.modules("ext4", "virtio")] == ["virtio"]
