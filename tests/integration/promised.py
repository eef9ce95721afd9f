"""What an image reads as, and what each of its sectors may read as after a crash.

Theory of operation
-------------------
*Never back in time*: after a crash a sector reads as it was when it was last made durable, or as any write has left it
since; and it keeps reading so.  So for each sector that was written since then there is a list of contents: the
durable one first, then what each write has left.  Writes that were under way side by side may have happened in any
order, or some of them not at all: each combination is in the list.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Final

SECTOR: Final = 512
PAGE: Final = 4096

Write = tuple[int, bytes]
"""Where, and what."""


class Promised:
    """An image in memory, and what may be left of it; all offsets are bytes."""

    def __init__(self, content: bytes) -> None:
        self.expected = bytearray(content)
        self._loose: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return len(self.expected)

    def wrong(self, offset: int, found: bytes, length: int) -> str:
        """Compare what was read with what has to be there; say what is wrong, or nothing."""
        wanted = self.expected[offset : offset + length]
        if found == wanted:
            return ""
        if len(found) != len(wanted):
            return f"{len(found)} bytes were read at {offset}, not {len(wanted)}"
        wrong = [place for place, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]]
        first = wrong[0]
        there, meant = found[first : first + 16].hex(), wanted[first : first + 16].hex()
        return f"{len(wrong)} bytes are wrong from {offset + first} to {offset + wrong[-1]}: {there}, not {meant}"

    def write(self, *writes: Write) -> None:
        """Note writes that were under way side by side and have all ended; they do not overlap."""
        touched: dict[int, list[Write]] = {}
        for write in writes:
            for sector in sectors(write[0], len(write[1])):
                touched.setdefault(sector, []).append(write)
        for sector, its_writes in touched.items():
            contents = self._loose.setdefault(sector, [self._sector(sector)])
            outcomes = [contents[-1]]
            for write in its_writes:
                outcomes += [_changed(sector, outcome, write) for outcome in outcomes]
            contents += outcomes[1:]
        for offset, data in writes:
            self.expected[offset : offset + len(data)] = data

    def settle(self, offset: int, length: int) -> None:
        """Note that a range is durable as it is."""
        for sector in sectors(offset, length):
            self._loose.pop(sector, None)

    def flush(self, *, but_pages: Collection[int] = ()) -> None:
        """Note that everything is durable as it is, but for the pages of these numbers, of which nothing is known."""
        kept = chain.from_iterable(sectors(page * PAGE, PAGE) for page in but_pages)
        self._loose = {sector: self._loose[sector] for sector in kept if sector in self._loose}

    def crash(self, found: bytes) -> str:
        """Take what a crash has left for what is there; say what was not allowed, or nothing."""
        if len(found) != len(self):
            return f"{len(found)} bytes are left, not {len(self)}"
        for number in range(-(-len(self) // SECTOR)):
            place = number * SECTOR
            left = found[place : place + SECTOR]
            allowed = self._loose.get(number) or [self._sector(number)]
            if left not in allowed:
                return f"sector {number} (byte {place}) is {_told(left)}, allowed are {_told(*allowed)}"
        self.expected[:] = found
        # A fallen daemon has lost nothing that it had written, but not all of it need be durable now: read so, it stays
        # so (that is what is promised), so what is there is the one content that is allowed from now on.
        self._loose.clear()
        return ""

    def check(self) -> None:
        """Assert that each list ends with what is there."""
        for sector, contents in self._loose.items():
            assert len(contents) > 1, f"sector {sector} was written, and has one content"
            assert contents[-1] == self._sector(sector), f"sector {sector} is not what was written last"

    def _sector(self, number: int) -> bytes:
        return bytes(self.expected[number * SECTOR : (number + 1) * SECTOR])


def sectors(offset: int, length: int, size: int = SECTOR) -> range:
    """Return the numbers of the sectors, or of what else is of one size, that a range touches."""
    return range(offset // size, -(-(offset + length) // size)) if length else range(0)


def _changed(sector: int, content: bytes, write: Write) -> bytes:
    """Return a sector with its part of a write."""
    offset, data = write
    begin = max(offset - sector * SECTOR, 0)
    part = data[max(sector * SECTOR - offset, 0) :][: len(content) - begin]
    return content[:begin] + part + content[begin + len(part) :]


def _told(*contents: Sequence[int]) -> str:
    return ", ".join(bytes(content[:16]).hex() + ".." for content in contents)
