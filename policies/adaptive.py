"""Adaptive: learn from reuse times what a block is worth, and keep what is worth most.

J. C. Gittins, "Bandit processes and dynamic allocation indices", JRSS B 41 (1979); E. L. Kaplan and P. Meier,
"Nonparametric estimation from incomplete observations", JASA 53 (1958).

Theory of operation
-------------------
Where a miss fills its block, evicting a block costs exactly one read of the origin, when it is wanted next; whatever
comes after that is the same either way.  So a block is worth its *next* hit per time that it has to be kept until then.
How likely that is depends on what is known of its past, its *class*, and on the time since its last touch, its *age*.
Both are learned: see structures/lifetimes.py for the words and structures/reuse.py for the tables.

*Touches.*  A miss is one, and so is the first hit of a block in a *period*.  The hit marks it: further hits cost no
more than the search.  A period ends after touches of an eighth of the cache, and misses of a thirty-second: marks are
dropped.  A touch ends a reuse time, which is counted, and may change the class.

*Victims.*  A hand goes round the cache.  Now and then it looks at the next blocks; those that are worth least of these
and of the *pool* of candidates become the pool.  The last of the pool is the next victim; a dirty block counts half as
much again.

*Admission.*  If the cache is full, and the newcomer is worth no more than the next victim, he bypasses the cache.

*Ghosts.*  Evicted and bypassed blocks, three times as many as the cache has, are remembered with class and last touch
(structures/ghosts.py).  If they come back, their reuse time is counted as that of any other.

*Streams.*  New blocks that come in a long sequence (structures/streams.py) are a class of their own.  It is taken to be
worth nothing until some of it came back: so a scan does not live on the credit of what was read before, and passes
blocks that were reused, however long they have not been read.  A stream that comes back is learned by its ghosts, or by
those of it that found room.

There is no window and no list: how long anything is kept comes out of the tables.

The hint of a block is its position plus 1: class and age.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import ClassVar, Final

from policies.admitting import ALLOCATED, BYPASS, DIRTY, LEAVING, RESERVED, AdmittingPolicy
from policies.structures.ghosts import WAYS, Ghosts
from policies.structures.lifetimes import (
    BINS,
    BLANK,
    CLASSES,
    NEW_CLASSES,
    OLD,
    SLOTS_PER_CACHE,
    SPAN,
    cells_by_position,
    moves_by_position,
    new_class,
)
from policies.structures.reuse import ReuseTables
from policies.structures.streams import Streams

_GHOSTS_PER_BLOCK: Final = 3
_TOUCHES_PER_PERIOD: Final = 8
_MISSES_PER_PERIOD: Final = 32
_POOL: Final = 16
_LOOKS_PER_MISS: Final = 16
_LOOK_EVERY: Final = 4
"""Misses between two looks in large caches; in small ones the pool grows stale sooner."""
_BLOCKS_PER_MISS: Final = 256
_SWEEP_SLOTS: Final = 200
_SLICE: Final = 4096
_FURTHER: Final = 8
"""How often the hand looks on if it has found nothing but blocks that are leaving."""

_TURN_MASK: Final = 1023
_TURN_SHIFT: Final = 8
_OLDEST: Final = (OLD + 1) * CLASSES - 1
_BORROWED: Final = NEW_CLASSES + 3
"""Class of blocks that another policy has cached: reused once, after a cache's time."""

_WEIGHTS: Final = tuple({ALLOCATED: 1.0, ALLOCATED | DIRTY: 1.5}.get(flags, inf) for flags in range(256))
"""How much a block of such flags counts as a victim; only those that lie where they are can be one."""


