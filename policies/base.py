"""The contract between a cache and its replacement policy.

Theory of operation
-------------------
A policy decides *what* is cached and *where*; it never does I/O, never waits and has no clock: the time arrives as
an argument, in whole milliseconds.  The cache (the caller) owns the data, the locks and the durable record.  The two
talk in block numbers only:

``oblock``
    index of a block of the origin, ``0 <= oblock < origin_blocks``.
``cblock``
    index of a block of the cache, ``0 <= cblock < cache_blocks``.  The policy allocates cblocks.

The cache refers every read or write inside one block (a *bio*) to :meth:`Policy.lookup`; a policy learns nowhere
else.  The policy asks for :class:`Work`: promotions (copy origin to cache, then map), demotions (unmap) and writebacks
(copy cache to origin; the block stays mapped and becomes clean).  The cache gives each item back exactly once, the very
same object, through :meth:`Policy.complete_background_work`.  Until then lookups still find the block of an item,
unless it is being promoted: then they find it from completion on.

A policy that admits at once queues a promotion at the very miss that it wants it for, and hands it out first.  Then the
cache fills the block from the read that missed, or from the write, and nothing is read twice.

The shape is that of dm-cache's policy interface since Linux 4.12.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import ClassVar, Final

MISS: Final = -1
"""Answer of a lookup: the block is not cached, and nothing is wanted."""

MISS_QUEUED: Final = -2
"""Answer of a lookup: the block is not cached; the policy wants background work done (ask for it)."""


class PolicyError(Exception):
    """The policy cannot do what was asked; the message is one clear line."""


class UnknownPolicyError(PolicyError):
    """There is no policy of that name."""


class BadTunableError(PolicyError):
    """Unknown tunable, or a value out of its range; nothing was changed."""


class Op(Enum):
    """What a :class:`Work` item asks for."""

    PROMOTE = "promote"
    DEMOTE = "demote"
    WRITEBACK = "writeback"


PROMOTE: Final = Op.PROMOTE
DEMOTE: Final = Op.DEMOTE
WRITEBACK: Final = Op.WRITEBACK
"""For those who look often: the name of an Enum's member takes Python 3.11 five times as long as one of a module."""


class Work:
    """One migration that the policy asks for; the cache gives the same object back when it is done.

    :ivar op: what to do.
    :ivar oblock: the origin block to copy, unmap or write back.
    :ivar cblock: the cache block that it goes to, lies in, or leaves.
    """

    __slots__ = ("cblock", "oblock", "op")

    def __init__(self, op: Op, oblock: int, cblock: int) -> None:
        self.op = op
        self.oblock = oblock
        self.cblock = cblock

    def __repr__(self) -> str:
        return f"Work({self.op.name}, oblock={self.oblock}, cblock={self.cblock})"


