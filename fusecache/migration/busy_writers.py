"""Whether users write a lot; then what is written back at leisure is soon dirty again."""

from __future__ import annotations

from typing import Final, final

_MANY_WRITES: Final = 32
"""In a second."""


@final
class BusyWriters:
    """Counts writes by seconds; the caller has the clock, and the number of all writes so far."""

    __slots__ = ("_second_began", "_writes", "_wrote_much")

    def __init__(self) -> None:
        self._second_began = -1.0
        self._writes = 0
        """How many there had been when that second began."""
        self._wrote_much = False
        """Whether users wrote a lot in the second before it."""

    def look(self, now: float, writes: int) -> bool:
        """Begin another second if the last one is over; returns whether it was."""
        if now < self._second_began + 1:
            return False
        self._second_began, self._writes, self._wrote_much = now, writes, self._are_many(writes)
        return True

    def are_busy(self, writes: int) -> bool:
        """Tell whether they wrote a lot in the second before, or do in this one."""
        return self._wrote_much or self._are_many(writes)

    def _are_many(self, writes: int) -> bool:
        return writes - self._writes > _MANY_WRITES
