"""What policies that admit at once have in common: everything but the algorithm.

Theory of operation
-------------------
A miss decides.  If the algorithm admits the block and a cache block is free, that is reserved, and the promotion is the
next item handed out; so the cache can fill the block from the very request that missed.  If none is free, the request
goes past the cache.

So that one is free as a rule, a *reserve* is kept: whenever fewer cache blocks are free, :meth:`get_background_work`
offers demotions of victims, dirty or clean.  Who carries out a demotion writes a dirty block back first.  The algorithm
has the rest of the cache: its *room*.  No writebacks are asked for: the cache knows better when they are cheap.

A burst of misses may come faster than demotions end.  Each time that nothing is free, half as many again are to be free
from then on, up to a sixteenth of the cache.  Each sixteen blocks that find room make that one less, down to the
reserve.

A cache block is in one of four states: free (its flags are 0), reserved (for a promotion under way; not in the index),
ordered (in the index, and where the algorithm wants it), or leaving (in the index, but out of the algorithm's hands: a
demotion is under way).  Free ones need no list: a search for a zero in the flags finds the next one.

A block may be *marked*: then its hits teach nothing, and cost no more than the search.  The algorithm marks blocks if
that suits it; those that are leaving always are, so a hit need not look at the flags.

How to write a policy on this base
----------------------------------
Say what :meth:`_admit`, :meth:`_entered`, :meth:`_hit`, :meth:`_victim`, :meth:`_evicted`, :meth:`_kept`,
:meth:`_removed` and :meth:`_check_order` do.  Each is told of a change when it has happened in the books here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final

from policies.base import DEMOTE, MISS, MISS_QUEUED, PROMOTE, BadTunableError, Policy, PolicyError, Work
from policies.sizes import check_sizes
from policies.structures.blockindex import BlockIndex
from policies.structures.tracker import WorkTracker
from policies.tunables import ABSORB, is_switched_on, switch_text

BYPASS: Final = -1
"""Answer of :meth:`AdmittingPolicy._admit`: leave the block where it is."""

ALLOCATED: Final = 1
DIRTY: Final = 2
LEAVING: Final = 4
RESERVED: Final = 8

_RESERVE_SHARE: Final = 256
_MAX_RESERVE: Final = 1024
_BURST_SHARE: Final = 16
"""Of the cache, what may be kept free for a burst of misses."""
_CALM: Final = 16
"""So many blocks that find room make what is kept free smaller by one."""


class AdmittingPolicy(Policy):
    """A policy that admits at once; the algorithm is a subclass's.

    For subclasses: ``_index`` finds cache blocks, ``_flags`` has the state of each, ``_marks`` a bit for each (bit
    ``cblock & 7`` of byte ``cblock >> 3``), and ``_kind`` a byte for each, what :meth:`_admit` answered, which is
    theirs to use.  ``_room`` is how many blocks stay in the cache.
    """

    hint_size: ClassVar[int] = 4
    keeps_heat: ClassVar[bool] = True

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        """Start with an empty cache."""
        del now_ms  # kept for the contract: none of these has a clock
        check_sizes(cache_blocks, origin_blocks, block_size)
        self.absorbs = True
        self._cache_blocks = cache_blocks
        self._origin_blocks = origin_blocks
        self._index = BlockIndex(cache_blocks, origin_blocks)
        self._flags = bytearray(cache_blocks)
        self._kind = bytearray(cache_blocks)
        self._marks = bytearray(-(-cache_blocks // 8))
        self._free = cache_blocks
        self._cursor = 0
        # A cache of one block has no reserve: it would keep nothing else.
        self._reserve = min(max(cache_blocks // _RESERVE_SHARE, 1), _MAX_RESERVE, cache_blocks - 1)
        self._wanted = self._reserve
        """So many blocks are to be free now."""
        self._most_wanted = max(self._reserve, cache_blocks // _BURST_SHARE, 1)
        self._calm = 0
        """Blocks that have found room since that changed."""
        self._room = cache_blocks - self._reserve
        self._tracker = WorkTracker()
        self._migrations_allowed = True

    # --- the algorithm -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _admit(self, oblock: int, write: bool) -> int:
        """Learn of a miss; decide.

        It is not asked about blocks whose promotion is under way, nor while migrations are forbidden.

        :return: :data:`BYPASS`, or what ``_kind`` is to be for this block, 0 <= kind < 256.
        """

    def _shut_out(self, oblock: int, kind: int) -> None:
        """Learn that a block is not cached although it was admitted: nothing was free, or the promotion failed."""

    @abstractmethod
    def _entered(self, cblock: int, oblock: int) -> None:
        """Learn that an admitted block is cached now; it is not marked.  ``_kind`` is what it was admitted as."""

    @abstractmethod
    def _learned(self, cblocks: Sequence[int], hints: Sequence[int | None]) -> None:
        """Learn that these blocks are cached already, not marked, and in none of them; ``_kind`` of each is 0.

        Those without a hint come coldest first, if anything is known of their heat.
        """

    @abstractmethod
    def _hit(self, cblock: int, write: bool) -> None:
        """Learn of a hit of a block that is not marked."""

    @abstractmethod
    def _victim(self) -> int:
        """Choose a block that has to go, and take it out of the order; -1 if the order is empty."""

    @abstractmethod
    def _evicted(self, cblock: int, oblock: int) -> None:
        """Learn that a victim is cached no more; remember it, if that is worth while."""

    @abstractmethod
    def _kept(self, cblock: int) -> None:
        """Learn that a victim could not be demoted: put it back, where others become victims before it."""

    @abstractmethod
    def _removed(self, cblock: int) -> None:
        """Take a block out of the order, for good: the cache forgets it."""

    @abstractmethod
    def coldest_first(self) -> Iterator[list[int]]:
        """List the blocks by the algorithm's order: see :class:`Policy`."""

    def _hint(self, cblock: int) -> int:
        """Tell what is worth keeping of a mapped block: see :meth:`get_hint`; it may be leaving."""
        del cblock
        return 0

    @abstractmethod
    def _check_order(self) -> Iterable[int]:
        """Assert the algorithm's invariants; return the blocks that it has in its order, each once."""

    def _mark(self, cblock: int) -> None:
        self._marks[cblock >> 3] |= 1 << (cblock & 7)

    def _unmark(self, cblock: int) -> None:
        self._marks[cblock >> 3] &= ~(1 << (cblock & 7))

    def _unmark_all(self) -> None:
        """Let hits of all blocks teach again, but of those that are leaving."""
        self._marks = bytearray(len(self._marks))
        for cblock in self._tracker.cblocks(DEMOTE):
            self._mark(cblock)

    # --- the contract ------------------------------------------------------------------------------------------------

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """Refer one bio to the policy; a hit of a marked block costs a search and a look at its mark."""
        index = self._index
        tag = oblock // index.size
        word = index.buckets[oblock % index.size]
        while word >> index.shift != tag:
            if word < 0:
                return self._miss(oblock, write)
            word = index.chain[word & index.mask]
        cblock = word & index.mask
        if not self._marks[cblock >> 3] >> (cblock & 7) & 1:
            self._hit(cblock, write)
        return cblock

    def _miss(self, oblock: int, write: bool) -> int:
        cblock = self._take_room(oblock, write)
        if cblock < 0:
            return cblock
        self._tracker.queue(PROMOTE, oblock, cblock)
        return MISS_QUEUED

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        """Refer one bio to the policy; hand out the promotion of its block if it is admitted and there is room."""
        if self._index.find(oblock) >= 0:
            return self.lookup(oblock, write, fast_copy), None
        cblock = self._take_room(oblock, write)
        if cblock < 0:
            return cblock, None
        return MISS, self._tracker.issue_new(PROMOTE, oblock, cblock)

    def _take_room(self, oblock: int, write: bool) -> int:
        """Ask the algorithm about a miss; return the cache block reserved for the block, or the answer if none is."""
        tracker = self._tracker
        queued, issued = tracker.queued, tracker.issued
        if oblock in queued or oblock in issued:
            return MISS_QUEUED if tracker.requeue(oblock) else MISS
        if not self._migrations_allowed:
            return MISS
        kind = self._admit(oblock, write)
        if kind < 0:
            return MISS
        if not self._free or len(queued) + len(issued) >= tracker.limit:
            self._shut_out(oblock, kind)
            self._wanted = min(self._wanted + self._wanted // 2 + 1, self._most_wanted)
            self._calm = 0
            return MISS_QUEUED
        if self._wanted > self._reserve:
            self._calm_down()
        flags = self._flags
        cblock = flags.find(0, self._cursor)
        if cblock < 0:
            cblock = flags.find(0)
        self._cursor = cblock + 1
        self._free -= 1
        flags[cblock] = ALLOCATED | RESERVED
        self._kind[cblock] = kind
        return cblock

    def _calm_down(self) -> None:
        """Note that a block finds room while more is kept free than usual."""
        self._calm += 1
        if self._calm == _CALM:
            self._calm = 0
            self._wanted -= 1

    @property
    def _is_full(self) -> bool:
        """Whether no more blocks are free than are to be."""
        return self._free <= self._wanted

    def _take_victim(self) -> int:
        tracker = self._tracker
        if not self._migrations_allowed or len(tracker.queued) + len(tracker.issued) >= tracker.limit:
            return -1
        victim = self._victim()
        if victim >= 0:
            self._flags[victim] |= LEAVING
            self._marks[victim >> 3] |= 1 << (victim & 7)
        return victim

    def get_background_work(self, idle: bool) -> Work | None:
        """Hand out what was queued last, or else, if the reserve is short, a demotion."""
        tracker = self._tracker
        if tracker.queued:
            return tracker.issue()
        if self._free + tracker.demotions < self._wanted and (victim := self._take_victim()) >= 0:
            return tracker.issue_new(DEMOTE, self._index.key_of(victim), victim)
        return None

    def complete_background_work(self, work: Work, success: bool) -> None:
        """Take back an item.

        :raises PolicyError: it has not been handed out, or is complete already.
        """
        self._tracker.complete(work)
        oblock, cblock = work.oblock, work.cblock
        self._flags[cblock] &= ~(LEAVING | RESERVED)
        self._marks[cblock >> 3] &= ~(1 << (cblock & 7))
        if work.op is PROMOTE:
            if success:
                self._index.insert(cblock, oblock)
                self._entered(cblock, oblock)
            else:
                self._release(cblock)
                self._shut_out(oblock, self._kind[cblock])
        elif success:
            self._index.remove(cblock)
            self._release(cblock)
            self._evicted(cblock, oblock)
        else:
            self._kept(cblock)

    def _release(self, cblock: int) -> None:
        self._flags[cblock] = 0
        self._free += 1

    def set_dirty(self, cblock: int) -> None:
        """Learn that a block has become dirty."""
        if not (0 <= cblock < self._cache_blocks and self._flags[cblock]):
            raise _nothing_at(cblock)
        self._flags[cblock] |= DIRTY

    def clear_dirty(self, cblock: int) -> None:
        """Learn that a block has become clean."""
        if not (0 <= cblock < self._cache_blocks and self._flags[cblock]):
            raise _nothing_at(cblock)
        self._flags[cblock] &= ~DIRTY

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        """Learn of a block that is cached already.

        :raises PolicyError: out of range, or one of the two is mapped already.
        """
        self.load_mappings(((oblock, cblock, dirty, hint),))

    def load_mappings(self, mappings: Iterable[tuple[int, int, bool, int | None]]) -> None:
        """Learn of many blocks that are cached already.

        :raises PolicyError: one is out of range or mapped already; if it was not the first, the policy is unusable.
        """
        oblocks: list[int] = []
        cblocks: list[int] = []
        hints: list[int | None] = []
        flags, kind, cache_blocks, origin_blocks = self._flags, self._kind, self._cache_blocks, self._origin_blocks
        for oblock, cblock, dirty, hint in mappings:
            if not 0 <= cblock < cache_blocks or not 0 <= oblock < origin_blocks or flags[cblock]:
                raise _no_room(oblock, cblock)
            flags[cblock] = ALLOCATED | DIRTY if dirty else ALLOCATED
            kind[cblock] = 0
            oblocks.append(oblock)
            cblocks.append(cblock)
            hints.append(hint)
        count = self._index.insert_all(zip(oblocks, cblocks, strict=True))
        if count < len(oblocks):
            flags[cblocks[count]] = 0
            raise _no_room(oblocks[count], cblocks[count])
        self._free -= count
        self._learned(cblocks, hints)

    def invalidate_mapping(self, cblock: int) -> bool:
        """Forget a mapped block.

        :raises PolicyError: work is outstanding for it.
        """
        flags = self._flags[cblock] if 0 <= cblock < self._cache_blocks else 0
        if not flags:
            return False
        if flags & (LEAVING | RESERVED):
            msg = f"cache block {cblock} cannot be invalidated: work is outstanding for it"
            raise PolicyError(msg)
        self._removed(cblock)
        self._unmark(cblock)
        self._index.remove(cblock)
        self._release(cblock)
        return True

    def get_hint(self, cblock: int) -> int:
        """Return what the algorithm wants to know of the block after a restart."""
        return self._hint(cblock) if self._flags[cblock] & (ALLOCATED | RESERVED) == ALLOCATED else 0

    def residency(self) -> int:
        """Count the cache blocks that are not free."""
        return self._cache_blocks - self._free

    def set_config_value(self, key: str, value: str) -> None:
        """Set ``absorb`` to on or off.

        :raises BadTunableError: no such tunable, or a bad value; nothing was changed.
        """
        if key.lower() != ABSORB:
            msg = f"policy {self.name} has no tunable {key!r}; it has: {', '.join(self.config_values())}"
            raise BadTunableError(msg)
        self.absorbs = is_switched_on(ABSORB, value)

    def config_values(self) -> dict[str, str]:
        """List the tunables."""
        return {ABSORB: switch_text(self.absorbs)}

    def allow_migrations(self, allowed: bool) -> None:
        """Forbid or allow new promotions and demotions."""
        self._migrations_allowed = allowed

    def check(self) -> None:
        """Assert that each cache block is in exactly one state, and that all structures agree on it."""
        mapping = self._index.check()
        outstanding = {work.cblock: work for work in self._tracker.check().values()}
        assert len(outstanding) == len(self._tracker.check())
        promoted = {work.cblock for work in outstanding.values() if work.op is PROMOTE}
        mapped = set(mapping.values())
        order = list(self._check_order())
        ordered = set(order)
        assert len(order) == len(ordered), "a block is in the order twice"
        assert ordered == mapped - set(outstanding)
        assert not mapped & promoted
        assert self._free == self._flags.count(0)
        assert self._reserve <= self._wanted <= self._most_wanted
        assert 0 <= self._calm < _CALM
        for cblock, flags in enumerate(self._flags):
            work = outstanding.get(cblock)
            assert bool(flags) == bool(flags & ALLOCATED) == (cblock in mapped or cblock in promoted)
            assert bool(flags & RESERVED) == (cblock in promoted)
            assert bool(flags & LEAVING) == (work is not None and work.op is DEMOTE)
            marked = self._marks[cblock >> 3] >> (cblock & 7) & 1
            assert marked or not flags & LEAVING, "a hit of a block that is leaving would reach the algorithm"
            assert not marked or cblock in mapped
            assert work is None or work.op is not DEMOTE or mapping[work.oblock] == cblock
            assert work is None or work.op is not PROMOTE or work.oblock not in mapping


def _nothing_at(cblock: int) -> PolicyError:
    return PolicyError(f"nothing is mapped at cache block {cblock}")


def _no_room(oblock: int, cblock: int) -> PolicyError:
    return PolicyError(f"no room for origin block {oblock} at cache block {cblock}: out of range, or mapped already")
