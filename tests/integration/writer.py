"""A writer that remembers, outside the image, what it was promised.

Theory of operation
-------------------
A :class:`Writer` overwrites *slots*, runs of sectors, again and again in a thread of its own.  Every sector names its
slot and the version of it; versions only grow.  The writer notes a version as issued before it writes it and as
acknowledged after an fsync that came behind the write.  After a crash each sector must bear a version from the
acknowledged to the issued one, and must go on bearing it through another mount.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from pathlib import Path

SECTOR = 512


class Writer:
    """Writes and fsyncs slots until the image is gone, and remembers what it was promised."""

    SLOT = 24 * SECTOR

    def __init__(self, image: Path, slots: int, *, seed: int) -> None:
        self.slots = slots
        self.issued = [0] * slots
        self.acknowledged = [0] * slots
        self.syncs = 0
        self._image = image
        self._random = random.Random(seed)
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to write."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait_for_syncs(self, count: int, timeout: float = 30) -> None:
        """Wait until there were so many more."""
        goal, deadline = self.syncs + count, time.monotonic() + timeout
        while self.syncs < goal:
            assert time.monotonic() < deadline, f"{count} fsyncs take more than {timeout} s"
            time.sleep(0.01)

    def stop(self) -> None:
        """End after the next fsync, with the image closed."""
        self._stopped.set()
        self.join()

    def join(self) -> None:
        """Wait until it met the end of the image's server."""
        assert self._thread is not None
        self._thread.join(30)
        assert not self._thread.is_alive(), "a request to a dead server hangs"

    def _run(self) -> None:
        fd = os.open(self._image, os.O_RDWR)
        with contextlib.suppress(OSError):  # that is how it ends: the server was killed
            while not self._stopped.is_set():
                self._write_some(fd)
        with contextlib.suppress(OSError):
            os.close(fd)

    def _write_some(self, fd: int) -> None:
        """Write some slots, whole or in part, then fsync."""
        written = {}
        for _ in range(self._random.randrange(1, 12)):
            slot = self._random.randrange(self.slots)
            if slot in written:
                continue
            version = self.issued[slot] = self.issued[slot] + 1
            data = self.content(slot, version)
            half = len(data) // 2 if self._random.random() < 0.3 else len(data)
            base = slot * self.SLOT
            os.pwrite(fd, data[:half], base)
            os.pwrite(fd, data[half:], base + half)
            written[slot] = version
        os.fsync(fd)
        for slot, version in written.items():
            self.acknowledged[slot] = version
        self.syncs += 1

    @staticmethod
    def sector(slot: int, version: int, number: int) -> bytes:
        """Return one sector of a slot in one version."""
        return b"%010d %010d %02d" % (slot, version, number) + bytes([version % 256]) * (SECTOR - 24)

    @classmethod
    def content(cls, slot: int, version: int) -> bytes:
        """Return the whole slot in one version."""
        return b"".join(cls.sector(slot, version, number) for number in range(cls.SLOT // SECTOR))

    @classmethod
    def blank(cls, slots: int) -> bytes:
        """Return an image of slots, all in version 0."""
        return b"".join(cls.content(slot, 0) for slot in range(slots))

    def judge(self, image: bytes) -> None:
        """Hold what is read against the promises; then take it for what was issued and acknowledged."""
        for slot in range(self.slots):
            versions = []
            for sector in range(self.SLOT // SECTOR):
                place = slot * self.SLOT + sector * SECTOR
                found = image[place : place + SECTOR]
                digits = found[11:21]
                version = int(digits) if digits.isdigit() else 0
                assert found == self.sector(slot, version, sector), (
                    f"slot {slot} sector {sector} holds what was never written there"
                )
                low, high = self.acknowledged[slot], self.issued[slot]
                assert low <= version <= high, f"slot {slot} sector {sector}: {version}, promised {low}..{high}"
                versions.append(version)
            self.acknowledged[slot] = min(versions)
