"""Find the entry that stands for a block number: a chained hash table in flat arrays.

Theory of operation
-------------------
Entries are small integers.  A key, the block number that an entry stands for, is split in two: ``key % size`` is its
bucket, ``key // size`` its *tag*.  A *word* holds a tag and an entry.  ``buckets[key % size]`` is the word of the first
entry of a chain, and ``chain[entry]`` is the word of the entry after ``entry``.  The last entry has ``~bucket`` there,
which is negative; the word of an empty bucket is negative, too.  The end of its chain tells an entry's bucket, and the
word that names the entry tells its tag.  So keys are stored nowhere else, and a search reads no memory but the words.
In a large cache such reads are what a search costs: most searches read one word, and miss the processor's caches once.

The number of buckets is a prime, so that the plain remainder spreads strides well.  Consecutive block numbers, the
common case, do not collide at all.  Words have 32 bits, and there are two buckets to an entry; if the keys are so wide
that words need 64 bits, there are three buckets to four entries.  That makes twelve or fourteen bytes an entry, where a
dict would take some 100.  Searches that must be fast write the loop out::

    tag = key // size
    word = buckets[key % size]
    while word >> shift != tag:
        if word < 0: break        # not there
        word = chain[word & mask]
    entry = word & mask
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

_NARROW_LIMIT: Final = 2**31


def _prime_from(number: int) -> int:
    """Find the smallest odd prime >= number."""
    number = max(number, 3) | 1
    while any(number % divisor == 0 for divisor in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number


class BlockIndex:
    """Map block numbers to entries.

    :ivar buckets: word of the first entry of each chain; negative if there is none.
    :ivar chain: word of the next entry of the same chain; ``~bucket`` if there is none.
    :ivar size: number of buckets.
    :ivar shift: how far up in a word the tag stands.
    :ivar mask: where in a word the entry stands.
    """

    __slots__ = ("buckets", "chain", "mask", "shift", "size")

    def __init__(self, entries: int, key_limit: int, *, compact: bool = False) -> None:
        """Make an empty table for ``entries`` entries and keys below ``key_limit``.

        :param compact: have one bucket to an entry: a third less memory, and searches that read half a word more.
        """
        self.shift = (entries - 1).bit_length()
        self.mask = (1 << self.shift) - 1
        self.size = _prime_from(entries if compact else 2 * entries)
        tags = -(-key_limit // self.size)
        narrow = tags << self.shift <= _NARROW_LIMIT
        if not narrow:
            self.size = _prime_from(entries * 3 // 4)
        self.buckets = array("i" if narrow else "q", (-1,)) * self.size
        self.chain = array("i" if narrow else "q", (-1,)) * entries

    def find(self, key: int) -> int:
        """Return the entry of a key, or -1.  O(1) on average."""
        tag = key // self.size
        word = self.buckets[key % self.size]
        while word >> self.shift != tag:
            if word < 0:
                return -1
            word = self.chain[word & self.mask]
        return word & self.mask

    def insert(self, entry: int, key: int) -> None:
        """Add an entry that is not in the table, under a key that is not in it either."""
        tag, bucket = divmod(key, self.size)
        word = self.buckets[bucket]
        self.chain[entry] = ~bucket if word < 0 else word
        self.buckets[bucket] = tag << self.shift | entry

    def insert_all(self, entries: Iterable[tuple[int, int]]) -> int:
        """Add many ``(key, entry)``, up to the first key that is in the table already; return how many were added."""
        buckets, chain, size, shift, mask = self.buckets, self.chain, self.size, self.shift, self.mask
        count = 0
        for key, entry in entries:
            bucket, tag = key % size, key // size
            word = first = buckets[bucket]
            while word >= 0 and word >> shift != tag:
                word = chain[word & mask]
            if word >= 0:
                break
            chain[entry] = ~bucket if first < 0 else first
            buckets[bucket] = tag << shift | entry
            count += 1
        return count

    def key_of(self, entry: int) -> int:
        """Return the key of an entry that is in the table.  O(1) on average."""
        chain, mask = self.chain, self.mask
        end = chain[entry]  # the end of the chain names its bucket
        while end >= 0:
            end = chain[end & mask]
        word = self.buckets[~end]
        while word & mask != entry:
            word = chain[word & mask]
        return (word >> self.shift) * self.size + ~end

    def remove(self, entry: int) -> None:
        """Take out an entry that is in the table."""
        chain, mask = self.chain, self.mask
        end = chain[entry]
        while end >= 0:
            end = chain[end & mask]
        here = self.buckets[~end] & mask
        if here == entry:
            self.buckets[~end] = chain[entry]
            return
        while chain[here] & mask != entry:
            here = chain[here] & mask
        chain[here] = chain[entry]

    def check(self) -> dict[int, int]:
        """Assert that chains are sound and keys unique; return key to entry of all that is in the table."""
        found: dict[int, int] = {}
        for bucket, first in enumerate(self.buckets):
            word = first
            while word >= 0:
                entry = word & self.mask
                key = (word >> self.shift) * self.size + bucket
                assert key not in found, f"key {key} is in the table twice"
                found[key] = entry
                word = self.chain[entry]
                assert word >= 0 or word == ~bucket, f"the chain of bucket {bucket} ends in {~word}"
        assert len(set(found.values())) == len(found)
        return found
