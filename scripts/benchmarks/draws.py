"""Draw block numbers for measurements: always the same ones, and without taking long over millions of them."""

from __future__ import annotations

import random
from array import array
from typing import Final

_SPREAD: Final = 0x9E3779B1
"""A prime beyond all sizes: multiples of it, modulo a size, are neighbours no more."""


def scattered(count: int, limit: int, seed: int) -> array[int]:
    """Draw different numbers below a limit."""
    rng = random.Random(seed)
    found: dict[int, None] = {}
    while len(found) < count:  # what random.sample does, in a third of the time
        numbers = array("Q", rng.randbytes(8 * (count - len(found))))
        found.update(dict.fromkeys(number % limit for number in numbers))
    return array("q", found)


def hot(blocks: int, few: int, count: int) -> array[int]:
    """Draw cblocks, always the same few."""
    rng = random.Random(3)
    chosen = rng.sample(range(blocks), few)
    return array("q", rng.choices(chosen, k=count))


def zipf(blocks: int, few: int, count: int) -> array[int]:
    """Draw cblocks by Zipf's law with exponent 1: the logarithm of the rank is uniform; ranks are scattered."""
    del few
    rng = random.Random(4)
    return array("q", (int(blocks ** rng.random()) * _SPREAD % blocks for _ in range(count)))


def uniform(blocks: int, few: int, count: int) -> array[int]:
    """Draw cblocks, all with the same chance."""
    del few
    rng = random.Random(5)
    return array("q", (rng.randrange(blocks) for _ in range(count)))
