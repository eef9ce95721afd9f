"""What a disk may answer: the model against which reads, and what is left after crashes, are held.

The image is cut into *cells*; every write covers whole cells and puts its own number, with the cell's, into each of
them, so that a cell tells which write it shows, and whether it lies where it belongs.  Write 0 is what was there in the
beginning.

A *discard* puts zeros into its cells, which do not tell which discard it was, and has a negative number.  A cell of
zeros may show any of the discards of that cell that it may show.

A read may see a write that began before the read ended, unless another one came strictly between.  After a crash a
cell may show any write that began, unless a *flushed* one came strictly later: one that had ended when a flush began
that was acknowledged.  Writes at the same time, by two clients, may come in either order.  Where a flush fails, what
had been written by then and not flushed may be gone without any crash.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import inf

from fusecache.stores.base import Data

_CELL = struct.Struct("<II")

ZERO = -2
"""What a cell shows that is zero; discards have numbers below."""


def cell_content(cell_bytes: int, write: int, cell: int) -> bytes:
    """Return what a write puts into a cell."""
    return _CELL.pack(write, cell + 1) * (cell_bytes // _CELL.size)


def initial_image(size: int, cell_bytes: int) -> bytearray:
    """Return an image that nobody has written to yet."""
    return bytearray(b"".join(cell_content(cell_bytes, 0, cell) for cell in range(size // cell_bytes)))


def shown(image: Data, cell_bytes: int, first: int = 0) -> list[int]:
    """Return the number of the write that each cell shows; ZERO for zeros, -1 where it shows none that belongs."""
    writes = []
    for index in range(len(image) // cell_bytes):
        content = bytes(image[index * cell_bytes : (index + 1) * cell_bytes])
        write, cell = _CELL.unpack_from(content)
        if not any(content):
            writes.append(ZERO)
            continue
        belongs = cell == first + index + 1 and content == content[: _CELL.size] * (cell_bytes // _CELL.size)
        writes.append(write if belongs else -1)
    return writes


def may_show(write: int, allowed: Sequence[int]) -> bool:
    """Tell whether a cell may show a write, or zeros."""
    return write in allowed or (write == ZERO and min(allowed) < ZERO)


def _without_numbers(writes: Sequence[int]) -> tuple[int, ...]:
    """Take all discards for one, as nobody can tell them apart any more."""
    return tuple(dict.fromkeys(max(ZERO, write) for write in writes))


class Oracle:
    """What each cell may show, now and after a crash.

    :param image: the write that each cell shows at the beginning, which counts as durable unless ``allowed`` says
        otherwise: per cell, which writes a crash could still bring back (a killed process leaves such).
    """

    def __init__(self, image: list[int], cell_bytes: int, allowed: Sequence[tuple[int, ...]] | None = None) -> None:
        self.cell_bytes = cell_bytes
        self._base = image
        numbers = (abs(write) for writes in (image, *(allowed or ())) for write in writes)
        self._epoch = self._last = max(-ZERO, *numbers)
        self._clock = 0
        self._began: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._failed: set[int] = set()
        self._doubted: set[int] = set()
        self._written: list[list[int]] = [[write] for write in image]
        self.allowed: list[tuple[int, ...]] = (
            list(map(_without_numbers, allowed)) if allowed else [(one,) for one in image]
        )
        """What each cell may show after a crash at this moment."""

    def grow(self, held: int) -> None:
        """Make the image longer while nothing is under way; nobody has written to what comes to it."""
        self._base += [0] * held
        self._written += [[0] for _ in range(held)]
        self.allowed += [(0,)] * held

    def now(self) -> int:
        """Return a new moment, later than all before."""
        self._clock += 1
        return self._clock

    def begin_discard(self, first: int, count: int) -> int:
        """Begin a discard of some cells; returns its number, with which it ends as a write does."""
        self._last += 1
        self._begin(-self._last, first, count)
        return -self._last

    def _begin(self, write: int, first: int, count: int) -> None:
        self._began[write] = self.now()
        for cell in range(first, first + count):
            self._written[cell].append(write)
            self.allowed[cell] += (write,)

    def begin_write(self, first: int, count: int) -> tuple[int, bytes]:
        """Begin a write of some cells; returns its number and its data."""
        self._last += 1
        write = self._last
        self._begin(write, first, count)
        return write, b"".join(cell_content(self.cell_bytes, write, cell) for cell in range(first, first + count))

    def end_write(self, write: int, *, failed: bool = False) -> None:
        """End a write; one that failed may show or not, but no flush makes it durable."""
        self._ended[write] = self.now()
        if failed:
            self._failed.add(write)

    def end_flush(self, began: int) -> None:
        """Acknowledge a flush that began at this moment."""
        unsure = self._failed | self._doubted
        for cell, writes in enumerate(self.allowed):
            if len(writes) > 1:
                spans = {write: self._span(cell, write) for write in writes}
                flushed = max(
                    (span[0] for write, span in spans.items() if span[1] < began and write not in unsure),
                    default=-inf,
                )
                self.allowed[cell] = tuple(write for write in writes if spans[write][1] >= flushed)

    def doubt(self) -> None:
        """Learn that a flush failed: what none had made durable may be lost, at once, later, or in part."""
        self._doubted.update(self._began, self._base)
        for written, allowed in zip(self._written, self.allowed, strict=True):
            written.extend(write for write in allowed if write not in written)  # what a kill had left may come back

    def begin_read(self, first: int, count: int) -> tuple[int, list[tuple[int, ...]]]:
        """Begin a read of some cells; returns the moment, and what they may show after a crash then."""
        return self.now(), self.allowed[first : first + count]

    def end_read(self, began: int, first: int, image: Data, allowed: Sequence[tuple[int, ...]] | None = None) -> None:
        """Hold what a read returned against what it may have returned.

        :param allowed: what the cells might have shown after a crash when it began: of a doubted write that was lost by
            then it returns the one before, even if a later write was made durable meanwhile.
        """
        before = allowed or self.allowed[first:]
        for cell, write in enumerate(shown(image, self.cell_bytes, first), first):
            candidates = {other: self._span(cell, other) for other in self._written[cell]}
            shows = [other for other in candidates if other == write or max(ZERO, other) == write]
            assert shows, f"cell {cell} reads as write {write}; written were {sorted(candidates)}"
            later: list[int] = []
            for one in shows:
                ended = candidates[one][1]
                later = [
                    other
                    for other, span in candidates.items()
                    if ended < span[0]
                    and span[1] < began
                    and other not in self._failed
                    and not (other in self._doubted and one in (*before[cell - first], *self.allowed[cell]))
                ]
                if not later:
                    break
            assert not later, f"cell {cell} reads as write {write}, but {later} came after that and had ended"

    def settled(self, image: bytes | bytearray) -> list[int]:
        """Hold a whole image, read while nothing is under way, against the model; returns what its cells show."""
        self.end_read(self.now(), 0, image)
        return shown(image, self.cell_bytes)

    def _span(self, cell: int, write: int) -> tuple[float, float]:
        if abs(write) > self._epoch:
            return self._began[write], self._ended.get(write, inf)
        return (-1, -1) if write == self._base[cell] else (-3, -2)


def judge_crash(image: bytes | bytearray, allowed: Sequence[tuple[int, ...]], cell_bytes: int) -> list[int]:
    """Hold what is left after a crash against what it may be; returns what the cells show."""
    writes = shown(image, cell_bytes)
    wrong = [
        f"cell {cell} shows write {write}, allowed are {allowed[cell]}"
        for cell, write in enumerate(writes)
        if not may_show(write, allowed[cell])
    ]
    assert not wrong, "; ".join(wrong[:5])
    return writes
