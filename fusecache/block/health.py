"""What is broken, what that means for the data, and the way back.

Theory of operation
-------------------
A mount is well until one of three things happens, and each stays until the next mount:

*The metadata cannot be written.*  Nothing may become different from what the record says, so the image is read-only and
no block moves.  ``needs_check`` is recorded as soon as that can be done.  The way back: unmount, ``fusecache check
--clear-needs-check``, mount.

*The cache cannot be flushed.*  What it took since the last flush may be gone, whatever it shows now (fsync(2)), so no
copy in it is trusted any more: clean blocks are read from the origin, nothing new goes in, and block by block what is
cached is written back, where it can still be read, and forgotten.  Until that is done fsync fails, and once at least,
for it may be that nobody was waiting for the flush that failed; from then on the origin serves alone.  The way back:
unmount, mount.

*The origin cannot be flushed.*  What was written back since the last flush may be gone, so nothing is recorded as clean
any more, and fsync fails.  The way back: unmount, mount; recovery writes back again.

A policy of another package that fails (:mod:`fusecache.volume.guard`) costs hits only; setting another one is the way
back.

Besides, single blocks that hold the only copy of something may turn out to be unreadable: :attr:`Health.lost` has those
ranges of the image, until they are written back after all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_RANGES: Final = 1000
"""Remembered one by one; what comes beyond is joined to its neighbour."""


class ByteRanges:
    """A set of bytes of the image, as ranges ``(begin, end)`` that neither touch nor overlap, in order."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, begin: int, end: int) -> None:
        """Put ``begin <= byte < end`` in."""
        apart = [(b, e) for b, e in self._ranges if e < begin or b > end]
        touching = [(b, e) for b, e in self._ranges if e >= begin and b <= end]
        joined = (min([begin, *(b for b, _ in touching)]), max([end, *(e for _, e in touching)]))
        self._ranges = sorted([*apart, joined])
        if len(self._ranges) > _MOST_RANGES:
            (begin, _), (_, end) = self._ranges[-2:]
            self._ranges[-2:] = [(begin, end)]

    def discard(self, begin: int, end: int) -> None:
        """Take ``begin <= byte < end`` out."""
        rest = [part for b, e in self._ranges for part in ((b, min(e, begin)), (max(b, end), e))]
        self._ranges = [(b, e) for b, e in rest if b < e]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._ranges)

    def __len__(self) -> int:
        """Count the bytes."""
        return sum(end - begin for begin, end in self._ranges)

    def check(self) -> None:
        """Assert that the ranges are in order and apart."""
        assert all(begin < end for begin, end in self._ranges)
        pairs = zip(self._ranges, self._ranges[1:], strict=False)
        assert all(end < begin for (_, end), (begin, _) in pairs), self._ranges


@dataclass(slots=True)
class Health:
    """What is broken just now.  Reasons are empty while all is well."""

    read_only: str = ""
    """Why the metadata can no longer be written."""
    cache_lost: str = ""
    """Why nothing in the cache is trusted any more."""
    emptying: bool = False
    """Whether blocks are in it still, so that fsync fails."""
    unreported: str = ""
    """Which failure may have cost writes, as long as no fsync has failed for it."""
    origin_lost: str = ""
    """Why nothing that was written back counts as safe any more."""
    policy_failed: str = ""
    """Which policy failed, and how; it is asked no more."""
    lost: ByteRanges = field(default_factory=ByteRanges)
    """What cannot be read: only the cache has it, and fails."""

    def report(self) -> None:
        """Raise StoreError if writes may have been lost and nobody was told: fsync must not succeed for those."""
        unreported, self.unreported = self.unreported, ""
        if unreported:
            msg = f"{unreported}: of what was written before, something may be lost"
            raise StoreError(msg)

    @property
    def state(self) -> str:
        """Name the state: ``ok``, ``degraded`` (works on), ``failing`` (fsync fails) or ``read-only``."""
        if self.read_only:
            return "read-only"
        if self.origin_lost or self.emptying:
            return "failing"
        return "degraded" if self.cache_lost or self.policy_failed or len(self.lost) else "ok"

    def __str__(self) -> str:
        """Say in one line what is wrong and what to do; ``ok`` if nothing is."""
        told = []
        if self.read_only:
            told.append(f"read-only: {self.read_only}; unmount, fusecache check --clear-needs-check, and mount again")
        if self.origin_lost:
            told.append(f"nothing is safe until the next mount: {self.origin_lost}; unmount and mount again")
        if self.cache_lost:
            until = "fsync fails until it is empty, then " if self.emptying else ""
            told.append(f"the cache is given up: {self.cache_lost}; {until}unmount and mount again to use it anew")
        if self.policy_failed:
            told.append(f"policy {self.policy_failed}; nothing new is cached until another one is set")
        if len(self.lost):
            told.append(f"{len(self.lost)} bytes of the image cannot be read (user.fusecache.lost has the ranges)")
        return "; ".join(told) or "ok"
