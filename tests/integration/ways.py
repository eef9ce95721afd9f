"""Ways into an image, as programs use them: through the page cache and past it, synchronous, mapped, by a loop device.

Each has the same few methods, and says what it can: in which units it works, and how far it reaches.  What one way has
written the others see at once, but for :class:`Mapped`: what was written there is for others to see once it was synced.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.integration.mounts import LoopDevices
from tests.integration.promised import PAGE, SECTOR

KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
ZERO_RANGE: Final = 16
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)

NAMES: Final = ("buffered", "direct", "sync", "loop", "mapped")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Call fallocate(2); raises OSError."""
    if _libc.fallocate(fd, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Descriptor:
    """An open file.

    :ivar unit: offsets and lengths are multiples of so many bytes.
    :ivar reach: so many bytes of the image can be used.
    :ivar writes_are_durable: when they return.
    """

    def __init__(self, path: Path, flags: int = 0, *, unit: int = 1) -> None:
        self.unit = unit
        self.writes_are_durable = bool(flags & os.O_SYNC)
        self._fd = os.open(path, os.O_RDWR | flags)
        self.reach = os.lseek(self._fd, 0, os.SEEK_END) // unit * unit

    def read(self, offset: int, length: int) -> bytes:
        """Read; short only at the end of the image."""
        return os.pread(self._fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Write all of it."""
        written = os.pwrite(self._fd, data, offset)
        assert written == len(data), f"{written} bytes of {len(data)} were written at {offset}"

    def discard(self, offset: int, length: int, *, punches: bool) -> None:
        """Have a range read as zeros: punch a hole there, or ask for zeros."""
        fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE if punches else ZERO_RANGE, offset, length)

    def sync(self, *, data_only: bool = False) -> None:
        """Make durable what was written by whatever way."""
        (os.fdatasync if data_only else os.fsync)(self._fd)

    def close(self) -> None:
        """Close; what it was open on may be dead."""
        with suppress(OSError):
            os.close(self._fd)


class Direct(Descriptor):
    """A file or a device that is opened past the page cache, with buffers that are aligned to pages."""

    def __init__(self, path: Path, *, unit: int = SECTOR) -> None:
        super().__init__(path, os.O_DIRECT, unit=unit)

    def read(self, offset: int, length: int) -> bytes:
        """Read."""
        with mmap.mmap(-1, length) as buffer:
            return buffer[: os.preadv(self._fd, [buffer], offset)]

    def write(self, offset: int, data: bytes) -> None:
        """Write all of it."""
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            written = os.pwritev(self._fd, [buffer], offset)
        assert written == len(data), f"{written} bytes of {len(data)} were written at {offset}"


class Loop(Direct):
    """A loop device on the image, past its own page cache and the image's."""

    def __init__(self, image: Path, devices: LoopDevices) -> None:
        self._devices = devices
        self._device = devices.attach(image, direct_io=True)
        unit = int(Path("/sys/block", self._device.name, "queue/logical_block_size").read_text())
        super().__init__(self._device, unit=unit)

    def close(self) -> None:
        """Close, and detach the device."""
        super().close()
        self._devices.detach(self._device)


class Mapped:
    """The whole image in memory.

    :ivar dirty: numbers of the pages that were written and not yet synced.
    """

    unit = 1
    writes_are_durable = False

    def __init__(self, path: Path) -> None:
        with _opened(path) as fd:
            self.reach = os.lseek(fd, 0, os.SEEK_END)
            self._memory = mmap.mmap(fd, self.reach)
        self.dirty: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        """Read."""
        return self._memory[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Write: others see it, and it is durable, only after a sync."""
        self._memory[offset : offset + len(data)] = data
        self.dirty.update(range(offset // PAGE, -(-(offset + len(data)) // PAGE)))

    def sync_pages(self, pages: range) -> None:
        """Sync some pages (msync)."""
        begin, end = pages.start * PAGE, min(pages.stop * PAGE, self.reach)
        self._memory.flush(begin, end - begin)
        self.dirty.difference_update(pages)

    def sync(self, *, data_only: bool = False) -> None:
        """Sync all pages."""
        del data_only  # msync knows no such difference
        self._memory.flush()
        self.dirty.clear()

    def close(self) -> None:
        """Unmap; pages that are dirty may get written, or not."""
        self._memory.close()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


Way = Descriptor | Mapped


def open_way(name: str, image: Path, devices: LoopDevices | None) -> Way:
    """Open an image in one of the ways of :data:`NAMES`; without loop devices, past the page cache instead."""
    if name == "mapped":
        return Mapped(image)
    if name == "loop" and devices is not None:
        return Loop(image, devices)
    if name in {"loop", "direct"}:
        return Direct(image)
    return Descriptor(image, os.O_SYNC if name == "sync" else 0)
