"""Entries by their rank, lowest first, a slice at a time: no call is long, however many entries there are."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Final

_SLICE: Final = 512


def ranked(entries: int, ranks: int, rank_of: Callable[[int], int]) -> Iterator[list[int]]:
    """Rank the entries below ``entries``, then list them; while they are being ranked, slices are empty.

    :param rank_of: gives the rank of an entry, 0 <= rank < ``ranks``, or -1 if it is to be left out.
    """
    found = [array("I") for _ in range(ranks)]
    for first in range(0, entries, _SLICE):
        for entry in range(first, min(first + _SLICE, entries)):
            rank = rank_of(entry)
            if rank >= 0:
                found[rank].append(entry)
        yield []
    for those in found:
        for first in range(0, len(those), _SLICE):
            yield those[first : first + _SLICE].tolist()
