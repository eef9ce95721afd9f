"""Which origin block lies where in the cache, and what is known of each cached block.

Theory of operation
-------------------
``oblock_of[cblock]`` is the origin block in a cache block, or -1; the way back is a flat hash table of cblocks (open
addressing, linear probing, at most half full, deletion by shifting back), so that a block costs about 8 + 8..16 + 1
bytes and no objects.  The policy has an index of its own, which serves the hit path; this one is the truth against
which the policy's answers are held, and it changes by migrations only.

``flags[cblock]`` is one byte of :data:`DIRTY`, :data:`WRITE_INTENT` and :data:`RECORDED`, whose meaning is fixed by
:mod:`fusecache.durability`, :data:`SUMMED` and :data:`WRITEBACK_IN_FLIGHT`.  An unmapped block has none of them.
"""

from __future__ import annotations

from array import array
from itertools import compress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DIRTY: Final = 1
"""The cache holds something that the origin may not have."""

WRITE_INTENT: Final = 2
"""Whatever the durable record says after a crash, it will call this block suspect: writing to it is safe."""

RECORDED: Final = 4
"""The durable row of this block says dirty."""

SUMMED: Final = 8
"""The block is clean, and ``sums[cblock]`` is the CRC-32C of its content."""

WRITEBACK_IN_FLIGHT: Final = 16
"""The block is dirty, and its content of a moment ago is on its way to the origin; a write ends that it counts."""

WRITABLE: Final = DIRTY | WRITE_INTENT
"""A write to a block with these two, and not :data:`WRITEBACK_IN_FLIGHT`, needs nothing but the write."""

UNMAPPED: Final = -1
_ONLY_DIRTY: Final = bytes(flags & DIRTY for flags in range(256))
_EMPTY: Final = 0xFFFFFFFF
_SPREAD: Final = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)


