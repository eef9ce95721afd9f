"""The words in which the durable record is spoken: what a commit changes, what recovery finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

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
    """The sectors of a block of which the cache has not all, as bits (:mod:`fusecache.block.sectors`)."""


@dataclass(slots=True)
class Transaction:
    """One transaction: it becomes durable as a whole, or not at all."""

    unmapped: list[int] = field(default_factory=list)
    """cblocks whose rows go."""
    mapped: list[tuple[int, int, bool, int | None, int | None]] = field(default_factory=list)
    """Rows ``(cblock, oblock, dirty, crc, valid)`` that replace what was there."""
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
