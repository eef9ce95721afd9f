"""A disk with a volatile write cache, as programs see it: files and directories that forget what was not synced.

Theory of operation
-------------------
A :class:`VolatileFile` remembers, for every sector written since the last sync, each content that the sector had; a
power cut leaves any one of them in its place, chosen for each sector by itself.  So any subset of the writes may
be there, in any order, torn at 512 bytes.  The same goes for the file's size, and for its time of modification, which
only a full fsync makes durable (fdatasync(2) need not, and ext4's does not).

A :class:`VolatileDirectory` keeps the order of what is done to its names, as the journal of a file system does: a power
cut leaves the outcome of some first part of it.  Only the fsync of the directory makes names durable; that of a file
does not bring its name along (POSIX; many file systems do better).

Files lose for themselves: one may keep everything and another nothing.
"""

from __future__ import annotations

import random
from typing import Final

SECTOR: Final = 512
_SURVIVAL: Final = (0.0, 0.0, 0.1, 0.5, 0.9, 1.0)
"""How much of what was written last survives in one file; all or nothing is as likely as anything in between."""


class VolatileFile:
    """Bytes, and what a power cut could make of them.

    :param content: what is durable in the beginning.
    """

    def __init__(self, content: bytes = b"", *, mtime_ns: int) -> None:
        self.data = bytearray(content)
        self.mtime_ns = mtime_ns
        self._sectors: dict[int, list[bytes]] = {}
        """Earlier contents of each sector that was written since the last sync, the durable one first."""
        self._sizes: list[int] = []
        self._durable_mtime_ns = mtime_ns

    def write(self, offset: int, data: bytes, *, now_ns: int) -> None:
        """Write; beyond the end the file grows."""
        end = offset + len(data)
        self._remember_sectors(offset // SECTOR, -(-end // SECTOR))
        if end > len(self.data):
            self._resize(end)
        self.data[offset:end] = data
        self.mtime_ns = now_ns

    def truncate(self, size: int, *, now_ns: int) -> None:
        """Cut off, or append zeros."""
        self._remember_sectors(size // SECTOR, -(-len(self.data) // SECTOR))
        self._resize(size)
        self.mtime_ns = now_ns

    def sync(self, *, data_only: bool) -> None:
        """Make it durable; ``data_only`` is fdatasync."""
        self._sectors.clear()
        self._sizes.clear()
        if not data_only:
            self._durable_mtime_ns = self.mtime_ns

    def after_cut(self, rng: random.Random) -> tuple[bytes, int]:
        """Return the content and the time of modification that a power cut now could leave."""
        survival = rng.choice(_SURVIVAL)
        sizes = [*self._sizes, len(self.data)]
        size = rng.choice(sizes) if 0 < survival < 1 else sizes[-1 if survival else 0]
        content = bytearray(self.data[:size].ljust(size, b"\0"))
        for sector, earlier in self._sectors.items():
            place = sector * SECTOR
            if rng.random() >= survival:
                left = rng.choice(earlier) if survival else earlier[0]
                content[place : place + SECTOR] = left[: max(0, size - place)]
        return bytes(content), self.mtime_ns if rng.random() < survival else self._durable_mtime_ns

    def _remember_sectors(self, first: int, end: int) -> None:
        for sector in range(first, end):
            place = sector * SECTOR
            content = bytes(self.data[place : place + SECTOR]).ljust(SECTOR, b"\0")
            self._sectors.setdefault(sector, []).append(content)

    def _resize(self, size: int) -> None:
        self._sizes.append(len(self.data))
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


class VolatileDirectory:
    """Names of files, and what a power cut could make of them."""

    def __init__(self, names: dict[bytes, int]) -> None:
        self.names = names
        """Inode numbers by name.  Read only: :meth:`change` is how they change."""
        self._earlier: list[dict[bytes, int]] = []

    def change(self, *, put: dict[bytes, int] | None = None, remove: bytes | None = None) -> None:
        """Make one change: a rename puts and removes at once."""
        self._earlier.append(self.names)
        self.names = {name: inode for name, inode in self.names.items() if name != remove} | (put or {})

    def sync(self) -> None:
        """Make the names durable."""
        self._earlier.clear()

    def after_cut(self, rng: random.Random) -> dict[bytes, int]:
        """Return the names that a power cut now could leave."""
        states = [*self._earlier, self.names]
        return rng.choice([states[0], states[-1], rng.choice(states)])
