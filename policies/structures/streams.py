"""Streams: which misses go on where others were, and for how long already.

Theory of operation
-------------------
A miss *follows* if the block before it was missed lately.  Misses of neighbours are a *run*; how long it is up to a
block is kept with this block, in a small table, where later misses overwrite it.  Runs may grow together: whoever is
missed just before a run adds his length to it.  A run of ``LONG`` blocks is a *stream*.

Streams do not come in perfect order.  Requests under way at once take turns, and cached blocks are no misses.  So the
*area* that a stream is in is noted as well, in ``_AREA`` blocks.  Who is missed there or a little further on belongs to
the stream, though he follows nobody; but only for some time, as somebody else may want to use these blocks later.

A collision in one of the tables makes a stream look like several; it is told again ``LONG`` blocks later.
"""

from __future__ import annotations

from typing import Final

ALONE: Final = 0
FOLLOWS: Final = 1
STREAMS: Final = 2
"""What a miss is: it follows nobody, it follows, it belongs to a stream."""

LONG: Final = 16
_AREA_BITS: Final = 4
_AREAS: Final = 64
_LATELY_BITS: Final = 7
_LATELY: Final = 1 << _LATELY_BITS
_SCATTER: Final = 37
"""Streams that keep step with each other, at offsets of round numbers, must not overwrite each other."""
_FOR_MISSES: Final = 1024
_NOWHERE: Final = -4


class Streams:
    """The runs and streams of late."""

    __slots__ = ("_areas", "_last", "_lengths", "_misses", "_until", "_until_last")

    def __init__(self) -> None:
        """Know of no miss."""
        self._misses = 0
        self._last = [_NOWHERE] * _LATELY
        self._lengths = [0] * _LATELY
        self._areas = [_NOWHERE] * _AREAS
        self._until = [0] * _AREAS
        self._until_last = 0
        """No area counts from this miss on; spares searches where there is no stream."""

    def miss(self, oblock: int) -> int:
        """Note a miss; tell what it is."""
        self._misses += 1
        last, lengths = self._last, self._lengths
        before = oblock - 1
        place = (before + (before >> _LATELY_BITS) * _SCATTER) & _LATELY - 1
        length = lengths[place] + 1 if last[place] == before else 1
        follows = length > 1
        area = oblock >> _AREA_BITS
        if length < LONG and self._misses < self._until_last and self._is_in_stream(area):
            length = LONG
        place = (oblock + (oblock >> _LATELY_BITS) * _SCATTER) & _LATELY - 1
        if last[place] != oblock:  # or else it has been joined
            last[place] = oblock
            behind = oblock + 1
            behinds = (behind + (behind >> _LATELY_BITS) * _SCATTER) & _LATELY - 1
            if last[behinds] == behind:
                self._join(behind, length)
        lengths[place] = length
        if length < LONG:
            return FOLLOWS if follows else ALONE
        place = (area + (area >> _AREA_BITS) * _SCATTER) & _AREAS - 1
        self._areas[place] = area
        self._until[place] = self._until_last = self._misses + _FOR_MISSES
        return STREAMS

    def _join(self, oblock: int, length: int) -> None:
        """Add the length of a run to that of one that began earlier, at the block behind it."""
        last, lengths = self._last, self._lengths
        for _ in range(_LATELY):
            place = (oblock + (oblock >> _LATELY_BITS) * _SCATTER) & _LATELY - 1
            if last[place] != oblock:
                break
            lengths[place] += length
            oblock += 1

    def _is_in_stream(self, area: int) -> bool:
        for near in (area, area - 1, area - 2):
            place = (near + (near >> _AREA_BITS) * _SCATTER) & _AREAS - 1
            if self._areas[place] == near and self._misses < self._until[place]:
                return True
        return False

    def check(self) -> None:
        """Assert that what is noted lies where it is looked for."""
        for place, (last, length) in enumerate(zip(self._last, self._lengths, strict=True)):
            assert last == _NOWHERE or (last + (last >> _LATELY_BITS) * _SCATTER) & _LATELY - 1 == place
            assert length >= 0
        for place, (area, until) in enumerate(zip(self._areas, self._until, strict=True)):
            assert area == _NOWHERE or (area + (area >> _AREA_BITS) * _SCATTER) & _AREAS - 1 == place
            assert until <= self._until_last <= self._misses + _FOR_MISSES
