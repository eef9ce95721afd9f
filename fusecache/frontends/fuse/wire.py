"""FUSE's messages as bytes: what the kernel asks, and what it is answered.  Pure.

Layouts and numbers are those of the kernel's interface (fuse(4)), from its version 7.9 on; what came later was added at
the end of a message or in bits that had been zero.  Everything is in the byte order of this machine.

A *request* is a header of 40 bytes and its arguments.  An *answer* is a header of 16 bytes (length, minus the errno,
and by which number the request went) and its results.  A *notification* has that header too, with no request: its kind
is where the errno would be.
"""

from __future__ import annotations

import errno
import struct
from typing import Final, NamedTuple

OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
FSYNC: Final = 20
GETXATTR: Final = 22
INIT: Final = 26
INTERRUPT: Final = 36
FALLOCATE: Final = 43
LSEEK: Final = 46

REQUEST: Final = struct.Struct("=4xIQ24xQQI")
"""Opcode, number, file handle, offset and length of a read or write; of other requests the first two."""
WRITE_HEADER_BYTES: Final = 80
"""What precedes the data of a write."""
ANSWER: Final = struct.Struct("=IiQ")
"""Length, minus the errno, number."""
WRITTEN: Final = struct.Struct("=IiQI4x")
"""The answer to a write: header, and the bytes that were written."""
MOST_WRITTEN: Final = 1024 * 1024
"""Bytes of the largest write that we let the kernel send."""
LEAST_MEMORY: Final = WRITE_HEADER_BYTES + MOST_WRITTEN
"""Bytes into which requests are received: the kernel insists on room for the largest write."""

SOUGHT: Final = struct.Struct("=IiQQ")
"""The answer to a seek: header, and the place."""

_REQUEST_HEADER: Final = 40
_FALLOCATE: Final = struct.Struct("=QQQI")
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_ZERO_RANGE: Final = 16
_ZEROING: Final = frozenset({_PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE, _ZERO_RANGE | _KEEP_SIZE})
"""Modes of fallocate(2) after which a range reads as zeros."""
_LSEEK: Final = struct.Struct("=QQI")
_NAME: Final = 48
"""Where a GETXATTR has the name."""
_INIT_IN: Final = struct.Struct("=IIIII")  # major, minor, readahead, flags, more flags
_INIT_IN_FLAGS: Final = 12
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHI")  # like these; limits, most written, granularity, pages, alignment
_OPEN_OUT: Final = struct.Struct("=QI")  # handle, flags
_INVALIDATION: Final = struct.Struct("=IiQQqq")
_INVALIDATE_INODE: Final = 2
_RESEND: Final = 7

_SPLICE: Final = 1 << 7 | 1 << 8 | 1 << 9
_AUTO_INVAL_DATA: Final = 1 << 12
_INIT_EXT: Final = 1 << 30
_DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
_HAS_RESEND: Final = 1 << 39
_FOPEN_DIRECT_IO: Final = 1 << 0
_FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6


class Allocation(NamedTuple):
    """The arguments of a fallocate(2)."""

    handle: int
    offset: int
    length: int
    mode: int

    def zeroed(self, size: int) -> tuple[int, int]:
        """Tell what a block device of this many bytes does: its errno, and how many bytes are to read as zeros.

        It keeps its size, and cannot promise space, so it takes no other modes.
        """
        if self.mode not in _ZEROING:
            return errno.EOPNOTSUPP, 0
        if self.offset + self.length > size and not self.mode & _KEEP_SIZE:
            return errno.EINVAL, 0
        return 0, max(0, min(self.length, size - self.offset))


class Seek(NamedTuple):
    """The arguments of an lseek(2) that asks for data or a hole."""

    offset: int
    whence: int


def allocation(request: bytes | memoryview) -> Allocation:
    """Read a FALLOCATE."""
    return Allocation._make(_FALLOCATE.unpack_from(request, _REQUEST_HEADER))


