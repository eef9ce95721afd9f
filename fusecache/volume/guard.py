"""A guard around policies of other packages: an error in one costs hits, not the mount.

The mapping knows what is cached, so fusecache can do without a policy at any moment.  Once a policy has raised anything
that the contract does not allow, the guard asks it no more.  It answers lookups from the mapping, and nothing is
promoted or demoted until another policy is set; what is dirty is written back all the same.

The same goes for an answer that cannot be:

* a lookup that is not what the mapping says, be it out of range or another block's;
* work for a block for which an item is outstanding, or for a block that does not exist: whoever carries out an item
  relies on nobody else having one for the same block.  The guard hands out a copy of each item, since the policy might
  change its own;
* a promotion of a block that is cached, or to a cache block that is not free;
* a refusal to forget a block for which no item is outstanding, and none is queued;
* a count of blocks, a hint or a list of tunables that is none.

What the new policy raises while it learns the mapping ends the change of policy, except what it raises because a user
writes at that moment: that must not fail the write, so it is kept, and ends the change a little later.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from policies import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fusecache.block import Health, Mapping

log = structlog.get_logger(__name__)

T = TypeVar("T")

_HINTS: Final = 2**32


class GuardedPolicy(Policy):
    """A policy of another package.  Until :meth:`serve` begins the guard, whatever the policy raises is passed on."""

    def __init__(self, inner: Policy, origin_blocks: int) -> None:
        self._inner = inner
        self._origin_blocks = origin_blocks
        self._early: Exception | None = None
        """What it raised before :meth:`serve`, where nobody could be told."""
        self._mapping: Mapping | None = None
        self._health: Health | None = None
        self._failed = False
        self._items: dict[Work, Work] = {}
        self._oblocks: set[int] = set()
        self._cblocks: set[int] = set()
        self.name = inner.name  # type: ignore[misc]  # the inner one's class has them, and so has this instance
        self.version = inner.version  # type: ignore[misc]
        self.hint_size = inner.hint_size  # type: ignore[misc]
        self.observes_bios = inner.observes_bios  # type: ignore[misc]
        self.keeps_heat = inner.keeps_heat  # type: ignore[misc]
        self.orders_writebacks = inner.orders_writebacks  # type: ignore[misc]

    @property
    def absorbs(self) -> bool:  # type: ignore[override]  # a tunable may change it at any time
        """Whether it absorbs writes; nothing that has failed does."""
        return self._ask(lambda: bool(self._inner.absorbs), instead=bool)

    def serve(self, mapping: Mapping, health: Health) -> None:
        """Guard from here on: answer from ``mapping`` if the policy fails, and report that to ``health``."""
        self._mapping = mapping
        self._health = health
        if self._early is not None:
            self._dispense(self._early)

    def _dispense(self, error: Exception) -> None:
        """Ask it no more."""
        assert self._health is not None
        self._failed = True
        self.hint_size = 0  # type: ignore[misc]  # it has none that mean anything any more
        self.orders_writebacks = False  # type: ignore[misc]
        self._health.policy_failed = f"{self.name}: {type(error).__name__}: {error}"
        log.error("policy failed", policy=self.name, exc_info=error)

    def _ask(self, function: Callable[..., T], *args: object, instead: Callable[[], T], may_refuse: bool = False) -> T:
        if not self._failed:
            try:
                return function(*args)
            except Exception as exc:
                if self._health is None or (may_refuse and isinstance(exc, PolicyError)):
                    raise
                self._dispense(exc)
        return instead()

    def _tell(self, function: Callable[[int], None], cblock: int) -> None:
        """Tell it of a block that turned dirty or clean, which happens while a user's request is served."""
        try:
            self._ask(function, cblock, instead=_nothing)
        except Exception as exc:  # noqa: BLE001 - it is not the user's who writes
            self._early = exc

    def _find(self, oblock: int) -> int:
        cblock = -1 if self._mapping is None else self._mapping.find(oblock)
        return cblock if cblock >= 0 else MISS

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """See :class:`policies.Policy`, as for all of these."""
        return self._ask(self._look_up, oblock, write, fast_copy, instead=lambda: self._find(oblock))

    def _look_up(self, oblock: int, write: bool, fast_copy: bool) -> int:
        return self._checked(oblock, self._inner.lookup(oblock, write, fast_copy))

    def _checked(self, oblock: int, cblock: int) -> int:
        """Return an answer that the mapping agrees with; raises ValueError for any other."""
        found = self._find(oblock)
        if cblock != found and not (found == MISS and cblock == MISS_QUEUED):
            held = "not cached" if found == MISS else f"in cblock {found}"
            msg = f"{cblock!r} is no answer to a lookup of oblock {oblock}, which is {held}"
            raise ValueError(msg)
        return index(cblock)

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        """See above."""
        return self._ask(self._look_up_with_work, oblock, write, fast_copy, instead=lambda: (self._find(oblock), None))

    def _look_up_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        cblock, work = self._inner.lookup_with_work(oblock, write, fast_copy)
        cblock = self._checked(oblock, cblock)
        if work is not None and (work.op is not Op.PROMOTE or work.oblock != oblock):
            msg = f"{work} is no promotion of oblock {oblock}"
            raise ValueError(msg)
        return cblock, self._hand_out(work)

    def observe_bio(self, offset: int, length: int, discarded: bool, now_ms: int) -> None:
        """See above."""
        self._ask(self._inner.observe_bio, offset, length, discarded, now_ms, instead=_nothing)

    def get_background_work(self, idle: bool) -> Work | None:
        """See above."""
        return self._ask(self._next_work, idle, instead=_nothing)

    def _next_work(self, idle: bool) -> Work | None:
        return self._hand_out(self._inner.get_background_work(idle))

    def _hand_out(self, theirs: Work | None) -> Work | None:
        """Return a copy of an item; raises ValueError if it cannot be carried out beside those that are outstanding."""
        if theirs is None:
            return None
        work = Work(Op(theirs.op), index(theirs.oblock), index(theirs.cblock))
        cache_blocks = 0 if self._mapping is None else self._mapping.cache_blocks
        if not (0 <= work.oblock < self._origin_blocks and 0 <= work.cblock < cache_blocks):
            msg = f"{work}: there is no such block"
            raise ValueError(msg)
        if work.oblock in self._oblocks or work.cblock in self._cblocks:
            msg = f"{work}: another item for one of these blocks is out"
            raise ValueError(msg)
        if work.op is Op.PROMOTE:
            self._require_free(work)
        self._items[work] = theirs
        self._oblocks.add(work.oblock)
        self._cblocks.add(work.cblock)
        return work

    def _require_free(self, work: Work) -> None:
        """Raise ValueError for a promotion that cannot be carried out; a request may wait for it, and must not fail."""
        if self._mapping is not None and self._mapping.oblock_of[work.cblock] >= 0:
            msg = f"{work}: cblock {work.cblock} is not free"
            raise ValueError(msg)
        if self._find(work.oblock) >= 0:
            msg = f"{work}: oblock {work.oblock} is cached"
            raise ValueError(msg)

    def complete_background_work(self, work: Work, success: bool) -> None:
        """See above."""
        theirs = self._items.pop(work)
        self._oblocks.remove(work.oblock)
        self._cblocks.remove(work.cblock)
        self._ask(self._inner.complete_background_work, theirs, success, instead=_nothing)

    def set_dirty(self, cblock: int) -> None:
        """See above."""
        self._tell(self._inner.set_dirty, cblock)

    def clear_dirty(self, cblock: int) -> None:
        """See above."""
        self._tell(self._inner.clear_dirty, cblock)

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        """See above."""
        self._ask(self._inner.load_mapping, oblock, cblock, dirty, hint, instead=_nothing)

    def load_mappings(self, mappings: Iterable[tuple[int, int, bool, int | None]]) -> None:
        """See above."""
        if self._early is not None:
            raise self._early
        self._ask(self._inner.load_mappings, mappings, instead=_nothing)

    def coldest_first(self) -> Iterator[list[int]]:
        """See above."""
        listed = self._ask(self._inner.coldest_first, instead=_no_list)
        while (some := self._ask(self._next_listed, listed, instead=_nothing)) is not None:
            yield some

    def _next_listed(self, listed: Iterator[list[int]]) -> list[int] | None:
        some = next(listed, None)
        if some is None:
            return None
        cache_blocks = 0 if self._mapping is None else self._mapping.cache_blocks
        cblocks = [index(cblock) for cblock in some]
        for cblock in cblocks:
            if not 0 <= cblock < cache_blocks:
                msg = f"{cblock} is no cblock that could be listed"
                raise ValueError(msg)
        return list(dict.fromkeys(cblocks))

    def hint_by_rank(self, rank: int, mapped: int) -> int | None:
        """See above."""
        return self._ask(self._hint_by_rank, rank, mapped, instead=_nothing)

    def _hint_by_rank(self, rank: int, mapped: int) -> int | None:
        hint = self._inner.hint_by_rank(rank, mapped)
        return None if hint is None else _checked_hint(hint)

    def invalidate_mapping(self, cblock: int) -> bool:
        """See above."""
        return self._ask(self._forget, cblock, may_refuse=True, instead=lambda: True)

    def _forget(self, cblock: int) -> bool:
        try:
            return bool(self._inner.invalidate_mapping(cblock))
        except PolicyError:
            if self._mapping is None or cblock in self._cblocks:
                raise
        # No item for it is out.  Whoever asked would wait for ever, unless one is queued: they all go back.
        queued = list[Work]()
        while cblock not in self._cblocks and (work := self._next_work(idle=False)) is not None:
            queued.append(work)
        for work in queued:
            self.complete_background_work(work, False)
        try:
            return bool(self._inner.invalidate_mapping(cblock))
        except PolicyError as exc:
            msg = f"it does not forget cblock {cblock}, for which no item is out: {exc}"
            raise ValueError(msg) from exc

    def get_hint(self, cblock: int) -> int:
        """See above."""
        return self._ask(self._hint_of, cblock, instead=lambda: 0)

    def _hint_of(self, cblock: int) -> int:
        return _checked_hint(self._inner.get_hint(cblock))

    def residency(self) -> int:
        """See above."""
        return self._ask(self._count, instead=lambda: self._mapping.mapped_count if self._mapping else 0)

    def _count(self) -> int:
        blocks = index(self._inner.residency())
        if self._mapping is not None and not 0 <= blocks <= self._mapping.cache_blocks:
            msg = f"{blocks} blocks cannot be allocated, of {self._mapping.cache_blocks}"
            raise ValueError(msg)
        return blocks

    def tick(self, now_ms: int) -> None:
        """See above."""
        self._ask(self._inner.tick, now_ms, instead=_nothing)

    def set_config_value(self, key: str, value: str) -> None:
        """See above."""
        self._ask(self._inner.set_config_value, key, value, may_refuse=True, instead=_nothing)

    def memory(self) -> bytes:
        """See above."""
        return self._ask(lambda: bytes(self._inner.memory()), instead=bytes)

    def remember(self, memory: bytes) -> bool:
        """See above."""
        return self._ask(lambda: bool(self._inner.remember(memory)), instead=bool)

    def config_values(self) -> dict[str, str]:
        """See above."""
        return self._ask(self._values, instead=dict[str, str])

    def _values(self) -> dict[str, str]:
        values = dict(self._inner.config_values())
        for word in (word for pair in values.items() for word in pair):
            if not str.isprintable(word):  # a TypeError if it is no text
                msg = f"{word!r} is no text that can name a tunable or be its value"
                raise ValueError(msg)
        return values

    def allow_migrations(self, allowed: bool) -> None:
        """See above."""
        self._ask(self._inner.allow_migrations, allowed, instead=_nothing)

    def check(self) -> None:
        """See above."""
        assert self._oblocks == {work.oblock for work in self._items}
        assert self._cblocks == {work.cblock for work in self._items}
        assert len(self._items) == len(self._oblocks) == len(self._cblocks)
        if not self._failed:
            self._inner.check()


def _nothing() -> None:
    pass


def _no_list() -> Iterator[list[int]]:
    return iter(())


def _checked_hint(hint: int) -> int:
    """Return what a policy gave as a hint; raises ValueError if it is none."""
    number = index(hint)
    if not 0 <= number < _HINTS:
        msg = f"{number} is no hint: it has more than 32 bits"
        raise ValueError(msg)
    return number


def guarded(policy: Policy, origin_blocks: int) -> Policy:
    """Put a guard around a policy, if it is not one of our own."""
    return policy if type(policy).__module__.partition(".")[0] == "policies" else GuardedPolicy(policy, origin_blocks)