class Mapping:
    """The bijection between cached origin blocks and cache blocks.

    :param cache_blocks: how many cache blocks there are, at least 1.
    """

    __slots__ = (
        "_mask",
        "_shift",
        "_slots",
        "cache_blocks",
        "dirty_count",
        "flags",
        "mapped_count",
        "oblock_of",
        "sums",
    )

    def __init__(self, cache_blocks: int) -> None:
        self.cache_blocks = cache_blocks
        self.oblock_of = array("q", [UNMAPPED]) * cache_blocks
        self.flags = bytearray(cache_blocks)
        self.sums = array("I", [0]) * cache_blocks
        self.mapped_count = 0
        self.dirty_count = 0
        bits = max(2, (2 * cache_blocks - 1).bit_length())
        self._shift = 64 - bits
        self._mask = (1 << bits) - 1
        self._slots = array("I", [_EMPTY]) * (1 << bits)

    def find(self, oblock: int) -> int:
        """Return the cblock of an origin block, or -1.  O(1)."""
        slot = self._slot_of(oblock)
        return UNMAPPED if slot < 0 else self._slots[slot]

    def insert(self, oblock: int, cblock: int) -> None:
        """Map an origin block to a free cache block, clean and without flags.

        :raises ValueError: either is mapped already, or is no block number.
        """
        if oblock < 0 or not 0 <= cblock < self.cache_blocks:
            msg = f"no such block: oblock {oblock}, cblock {cblock}"
            raise ValueError(msg)
        if self.oblock_of[cblock] != UNMAPPED:
            msg = f"cblock {cblock} holds oblock {self.oblock_of[cblock]} already"
            raise ValueError(msg)
        slots, mask = self._slots, self._mask
        slot = self._home(oblock)
        while (other := slots[slot]) != _EMPTY:
            if self.oblock_of[other] == oblock:
                msg = f"oblock {oblock} is mapped to cblock {other} already"
                raise ValueError(msg)
            slot = (slot + 1) & mask
        slots[slot] = cblock
        self.oblock_of[cblock] = oblock
        self.mapped_count += 1

    def insert_all(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Map many ``(oblock, cblock)`` as :meth:`insert` does, in less than half the time.

        :raises ValueError: as there; those before it are mapped.
        """
        slots, oblock_of, mask, shift = self._slots, self.oblock_of, self._mask, self._shift
        limit = self.cache_blocks
        for oblock, cblock in blocks:
            is_sound = oblock >= 0 and 0 <= cblock < limit and oblock_of[cblock] == UNMAPPED
            slot = ((oblock * _SPREAD) & 0xFFFFFFFFFFFFFFFF) >> shift
            while is_sound and (other := slots[slot]) != _EMPTY:
                is_sound = oblock_of[other] != oblock
                slot = (slot + 1) & mask
            if not is_sound:
                self.insert(oblock, cblock)  # says what is wrong
            slots[slot] = cblock
            oblock_of[cblock] = oblock
            self.mapped_count += 1

    def remove(self, cblock: int) -> int:
        """Unmap a cache block, dirty or not, and return the origin block that it held."""
        oblock = self.oblock_of[cblock]
        slot = self._slot_of(oblock)
        if oblock == UNMAPPED or slot < 0:
            msg = f"cblock {cblock} is not mapped"
            raise ValueError(msg)
        self.clear_dirty(cblock)
        self._close_gap(slot)
        self.oblock_of[cblock] = UNMAPPED
        self.flags[cblock] = 0
        self.mapped_count -= 1
        return oblock

    def set_dirty(self, cblock: int) -> bool:
        """Mark a mapped block dirty, or dirty anew, which ends what its sum says; returns whether it was clean."""
        flags = self.flags[cblock]
        if flags & DIRTY:
            self.flags[cblock] = flags & ~WRITEBACK_IN_FLIGHT
            return False
        self.flags[cblock] = flags & ~SUMMED | DIRTY
        self.dirty_count += 1
        return True

    def clear_dirty(self, cblock: int) -> bool:
        """Mark a mapped block clean; returns whether it was dirty."""
        flags = self.flags[cblock]
        if not flags & DIRTY:
            return False
        self.flags[cblock] = flags & ~(DIRTY | WRITEBACK_IN_FLIGHT)
        self.dirty_count -= 1
        return True

    def begin_writeback(self, cblock: int) -> None:
        """Note that a dirty block's content as it is now is to be written back."""
        self.flags[cblock] |= WRITEBACK_IN_FLIGHT

    def end_writeback(self, cblock: int) -> bool:
        """Tell whether nothing was written to a block since :meth:`begin_writeback`, and forget about that."""
        flags = self.flags[cblock]
        self.flags[cblock] = flags & ~WRITEBACK_IN_FLIGHT
        return bool(flags & WRITEBACK_IN_FLIGHT)

    def set_sum(self, cblock: int, crc: int) -> None:
        """Note the CRC-32C of a clean block's content."""
        self.sums[cblock] = crc
        self.flags[cblock] |= SUMMED

    def clear_sum(self, cblock: int) -> bool:
        """Note that a clean block's content is about to change; returns whether its sum was known."""
        flags = self.flags[cblock]
        self.flags[cblock] = flags & ~SUMMED
        return bool(flags & SUMMED)

    def sum_of(self, cblock: int) -> int | None:
        """Return the CRC-32C of a clean block's content, if it is known."""
        return self.sums[cblock] if self.flags[cblock] & SUMMED else None

    def mapped(self) -> Iterator[tuple[int, int]]:
        """Yield ``(cblock, oblock)`` of every mapped block in cblock order; the mapping may change meanwhile."""
        for cblock in range(self.cache_blocks):
            oblock = self.oblock_of[cblock]
            if oblock != UNMAPPED:
                yield cblock, oblock

    def dirty_blocks(self) -> list[int]:
        """List the cblocks of all dirty blocks, in the order of the origin."""
        dirty = [cblock for cblock, flags in enumerate(self.flags) if flags & DIRTY]
        dirty.sort(key=self.oblock_of.__getitem__)
        return dirty

    def dirty_oblocks(self) -> list[int]:
        """List the oblocks of all dirty blocks, in order."""
        return sorted(compress(self.oblock_of, self.flags.translate(_ONLY_DIRTY)))

    def _home(self, oblock: int) -> int:
        return ((oblock * _SPREAD) & 0xFFFFFFFFFFFFFFFF) >> self._shift

    def _slot_of(self, oblock: int) -> int:
        slots, oblock_of, mask = self._slots, self.oblock_of, self._mask
        slot = self._home(oblock)
        while (cblock := slots[slot]) != _EMPTY:
            if oblock_of[cblock] == oblock:
                return slot
            slot = (slot + 1) & mask
        return -1

    def _close_gap(self, gap: int) -> None:
        """Empty a slot, moving later members of its run back so that every probe still finds them."""
        slots, mask = self._slots, self._mask
        slot = gap
        while True:
            slot = (slot + 1) & mask
            cblock = slots[slot]
            if cblock == _EMPTY:
                break
            home = self._home(self.oblock_of[cblock])
            if (slot - home) & mask >= (slot - gap) & mask:
                slots[gap] = cblock
                gap = slot
        slots[gap] = _EMPTY

    def check(self) -> None:
        """Assert that both directions agree, that the counts are right and that flags belong to mapped blocks."""
        mapped = dict(self.mapped())
        assert len(mapped) == self.mapped_count == len(set(mapped.values()))
        assert sum(1 for slot in self._slots if slot != _EMPTY) == self.mapped_count
        assert all(self.find(oblock) == cblock for cblock, oblock in mapped.items())
        assert self.dirty_count == sum(1 for flags in self.flags if flags & DIRTY)
        for cblock, flags in enumerate(self.flags):
            assert not flags or cblock in mapped, f"flags {flags} on unmapped cblock {cblock}"
            assert not flags & DIRTY or flags & WRITE_INTENT, f"cblock {cblock} is dirty, and not covered"
            assert not flags & WRITEBACK_IN_FLIGHT or flags & DIRTY, f"cblock {cblock} is saved, and not dirty"
            assert not flags & DIRTY or not flags & SUMMED, f"cblock {cblock} is dirty, and has a sum"
