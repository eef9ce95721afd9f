"""Links between entries, in runs: what queues of many levels are built on.

Theory of operation
-------------------
A queue orders its entries by age within levels.  Plain linked lists would do, but for redistribution: once a period,
very many entries change their level at once, and writing a million level numbers takes Python a good part of a second.
So an entry does not know its level but its *run*: up to ``run_size`` neighbours of one level, linked into a ring of
their own.  A level is a chain of runs.  To move a run to another level, or to reverse it, takes a change of one word.
Entries are touched one by one only where a run must be cut.

Everything is a small integer.  Entries are ``0 .. entries-1``; run ``r`` has a node, index ``entries + r`` of the link
arrays, which closes its ring.  ``newer[node]`` is the oldest entry of the run and ``older[node]`` the newest one,
unless the run is *reversed*: then the two arrays swap their meaning inside it.  An entry is taken out the same way.

Some run numbers are *anchors*, which never hold entries.  The resting ones, 0 to 63, are labels of entries that lie in
no queue, and tell their level.  Heads close the chain of each level.  Markers stand in a chain between runs (see
levels.py).  An anchor counts as full, so that a push looks at one number only.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, Protocol

LEVELS: Final = 64
_FULL: Final = 2**31 - 1
_RUN_SIZE: Final = 512
_LABELS: Final = 2**16
_ENTRIES_PER_NODE: Final = 128
_NODES: Final = 512
_SPARE_LABELS: Final = 1024  # for redistributions, which open some runs but cannot be interrupted


class Tidied(Protocol):
    """A user of runs that can merge its small ones."""

    def tidy(self, budget: int) -> None:
        """Merge small runs, moving about ``budget`` entries at most."""


class RunPool:
    """The links and the runs of a fixed number of entries.

    :ivar older: link of each entry or node towards the older neighbour.
    :ivar newer: the same towards the newer one.
    :ivar label: the run that each entry lies in, or a resting anchor that tells its level.
    :ivar count: number of entries of each run; anchors count as full.
    :ivar level: level of each run.
    :ivar before: next run towards the older end of the chain.
    :ivar after: next run towards the newer end of the chain.
    :ivar reversed: 1 for runs whose two links are swapped.
    :ivar run_size: entries at which a run is full.
    """

    __slots__ = (
        "_limit",
        "_spare",
        "_users",
        "after",
        "anchors",
        "before",
        "count",
        "entries",
        "label",
        "level",
        "newer",
        "older",
        "reversed",
        "run_size",
    )

    def __init__(self, entries: int, run_size: int | None = None, labels: int = _LABELS) -> None:
        """Link nothing; all entries are at rest at level 0.  ``labels`` is how many run numbers there are."""
        self.entries = entries
        self.run_size = run_size or max(_RUN_SIZE, entries // 4096)
        self._limit = labels - _SPARE_LABELS
        # An array that grows takes a sixteenth more than it needs, so there is room for the usual number of nodes.
        links = entries + entries // _ENTRIES_PER_NODE + _NODES
        self.older = array("I", (0,)) * links
        self.newer = array("I", (0,)) * links
        self.label = array("H", (0,)) * entries
        self.count = array("i")
        self.level = bytearray()
        self.before = array("i")
        self.after = array("i")
        self.reversed = bytearray()
        self.anchors = 0
        self._spare: list[int] = []
        self._users: list[Tidied] = []
        for level in range(LEVELS):
            self.add_anchor(level)

    def add_anchor(self, level: int) -> int:
        """Make an anchor, in a chain of its own; only before the first run is opened."""
        assert self.anchors == len(self.count)
        self.anchors += 1
        return self._add(level, _FULL)

    def _add(self, level: int, count: int) -> int:
        run = len(self.count)
        node = self.entries + run
        if node == len(self.older):
            self.older.append(node)
            self.newer.append(node)
        self.older[node] = self.newer[node] = node
        self.count.append(count)
        self.level.append(level)
        self.before.append(run)
        self.after.append(run)
        self.reversed.append(0)
        return run

    def add_user(self, user: Tidied) -> None:
        """Add a user, who is asked to merge runs when run numbers get short."""
        self._users.append(user)

    def level_of(self, entry: int) -> int:
        """Tell the level of an entry, in a queue or not."""
        return self.level[self.label[entry]]

    def open_run(self, level: int) -> int:
        """Make an empty run that is in no chain."""
        if not self._spare:
            return self._add(level, 0)
        run = self._spare.pop()
        self.level[run] = level
        self.reversed[run] = 0
        return run

    def open_before(self, anchor: int) -> int:
        """Make an empty run in front of an anchor, for a push."""
        self._make_sure_of_numbers()
        run = self.open_run(self.level[anchor])
        self.chain_before(run, anchor)
        return run

    def _make_sure_of_numbers(self) -> None:
        if not self._spare and len(self.count) >= self._limit:
            for user in self._users:
                user.tidy(self.entries)

    def close_run(self, run: int) -> None:
        """Give back the number of an empty run."""
        self.unchain(run)
        self._spare.append(run)

    def chain_before(self, run: int, place: int) -> None:
        """Put a run into a chain, on the older side of ``place``."""
        ahead = self.before[place]
        self.before[run] = ahead
        self.after[run] = place
        self.after[ahead] = run
        self.before[place] = run

    def unchain(self, run: int) -> None:
        """Take a run out of its chain, entries and all."""
        ahead, behind = self.before[run], self.after[run]
        self.after[ahead] = behind
        self.before[behind] = ahead

    def oldest(self, run: int) -> int:
        """Return the oldest entry of a run that has any."""
        return (self.older if self.reversed[run] else self.newer)[self.entries + run]

    def unlink(self, entry: int) -> None:
        """Take an entry out of its run; its label is wrong until the caller sets it."""
        older, newer = self.older, self.newer
        run = self.label[entry]
        ahead, behind = older[entry], newer[entry]
        newer[ahead] = behind
        older[behind] = ahead
        left = self.count[run] - 1
        self.count[run] = left
        if not left:
            self.close_run(run)

    def append_before(self, entry: int, anchor: int) -> None:
        """Link an entry as the newest of what stands in front of an anchor."""
        run = self.before[anchor]
        if self.count[run] >= self.run_size or self.reversed[run]:
            run = self.open_before(anchor)
        older, newer = self.older, self.newer
        node = self.entries + run
        last = older[node]
        older[entry] = last
        newer[entry] = node
        newer[last] = entry
        older[node] = entry
        self.label[entry] = run
        self.count[run] += 1

    def prepend_after(self, entries: Sequence[int], anchor: int) -> None:
        """Link entries, one after the other, as the oldest of what stands behind an anchor."""
        older, newer, label = self.older, self.newer, self.label
        done = 0
        while done < len(entries):
            run = self._run_behind(anchor)
            part = entries[done : done + self.run_size - self.count[run]]
            node = self.entries + run
            first = newer[node]
            for entry in part:
                newer[entry] = first
                older[first] = entry
                label[entry] = run
                first = entry
            older[first] = node
            newer[node] = first
            self.count[run] += len(part)
            done += len(part)

    def _run_behind(self, anchor: int) -> int:
        """Return the run behind an anchor, a new one if there is none with room in front."""
        run = self.after[anchor]
        if self.count[run] >= self.run_size or self.reversed[run]:
            self._make_sure_of_numbers()
            run = self.open_run(self.level[anchor])
            self.chain_before(run, self.after[anchor])
        return run

    def cut(self, run: int, keep: int) -> tuple[int, int]:
        """Cut a run that is in no chain in two: the ``keep`` oldest, 0 < keep < count, and the others.

        The smaller part gets a new run number; O(its size).
        """
        moved = min(keep, self.count[run] - keep)
        from_oldest = moved == keep
        new = self.open_run(self.level[run])
        self.reversed[new] = self.reversed[run]
        forward = from_oldest != bool(self.reversed[run])
        onward, back = (self.newer, self.older) if forward else (self.older, self.newer)
        label = self.label
        node, new_node = self.entries + run, self.entries + new
        first = entry = last = onward[node]
        for _ in range(moved):
            label[entry] = new
            last = entry
            entry = onward[entry]
        onward[node] = entry
        back[entry] = node
        onward[new_node] = first
        back[first] = new_node
        onward[last] = new_node
        back[new_node] = last
        self.count[new] = moved
        self.count[run] -= moved
        return (new, run) if from_oldest else (run, new)

    def absorb(self, run: int, other: int) -> None:
        """Move the entries of ``other``, the run after ``run``, into ``run`` and close it; O(count of other)."""
        step = self.older if self.reversed[other] else self.newer
        onward, back = (self.older, self.newer) if self.reversed[run] else (self.newer, self.older)
        label = self.label
        node, other_node = self.entries + run, self.entries + other
        last = back[node]
        entry = step[other_node]
        while entry != other_node:
            following = step[entry]
            label[entry] = run
            onward[last] = entry
            back[entry] = last
            last = entry
            entry = following
        onward[last] = node
        back[node] = last
        self.count[run] += self.count[other]
        self.count[other] = 0
        self.older[other_node] = self.newer[other_node] = other_node
        self.close_run(other)

    def members(self, run: int) -> list[int]:
        """Assert that a run is sound; list its entries, oldest first."""
        node = self.entries + run
        step, back = (self.older, self.newer) if self.reversed[run] else (self.newer, self.older)
        found = []
        entry = step[node]
        assert back[entry] == node
        while entry != node:
            found.append(entry)
            assert self.label[entry] == run, f"entry {entry} in run {run} is labelled {self.label[entry]}"
            assert back[step[entry]] == entry
            entry = step[entry]
        assert len(found) == self.count[run] > 0
        return found

    def check(self) -> None:
        """Assert what is true of all runs, whatever uses them."""
        spare = set(self._spare)
        assert len(spare) == len(self._spare)
        for run, count in enumerate(self.count):
            node = self.entries + run
            assert (count == _FULL) == (run < self.anchors)
            assert (count == 0) == (run in spare), f"run {run} of {count} entries"
            assert run in spare or self.before[self.after[run]] == self.after[self.before[run]] == run
            assert count or self.older[node] == node == self.newer[node]
