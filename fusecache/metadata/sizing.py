"""How much room metadata takes.

A row takes at most 40 bytes of the file on the average, whatever is in it (measured from 1,024 to 1,048,576 blocks:
31 to 34, and less than 30 KiB in all besides, whether rows are made in order or at random, and after every row was
changed many times).  The write-ahead log grows to 1,000 pages before SQLite empties it, plus the largest transaction,
which touches every page of the file when hints are saved.

A block that is partial takes a row with a bitmap besides.  How many are partial at a time nobody knows, so it counts
for every block.
"""

from __future__ import annotations

from typing import Final

from fusecache.metadata.record import bitmap_bytes

ROW_BYTES: Final = 40
PARTIAL_BYTES: Final = 16
"""Of a row of ``partial``, besides twice its bitmap: pages are half full at worst."""
FIXED_BYTES: Final = 9 << 19
"""4.5 MiB: the log's 1,000 pages, and what does not depend on the number of blocks."""


def metadata_size(blocks: int, block_size: int) -> int:
    """Return how many bytes metadata of ``blocks`` cache blocks takes at most, its write-ahead log included."""
    return FIXED_BYTES + 2 * (ROW_BYTES + PARTIAL_BYTES + 2 * bitmap_bytes(block_size)) * blocks
