"""What the content of a disk says of itself."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

import pytest

from fusecache.attach.marks import label_of, marks_of

SIZE = 4 << 20
HEAD = 128 << 10
SOME = uuid.UUID("1b4e28ba-2fa1-11d2-883f-0016d3cca427")


class Content:
    """A disk of zeroes but for what is put there."""

    def __init__(self, size: int = SIZE) -> None:
        self.data = bytearray(size)

    def put(self, at: int, data: bytes) -> Content:
        self.data[at : at + len(data)] = data
        return self

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    @property
    def marks(self) -> str:
        return marks_of(self.read, len(self.data))

    @property
    def label(self) -> str:
        return label_of(self.read, len(self.data))


def gpt(*starts: int) -> Content:
    content = Content().put(446 + 4, b"\xee").put(510, b"\x55\xaa").put(512, b"EFI PART").put(512 + 56, SOME.bytes)
    for number, start in enumerate(starts):
        content.put(1024 + 128 * number, b"t" * 16).put(1024 + 128 * number + 32, struct.pack("<Q", start))
    return content


def dos(*starts: int) -> Content:
    content = Content().put(510, b"\x55\xaa").put(440, b"\x12\x34\x56\x78")
    for number, start in enumerate(starts):
        content.put(446 + 16 * number + 4, b"\x83").put(446 + 16 * number + 8, struct.pack("<I", start))
    return content


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (Content(), ""),
        (Content(0), ""),
        (Content(5), ""),
        (Content().put(0x438, b"\x53\xef").put(0x468, SOME.bytes), f"ext4 {SOME}"),
        (Content().put(0, b"XFSB").put(32, SOME.bytes), f"xfs {SOME}"),
        (Content().put(0x10040, b"_BHRfS_M").put(0x10020, SOME.bytes), f"btrfs {SOME}"),
        (Content().put(4086, b"SWAPSPACE2").put(0x40C, SOME.bytes), f"swap {SOME}"),
        (Content().put(0, b"LUKS\xba\xbe").put(168, str(SOME).encode()), f"luks {SOME}"),
        (Content().put(512, b"LABELONE").put(544, b"x" * 32), f"lvm {'x' * 32}"),
        (gpt(), f"gpt {SOME}"),
        (dos(), "dos 12345678"),
        (Content(600).put(512, b"EFI PART"), f"gpt {uuid.UUID(bytes=bytes(24)[:16])}"),
    ],
)
def test_f02_a_label_is_the_name_and_the_uuid(content: Content, label: str) -> None:
    assert content.label == label


@pytest.mark.parametrize("at", [0, 0x400, 0x10040, HEAD - 1])
def test_f02_a_write_near_the_beginning_shows(at: int) -> None:
    content = Content()
    before = content.marks
    assert content.put(at, b"x").marks != before


def test_a_write_elsewhere_does_not_show_and_a_small_disk_has_none() -> None:
    content = Content()
    assert content.put(HEAD, b"x").marks == Content().marks
    assert Content(HEAD - 1).marks == ""
    assert Content(HEAD).marks == content.marks


@pytest.mark.parametrize("make", [gpt, dos])
def test_f02_nor_is_a_file_system_in_a_partition_overlooked(make: Callable[..., Content]) -> None:
    starts = (2048, 4096)
    for start in starts:
        content = make(*starts)
        before = content.marks
        assert content.put(start * 512 + 0x438, b"\x53\xef").marks != before
    assert make(*starts).put(1024 * 512, b"x").marks == make(*starts).marks


@pytest.mark.parametrize("make", [gpt, dos])
def test_partitions_that_cannot_be_are_passed_over(make: Callable[..., Content]) -> None:
    assert make(0, SIZE // 512, 2**32 - 1).marks
    assert make(SIZE // 512 - 1).marks
