"""Which moment a part is of: how generations follow each other, and which of them fit.

A generation is a count with a few random digits, so that two copies of a cache that go on separately have different
ones.  It is empty in what versions wrote that knew none.  :mod:`fusecache.attach.bond` says what they are for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fusecache.metadata import Superblock

_RANDOM_BYTES: Final = 4
_MOST_DIGITS: Final = 18
NONE: Final = "-"
"""Stands among the previous generations for none: parts that a version wrote which knew no generations, or new ones."""
ANY: Final = "*"
"""Stands among the previous generations where the metadata cannot know those of the other parts."""


def successor(generation: str) -> str:
    """Return the generation that follows another one, or nothing."""
    return f"{count_of(generation) + 1}-{os.urandom(_RANDOM_BYTES).hex()}"


def count_of(generation: str) -> int:
    """Return how many came before it, and it; 0 for none."""
    count, _, _ = generation.partition("-")
    return int(count) if count.isascii() and count.isdecimal() and len(count) <= _MOST_DIGITS else 0


def is_accepted(generation: str, superblock: Superblock) -> bool:
    """Tell whether a cache or claim of this generation is of one moment with the metadata.

    Metadata of a version that knew no generations fits parts that have none.  A part that has one was used since then,
    without this metadata, which so is an older copy.
    """
    return fits(generation, superblock.generation, superblock.previous_generation)


def is_claim_accepted(generation: str, superblock: Superblock) -> bool:
    """Tell the same of a claim; one on an origin that was mounted read-only has stayed as it was before."""
    return is_accepted(generation, superblock) or (
        bool(superblock.claim_generation) and _is_among(generation, superblock.claim_generation)
    )


def fits(generation: str, present: str, previous: str) -> bool:
    """Tell whether a part of this generation is of one moment with a record of the present one, or previous ones."""
    return _is_among(generation, f"{present or NONE} {previous}")


def is_outdated(superblock: Superblock, generation: str) -> bool:
    """Tell whether metadata is of an earlier moment than a cache or claim of this generation."""
    return not is_accepted(generation, superblock) and count_of(superblock.generation) <= count_of(generation)


def _is_among(generation: str, words: str) -> bool:
    return bool({generation or NONE, ANY} & {*words.split()})
