"""What the metadata says of the cache as a whole."""

from __future__ import annotations

from typing import Final

_MAX_REGION_BLOCKS: Final = 64
_REGIONS_PER_CACHE: Final = 1024


def region_blocks_for(cache_blocks: int) -> int:
    """Choose how many cache blocks share a region: one in small caches, never more than 64."""
    return max(1, min(_MAX_REGION_BLOCKS, cache_blocks // _REGIONS_PER_CACHE))
