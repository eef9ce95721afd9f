"""When a policy may order work that is there only because the origin is idle.

Theory of operation
-------------------
Such work comes in *waves*: items are taken up to the migration threshold, and no more before all of them are done.
Taken one at a time, they would have no neighbours.  While users write a lot to what is cached, a wave begins once a
second at most, since what is written back then is soon dirty again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.migration.busy_writers import BusyWriters

if TYPE_CHECKING:
    from fusecache.volume import Volume


class Waves:
    """The waves of one volume."""

    __slots__ = ("_open", "_volume", "_writers")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._open = True
        """Whether the present wave takes more items."""
        self._writers = BusyWriters()

    def is_idle(self, orders: int, now: float) -> bool:
        """Tell whether the next item may be one for an idle origin, beside so many that are under way."""
        volume = self._volume
        fits = (orders + 1) * volume.geometry.block_size <= volume.migration_threshold
        self._open = fits and (self._open if orders else self._may_begin(now))
        return self._open and volume.activity.is_quiet(now)

    def _may_begin(self, now: float) -> bool:
        write_hits = self._volume.counters.write_hits
        return self._writers.look(now, write_hits) or not self._writers.are_busy(write_hits)
