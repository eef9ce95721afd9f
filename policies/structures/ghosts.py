"""Blocks that are not cached any more, or were not let in: what was known of them, for a while.

Theory of operation
-------------------
A block number is hashed to a *set* of 16 places and to a *print* of 32 bits; a place holds a print and a key of 16
bits, which is the owner's.  The places of a set are in order, the newest first, and empty ones come last; a block that
comes into a full set pushes out the oldest.  So these are queues side by side: together almost one first-in, first-out
queue, at six bytes a block, and without links.

Another block may have the same print: then it is taken for the one that was put in.  With prints of 16 bits and
numbers that are scattered widely, that would happen to one new block in 4096.  It sounds little, but then a loop far
longer than the memory seems to come back now and then, and is taken in for it: in a model, all hits were lost of a
cache of 1 % of the loop.
"""

from __future__ import annotations

from array import array
from typing import Final

from policies.structures.lifetimes import BLANK

WAYS: Final = 16

_SPREAD: Final = 0x9E3779B97F4A7C15
_HASH_BITS: Final = 2**64 - 1


class Ghosts:
    """A memory of blocks, of fixed size.

    :ivar keys: what is kept of each block, or BLANK; a set is ``WAYS`` places in a row.
    """

    __slots__ = ("_prints", "_sets", "keys")

    def __init__(self, places: int) -> None:
        """Remember nothing yet, and later at least so many blocks."""
        self._sets = max(-(-places // WAYS), 1)
        self._prints = array("I", (0,)) * (self._sets * WAYS)
        self.keys = array("H", (BLANK,)) * (self._sets * WAYS)

    def take(self, oblock: int) -> int:
        """Take a block out; return its key, or BLANK if it is not there."""
        mixed = oblock * _SPREAD & _HASH_BITS
        first = (mixed >> 16) % self._sets * WAYS
        prints = self._prints[first : first + WAYS]
        mark = mixed >> 32
        if mark not in prints:
            return BLANK
        place = first + prints.index(mark)
        key = self.keys[place]
        if key != BLANK:
            self.drop(place)
        return key

    def put(self, oblock: int, key: int) -> int:
        """Put a block in, which is not there; return the key of the one that it pushes out, or BLANK."""
        mixed = oblock * _SPREAD & _HASH_BITS
        first = (mixed >> 16) % self._sets * WAYS
        last = first + WAYS - 1
        keys, prints = self.keys, self._prints
        pushed = keys[last]
        prints[first + 1 : last + 1] = prints[first:last]
        keys[first + 1 : last + 1] = keys[first:last]
        prints[first] = mixed >> 32
        keys[first] = key
        return pushed

    def drop(self, place: int) -> None:
        """Forget what is in a place, which is not empty."""
        last = place | WAYS - 1
        keys, prints = self.keys, self._prints
        prints[place:last] = prints[place + 1 : last + 1]
        keys[place:last] = keys[place + 1 : last + 1]
        keys[last] = BLANK

    def __len__(self) -> int:
        """Count the blocks that are remembered; looks at all of them."""
        return len(self.keys) - self.keys.count(BLANK)

    def check(self) -> None:
        """Assert that the empty places of a set come last."""
        assert len(self.keys) == len(self._prints) == self._sets * WAYS
        for first in range(0, len(self.keys), WAYS):
            empty = [key == BLANK for key in self.keys[first : first + WAYS]]
            assert empty == sorted(empty), f"a gap in the set at {first}"
