"""What lies behind an image, as far as its attributes tell of it: whatever a test wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import pyfuse3

from fusecache.attach import Space
from fusecache.config import Ownership
from fusecache.frontends.fuse.attributes import Attributes
from fusecache.metadata import ImageTimes

BEGIN: Final = ImageTimes(1_000, 2_000)


@dataclass
class FakeBacking:
    """An origin that says what it is told to say; ``error`` is what it raises."""

    image_times: ImageTimes = BEGIN
    room: int | None = None
    told: Space | None = None
    dirty: int = 0
    error: Exception | None = None
    asked: int = 0
    written: bool = False

    def allocated(self) -> int | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.room

    def space(self) -> Space | None:
        if self.error is not None:
            raise self.error
        return self.told

    def waiting(self) -> int:
        return self.dirty

    def take_written(self) -> bool:
        written, self.written = self.written, False
        return written


def attributes_of(
    image_bytes: int,
    *,
    backing: FakeBacking | None = None,
    ownership: Ownership | None = None,
    keeps_pages: bool = False,
) -> Attributes:
    """Make the attributes of an image of so many bytes."""
    backing, ownership = backing or FakeBacking(), ownership or Ownership()
    return Attributes(backing, image_bytes=image_bytes, ownership=ownership, keeps_pages=keeps_pages)


class Caller:
    """Who asks; pyfuse3's own class cannot be filled in from Python."""

    def __init__(self, uid: int) -> None:
        self.uid = uid


def by(uid: int) -> pyfuse3.RequestContext:
    """Return who asks."""
    return cast("pyfuse3.RequestContext", Caller(uid))
