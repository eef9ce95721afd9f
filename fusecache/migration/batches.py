"""What is migrated together, and the blocks that are locked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from fusecache.errors import BusyError, FusecacheError
from fusecache.migration.origin_slots import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusecache.block import Level
    from fusecache.volume import Volume
    from policies import Policy, Work


class Batch:
    """Items of work of one kind, in the order of the origin, that are carried out together.

    :param policy: gets each item back exactly once; None if no policy has ordered them.
    :param rate_applied: whether the batch has waited for the copy rate.
    :param patience: seconds for which a write to the origin lets users go first.
    :ivar errors: what went wrong, by item.
    """

    __slots__ = ("_open", "_policy", "errors", "patience", "rate_applied", "works")

    def __init__(
        self, works: Sequence[Work], policy: Policy | None, *, rate_applied: bool = True, patience: float = PATIENCE
    ) -> None:
        self.works = works
        self._policy = policy
        self._open = dict.fromkeys(works)
        self.rate_applied = rate_applied
        self.patience = patience
        self.errors: dict[Work, FusecacheError] = {}

    def done(self, work: Work, success: bool = True) -> None:
        """Give an item back."""
        del self._open[work]
        if self._policy is not None:
            self._policy.complete_background_work(work, success)

    def failed(self, work: Work, error: FusecacheError) -> None:
        """Give an item back that could not be done, and note why."""
        self.errors[work] = error
        self.done(work, False)

    def close(self) -> None:
        """Give back as not done whatever was not given back yet."""
        for work in list(self._open):
            self.done(work, False)


class Held:
    """The blocks that one coroutine has exclusively; it releases them one by one, or at the end of the with block."""

    __slots__ = ("_locks", "_oblocks")

    def __init__(self, volume: Volume) -> None:
        self._locks = volume.locks
        self._oblocks: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for oblock in self._oblocks:
            self._locks.end_exclusive(oblock)

    def adopt(self, oblocks: Iterable[int]) -> None:
        """Release these blocks as well, which the caller has taken."""
        self._oblocks.update(oblocks)

    async def take(self, oblock: int, level: Level) -> None:
        """Take a block, and wait until those whom we keep out have left; raises BusyError if somebody migrates it."""
        if not self._locks.try_exclusive(oblock, level):
            msg = f"oblock {oblock} is being migrated"
            raise BusyError(msg)
        self._oblocks.add(oblock)
        await self._locks.drain(oblock)

    async def take_free(self, oblocks: Iterable[int], level: Level) -> list[int]:
        """Take those blocks that nobody migrates, and wait until those whom we keep out have left; returns them."""
        taken = [oblock for oblock in oblocks if self._locks.try_exclusive(oblock, level)]
        self._oblocks.update(taken)
        for oblock in taken:
            await self._locks.drain(oblock)
        return taken

    async def take_when_free(self, oblock: int, level: Level) -> None:
        """Take a block as soon as nobody migrates it any more; the caller holds no other one."""
        assert not self._oblocks
        await self._locks.take_exclusive(oblock, level)
        self._oblocks.add(oblock)
        await self._locks.drain(oblock)

    def release(self, oblock: int) -> None:
        """Release a block, if it was taken."""
        if oblock in self._oblocks:
            self._oblocks.remove(oblock)
            self._locks.end_exclusive(oblock)
