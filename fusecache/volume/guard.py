"""A guard around policies of other packages: an error in one costs hits, not the mount.

The mapping knows what is cached, so fusecache can do without a policy at any moment.  Once a policy has raised anything
that the contract does not allow, the guard asks it no more.  It answers lookups from the mapping, and nothing is
promoted, demoted or written back until another policy is set.

The guard also stops asking a policy that orders work for a block for which an item is outstanding, or for a block that
does not exist: whoever carries out an item relies on nobody else having one for the same block.  It hands out a copy of
each item, since the policy might change its own.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, TypeVar

import structlog

from policies import MISS, Op, Policy, PolicyError, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fusecache.block import Health, Mapping

log = structlog.get_logger(__name__)

T = TypeVar("T")


class GuardedPolicy(Policy):
    """A policy of another package.  Until :meth:`serve` begins the guard, whatever the policy raises is passed on."""

    def __init__(self, inner: Policy) -> None:
        self._inner = inner
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

    def serve(self, mapping: Mapping, health: Health) -> None:
        """Guard from here on: answer from ``mapping`` if the policy fails, and report that to ``health``."""
        self._mapping = mapping
        self._health = health

    def _ask(self, function: Callable[..., T], *args: object, instead: Callable[[], T], may_refuse: bool = False) -> T:
        if not self._failed:
            try:
                return function(*args)
            except Exception as exc:
                if self._health is None or (may_refuse and isinstance(exc, PolicyError)):
                    raise
                self._failed = True
                self.hint_size = 0  # type: ignore[misc]  # it has none that mean anything any more
                self._health.policy_failed = f"{self.name}: {type(exc).__name__}: {exc}"
                log.exception("policy failed", policy=self.name)
        return instead()

    def _find(self, oblock: int) -> int:
        cblock = -1 if self._mapping is None else self._mapping.find(oblock)
        return cblock if cblock >= 0 else MISS

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """See :class:`policies.Policy`, as for all of these."""
        return self._ask(self._inner.lookup, oblock, write, fast_copy, instead=lambda: self._find(oblock))

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        """See above."""
        return self._ask(self._look_up, oblock, write, fast_copy, instead=lambda: (self._find(oblock), None))

    def _look_up(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        cblock, work = self._inner.lookup_with_work(oblock, write, fast_copy)
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
        if work.oblock < 0 or not 0 <= work.cblock < cache_blocks:
            msg = f"{work}: there is no such block"
            raise ValueError(msg)
        if work.oblock in self._oblocks or work.cblock in self._cblocks:
            msg = f"{work}: another item for one of these blocks is out"
            raise ValueError(msg)
        self._items[work] = theirs
        self._oblocks.add(work.oblock)
        self._cblocks.add(work.cblock)
        return work

    def complete_background_work(self, work: Work, success: bool) -> None:
        """See above."""
        theirs = self._items.pop(work)
        self._oblocks.remove(work.oblock)
        self._cblocks.remove(work.cblock)
        self._ask(self._inner.complete_background_work, theirs, success, instead=_nothing)

    def set_dirty(self, cblock: int) -> None:
        """See above."""
        self._ask(self._inner.set_dirty, cblock, instead=_nothing)

    def clear_dirty(self, cblock: int) -> None:
        """See above."""
        self._ask(self._inner.clear_dirty, cblock, instead=_nothing)

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        """See above."""
        self._ask(self._inner.load_mapping, oblock, cblock, dirty, hint, instead=_nothing)

    def load_mappings(self, mappings: Iterable[tuple[int, int, bool, int | None]]) -> None:
        """See above."""
        self._ask(self._inner.load_mappings, mappings, instead=_nothing)

    def invalidate_mapping(self, cblock: int) -> bool:
        """See above."""
        return self._ask(self._inner.invalidate_mapping, cblock, may_refuse=True, instead=lambda: True)

    def get_hint(self, cblock: int) -> int:
        """See above."""
        return self._ask(self._inner.get_hint, cblock, instead=lambda: 0)

    def residency(self) -> int:
        """See above."""
        return self._ask(self._inner.residency, instead=lambda: self._mapping.mapped_count if self._mapping else 0)

    def tick(self, now_ms: int) -> None:
        """See above."""
        self._ask(self._inner.tick, now_ms, instead=_nothing)

    def set_config_value(self, key: str, value: str) -> None:
        """See above."""
        self._ask(self._inner.set_config_value, key, value, may_refuse=True, instead=_nothing)

    def config_values(self) -> dict[str, str]:
        """See above."""
        return self._ask(self._inner.config_values, instead=dict[str, str])

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


def guarded(policy: Policy) -> Policy:
    """Put a guard around a policy, if it is not one of our own."""
    return policy if type(policy).__module__.partition(".")[0] == "policies" else GuardedPolicy(policy)