class Policy(ABC):
    """A replacement policy for one cache.

    Constructed as ``cls(cache_blocks=..., origin_blocks=..., block_size=..., now_ms=...)``; sizes in blocks and bytes,
    all at least 1; ``now_ms`` is the time of creation on the clock that ticks will show.
    No method may block or take more than a few milliseconds: they run in the event loop.
    """

    name: ClassVar[str]
    """The name users type, shorter than 16 characters; aliases resolve to it."""

    version: ClassVar[tuple[int, int, int]] = (1, 0, 0)
    """Hints are kept across a restart only if the name and the first number are the same."""

    hint_size: ClassVar[int] = 0
    """4 if :meth:`get_hint` means something, else 0."""

    observes_bios: ClassVar[bool] = False
    """Whether :meth:`observe_bio` is to be called before each lookup."""

    keeps_heat: ClassVar[bool] = False
    """Whether :meth:`coldest_first` lists its blocks, and it can learn them in the order of another policy's list."""

    absorbs: bool = False
    """Whether any write may promote its block without a read: the cache then refers all writes to :meth:`lookup`, with
    ``fast_copy``.  If the answer is :data:`MISS_QUEUED`, and the next item of :meth:`get_background_work` is the
    promotion of this block, the block is cached with what was written, and the rest of it stays at the origin.

    The simulator asks :meth:`lookup_with_work` instead, so a policy that absorbs hands out the promotion there too."""

    orders_writebacks: ClassVar[bool] = False
    """Whether it orders writebacks by itself when the origin is idle; otherwise the cache writes back then."""

    @abstractmethod
    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        """Refer one bio to the policy.

        :param fast_copy: promoting this block would cost no read of the origin: the bio is a write that covers it, or
            any write while the policy :attr:`absorbs`.
        :return: the cblock (>= 0) of a hit, or :data:`MISS`, or :data:`MISS_QUEUED`.
        """

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        """Do as :meth:`lookup` does, but hand out a promotion of this very block at once.

        The item counts as handed out.  Policies without a use for this keep the default.
        """
        return self.lookup(oblock, write, fast_copy), None

    def observe_bio(self, offset: int, length: int, discarded: bool, now_ms: int) -> None:  # noqa: B027 - optional hook
        """See where the bio that is looked up next begins and how long it is, in bytes of the image."""

    @abstractmethod
    def get_background_work(self, idle: bool) -> Work | None:
        """Hand out one item of work, or None.  ``idle``: the origin has had no user I/O for a while."""

    @abstractmethod
    def complete_background_work(self, work: Work, success: bool) -> None:
        """Take back an item, done or failed.  The caller then sets the block clean or dirty where it matters."""

    @abstractmethod
    def set_dirty(self, cblock: int) -> None:
        """Learn that a mapped block has become dirty."""

    @abstractmethod
    def clear_dirty(self, cblock: int) -> None:
        """Learn that a mapped block has become clean."""

    @abstractmethod
    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        """Learn of a block that is cached already, before any lookup; ``hint`` is None if there is no valid one."""

    def load_mappings(self, mappings: Iterable[tuple[int, int, bool, int | None]]) -> None:
        """Learn of many blocks, ``(oblock, cblock, dirty, hint)`` as :meth:`load_mapping` takes them, in that order.

        If one of them is refused, the policy may be unusable.
        """
        for oblock, cblock, dirty, hint in mappings:
            self.load_mapping(oblock, cblock, dirty, hint)

    def coldest_first(self) -> Iterator[list[int]]:
        """List the cblocks of mapped blocks, coldest first, so that the next policy knows which are hot.

        They come in slices, each a matter of a few milliseconds; some are empty.  Lookups go on between them, so a
        block may be listed twice, or not at all; the latter counts as hot.  A list may end when another one is begun.
        """
        return iter(())

    def hint_by_rank(self, rank: int, mapped: int) -> int | None:
        """Tell the hint with which to learn a block of another policy's list: ``rank`` of ``mapped`` blocks are colder.

        None if it is enough that blocks are loaded coldest first.
        """
        del rank, mapped
        return None

    @abstractmethod
    def invalidate_mapping(self, cblock: int) -> bool:
        """Forget a mapped block, clean or dirty.

        :return: False if nothing is mapped there.
        :raises PolicyError: an item of work is outstanding for it; try again when it is done.
        """

    def get_hint(self, cblock: int) -> int:
        """Tell what to remember of a block across a restart: 0 <= hint < 2**32; 0 for unmapped ones."""
        del cblock
        return 0

    def memory(self) -> bytes:
        """Return what has been learned apart from what hints tell, for a restart; a few KiB at most, or nothing."""
        return b""

    def remember(self, memory: bytes) -> bool:
        """Learn what a policy of the same name has told by :meth:`memory`; call it before the first lookup.

        :return: False if it is nothing of the kind, or nothing that this version knows; then nothing has changed.
        """
        del memory
        return False

    @abstractmethod
    def residency(self) -> int:
        """Count the allocated cache blocks, those reserved for promotions under way included."""

    def tick(self, now_ms: int) -> None:  # noqa: B027 - optional hook
        """Let time pass; a block ought to count as hit at most once between two ticks."""

    def set_config_value(self, key: str, value: str) -> None:
        """Set a tunable from its text form.

        :raises BadTunableError: no such tunable, or a bad value; nothing was changed.
        """
        del value
        msg = f"policy {self.name} has no tunable {key!r}"
        raise BadTunableError(msg)

    def config_values(self) -> dict[str, str]:
        """List the tunables and their values, in the order in which the status line shows them."""
        return {}

    def allow_migrations(self, allowed: bool) -> None:  # noqa: B027 - optional hook
        """Forbid or allow new promotions and demotions; items already handed out go on."""

    @abstractmethod
    def check(self) -> None:
        """Assert every invariant of the policy's structures; for tests."""
