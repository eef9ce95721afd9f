"""How the image is cut into blocks, and the tail that is never cached.

The image is ``image_bytes`` long and is cut into blocks of ``block_size`` bytes.  What remains after the last whole
block is the *tail*; the origin always serves it (dm-cache 2.1).  A block size need not be a power of two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusecache.block.sectors import all_sectors
from fusecache.config import check_block_size
from fusecache.errors import OutOfRangeError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of one cached image, all in bytes or in blocks.

    :raises UsageError: a block size out of range.
    :raises RefusedError: an empty image, or no room for a single cache block.
    """

    image_bytes: int
    block_size: int
    cache_blocks: int
    origin_blocks: int = field(init=False)
    """Whole blocks; an image smaller than one block has none, and is all tail."""
    tail_start: int = field(init=False)
    every_sector: int = field(init=False)
    """All sectors of a block; see :mod:`fusecache.block.sectors`."""

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if self.image_bytes < 1:
            msg = "the origin is empty"
            raise RefusedError(msg)
        if self.cache_blocks < 1:
            msg = f"the cache is too small for one block of {self.block_size} bytes"
            raise RefusedError(msg)
        object.__setattr__(self, "origin_blocks", self.image_bytes // self.block_size)
        object.__setattr__(self, "tail_start", self.origin_blocks * self.block_size)
        object.__setattr__(self, "every_sector", all_sectors(self.block_size))

    def clip(self, offset: int, length: int) -> int:
        """Return how many of ``length`` bytes from ``offset`` exist, since a read past the end is short."""
        return max(0, min(length, self.image_bytes - offset))

    def require(self, offset: int, length: int) -> None:
        """Refuse a write that would pass the end; raises OutOfRangeError and changes nothing."""
        if offset < 0 or offset + length > self.image_bytes:
            msg = f"write of {length} bytes at {offset} passes the end of the image at {self.image_bytes}"
            raise OutOfRangeError(msg)

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range of the image at block boundaries.

        Yields ``(oblock, offset within the block, length)`` in order; ``oblock == origin_blocks`` is the tail.
        """
        oblock, within = divmod(offset, self.block_size)
        while length > 0:
            piece = min(length, self.block_size - within)
            yield oblock, within, piece
            length -= piece
            oblock += 1
            within = 0
