"""Generations: of which moment metadata, cache and claim are; see :mod:`fusecache.attach.bond`.

A generation is a count with a few random digits, so that two copies of a cache that go on separately have different
ones.  It is empty in what versions wrote that knew none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fusecache.metadata import Superblock

_RANDOM_BYTES: Final = 4
_MOST_DIGITS: Final = 18
ANY: Final = "*"
"""Stands among the previous generations of metadata that was made for parts which it does not know."""


def successor(generation: str) -> str:
    """Return the generation that follows another one, or nothing."""
    return f"{count_of(generation) + 1}-{os.urandom(_RANDOM_BYTES).hex()}"


def count_of(generation: str) -> int:
    """Return how many came before it, and it; 0 for none."""
    count, _, _ = generation.partition("-")
    return int(count) if count.isascii() and count.isdecimal() and len(count) <= _MOST_DIGITS else 0


def is_accepted(generation: str, superblock: Superblock) -> bool:
    """Tell whether a cache or claim of this generation is of one moment with the metadata."""
    known = {superblock.generation, *superblock.previous_generation.split()}
    return ANY in known or generation in known


def is_claim_accepted(generation: str, superblock: Superblock) -> bool:
    """Tell whether a claim of this generation is of one moment with the metadata.

    One on an origin that was mounted read-only has stayed as it was then.
    """
    kept = superblock.claim_generation
    return (bool(kept) and kept in {generation, ANY}) or is_accepted(generation, superblock)


def is_outdated(superblock: Superblock, generation: str) -> bool:
    """Tell whether metadata is of an earlier moment than a cache or claim of this generation."""
    return not is_accepted(generation, superblock) and count_of(superblock.generation) <= count_of(generation)
