"""How often blocks were used of late, roughly: counters that many blocks share, and that are halved now and then.

G. Cormode and S. Muthukrishnan, "An improved data stream summary: the count-min sketch and its applications", 2005;
halving after G. Einziger, R. Friedman and B. Manes (see tinylfu.py).

Theory of operation
-------------------
A block has four counters, chosen by a hash, in one stretch of 64 bytes: one line of the processor's caches.  Only the
least of them count up, and the least is the answer: never too small, except for halving, and seldom too large.
Counters end at 15.  After ten uses for each entry all counters are halved, in slices: at each use a slice, so that no
call takes long.  Until that is done, a while of a ten-thousandth, answers may be of different halves.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 15
"""The largest count."""

_LINE: Final = 64
_ROW: Final = 16
_BYTES_PER_ENTRY: Final = 8
_PERIOD: Final = 10
_SLICE: Final = 1 << 15
_HASH: Final = 0x9E3779B97F4A7C15
_HASH_MASK: Final = (1 << 64) - 1
_HALVES: Final = bytes(count // 2 for count in range(256))


class Sketch:
    """Counts of block numbers.

    :ivar period: after how many uses counters are halved.
    """

    __slots__ = ("_halved", "_lines", "_table", "_used", "period")

    def __init__(self, entries: int) -> None:
        """Count nothing yet; ``entries`` is how many blocks matter at a time."""
        self._lines = -(-entries * _BYTES_PER_ENTRY // _LINE)
        self._table = bytearray(self._lines * _LINE)
        self._halved = len(self._table)
        self._used = 0
        self.period = _PERIOD * entries

    def _places(self, key: int) -> tuple[int, int, int, int]:
        hashed = key * _HASH & _HASH_MASK
        hashed ^= hashed >> 32
        line = (hashed >> 16) % self._lines * _LINE
        return (
            line + (hashed & 15),
            line + _ROW + (hashed >> 4 & 15),
            line + 2 * _ROW + (hashed >> 8 & 15),
            line + 3 * _ROW + (hashed >> 12 & 15),
        )

    def count(self, key: int) -> int:
        """Return about how often a block was used; never more than :data:`MOST`."""
        table = self._table
        a, b, c, d = self._places(key)
        return min(table[a], table[b], table[c], table[d])

    def add(self, key: int) -> None:
        """Count a use of a block."""
        self._raise(key, 1 + self.count(key))
        self._used += 1
        if self._used >= self.period:
            self._used //= 2
            self._halved = 0
        if self._halved < len(self._table):
            part = slice(self._halved, self._halved + _SLICE)
            self._table[part] = self._table[part].translate(_HALVES)
            self._halved += _SLICE

    def learn(self, key: int, count: int) -> None:
        """Have a block counted at least so often (0 <= count <= MOST)."""
        self._raise(key, count)

    def _raise(self, key: int, count: int) -> None:
        if count <= MOST:
            for place in self._places(key):
                self._table[place] = max(self._table[place], count)

    def check(self) -> None:
        """Assert that no counter is beyond its end."""
        assert max(self._table) <= MOST
        assert 0 <= self._used < self.period
