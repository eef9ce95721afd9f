"""When a policy may order work that is there only because the origin is idle.

Theory of operation
-------------------
Such work comes in *waves*: items are taken up to the migration threshold, and no more before all of them are done.
Taken one at a time, they would have no neighbours.  While users write a lot to what is cached, a wave begins once a
second at most, since what is written back then is soon dirty again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fusecache.volume import Volume

_MANY_WRITES: Final = 32
"""Write hits a second."""


class Waves:
    """The waves of one volume."""

    __slots__ = ("_open", "_second_began", "_volume", "_write_hits", "_wrote_much")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._open = True
        """Whether the present wave takes more items."""
        self._second_began = -1.0
        self._write_hits = 0
        """How many there had been when that second began."""
        self._wrote_much = False
        """Whether users wrote a lot in the second before it."""

    def is_idle(self, orders: int, now: float) -> bool:
        """Tell whether the next item may be one for an idle origin, beside so many that are under way."""
        volume = self._volume
        fits = (orders + 1) * volume.geometry.block_size <= volume.migration_threshold
        self._open = fits and (self._open if orders else self._may_begin(now))
        return self._open and volume.activity.is_quiet(now)

    def _may_begin(self, now: float) -> bool:
        write_hits = self._volume.counters.write_hits
        many = write_hits - self._write_hits > _MANY_WRITES
        if now < self._second_began + 1:
            return not (many or self._wrote_much)
        self._second_began, self._write_hits, self._wrote_much = now, write_hits, many
        return True
