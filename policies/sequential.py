"""Tell sequential from random access: the detector of dm-cache's classic multiqueue, one for all bios."""

from __future__ import annotations

from typing import Final

_FIRST_EXPECTED: Final = 512
"""The detector starts as if sector 0 had just been accessed."""


class SequentialDetector:
    """Watch where bios begin and end.

    :ivar sequential_threshold: contiguous bios after which access counts as sequential.
    :ivar random_threshold: other bios after which it counts as random again.
    :ivar is_sequential: what it counts as now.
    """

    __slots__ = ("_contiguous", "_expected", "_scattered", "is_sequential", "random_threshold", "sequential_threshold")

    def __init__(self, sequential_threshold: int, random_threshold: int) -> None:
        """Start with random access."""
        self.sequential_threshold = sequential_threshold
        self.random_threshold = random_threshold
        self.is_sequential = False
        self._contiguous = 0
        self._scattered = 0
        self._expected = _FIRST_EXPECTED

    def examine(self, offset: int, length: int) -> None:
        """See one bio, in bytes; if it changes what access counts as, that holds for this very bio already."""
        if offset == self._expected:
            self._contiguous += 1
        else:
            if self._contiguous:
                self._contiguous = self._scattered = 0
            self._scattered += 1
        self._expected = offset + length
        if (
            self._scattered >= self.random_threshold
            if self.is_sequential
            else self._contiguous >= self.sequential_threshold
        ):
            self.is_sequential = not self.is_sequential
            self._contiguous = self._scattered = 0
