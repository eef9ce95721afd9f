"""The times of the image, which go on from one mount to the next.

Theory of operation
-------------------
What copies and saves files compares times: one that has changed is copied, one that has not is left out.  So the image
has to have the time of its last write, today and after the next mount.  The origin does not know it: a writeback
changes it later than the user did, or has yet to come.  So the record of each clean end has the times.

They hold for the generation with which they were recorded (:mod:`fusecache.attach.bond`).  Each beginning of a mount
makes another one, also by a version that does not know of these times.  So after a crash there are none, and nobody
takes old ones for right (:mod:`fusecache.attach.times`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

UNKNOWN: Final = "unknown"
"""Stands in the metadata for times of which nothing is known."""
_RECORDED: Final = re.compile(r"(-?[0-9]{1,19}) (-?[0-9]{1,19}) (\S*)")


@dataclass(frozen=True, slots=True)
class ImageTimes:
    """Times of the image, in nanoseconds since 1970, as stat(2) has them."""

    modified_ns: int
    """When it was written last."""
    changed_ns: int
    """When it was written last, or its owner, its mode or its times were set."""

    def later(self, other: ImageTimes) -> ImageTimes:
        """Return the later of both, each time for itself."""
        return ImageTimes(max(self.modified_ns, other.modified_ns), max(self.changed_ns, other.changed_ns))

    def pack(self, generation: str) -> str:
        """Return them as one value of the metadata."""
        return f"{self.modified_ns} {self.changed_ns} {generation}"

    @classmethod
    def unpack(cls, text: str, generation: str) -> ImageTimes | None:
        """Read what :meth:`pack` wrote; None if there is nothing, or it is of another generation."""
        found = _RECORDED.fullmatch(text)
        return cls(int(found[1]), int(found[2])) if found and found[3] == generation else None
