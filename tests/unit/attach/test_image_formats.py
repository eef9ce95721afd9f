"""Images that are not raw: which they are, and when that counts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from fusecache.attach.image_formats import FORMATS, HEAD, format_of, refusal
from fusecache.errors import RefusedError
from tests.unit.places import CLEAN, DIRTY, IMAGE, Place

QCOW2 = b"QFI\xfb\0\0\0\x03".ljust(HEAD, b"\0")


def recognized(content: bytes) -> str:
    found = format_of(content[:HEAD], content[-HEAD:])
    return "" if found is None else found.tool


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("options", ["qcow2", "qcow", "qed", "vmdk", "vhdx", "vpc", "vdi", "parallels"])
def test_g05_what_qemu_makes_is_recognized(tmp_path: Path, options: str) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("no qemu-img here")
    image = tmp_path / "image"
    made = subprocess.run(["qemu-img", "create", "-q", "-f", options, str(image), "8M"], check=False, timeout=60)
    if made.returncode:
        pytest.skip(f"this qemu-img makes no {options}")
    assert recognized(image.read_bytes()) == f"qemu {options}"
    words = refusal(str(image), FORMATS[0])
    assert f"`qemu-img convert -f qcow2 -O raw {image} {image}.raw`" in words


@pytest.mark.parametrize(
    ("form", "options", "tool"),
    [
        ("qcow2", "compat=0.10", "qemu qcow2"),
        ("vpc", "subformat=fixed", "qemu vpc"),
        ("vmdk", "subformat=monolithicFlat", "qemu vmdk"),
        ("vmdk", "subformat=streamOptimized", "qemu vmdk"),
    ],
)
def test_g05_variants(tmp_path: Path, form: str, options: str, tool: str) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("no qemu-img here")
    image = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", form, "-o", options, str(image), "8M"], check=True, timeout=60)
    assert recognized(image.read_bytes()) == tool


def test_g05_what_is_compressed_is_recognized() -> None:
    disk = random.Random(0).randbytes(4096)
    assert recognized(lzma.compress(disk)).startswith("xz ")
    assert recognized(gzip.compress(disk)).startswith("gzip ")
    assert recognized(bz2.compress(disk)).startswith("bzip2 ")
    assert recognized(b"\x28\xb5\x2f\xfd" + disk).startswith("zstd ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Q",
        bytes(HEAD),
        b"QFI\xfb" + bytes(HEAD),  # of no version
        bytes(512) + QCOW2,  # elsewhere
        b"conectix"[:7] + bytes(504),
        b"LUKS\xba\xbe" + bytes(HEAD),
        b"\xeb\x63\x90" + bytes(507) + b"\x55\xaa",
        b"BZh9" + bytes(HEAD),
    ],
)
def test_g05_a_raw_disk_is_none_of_them(content: bytes) -> None:
    assert recognized(content) == ""


def test_g05_a_mark_that_is_cut_off_is_none() -> None:
    for known in FORMATS:
        content = bytes(max(0, known.place)) + known.magic
        if known.place >= 0:
            assert format_of(content, content) is not None
            assert recognized(content[:-1]) == ""


def test_g05_a_device_gets_no_name_beside_it() -> None:
    assert "-O raw /dev/vg/lv disk.raw`" in refusal("/dev/vg/lv", FORMATS[0])


def test_g05_names_are_quoted() -> None:
    assert "convert -f qcow2 -O raw '/my disk' '/my disk.raw'`" in refusal("/my disk", FORMATS[0])


# When it counts


def wrap_up(place: Place) -> None:
    """Have a qcow2 header at the beginning of the origin."""
    with place.origin.open("r+b") as file:
        file.write(QCOW2)


def test_g05_a_new_origin_is_refused_and_nothing_is_made(place: Place) -> None:
    """G05: the VM found no disk, and the first installer that made one destroyed the image."""
    wrap_up(place)
    told = place.refused(RefusedError, "is a qcow2 image, .*qemu-img convert .* -O raw .*qemu-nbd .*; --raw insists")
    assert str(place.origin) in told
    assert not place.cache.exists()


def test_g05_who_insists_may_mount_it_again_and_again(place: Place) -> None:
    wrap_up(place)
    place.mount(raw=True)
    place.mount(rows=DIRTY)
    place.mount(clean=False)
    place.mount()


@pytest.mark.parametrize("clean", [True, False])
def test_g05_what_came_through_the_mount_is_the_guests_affair(place: Place, clean: bool) -> None:
    """G05: a guest that uses its disk as a container must not lose it with the next mount."""
    with place.bound() as binding:
        wrap_up(place)  # as a writeback does
        if clean:
            binding.database.set_values(binding.end_values())
            binding.end(dirty=0, cached=0)
    place.mount()


def test_g05_an_origin_that_was_only_touched_or_extended_is_not_asked_about(place: Place) -> None:
    with place.bound() as binding:
        wrap_up(place)
        binding.database.set_values(binding.end_values())
        binding.end(dirty=0, cached=0)
    place.origin.chmod(0o600)
    place.mount()
    os.truncate(place.origin, IMAGE + 4096)
    place.mount()


def test_g05_an_origin_that_others_replaced_is_asked_about(place: Place) -> None:
    place.mount(rows=CLEAN)
    wrap_up(place)
    os.utime(place.origin, (1, 1))
    place.refused(RefusedError, "is a qcow2 image")
    place.mount(raw=True)
    place.mount()


def test_g05_so_is_one_that_gets_a_new_cache(place: Place) -> None:
    with place.bound() as binding:
        wrap_up(place)
        binding.database.set_values(binding.end_values())
        binding.end(dirty=0, cached=0)
    place.refused(RefusedError, "is a qcow2 image", format=1)
    place.mount(format=1, raw=True)


def test_g05_newer_blocks_in_a_cache_come_first(place: Place) -> None:
    """G05: what can be lost is told before what can be converted."""
    place.mount(rows=DIRTY)
    wrap_up(place)
    os.utime(place.origin, (1, 1))
    place.refused(RefusedError, "newer blocks of it are in the cache")
