"""The queues of SMQ as their definition reads: plain lists, one entry at a time."""

from __future__ import annotations

from collections.abc import Sequence

from policies.structures.levels import even_targets
from policies.structures.runs import LEVELS

Item = int | str


class LevelModel:
    """64 lists of entries and, between them, markers: "old" and "new" ones, where wanted."""

    def __init__(self, *, marked: bool = False) -> None:
        self.levels: list[list[Item]] = [["B", "A"] if marked else [] for _ in range(LEVELS)]
        self.old, self.new = "B", "A"

    def level_of(self, entry: int) -> int:
        return next(level for level, items in enumerate(self.levels) if entry in items)

    def entries(self) -> list[list[int]]:
        return [self._of(level) for level in range(LEVELS)]

    def _of(self, level: int) -> list[int]:
        return [item for item in self.levels[level] if isinstance(item, int)]

    def push(self, entry: int, level: int) -> None:
        self.levels[level].append(entry)

    def push_first(self, entries: Sequence[int], level: int) -> None:
        for entry in entries:
            self.levels[level].insert(0, entry)

    def remove(self, entry: int) -> int:
        level = self.level_of(entry)
        self.levels[level].remove(entry)
        return level

    def requeue(self, entry: int, extra: int) -> None:
        level = self.level_of(entry)
        goal = min(LEVELS - 1, level + extra)
        if goal != level:
            for passed, item in enumerate(self.levels[goal]):
                if isinstance(item, int):
                    self.levels[goal].remove(item)
                    self._displace(item, level, passed)
                    break
        self.levels[level].remove(entry)
        self.levels[goal].append(entry)

    def _displace(self, item: int, level: int, passed: int) -> None:
        items = self.levels[level]
        if self.old in items and passed < 2:
            items.insert(items.index((self.old, self.new)[passed]), item)
        else:
            items.append(item)

    def flip(self) -> None:
        self.old, self.new = self.new, self.old
        for items in self.levels:
            items.remove(self.new)
            items.append(self.new)

    def peek(self, levels: int = LEVELS) -> int:
        return next((items[0] for items in self.entries()[:levels] if items), -1)

    def peek_old(self) -> int:
        return next((items[0] for items in self.levels if items and isinstance(items[0], int)), -1)

    def redistribute(self, in_top: int = 0, top_levels: int = 0) -> None:
        targets = even_targets(sum(map(len, self.entries())), in_top, top_levels)
        for level in range(LEVELS - 1):
            while len(self._of(level)) < targets[level]:
                source = next((above for above in range(level + 1, LEVELS) if self._of(above)), None)
                if source is None:
                    break
                self._move(self._of(source)[0], source, level)
            while len(self._of(level)) > targets[level]:
                self._move(self._of(level)[-1], level, level + 1)

    def _move(self, entry: int, source: int, goal: int) -> None:
        self.levels[source].remove(entry)
        self.levels[goal].append(entry)
