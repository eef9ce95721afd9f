"""Cleaner: write everything back and promote nothing, so that the cache can be taken away.

It is SMQ that may not promote or demote.  It offers dirty blocks even while the origin is busy: then only those that
have been dirty for a while, otherwise all.
"""

from __future__ import annotations

from typing import ClassVar

from policies.smq import SmqPolicy


class CleanerPolicy(SmqPolicy):
    """SMQ that only cleans."""

    name: ClassVar[str] = "cleaner"
    keeps_heat: ClassVar[bool] = False
    """As dm-cache has it: who cleans a cache wants it to end."""

    _always_clean: ClassVar[bool] = True

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        super().__init__(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)
        self._migrations_allowed = False

    def allow_migrations(self, allowed: bool) -> None:
        """Change nothing: promotions and demotions stay forbidden."""
