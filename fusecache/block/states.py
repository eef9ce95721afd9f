"""The states of a cached block: its flags, and the table of what happens to them.

Theory of operation
-------------------
The state of a cached block is one byte, a set of the six flags below.  :class:`Event` is the table: each row names one
thing that can happen to a mapped block, in which states it can happen, which flags it sets and which it clears.
:class:`fusecache.block.mapping.Mapping` has one method an event and is the only one who changes a state; each method
looks up the new state in 256 bytes that :func:`transitions` computes from the row.

A block enters the cache with state 0: clean, with a durable row that says so.  That is what recovery finds.  A
promotion follows at once with :attr:`Event.PROMOTED`, and an overwrite with :attr:`Event.WRITTEN` after that.  Whatever
changes no flag is not in the table: a snapshot of a dirty block, or of a clean block whose region is open.

An event that happens in a state in which it cannot is a mistake in the program.  It still sets and clears what its row
says, and besides leaves :data:`MISUSED` in the state for good, which :meth:`Mapping.check` reports.  So the check costs
nothing on the path of a hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

DIRTY: Final = 1
"""The cache holds something that the origin may not have."""

WRITE_INTENT: Final = 2
"""Whatever the durable record says after a crash, recovery will suspect this block; so it is safe to write to it."""

RECORDED: Final = 4
"""The durable row of this block says dirty."""

SUMMED: Final = 8
"""The block is clean, and ``Mapping.sums[cblock]`` is the CRC-32C of its content."""

WRITEBACK_IN_FLIGHT: Final = 16
"""The block is dirty, and a copy of its content is on its way to the origin.  A write clears the flag: the copy is then
out of date, and its arrival does not make the block clean."""

PARTIAL: Final = 32
"""The cache holds only some sectors of this block, ``Mapping.valid[cblock]``; the others are at the origin."""

ANY_FLAG: Final = DIRTY | WRITE_INTENT | RECORDED | SUMMED | WRITEBACK_IN_FLIGHT | PARTIAL
_BUT_PARTIAL: Final = ANY_FLAG & ~PARTIAL

MISUSED: Final = 128
"""Not a flag: an event happened in a state in which it cannot happen."""

WRITABLE: Final = DIRTY | WRITE_INTENT
"""A block with these two, and without :data:`WRITEBACK_IN_FLIGHT` and :data:`PARTIAL`, stays as it is when somebody
writes to it."""


@dataclass(frozen=True, slots=True, eq=False)  # two rows may be alike; an Enum would take equal ones for one
class Change:
    """One row of the table: what an event does to the flags.

    :ivar having: flags that are set whenever the event happens.
    :ivar lacking: flags that are clear whenever the event happens.
    """

    having: int = 0
    lacking: int = 0
    sets: int = 0
    clears: int = 0


class Event(Enum):
    """The table.  A member has the name of the method of Mapping that carries it out."""

    # The block comes and goes.

    PROMOTED = Change(lacking=_BUT_PARTIAL, sets=WRITE_INTENT)
    """A migration mapped the block.  It has no row yet; its first row will tell its state at that time."""

    RECOVERED_DIRTY = Change(lacking=_BUT_PARTIAL, sets=DIRTY | WRITE_INTENT | RECORDED)
    """Recovery found a row that says dirty."""

    RECOVERED_SUSPECT = Change(lacking=_BUT_PARTIAL, sets=DIRTY | WRITE_INTENT)
    """After a crash, recovery found a row that says clean in a region that was open."""

    REMOVED = Change(lacking=DIRTY, clears=ANY_FLAG)
    """The block was unmapped."""

    KEPT = Change(lacking=DIRTY, clears=RECORDED)
    """The removal could not be committed, and the block is mapped again in the state that it had.  Whether its row is
    still there, nobody knows."""

    # Some sectors of it, or all.

    HOLDS_PART = Change(sets=PARTIAL, clears=SUMMED | WRITEBACK_IN_FLIGHT)
    """Only some sectors of the block count: it was mapped with these, or the others were lost."""

    COMPLETED = Change(having=PARTIAL, clears=PARTIAL)
    """The cache has the last of its sectors now."""

    # Users write.

    INTENT_RECORDED = Change(lacking=WRITE_INTENT | DIRTY, sets=WRITE_INTENT)
    """The region of the block is durably open."""

    WRITTEN = Change(having=WRITE_INTENT, sets=DIRTY, clears=SUMMED | WRITEBACK_IN_FLIGHT)
    """A write to the cache succeeded."""

    WRITE_FAILED = Change(having=WRITE_INTENT, clears=WRITEBACK_IN_FLIGHT)
    """A write to the cache failed.  It may have changed a part of the block: a copy taken before it is out of date."""

    REWRITING = Change(having=WRITE_INTENT, lacking=DIRTY, clears=SUMMED)
    """A write to both the cache and the origin begins.  The block stays clean, with another content."""

    # Migrations, and what becomes known.

    WRITEBACK_BEGUN = Change(having=DIRTY, lacking=WRITEBACK_IN_FLIGHT, sets=WRITEBACK_IN_FLIGHT)
    """A writeback took its copy of the block."""

    WRITEBACK_ENDED = Change(having=WRITE_INTENT, lacking=SUMMED, clears=WRITEBACK_IN_FLIGHT)
    """The copy reached the origin, or failed to.  If the flag was still set, nobody has written to the block meanwhile,
    and a copy that has arrived makes it CLEANED.  If not, the block was written to, or its cache was lost."""

    CLEANED = Change(having=DIRTY, lacking=PARTIAL, sets=SUMMED, clears=DIRTY | WRITEBACK_IN_FLIGHT)
    """The origin has what the cache has, and the sum of it is known."""

    CLEANED_IN_PART = Change(having=DIRTY | PARTIAL, clears=DIRTY | WRITEBACK_IN_FLIGHT)
    """The origin has what the cache has of the block."""

    SUM_KNOWN = Change(lacking=DIRTY | PARTIAL, sets=SUMMED)
    """Somebody has read the whole clean block, or its row has the sum."""

    WRITE_LOST = Change(having=DIRTY, clears=DIRTY | WRITEBACK_IN_FLIGHT)
    """The cache may have forgotten what was written to the block, so the origin's older content is what counts."""

    DISCARDED = Change(having=DIRTY | WRITE_INTENT, lacking=WRITEBACK_IN_FLIGHT, clears=DIRTY)
    """The origin has zeros in the place of the block, which nobody needs any more; it is about to be unmapped."""

    # Rounds of commits.

    TAKEN_AS_CLEAN = Change(lacking=DIRTY, clears=WRITE_INTENT)
    """A snapshot took the block as clean while its region was not open: from here on it is not safe to write to it."""

    COMMITTED_CLEAN = Change(clears=RECORDED)
    """A commit made its row say clean; the block may have become dirty since the snapshot."""

    COMMITTED_DIRTY = Change(having=WRITE_INTENT, sets=RECORDED)
    """A commit made its row say dirty; the block may have become clean since the snapshot."""

    def may_meet(self, state: int) -> bool:
        """Tell whether this can happen to a block in this state."""
        change = self.value
        return state & (change.having | MISUSED) == change.having and not state & change.lacking

    def after(self, state: int) -> int:
        """Return the state that follows."""
        change = self.value
        misused = 0 if self.may_meet(state) else MISUSED
        return state & ~change.clears | change.sets | misused


def transitions(event: Event) -> bytes:
    """Return the state after an event for each of the 256 states before."""
    return bytes(map(event.after, range(256)))


def broken_rule(state: int) -> str:
    """Say which rule a state breaks, or nothing."""
    if state & MISUSED:
        return "an event happened that could not"
    if state & DIRTY and not state & WRITE_INTENT:
        return "dirty without write intent"
    if state & DIRTY and state & SUMMED:
        return "dirty with a sum"
    if state & PARTIAL and state & SUMMED:
        return "held in part, with a sum"
    if state & WRITEBACK_IN_FLIGHT and not state & DIRTY:
        return "written back without being dirty"
    return ""
