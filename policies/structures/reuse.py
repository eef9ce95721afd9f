"""What blocks are worth by class and age: reuse times, learned with those that have not ended yet.

Theory of operation
-------------------
*Counting.*  Each time between two touches of a block is counted once, in the cell of its class and the age that it
came to: as a *hit* if it ended in a reuse, as *cut* if the block was forgotten before.  Those that go on are *alive*.
Alive ones are counted by key, so nothing has to be done as they grow old.

*Learning* (E. L. Kaplan, P. Meier: Nonparametric estimation from incomplete observations, JASA 53, 1958).  At risk in
a bin are all times that reached it: those that ended there or later, and those alive that are there or older; what was
cut or lives within the bin counts half.  The hazard of the bin is hits / at risk.  Where little is known, it leans on
the hazard of the class's group, and that on the hazard of all: each counts as a number of observations.

*Scores* (J. C. Gittins: Bandit processes and dynamic allocation indices, JRSS B 41, 1979).  Let S fall from 1 as the
hazards say, and A(a) be the area under it up to age a.  To keep a block from age a to age q costs A(q) - A(a) of cache
time, and brings S(a) - S(q) hits.  The score is the best ratio of any q > a.  All scores of a class are the slopes of
one convex hull, found from the last age to the first.

Learning is done in steps, one for each class and then again; a step is a small part of a millisecond.  Between epochs
older counts fade.
"""

from __future__ import annotations

from array import array
from binascii import crc32
from math import log2
from operator import add
from typing import Final

from policies.structures.lifetimes import (
    BIN_STARTS,
    BINS,
    CELLS,
    CLASSES,
    GROUPS,
    NEW_CLASSES,
    SLOTS,
    SLOTS_PER_CACHE,
    SPAN,
    STREAM_CLASSES,
    STREAM_GROUP,
    cells_by_position,
    group_of,
)

LEAST: Final = 1e-12
"""Scores are never less: so they can be weighted and compared."""

_GROUP_WEIGHT: Final = 100.0
_ALL_WEIGHT: Final = 50.0
_FLOORS: Final = tuple(LEAST if group == STREAM_GROUP else LEAST * (2 + group) for group in range(GROUPS))
"""What is known of no hit at such an age is worth this: the more, the more often it was used, but streams the least."""
_FADE: Final = 0.99
_SHORTEST_EPOCH: Final = 400
_FIRST_EPOCH: Final = 16
_EPOCHS_PER_CACHE: Final = 2
_WIDTHS: Final = tuple(stop - start for start, stop in zip(BIN_STARTS, (*BIN_STARTS[1:], SLOTS), strict=True))
_EDGES: Final = tuple(zip(BIN_STARTS, (*BIN_STARTS[1:], SLOTS), strict=True))

_HEAD: Final = b"fusecache reuse 2\n"
_STEPS_PER_OCTAVE: Final = 8
_MOST_LOGGED: Final = 255


