"""Images that are not raw, known by their first and last bytes.

An origin is served byte for byte.  Of a qcow2 file that is the container: a guest sees no disk in it, and whoever lets
it make one there destroys the image.  So a format in which a whole disk is wrapped up is refused where an origin is
seen for the first time; the user may insist, since a raw disk can have anything in it.  What has been mounted with this
cache before is not looked at again: what is in a disk is its guest's affair.

Where formats have their mark is from their public documentation.
"""

from __future__ import annotations

import shlex
from typing import Final, NamedTuple

HEAD: Final = 512
"""So many bytes of the beginning are looked at, and as many of the end."""
_TAIL_MARK: Final = -512


class ImageFormat(NamedTuple):
    """A way to wrap up a disk."""

    name: str
    """What people call it, with its article."""
    magic: bytes
    place: int
    """Where that stands; a negative place counts from the end."""
    tool: str
    """How to come to the raw disk: ``qemu`` and the name that qemu-img has for it, or the command that unpacks it."""


FORMATS: Final = (
    ImageFormat("a qcow2 image", b"QFI\xfb\0\0\0\x03", 0, "qemu qcow2"),
    ImageFormat("a qcow2 image", b"QFI\xfb\0\0\0\x02", 0, "qemu qcow2"),
    ImageFormat("a qcow image", b"QFI\xfb\0\0\0\x01", 0, "qemu qcow"),
    ImageFormat("a qed image", b"QED\0", 0, "qemu qed"),
    ImageFormat("a vmdk image", b"KDMV", 0, "qemu vmdk"),
    ImageFormat("a vmdk image", b"COWD", 0, "qemu vmdk"),
    ImageFormat("the descriptor of a vmdk image", b"# Disk DescriptorFile", 0, "qemu vmdk"),
    ImageFormat("a vhdx image", b"vhdxfile", 0, "qemu vhdx"),
    ImageFormat("a vhd image", b"conectix", 0, "qemu vpc"),
    ImageFormat("a vhd image", b"conectix", _TAIL_MARK, "qemu vpc"),
    ImageFormat("a vdi image", b"\x7f\x10\xda\xbe", 0x40, "qemu vdi"),
    ImageFormat("a parallels image", b"WithoutFreeSpace", 0, "qemu parallels"),
    ImageFormat("a parallels image", b"WithouFreSpacExt", 0, "qemu parallels"),
    ImageFormat("a bochs image", b"Bochs Virtual HD Image", 0, "qemu bochs"),
    ImageFormat("a dmg image", b"koly", _TAIL_MARK, "qemu dmg"),
    ImageFormat("a compressed file (xz)", b"\xfd7zXZ\0", 0, "xz --decompress --keep"),
    ImageFormat("a compressed file (gzip)", b"\x1f\x8b\x08", 0, "gzip --decompress --keep"),
    ImageFormat("a compressed file (zstd)", b"\x28\xb5\x2f\xfd", 0, "zstd --decompress"),
    ImageFormat("a compressed file (bzip2)", b"1AY&SY", 4, "bzip2 --decompress --keep"),
)


def format_of(head: bytes, tail: bytes) -> ImageFormat | None:
    """Recognize a format by the first and the last :data:`HEAD` bytes; None for a raw disk, as far as one can tell."""
    for known in FORMATS:
        part, place = (head, known.place) if known.place >= 0 else (tail, len(tail) + known.place)
        if place >= 0 and part[place : place + len(known.magic)] == known.magic:
            return known
    return None


def refusal(address: str, found: ImageFormat) -> str:
    """Say in one line why an origin is refused, and which commands help."""
    file = shlex.quote(address)
    kind, _, name = found.tool.partition(" ")
    if kind == "qemu":
        raw = "disk.raw" if address.startswith("/dev/") else shlex.quote(f"{address}.raw")
        help_ = (
            f"`qemu-img convert -f {name} -O raw {file} {raw}` makes a raw one, or, after `modprobe nbd`, "
            f"`qemu-nbd -f {name} -c /dev/nbd0 {file}` a device"
        )
    else:
        help_ = f"`{found.tool} {file}` unpacks it"
    return (
        f"origin {address} is {found.name}, and would be served as it is, not as the disk in it: {help_}; --raw insists"
    )
