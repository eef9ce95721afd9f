"""How ages and classes of blocks are told in few bits: the geometry of what is learned of reuse times.

Theory of operation
-------------------
A *touch* is what a policy learns from.  Time is counted in touches, and told in *slots*: a cache that is touched as
often as it has blocks passes ``SLOTS_PER_CACHE`` of them.  So all of this is the same for small caches and large ones.

A block has a *class* and the slot of its last touch.  Both make its *key*, ``slot * CLASSES + CLASSES - 1 - class``,
16 bits wide: slots are counted modulo ``SLOTS``.  Let ``base`` be ``slot * CLASSES + CLASSES - 1`` at present.  Then
``base - key`` is ``age * CLASSES + class`` of the block, be it negative or not, if the tables that it is looked up in
have ``SPAN`` entries: Python counts negative indices from the end.  This *position* is all that there is to say of a
block.  Who keeps keys must look at them before they are ``SLOTS`` old, or an old block looks like a young one.

Classes tell what is known of a block's past.  Of new blocks: whether it was read or written, and whether it follows
another miss, or comes in a stream.  Of others: how often they were reused (4 bins, up to 2, 4, 8 and more touches; the
bin is raised at random, so that no count is needed) and after what time the last time (8 bins, an octave each).  A
reuse that comes sooner than an eighth of a cache is part of the same use, and changes no class.

Ages are told in *bins*: slot by slot at first, later four to an octave.  A *cell* is a bin of a class:
``class * BINS + bin``.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from policies.structures.streams import STREAMS

SLOTS_PER_CACHE: Final = 32
SLOTS: Final = 1024
NEW_CLASSES: Final = 6
COUNT_BINS: Final = 4
INTERVAL_BINS: Final = 8
CLASSES: Final = NEW_CLASSES + COUNT_BINS * INTERVAL_BINS
STREAM_CLASSES: Final = 2 * STREAMS
"""The first class of blocks that come in streams; the other new ones are below it, the known ones behind."""
GROUPS: Final = 2 + COUNT_BINS
STREAM_GROUP: Final = GROUPS - 1
SPAN: Final = SLOTS * CLASSES
"""Positions, and keys: both are below it."""
BLANK: Final = 2**16 - 1
"""No key."""
OLD: Final = SLOTS * 3 // 4
"""Slots after which a key has to be renewed or dropped."""

TURNS: Final = 4
"""Tables of moves to be taken at random, so that counts rise with the right chance."""

_FINE: Final = 8
_PER_OCTAVE: Final = 4
_SAME_USE: Final = SLOTS_PER_CACHE // 8


def _bin_starts() -> tuple[int, ...]:
    starts: list[int] = []
    age = 0
    while age < SLOTS:
        starts.append(age)
        age += 1 if age < _FINE else (1 << age.bit_length() - 1) // _PER_OCTAVE
    return tuple(starts)


BIN_STARTS: Final = _bin_starts()
"""The first age, in slots, of each bin."""
BINS: Final = len(BIN_STARTS)
CELLS: Final = CLASSES * BINS


def new_class(written: bool, kind: int) -> int:
    """Return the class of a block that nothing is known of, and that is missed as structures/streams.py tells."""
    return 2 * kind + written


def group_of(which: int) -> int:
    """Return the group of a class: 0 for new blocks, else 1 more than the bin of its count; streams are the last."""
    if which >= NEW_CLASSES:
        return 1 + (which - NEW_CLASSES) // INTERVAL_BINS
    return STREAM_GROUP if which >= STREAM_CLASSES else 0


def interval_bin(age: int) -> int:
    """Return the bin of an interval in slots: up to an eighth of a cache, a quarter, ... eight caches, and beyond."""
    return min(max((age - 1) // _SAME_USE, 0).bit_length(), INTERVAL_BINS - 1)


def next_class(which: int, age: int, turn: int) -> int:
    """Return the class of a block that is reused at an age; ``turn``, below ``TURNS``, decides whether counts rise.

    A bin of counts is left when as many reuses have been seen as it is wide: one, two or four, on average.
    """
    if age <= _SAME_USE:
        return which
    count = group_of(which)
    if which < NEW_CLASSES:
        raised = 0
    else:
        rises = count == 1 or (count == 2 and turn % 2 == 0) or (count == 3 and turn == 0)  # noqa: PLR2004
        raised = min(count - 1 + rises, COUNT_BINS - 1)
    return NEW_CLASSES + raised * INTERVAL_BINS + interval_bin(age)


@cache
def cells_by_position() -> list[int]:
    """Return the cell of each position."""
    cells: list[int] = []
    for number, start in enumerate(BIN_STARTS):
        stop = BIN_STARTS[number + 1] if number + 1 < BINS else SLOTS
        cells += [which * BINS + number for which in range(CLASSES)] * (stop - start)
    return cells


@cache
def moves_by_position() -> tuple[bytes, ...]:
    """Return for each turn the class that follows on each position."""
    tables = []
    for turn in range(TURNS):
        rows: dict[int, bytes] = {}  # by the one thing about an age that counts
        table = bytearray()
        for age in range(SLOTS):
            kind = interval_bin(age) if age > _SAME_USE else -1
            if kind not in rows:
                rows[kind] = bytes(next_class(which, age, turn) for which in range(CLASSES))
            table += rows[kind]
        tables.append(bytes(table))
    return tuple(tables)
