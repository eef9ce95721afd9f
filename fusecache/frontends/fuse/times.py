"""The times of a file while it is mounted.

Theory of operation
-------------------
A write only leaves a mark (:attr:`fusecache.volume.Volume.written`).  Its time is noted when somebody asks for it, and
within a second otherwise.  So a write
costs no look at the clock, and whoever asks before and after a write gets two different times.  The time noted is that
of the write or up to a second later, never earlier.

The mark is left after the write.  Whoever asks while one is under way hears the old time, and after it a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from fusecache.metadata import ImageTimes

if TYPE_CHECKING:
    from collections.abc import Callable

_LATEST_NS: Final = 2**63 - 1


def _never() -> bool:
    return False


@final
class Times:
    """The times of one file, in nanoseconds since 1970; the clock is read by whoever calls.

    :param take_written: takes the mark of writes of which no time is noted, and tells whether it was there.
    """

    __slots__ = ("_take_written", "accessed_ns", "changed_ns", "modified_ns")

    def __init__(self, begin: ImageTimes, take_written: Callable[[], bool] = _never) -> None:
        self._take_written = take_written
        self.modified_ns = begin.modified_ns
        self.changed_ns = begin.changed_ns
        self.accessed_ns = begin.modified_ns
        """Nobody needs to know who reads: it changes only where it is set."""

    def at(self, now_ns: int) -> ImageTimes:
        """Return the times as they are now."""
        if self._take_written():
            self.modified_ns = self.changed_ns = now_ns
        return ImageTimes(self.modified_ns, self.changed_ns)

    def set(self, now_ns: int, *, modified_ns: int | None = None, accessed_ns: int | None = None) -> None:
        """Set times as the owner wants them, or none; that is a change."""
        self.at(now_ns)
        self.changed_ns = now_ns
        if modified_ns is not None:
            self.modified_ns = modified_ns
        if accessed_ns is not None:
            self.accessed_ns = accessed_ns

    def check(self) -> None:
        """Assert that these are times."""
        assert all(abs(time) <= _LATEST_NS for time in (self.modified_ns, self.changed_ns, self.accessed_ns))
