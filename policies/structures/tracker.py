"""Work that a policy has asked for and not seen finished yet.

There are at most so many items at once, and at most one for any origin block.  The item that was asked for last is
handed out first: a block that is hot now is worth more than one that was.  After dm-cache's background tracker.
"""

from __future__ import annotations

from typing import Final

from policies.base import DEMOTE, Op, PolicyError, Work

MAX_WORK: Final = 4096
"""Most items outstanding, queued and issued ones together."""


class WorkTracker:
    """Keep the items that are queued (not handed out yet) or issued (handed out).

    :ivar queued: the items that are not handed out yet, by origin block; for others to read only, as what follows.
    :ivar issued: those that are.
    :ivar limit: most items of both kinds.
    :ivar demotions: how many of the items are demotions.
    """

    __slots__ = ("demotions", "issued", "limit", "queued")

    def __init__(self, limit: int = MAX_WORK) -> None:
        """Start with no work; refuse items beyond ``limit``."""
        self.limit = limit
        self.queued: dict[int, Work] = {}
        self.issued: dict[int, Work] = {}
        self.demotions = 0

    def __contains__(self, oblock: int) -> bool:
        """Tell whether an item for this origin block is outstanding."""
        return oblock in self.issued or oblock in self.queued

    @property
    def is_full(self) -> bool:
        """Whether any further item would be refused."""
        return len(self.queued) + len(self.issued) >= self.limit

    def queue(self, op: Op, oblock: int, cblock: int) -> bool:
        """Add an item to be handed out; False if it is refused."""
        queued, issued = self.queued, self.issued
        if len(queued) + len(issued) >= self.limit or oblock in issued or oblock in queued:
            return False
        self.demotions += op is DEMOTE
        queued[oblock] = Work(op, oblock, cblock)
        return True

    def issue_new(self, op: Op, oblock: int, cblock: int) -> Work | None:
        """Add an item and hand it out at once; None if it is refused."""
        queued, issued = self.queued, self.issued
        if len(queued) + len(issued) >= self.limit or oblock in issued or oblock in queued:
            return None
        self.demotions += op is DEMOTE
        work = issued[oblock] = Work(op, oblock, cblock)
        return work

    def issue(self) -> Work | None:
        """Hand out the item that was queued last, or None."""
        if not self.queued:
            return None
        oblock, work = self.queued.popitem()
        self.issued[oblock] = work
        return work

    def requeue(self, oblock: int) -> bool:
        """Let the item of an origin block be handed out next; False if it is handed out already."""
        work = self.queued.pop(oblock, None)
        if work is None:
            return False
        self.queued[oblock] = work
        return True

    def cblocks(self, op: Op) -> list[int]:
        """List the cache blocks of all outstanding items of a kind."""
        return [work.cblock for items in (self.queued, self.issued) for work in items.values() if work.op is op]

    def complete(self, work: Work) -> None:
        """Forget an item that was handed out.

        :raises PolicyError: it was not handed out here, or is complete already.
        """
        oblock = work.oblock
        if self.issued.get(oblock) is not work:
            msg = f"{work} has not been handed out, or is complete already"
            raise PolicyError(msg)
        del self.issued[oblock]
        self.demotions -= work.op is DEMOTE

    def check(self) -> dict[int, Work]:
        """Assert that counts agree; return the outstanding items by origin block."""
        outstanding = self.queued | self.issued
        assert len(outstanding) == len(self.queued) + len(self.issued) <= self.limit
        assert all(oblock == work.oblock for oblock, work in outstanding.items())
        assert self.demotions == sum(work.op is DEMOTE for work in outstanding.values())
        return outstanding