class ReuseTables:
    """Counts and scores, and the clock that ages are told by.

    :ivar base: what keys of the present slot are counted from: see lifetimes.py.
    :ivar due: the touch at which the next slot begins; then :meth:`advance` has to be called.
    :ivar now: touches so far.
    :ivar hits: how many times ended in a reuse, by cell.
    :ivar cut: how many were cut off, by cell.
    :ivar alive: how many go on, by key.
    :ivar scores: what a block is worth, by cell: hits per slot of its stay.
    :ivar learning: whether steps of learning are due: :meth:`learn`.
    """

    __slots__ = (
        "_all",
        "_blocks",
        "_epoch",
        "_group_risk",
        "_groups",
        "_risk",
        "_step",
        "alive",
        "base",
        "cut",
        "due",
        "epoch_due",
        "hits",
        "learning",
        "now",
        "scores",
        "slot",
    )

    def __init__(self, cache_blocks: int) -> None:
        """Know nothing: what was touched last is worth most."""
        self._blocks = cache_blocks
        self._epoch = max(cache_blocks // _EPOCHS_PER_CACHE, _SHORTEST_EPOCH)
        self.now = 0
        self.slot = 0
        self.base = CLASSES - 1
        self.due = -(-cache_blocks // SLOTS_PER_CACHE)
        self.epoch_due = _FIRST_EPOCH
        self.hits = [0.0] * CELLS
        self.cut = [0.0] * CELLS
        self.alive = array("i", (0,)) * SPAN
        self.scores = [1.0 / (start + 1) for start in BIN_STARTS] * CLASSES
        streams = slice(STREAM_CLASSES * BINS, NEW_CLASSES * BINS)
        self.scores[streams] = [LEAST] * len(self.scores[streams])
        self.learning = False
        self._step = 0
        self._risk = [[0.0] * BINS for _ in range(CLASSES)]
        self._begin_groups()
        self._groups: list[list[float]] = []

    def _begin_groups(self) -> None:
        self._all = [[0.0] * BINS for _ in range(GROUPS)]
        self._group_risk = [[0.0] * BINS for _ in range(GROUPS)]

    def advance(self) -> int:
        """Begin the slot of the present touch; return how many slots have passed."""
        slots = self.now * SLOTS_PER_CACHE // self._blocks
        passed = slots - self.slot
        self.slot = slots
        self.base = slots % SLOTS * CLASSES + CLASSES - 1
        self.due = -(-(slots + 1) * self._blocks // SLOTS_PER_CACHE)
        return passed

    def begin_epoch(self) -> None:
        """Let learning begin, which is not under way: as time goes on, seldomer, until an epoch has its full length."""
        gap = self.now // 4 + _FIRST_EPOCH
        if gap >= self._epoch:
            gap = self._epoch
            self.hits = [count * _FADE for count in self.hits]
            self.cut = [count * _FADE for count in self.cut]
        self.epoch_due = self.now + gap
        self.learning = True

    def learn(self) -> None:
        """Do the next step of learning, if it is under way."""
        step = self._step
        if step < CLASSES:
            self._count(step)
        else:
            if step == CLASSES:
                self._compare_groups()
            self._score(step - CLASSES)
        self._step += 1
        if self._step == 2 * CLASSES:
            self._step = 0
            self.learning = False
            self._begin_groups()

    def _count(self, which: int) -> None:
        """Find out how many of a class are at risk in each bin; add them to those of its group."""
        cell = which * BINS
        slot = self.slot % SLOTS
        lives = self.alive[CLASSES - 1 - which :: CLASSES]
        hits, cut = self.hits[cell : cell + BINS], self.cut[cell : cell + BINS]
        if not any(lives) and not any(hits) and not any(cut):
            self._risk[which] = [0.0] * BINS
            return
        by_age = lives[slot::-1] + lives[:slot:-1]
        unended = [sum(by_age[start:stop]) + some for (start, stop), some in zip(_EDGES, cut, strict=True)]
        risk = []
        beyond = 0.0
        for here, left in zip(reversed(hits), reversed(unended), strict=True):
            beyond += here + left
            risk.append(beyond - left / 2)
        risk.reverse()
        self._risk[which] = risk
        group = group_of(which)
        self._all[group] = list(map(add, self._all[group], hits))
        self._group_risk[group] = list(map(add, self._group_risk[group], risk))

    def _compare_groups(self) -> None:
        """Find the hazards of the groups."""
        hits = [sum(column) for column in zip(*self._all, strict=True)]
        risk = [sum(column) for column in zip(*self._group_risk, strict=True)]
        overall = [some / (many + 1) for some, many in zip(hits, risk, strict=True)]
        self._groups = [
            [
                (some + _ALL_WEIGHT * lean) / (many + _ALL_WEIGHT)
                for some, many, lean in zip(self._all[group], self._group_risk[group], overall, strict=True)
            ]
            for group in range(STREAM_GROUP)
        ]
        self._groups.append([0.0] * BINS)  # streams lean on nobody: little of one comes back until some did

    def _score(self, which: int) -> None:
        """Find the scores of a class, from the last age to the first."""
        cell = which * BINS
        parent = self._groups[group_of(which)]
        survival, area = 1.0, 0.0
        survivals, areas = [1.0], [0.0]
        for some, many, lean, width in zip(
            self.hits[cell : cell + BINS], self._risk[which], parent, _WIDTHS, strict=True
        ):
            left = survival * (1 - min((some + _GROUP_WEIGHT * lean) / (many + _GROUP_WEIGHT), 1.0))
            area += width * (survival + left) / 2
            survival = left
            survivals.append(survival)
            areas.append(area)
        self.scores[cell : cell + BINS] = hull_slopes(survivals, areas, _FLOORS[group_of(which)])

    def is_sound(self) -> bool:
        """Tell whether counts and scores are what they can be."""
        return min(self.hits) >= 0 and min(self.cut) >= 0 and min(self.scores) >= LEAST and min(self.alive) >= 0

    def save(self) -> bytes:
        """Return the counts, roughly, in less than 4 KiB; ages are told by the size of the cache, so it may change."""
        body = bytes(min(round(log2(1 + count) * _STEPS_PER_OCTAVE), _MOST_LOGGED) for count in (*self.hits, *self.cut))
        return _HEAD + crc32(body).to_bytes(4, "little") + body

    def load(self, saved: bytes) -> bool:
        """Take over what was saved, and learn from it at once; False, and nothing happened, if it cannot be that."""
        start = len(_HEAD) + 4
        body = saved[start:]
        if saved[: len(_HEAD)] != _HEAD or len(body) != 2 * CELLS:
            return False
        if crc32(body).to_bytes(4, "little") != saved[len(_HEAD) : start]:
            return False
        counts = [2 ** (step / _STEPS_PER_OCTAVE) - 1 for step in body]
        self.hits, self.cut = counts[:CELLS], counts[CELLS:]
        self._step = 0
        self._begin_groups()
        self.learning = True
        while self.learning:
            self.learn()
        return True

    def check(self) -> None:
        """Assert that counts and scores are what they can be, and that the clock agrees with itself."""
        assert self.is_sound()
        assert len(self.hits) == len(self.cut) == len(self.scores) == CELLS
        assert self.base == self.slot % SLOTS * CLASSES + CLASSES - 1
        assert self.slot == self.now * SLOTS_PER_CACHE // self._blocks
        assert self.now < self.due
        assert len(cells_by_position()) == SPAN


def hull_slopes(survivals: list[float], areas: list[float], least: float = LEAST) -> list[float]:
    """Return for each point but the last the steepest way down from it to a later one, at least ``least``.

    Points are ``(areas[i], survivals[i])``; areas rise, survivals fall.  O(n): the later points that count are those of
    the lower convex hull.
    """
    slopes: list[float] = []
    hull = [(areas[-1], survivals[-1], -1.0)]  # area, survival, and the slope from there to the point before it here
    for area, survival in zip(areas[-2::-1], survivals[-2::-1], strict=True):
        while True:
            later_area, later_survival, later_slope = hull[-1]
            width = later_area - area
            slope = (survival - later_survival) / width if width > 0 else 0.0
            if slope >= later_slope:
                break
            hull.pop()
        hull.append((area, survival, slope))
        slopes.append(max(slope, least))
    slopes.reverse()
    return slopes