def seek(request: bytes | memoryview) -> Seek:
    """Read an LSEEK."""
    _, offset, whence = _LSEEK.unpack_from(request, _REQUEST_HEADER)
    return Seek(offset, whence)


def attribute(request: bytes | memoryview) -> bytes:
    """Read which extended attribute a GETXATTR asks for."""
    return bytes(request[_NAME:]).partition(b"\0")[0]


def refusal(number: int, code: int) -> bytes:
    """Return the answer that says an errno, or success if that is 0."""
    return ANSWER.pack(ANSWER.size, -code, number)


def invalidation(inode: int) -> bytes:
    """Return the notification that has the kernel drop all pages of a file."""
    return _INVALIDATION.pack(_INVALIDATION.size, _INVALIDATE_INODE, 0, inode, 0, 0)


def resending() -> bytes:
    """Return the notification that has the kernel ask again whatever was received and not answered."""
    return ANSWER.pack(ANSWER.size, _RESEND, 0)


def can_resend(init: bytes | memoryview) -> bool:
    """Tell by its INIT whether the kernel can ask again (Linux 6.9); the number of what it does is another one then."""
    return bool(offered(init) & _HAS_RESEND)


def offered(request: bytes | memoryview) -> int:
    """Return what the kernel offers in its INIT, as bits; those from 32 on came with version 7.36."""
    arguments = bytes(request[_REQUEST_HEADER:]).ljust(_INIT_IN.size, b"\0")
    flags: int
    _, _, _, flags, more = _INIT_IN.unpack_from(arguments)
    return flags | (more << 32 if flags & _INIT_EXT else 0)


def with_less_offered(request: bytes | memoryview) -> bytes:
    """Return an INIT that does not offer to splice, nor to drop all pages of a file that has got a new time.

    To splice needs the kernel's own descriptor at the other end.  Which pages have to go, and when, we know better.
    """
    changed = bytearray(request)
    place = _REQUEST_HEADER + _INIT_IN_FLAGS
    (flags,) = struct.unpack_from("=I", changed, place)
    struct.pack_into("=I", changed, place, flags & ~(_SPLICE | _AUTO_INVAL_DATA))
    return bytes(changed)


def amended_init(answer: bytes | memoryview, offers: int, *, background: int, congested: int) -> bytes:
    """Amend libfuse's answer to INIT.

    :param offers: what the kernel offers (:func:`offered`).
    :param background: how many asynchronous requests the kernel may send at a time, unless libfuse was told.
    :param congested: beyond how many it is to read ahead less; likewise.
    """
    changed = bytearray(answer)
    if len(changed) < ANSWER.size + _INIT_OUT.size:  # an error, or an older version's
        return bytes(changed)
    *before, told_background, told_congested, most, granularity, pages, alignment, more = _INIT_OUT.unpack_from(
        changed, ANSWER.size
    )
    if offers & _INIT_EXT and offers & _DIRECT_IO_ALLOW_MMAP:
        before[-1] |= _INIT_EXT
        more |= _DIRECT_IO_ALLOW_MMAP >> 32
    limits = (told_background or background, told_congested or congested, min(most, MOST_WRITTEN))
    _INIT_OUT.pack_into(changed, ANSWER.size, *before, *limits, granularity, pages, alignment, more)
    return bytes(changed)


def amended_open(answer: bytes | memoryview) -> bytes:
    """Amend libfuse's answer to OPEN: writes past the page cache need not wait for one another."""
    changed = bytearray(answer)
    if len(changed) >= ANSWER.size + _OPEN_OUT.size:
        handle, flags = _OPEN_OUT.unpack_from(changed, ANSWER.size)
        if flags & _FOPEN_DIRECT_IO:
            _OPEN_OUT.pack_into(changed, ANSWER.size, handle, flags | _FOPEN_PARALLEL_DIRECT_WRITES)
    return bytes(changed)