class AdaptivePolicy(AdmittingPolicy):
    """The Gittins index of learned reuse times."""

    name: ClassVar[str] = "adaptive"
    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        super().__init__(cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size, now_ms=now_ms)
        self._tables = ReuseTables(cache_blocks)
        self._keys = array("H", (0,)) * cache_blocks
        self._ghosts = Ghosts(_GHOSTS_PER_BLOCK * cache_blocks)
        self._cells = cells_by_position()
        self._moves = moves_by_position()
        self._turn = 0
        self._streams = Streams()
        self._misses = 0
        self._begin_period()
        self._pool: list[int] = []
        self._pool_keys: list[int] = []
        self._look_every = min(max(cache_blocks // _BLOCKS_PER_MISS, 1), _LOOK_EVERY)
        self._stride = -(-cache_blocks // (_LOOKS_PER_MISS * self._look_every))
        self._pool_size = _POOL + self._look_every
        self._hand = 0
        self._look_due = 0
        self._sweeper = 0
        self._ghost_sweeper = 0

    # --- touches ------------------------------------------------------------------------------------------------------

    def _hit(self, cblock: int, write: bool) -> None:
        tables = self._tables
        tables.now += 1
        if tables.now >= tables.due:
            self._advance()
        self._marks[cblock >> 3] |= 1 << (cblock & 7)
        keys = self._keys
        base, alive = tables.base, tables.alive
        key = keys[cblock]
        position = base - key
        tables.hits[self._cells[position]] += 1
        turn = self._turn = self._turn * 5 + 3 & _TURN_MASK
        keys[cblock] = renewed = base - self._moves[turn >> _TURN_SHIFT][position]
        alive[key] -= 1
        alive[renewed] += 1

    def _admit(self, oblock: int, write: bool) -> int:
        tables = self._tables
        tables.now += 1
        if tables.now >= tables.due:
            self._advance()
        self._pass_time()
        kind = self._streams.miss(oblock)
        key = self._ghosts.take(oblock)
        if key == BLANK:
            which = new_class(write, kind)
        else:
            position = tables.base - key
            tables.hits[self._cells[position]] += 1
            tables.alive[key] -= 1
            turn = self._turn = self._turn * 5 + 3 & _TURN_MASK
            which = self._moves[turn >> _TURN_SHIFT][position]
        if self._is_full and self._next_victims_worth() >= tables.scores[which * BINS]:
            self._remember(oblock, tables.base - which, is_alive=False)
            return BYPASS
        return which

    def _pass_time(self) -> None:
        """Do what is due at a miss: a step of learning, the end of a period, a look at further blocks."""
        tables = self._tables
        if tables.learning:
            tables.learn()
        elif tables.now >= tables.epoch_due:
            tables.begin_epoch()
        self._misses += 1
        if self._misses >= self._period_misses and tables.now > self._period_touches:
            self._begin_period()
            self._unmark_all()
        if self._misses >= self._look_due and self._is_full:
            self._look()

    def _begin_period(self) -> None:
        self._period_misses = self._misses + self._cache_blocks // _MISSES_PER_PERIOD
        self._period_touches = self._tables.now + self._cache_blocks // _TOUCHES_PER_PERIOD + 1

    # --- victims ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Let the hand go on: those that are worth least, of what it sees and of the pool, become the pool.

        It sees blocks all over the cache, as those that came together lie together and are worth the same.
        """
        self._look_due = self._misses + self._look_every
        start, step = self._hand, self._stride
        self._hand = (start + 1) % step
        keys, flags = self._keys, self._flags
        seen = [cblock for cblock in self._pool if cblock % step != start]
        base, scores, cells = self._tables.base, self._tables.scores, self._cells
        worth = [scores[cells[base - keys[cblock]]] * _WEIGHTS[flags[cblock]] for cblock in seen]
        worth += [
            scores[cells[base - key]] * _WEIGHTS[state]
            for key, state in zip(keys[start::step], flags[start::step], strict=True)
        ]
        seen += range(start, self._cache_blocks, step)
        order = sorted(range(len(seen)), key=worth.__getitem__)[: self._pool_size]
        order.reverse()
        pool = self._pool = [seen[number] for number in order if worth[number] < inf]
        self._pool_keys = [keys[cblock] for cblock in pool]

    def _next_victim(self) -> int:
        """Return the last of the pool that has not been touched since it came there; -1 if there is none."""
        pool, pool_keys, keys, flags = self._pool, self._pool_keys, self._keys, self._flags
        while pool:
            cblock = pool[-1]
            if keys[cblock] == pool_keys[-1] and _WEIGHTS[flags[cblock]] < inf:
                return cblock
            pool.pop()
            pool_keys.pop()
        return -1

    def _next_victims_worth(self) -> float:
        """Tell what the next victim is worth; less than anything if there is none."""
        victim = self._next_victim()
        if victim < 0:
            return -1.0
        tables = self._tables
        return tables.scores[self._cells[tables.base - self._keys[victim]]] * _WEIGHTS[self._flags[victim]]

    def _victim(self) -> int:
        for _ in range(_FURTHER):
            victim = self._next_victim()
            if victim >= 0:
                self._pool.pop()
                self._pool_keys.pop()
                return victim
            self._look()
        return self._next_victim()

    def _evicted(self, cblock: int, oblock: int) -> None:
        self._remember(oblock, self._keys[cblock], is_alive=True)

    def _kept(self, cblock: int) -> None:
        """Take it for touched just now, but count no reuse."""
        keys, tables = self._keys, self._tables
        key = keys[cblock]
        keys[cblock] = renewed = tables.base - (tables.base - key) % CLASSES
        tables.alive[key] -= 1
        tables.alive[renewed] += 1

    def _removed(self, cblock: int) -> None:
        self._tables.alive[self._keys[cblock]] -= 1

    def _entered(self, cblock: int, oblock: int) -> None:
        key = self._keys[cblock] = self._tables.base - self._kind[cblock]
        self._tables.alive[key] += 1

    def _shut_out(self, oblock: int, kind: int) -> None:
        self._remember(oblock, self._tables.base - kind, is_alive=False)

    # --- ghosts, and what grows old -----------------------------------------------------------------------------------

    def _remember(self, oblock: int, key: int, *, is_alive: bool) -> None:
        """Make a block a ghost; the one that it pushes out is cut off."""
        tables = self._tables
        if not is_alive:
            tables.alive[key] += 1
        pushed = self._ghosts.put(oblock, key)
        if pushed != BLANK:
            tables.alive[pushed] -= 1
            tables.cut[self._cells[tables.base - pushed]] += 1

    def _advance(self) -> None:
        """Begin a slot; look after some keys, so that each is renewed or dropped before it is too old to be told."""
        passed = self._tables.advance()
        self._sweep_blocks(min(self._cache_blocks * passed // _SWEEP_SLOTS + 1, self._cache_blocks))
        places = len(self._ghosts.keys)
        self._sweep_ghosts(min((places * passed // _SWEEP_SLOTS // WAYS + 1) * WAYS, places))

    def _sweep_blocks(self, count: int) -> None:
        """Look at so many blocks; those that are very old remain as old as that."""
        start = self._sweeper
        stop = min(start + count, self._cache_blocks)
        self._sweeper = stop if stop < self._cache_blocks else 0
        keys, base, limit = self._keys, self._tables.base, OLD * CLASSES
        old = [cblock for cblock, key in enumerate(keys[start:stop], start) if (base - key) % SPAN >= limit]
        alive = self._tables.alive
        for cblock in old:
            if self._flags[cblock] & (ALLOCATED | RESERVED) == ALLOCATED:
                key = keys[cblock]
                keys[cblock] = renewed = (base - limit - (base - key) % CLASSES) % SPAN
                alive[key] -= 1
                alive[renewed] += 1

    def _sweep_ghosts(self, count: int) -> None:
        """Look at so many places, whole sets of them; ghosts that are very old are forgotten, and cut off."""
        ghosts, tables = self._ghosts, self._tables
        start = self._ghost_sweeper
        stop = min(start + count, len(ghosts.keys))
        self._ghost_sweeper = stop if stop < len(ghosts.keys) else 0
        keys, base, limit = ghosts.keys, tables.base, OLD * CLASSES
        old = [
            place for place, key in enumerate(keys[start:stop], start) if (base - key) % SPAN >= limit and key != BLANK
        ]
        for place in reversed(old):  # what is dropped moves those behind it
            key = keys[place]
            tables.alive[key] -= 1
            tables.cut[self._cells[base - key]] += 1
            ghosts.drop(place)

    # --- what is kept across a restart, or a change of policy ---------------------------------------------------------

    def _learned(self, cblocks: Sequence[int], hints: Sequence[int | None]) -> None:
        keys, tables = self._keys, self._tables
        base, alive, mapped = tables.base, tables.alive, len(cblocks)
        for rank, (cblock, hint) in enumerate(zip(cblocks, hints, strict=True)):
            known = self.hint_by_rank(rank, mapped) if hint is None else hint
            position = min(max(known - 1, 0), _OLDEST)
            keys[cblock] = key = (base - position) % SPAN
            alive[key] += 1

    def hint_by_rank(self, rank: int, mapped: int) -> int:
        """Tell the hint of a block of another policy's: reused once, and of an age according to its rank."""
        return (SLOTS_PER_CACHE * (mapped - rank) // mapped) * CLASSES + _BORROWED + 1

    def _hint(self, cblock: int) -> int:
        return (self._tables.base - self._keys[cblock]) % SPAN + 1

    def coldest_first(self) -> Iterator[list[int]]:
        """List the blocks, those that are worth least first."""
        by_cell: dict[int, array[int]] = {}
        keys, flags, cells = self._keys, self._flags, self._cells
        for start in range(0, self._cache_blocks, _SLICE):
            part = slice(start, start + _SLICE)
            base = self._tables.base
            for cblock, (key, state) in enumerate(zip(keys[part], flags[part], strict=True), start):
                if _WEIGHTS[state] < inf:
                    by_cell.setdefault(cells[base - key], array("I")).append(cblock)
            yield []
        scores = self._tables.scores
        for cell in sorted(by_cell, key=scores.__getitem__):
            listed = by_cell.pop(cell)
            for start in range(0, len(listed), _SLICE):
                yield listed[start : start + _SLICE].tolist()

    def memory(self) -> bytes:
        """Return what has been learned, apart from what hints tell."""
        return self._tables.save()

    def remember(self, memory: bytes) -> bool:
        """Learn what another one has learned; False if this is no memory of an adaptive policy."""
        return self._tables.load(memory)

    def _check_order(self) -> Iterable[int]:
        self._tables.check()
        self._ghosts.check()
        self._streams.check()
        assert len(self._ghosts) <= _GHOSTS_PER_BLOCK * self._cache_blocks + WAYS
        mapped = [c for c, flags in enumerate(self._flags) if flags & (ALLOCATED | RESERVED) == ALLOCATED]
        living = [self._keys[cblock] for cblock in mapped] + [key for key in self._ghosts.keys if key != BLANK]
        expected = array("i", (0,)) * SPAN
        for key in living:
            expected[key] += 1
        assert expected == self._tables.alive, "a reuse time is counted twice, or lost"
        assert len(set(self._pool)) == len(self._pool) == len(self._pool_keys)
        return [cblock for cblock in mapped if not self._flags[cblock] & LEAVING]
