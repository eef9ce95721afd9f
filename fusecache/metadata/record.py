"""The words in which the durable record is spoken: what a commit changes, what recovery finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fusecache.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable


class Row(NamedTuple):
    """One cached block as the record has it."""

    cblock: int
    oblock: int
    dirty: bool
    hint: int | None
    crc: int | None = None
    """CRC-32C of the content of a clean block, where it is known."""
    valid: int | None = None
    """Which sectors of a *partial* block the cache has: bit i stands for sector i.  None: all.

    What the others hold in the cache is nothing; the origin has their content.  A partial block has no sum.
    """


@dataclass(slots=True)
class Transaction:
    """One transaction: it becomes durable as a whole, or not at all."""

    unmapped: list[int] = field(default_factory=list)
    """cblocks whose rows go."""
    mapped: list[tuple[int, int, bool, int | None, int | None]] = field(default_factory=list)
    """Rows ``(cblock, oblock, dirty, crc, valid)`` that replace what was there; see :class:`Row`."""
    opened: list[int] = field(default_factory=list)
    """Regions that may be written from now on; written to the record even if they are there already."""
    closed: list[int] = field(default_factory=list)
    """Regions whose rows are exact again."""
    values: dict[str, str] = field(default_factory=dict)
    """Settings and counters."""

    def __bool__(self) -> bool:
        return bool(self.unmapped or self.mapped or self.opened or self.closed or self.values)


class Record(Protocol):
    """The durable record while mounted."""

    async def commit(self, transaction: Transaction) -> None:
        """Make the changes durable together.

        :raises MetadataError: they are not seen; but until the next commit that writes something, a crash may bring
            them to light after all.
        """

    async def save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        """Store ``(cblock, hint)`` pairs; hints of others stay.  Raises MetadataError."""


def bitmap_bytes(block_size: int) -> int:
    """Return how many bytes tell which sectors of a block count."""
    return block_size // SECTOR // 8


def packed_bitmap(valid: int) -> bytes:
    """Return a bitmap of sectors as the record has it: little endian, and no longer than its last bit needs."""
    assert valid > 0, "a block of which nothing counts is not cached"
    return valid.to_bytes((valid.bit_length() + 7) // 8, "little")


def unpacked_bitmap(bitmap: bytes, block_size: int) -> int | None:
    """Read what :func:`packed_bitmap` wrote; None if all sectors count.

    :raises ValueError: none counts, or more than a block has.
    """
    if len(bitmap) > bitmap_bytes(block_size):
        msg = f"sectors beyond the end of a block of {block_size} bytes"
        raise ValueError(msg)
    valid = int.from_bytes(bitmap, "little")
    if not valid:
        msg = "no sector at all"
        raise ValueError(msg)
    return None if valid == (1 << block_size // SECTOR) - 1 else valid
