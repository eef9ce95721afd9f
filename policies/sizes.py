"""What sizes a policy can be made for."""

from __future__ import annotations

from typing import Final

from policies.base import PolicyError

_MAX_CACHE_BLOCKS: Final = 2**28
_MAX_ORIGIN_BLOCKS: Final = 2**60


def check_sizes(cache_blocks: int, origin_blocks: int, block_size: int) -> None:
    """Refuse impossible sizes.

    :raises PolicyError: a size is less than 1, or more than the structures can count.
    """
    limits = {"cache_blocks": _MAX_CACHE_BLOCKS, "origin_blocks": _MAX_ORIGIN_BLOCKS, "block_size": _MAX_ORIGIN_BLOCKS}
    sizes = {"cache_blocks": cache_blocks, "origin_blocks": origin_blocks, "block_size": block_size}
    for what, size in sizes.items():
        if not 1 <= size <= limits[what]:
            msg = f"{what} must be from 1 to {limits[what]}, not {size}"
            raise PolicyError(msg)
