"""Which moment a part is of: how generations follow each other, and which of them fit.

:mod:`fusecache.attach.bond` says what they are for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fusecache.metadata import Superblock

_RANDOM_BYTES: Final = 4
NONE: Final = "-"
"""Stands among the previous generations for none: parts that a version wrote which knew no generations, or new ones."""
ANY: Final = "*"
"""Stands among the previous generations where the metadata cannot know those of the other parts."""


def successor(generation: str) -> str:
    """Return the generation that follows another one, or nothing."""
    count, _, _ = generation.partition("-")
    number = int(count) + 1 if count.isdecimal() else 1
    return f"{number}-{os.urandom(_RANDOM_BYTES).hex()}"


def is_accepted(generation: str, superblock: Superblock) -> bool:
    """Tell whether a cache or claim of this generation is of one moment with the metadata.

    Metadata of a version that knew no generations fits parts that have none.  A part that has one was used since then,
    without this metadata, which so is an older copy.
    """
    return fits(generation, superblock.generation, superblock.previous_generation)


def fits(generation: str, present: str, previous: str) -> bool:
    """Tell whether a part of this generation is of one moment with a record of the present one, or previous ones."""
    known = {present or NONE, *previous.split()}
    return (generation or NONE) in known or ANY in known
