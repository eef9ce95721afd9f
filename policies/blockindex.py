"""Find the entry that holds a block number: a chained hash table in flat arrays.

Theory of operation
-------------------
Entries are small integers; ``keys[entry]`` is the block number that the entry stands for.  ``buckets[key % size]`` is
the first entry of a chain, ``chain[entry]`` the next one, -1 ends it.  The number of buckets is a prime, so that the
plain remainder spreads strides well, and runs of consecutive block numbers, the common case, do not collide at all.

A dict would cost some 100 bytes an entry; this costs 8 besides the keys.  The keys end in a guard slot that equals
no block number, which index -1 reaches: a search may compare before it asks whether the chain has ended.  Searches
that must be fast write the loop out::

    entry = buckets[key % size]
    while keys[entry] != key:
        if entry < 0: break        # not there
        entry = chain[entry]
"""

from __future__ import annotations

from array import array
from typing import Final

_NARROW_LIMIT: Final = 2**31
_GUARD: Final = -(2**31)


def _prime_from(number: int) -> int:
    """Find the smallest odd prime >= number."""
    number = max(number, 3) | 1
    while any(number % divisor == 0 for divisor in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number


class BlockIndex:
    """Map block numbers to entries.

    :ivar keys: block number of each entry; means nothing for entries that are not in the table.
    :ivar buckets: first entry of each chain, or -1.
    :ivar chain: next entry of the same chain, or -1.
    :ivar size: number of buckets.
    """

    __slots__ = ("buckets", "chain", "keys", "size")

    def __init__(self, entries: int, key_limit: int) -> None:
        """Make an empty table for ``entries`` entries and keys below ``key_limit``; wide keys get half the buckets."""
        narrow = key_limit <= _NARROW_LIMIT
        self.keys = array("i" if narrow else "q", (_GUARD,)) * (entries + 1)
        self.size = _prime_from(entries if narrow else entries // 2)
        self.buckets = array("i", (-1,)) * self.size
        self.chain = array("i", (-1,)) * entries

    def find(self, key: int) -> int:
        """Return the entry of a key, or -1.  O(1) on average."""
        entry = self.buckets[key % self.size]
        keys = self.keys
        while keys[entry] != key:
            if entry < 0:
                return -1
            entry = self.chain[entry]
        return entry

    def insert(self, entry: int, key: int) -> None:
        """Add an entry that is not in the table, under a key that is not either."""
        bucket = key % self.size
        self.keys[entry] = key
        self.chain[entry] = self.buckets[bucket]
        self.buckets[bucket] = entry

    def remove(self, entry: int) -> None:
        """Take out an entry that is in the table."""
        bucket = self.keys[entry] % self.size
        chain = self.chain
        here = self.buckets[bucket]
        if here == entry:
            self.buckets[bucket] = chain[entry]
            return
        while chain[here] != entry:
            here = chain[here]
        chain[here] = chain[entry]

    def check(self) -> dict[int, int]:
        """Assert that chains are sound and keys unique; return key to entry of all that is in the table."""
        found: dict[int, int] = {}
        assert self.keys[-1] == _GUARD
        for bucket, first in enumerate(self.buckets):
            entry = first
            while entry >= 0:
                key = self.keys[entry]
                assert key % self.size == bucket, f"key {key} is in bucket {bucket}"
                assert key not in found, f"key {key} is in the table twice"
                found[key] = entry
                entry = self.chain[entry]
        assert len(set(found.values())) == len(found)
        return found
