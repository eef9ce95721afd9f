"""What is broken, what that means for the data, and the way back.

Theory of operation
-------------------
Three failures last until the next mount:

*The metadata cannot be written.*  The record can no longer follow, so nothing may change that it speaks of: the image
is read-only and no block moves.  ``needs_check`` is recorded as soon as that is possible.  The way back: unmount,
``fusecache check --clear-needs-check``, mount.

*The cache cannot be flushed.*  Whatever it took since the last flush may be gone, even if the cache still shows it
(fsync(2)).  So fusecache trusts no copy in it any more.  It reads clean blocks from the origin and promotes nothing.
Block by block it writes back what the cache can still read, and unmaps it.  fsync fails until the cache is empty.  It
fails at least once, because nobody may have waited for the flush that failed.  After that the origin serves alone.  The
way back: unmount, mount.

*The origin cannot be flushed.*  Whatever was written back since the last flush may be gone.  So no row is recorded as
clean any more, and fsync fails.  The way back: unmount and mount; recovery writes it back again.

*The origin cannot be written, or is not to be.*  That is no failure.  The image is read-only; what is dirty stays so,
and is served from the cache, which goes on taking in what is read.

*A file was removed or replaced while it is in use.*  Everything works on, with what is open, which ends with the
process.  Each kind has its own way back; :mod:`fusecache.daemon.ending` says what the end does about it.

Some failures are smaller.  A policy of another package that fails (:mod:`fusecache.volume.guard`) costs hits only; the
way back is to set another policy.  A block that cannot be read although only the cache has its content costs that
content: :attr:`Health.lost` has the ranges of the image, until they are written back after all.

Work in the background fails without anybody waiting for it: an origin that is full takes no writebacks, a cache on a
disk that is full no promotions.  Nothing is lost, it is tried again, and here it says so.  A block that could not be
written back counts until it is; promotions count until one succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST_RANGES: Final = 1000
"""So many ranges are kept apart; beyond that, the last two are joined."""


_AFTER_REMOVAL: Final = {
    "cache": "cache {} was removed or replaced, and ends with this mount: fusecache flush, before anything crashes; to "
    "unmount writes everything back, too; then mount with --format",
    "metadata": "metadata {} was removed or replaced, and a crash would lose what is dirty: fusecache flush, then "
    "unmount, which writes it anew",
    "metadata-log": "{} was removed or replaced, and a crash would lose what is dirty: fusecache flush, then unmount "
    "and mount again",
    "origin": "origin {} was removed or replaced, and its content ends with this mount: copy the image to another "
    "place before anything else",
}
"""The way back, with the name."""


class ByteRanges:
    """A set of bytes of the image, as ranges ``(begin, end)`` that neither touch nor overlap, in order."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, begin: int, end: int) -> None:
        """Add the bytes ``begin <= byte < end``."""
        apart = [(b, e) for b, e in self._ranges if e < begin or b > end]
        touching = [(b, e) for b, e in self._ranges if e >= begin and b <= end]
        joined = (min([begin, *(b for b, _ in touching)]), max([end, *(e for _, e in touching)]))
        self._ranges = sorted([*apart, joined])
        if len(self._ranges) > _MOST_RANGES:
            (begin, _), (_, end) = self._ranges[-2:]
            self._ranges[-2:] = [(begin, end)]

    def discard(self, begin: int, end: int) -> None:
        """Remove the bytes ``begin <= byte < end``."""
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
    """What is broken now.  A reason is empty while that part is well."""

    read_only: str = ""
    """Why the metadata cannot be written any more."""
    cache_lost: str = ""
    """Why fusecache trusts nothing in the cache any more."""
    emptying: bool = False
    """Whether the lost cache still holds blocks, so that fsync fails."""
    unreported: str = ""
    """A failure that may have cost writes, and for which no fsync has failed yet."""
    origin_lost: str = ""
    """Why nothing that was written back counts as durable any more."""
    origin_read_only: str = ""
    """Why nothing is written to the origin, for as long as the mount lasts."""
    gone: Mapping[str, str] = field(default_factory=dict)
    """Which files were removed or replaced while they are in use: ``cache``, ``metadata``, ``metadata-log`` or
    ``origin``, with their names."""
    policy_failed: str = ""
    """Which policy failed, and how; it is not asked any more."""
    unwritten: set[int] = field(default_factory=set)
    """Blocks of the image that could not be written back at the last try."""
    unwritten_reason: str = ""
    """Why not, of the last one."""
    failed_promotions: int = 0
    """How many failed since one has succeeded."""
    promotion_reason: str = ""
    """Why the last one failed."""
    lost: ByteRanges = field(default_factory=ByteRanges)
    """What cannot be read: only the cache has it, and the cache fails."""

    def report(self) -> None:
        """Raise StoreError, once, if writes may have been lost and no fsync has failed for that."""
        unreported, self.unreported = self.unreported, ""
        if unreported:
            msg = f"{unreported}: of what was written before, something may be lost"
            raise StoreError(msg)

    def writeback_failed(self, oblock: int, reason: str) -> None:
        """Note that the origin does not take a block."""
        self.unwritten.add(oblock)
        self.unwritten_reason = reason

    def written_back(self, oblock: int) -> None:
        """Note that the origin took a block."""
        self.unwritten.discard(oblock)

    def settled(self, oblock: int, block_size: int) -> None:
        """Note that the origin has all that anybody needs of a block, whatever of it was lost in the cache."""
        self.unwritten.discard(oblock)
        if self.lost:
            self.lost.discard(oblock * block_size, (oblock + 1) * block_size)

    def promotion_failed(self, reason: str) -> None:
        """Note that a block could not be copied into the cache."""
        self.failed_promotions += 1
        self.promotion_reason = reason

    def promoted(self) -> None:
        """Note that a block was copied into the cache."""
        self.failed_promotions = 0

    @property
    def is_hindered(self) -> bool:
        """Whether work in the background fails."""
        return bool(self.unwritten or self.failed_promotions)

    @property
    def state(self) -> str:
        """Name the state: ``ok``, ``degraded`` (works on), ``failing`` (fsync fails) or ``read-only``."""
        if self.read_only:
            return "read-only"
        if self.origin_lost or self.emptying:
            return "failing"
        is_degraded = self.cache_lost or self.policy_failed or len(self.lost) or self.is_hindered or self.gone
        if is_degraded:
            return "degraded"
        return "read-only" if self.origin_read_only else "ok"

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
        if self.unwritten:
            told.append(
                f"{len(self.unwritten)} blocks cannot be written back: {self.unwritten_reason}; "
                "they are safe in the cache, and are tried again"
            )
        if self.failed_promotions:
            told.append(
                f"the last {self.failed_promotions} promotions failed: {self.promotion_reason}; the origin serves these"
            )
        told += [_AFTER_REMOVAL[part].format(path) for part, path in self.gone.items()]
        if self.origin_read_only:
            told.append(f"the image is read-only: {self.origin_read_only}")
        return "; ".join(told) or "ok"
