"""Which origin block lies where in the cache, and what is known of each cached block.

Theory of operation
-------------------
``oblock_of[cblock]`` is the origin block in a cache block, or -1; the way back is a flat hash table of cblocks (open
addressing, linear probing, at most half full, deletion by shifting back), so that a block costs about 8 + 8..16 + 5
bytes and no objects.  The policy has an index of its own, which serves the hit path.  The data path checks the policy's
answers against this one, and only migrations change it.

``flags[cblock]`` is the state of a cached block, one byte.  :mod:`fusecache.block.states` has the table of states and
events; here is one method an event.  Everybody may read a state, and nobody outside this class changes one.  An
unmapped block has state 0.

A *partial* block is one of which the cache holds some sectors only, since a write has put it there and nothing was read
from the origin.  ``valid[cblock]`` says which (:mod:`fusecache.block.sectors`).  There is an entry for partial blocks
only, so whole ones cost nothing.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from fusecache.block.states import DIRTY, PARTIAL, SUMMED, WRITEBACK_IN_FLIGHT, Event, broken_rule, transitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UNMAPPED: Final = -1
_EMPTY: Final = 0xFFFFFFFF
_SPREAD: Final = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)
_ONLY_DIRTY: Final = bytes(state & DIRTY for state in range(256))
_ONLY_PARTIAL: Final = bytes(int(state & PARTIAL > 0) for state in range(256))

_PROMOTED: Final = transitions(Event.PROMOTED)
_RECOVERED_DIRTY: Final = transitions(Event.RECOVERED_DIRTY)
_RECOVERED_SUSPECT: Final = transitions(Event.RECOVERED_SUSPECT)
_REMOVED: Final = transitions(Event.REMOVED)
_KEPT: Final = transitions(Event.KEPT)
_HOLDS_PART: Final = transitions(Event.HOLDS_PART)
_COMPLETED: Final = transitions(Event.COMPLETED)
_INTENT_RECORDED: Final = transitions(Event.INTENT_RECORDED)
_WRITTEN: Final = transitions(Event.WRITTEN)
_WRITE_FAILED: Final = transitions(Event.WRITE_FAILED)
_REWRITING: Final = transitions(Event.REWRITING)
_WRITEBACK_BEGUN: Final = transitions(Event.WRITEBACK_BEGUN)
_WRITEBACK_ENDED: Final = transitions(Event.WRITEBACK_ENDED)
_CLEANED: Final = transitions(Event.CLEANED)
_CLEANED_IN_PART: Final = transitions(Event.CLEANED_IN_PART)
_SUM_KNOWN: Final = transitions(Event.SUM_KNOWN)
_WRITE_LOST: Final = transitions(Event.WRITE_LOST)
_DISCARDED: Final = transitions(Event.DISCARDED)
_TAKEN_AS_CLEAN: Final = transitions(Event.TAKEN_AS_CLEAN)
_COMMITTED_CLEAN: Final = transitions(Event.COMMITTED_CLEAN)
_COMMITTED_DIRTY: Final = transitions(Event.COMMITTED_DIRTY)


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
        "valid",
    )

    def __init__(self, cache_blocks: int) -> None:
        self.cache_blocks = cache_blocks
        self.oblock_of = array("q", [UNMAPPED]) * cache_blocks
        self.flags = bytearray(cache_blocks)
        self.sums = array("I", [0]) * cache_blocks
        self.valid: dict[int, int] = {}
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
        """Map an origin block to a free cache block, in state 0.

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

        :raises ValueError: as there; the pairs before the wrong one are mapped.
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

    # The events of a mapped block (see the table in fusecache.block.states)

    def promoted(self, cblock: int) -> None:
        """Note that a migration has just inserted the block."""
        self.flags[cblock] = _PROMOTED[self.flags[cblock]]

    def recovered_dirty(self, cblock: int) -> None:
        """Note that recovery has just inserted the block, and that its row says dirty."""
        self.flags[cblock] = _RECOVERED_DIRTY[self.flags[cblock]]
        self.dirty_count += 1

    def recovered_suspect(self, cblock: int) -> None:
        """Note that recovery has just inserted the block; its row says clean, but its region is open."""
        self.flags[cblock] = _RECOVERED_SUSPECT[self.flags[cblock]]
        self.dirty_count += 1

    def remove(self, cblock: int) -> int:
        """Unmap a clean block and return the origin block that it held.

        :raises ValueError: it is not mapped.
        """
        oblock = self.oblock_of[cblock]
        slot = self._slot_of(oblock)
        if oblock == UNMAPPED or slot < 0:
            msg = f"cblock {cblock} is not mapped"
            raise ValueError(msg)
        before = self.flags[cblock]
        self._close_gap(slot)
        self.oblock_of[cblock] = UNMAPPED
        self.flags[cblock] = _REMOVED[before]
        self.valid.pop(cblock, None)
        self.dirty_count -= before & DIRTY
        self.mapped_count -= 1
        return oblock

    def put_back(self, oblock: int, cblock: int, state: int, valid: int | None) -> None:
        """Map a block again as it was when it was removed, because the removal could not be committed."""
        self.insert(oblock, cblock)
        self.flags[cblock] = _KEPT[state]
        if valid is not None:
            self.valid[cblock] = valid

    def holds_part(self, cblock: int, valid: int) -> None:
        """Note that only these sectors of a mapped block count; some, but not all of them."""
        self.flags[cblock] = _HOLDS_PART[self.flags[cblock]]
        self.valid[cblock] = valid

    def validated(self, cblock: int, sectors: int, every: int) -> bool:
        """Note that the cache has these sectors of a block as well; returns whether it lacked any of them.

        :param every: all sectors of a block.
        """
        before = self.valid.get(cblock, every)
        after = before | sectors
        if after == before:
            return False
        if after == every:
            self.completed(cblock)
        else:
            self.valid[cblock] = after
        return True

    def completed(self, cblock: int) -> None:
        """Note that the cache has all sectors of a partial block."""
        self.valid.pop(cblock, None)
        self.flags[cblock] = _COMPLETED[self.flags[cblock]]

    def intent_recorded(self, cblock: int) -> None:
        """Note that the region of the block is durably open."""
        self.flags[cblock] = _INTENT_RECORDED[self.flags[cblock]]

    def written(self, cblock: int) -> bool:
        """Note that a write to the cache succeeded; returns whether the block was clean."""
        flags = self.flags
        before = flags[cblock]
        flags[cblock] = _WRITTEN[before]
        if before & DIRTY:
            return False
        self.dirty_count += 1
        return True

    def write_failed(self, cblock: int) -> None:
        """Note that a write to the cache failed, perhaps halfway."""
        self.flags[cblock] = _WRITE_FAILED[self.flags[cblock]]

    def rewriting(self, cblock: int) -> bool:
        """Note that a write to both stores begins; returns whether the sum of the block was known."""
        before = self.flags[cblock]
        self.flags[cblock] = _REWRITING[before]
        return bool(before & SUMMED)

    def writeback_begun(self, cblock: int) -> None:
        """Note that a writeback took its copy of the block."""
        self.flags[cblock] = _WRITEBACK_BEGUN[self.flags[cblock]]

    def writeback_ended(self, cblock: int) -> bool:
        """Note that the copy arrived or failed; returns whether nobody wrote since :meth:`writeback_begun`."""
        before = self.flags[cblock]
        self.flags[cblock] = _WRITEBACK_ENDED[before]
        return bool(before & WRITEBACK_IN_FLIGHT)

    def cleaned(self, cblock: int, crc: int) -> bool:
        """Note that the origin has the same content, with this CRC-32C; returns whether the block was dirty."""
        before = self.flags[cblock]
        if not before & DIRTY:
            return False
        self.flags[cblock] = _CLEANED[before]
        self.sums[cblock] = crc
        self.dirty_count -= 1
        return True

    def cleaned_in_part(self, cblock: int) -> bool:
        """Note that the origin has what the cache has of a partial block; returns whether the block was dirty."""
        before = self.flags[cblock]
        if not before & DIRTY:
            return False
        self.flags[cblock] = _CLEANED_IN_PART[before]
        self.dirty_count -= 1
        return True

    def sum_known(self, cblock: int, crc: int) -> None:
        """Note the CRC-32C of the clean block's content."""
        self.flags[cblock] = _SUM_KNOWN[self.flags[cblock]]
        self.sums[cblock] = crc

    def write_lost(self, cblock: int) -> bool:
        """Note that the cache may have forgotten what was written; returns whether the block was dirty."""
        before = self.flags[cblock]
        if not before & DIRTY:
            return False
        self.flags[cblock] = _WRITE_LOST[before]
        self.dirty_count -= 1
        return True

    def discarded(self, cblock: int) -> None:
        """Note that nobody needs any more what a dirty block holds."""
        self.flags[cblock] = _DISCARDED[self.flags[cblock]]
        self.dirty_count -= 1

    def taken_as_clean(self, cblock: int) -> None:
        """Note that a snapshot took the block as clean while its region was not open."""
        self.flags[cblock] = _TAKEN_AS_CLEAN[self.flags[cblock]]

    def committed_clean(self, cblock: int) -> None:
        """Note that the durable row of the block says clean."""
        self.flags[cblock] = _COMMITTED_CLEAN[self.flags[cblock]]

    def committed_dirty(self, cblock: int) -> None:
        """Note that the durable row of the block says dirty."""
        self.flags[cblock] = _COMMITTED_DIRTY[self.flags[cblock]]

    # What others ask

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

    def dirty_map(self, part: slice = slice(None)) -> bytearray:
        """Tell which cache blocks, of all or of a part, are dirty: 1 for each that is, and 0 for the others."""
        return self.flags[part].translate(_ONLY_DIRTY)

    def partial_map(self, part: slice = slice(None)) -> bytearray:
        """Tell in the same way which cache blocks hold a part of their block only."""
        return self.flags[part].translate(_ONLY_PARTIAL)

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
        """Empty a slot, moving later entries of its cluster back so that every probe still finds them."""
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
        """Assert that both directions agree, that the counts are right, and that every state is one that can be."""
        mapped = dict(self.mapped())
        assert len(mapped) == self.mapped_count == len(set(mapped.values()))
        assert sum(1 for slot in self._slots if slot != _EMPTY) == self.mapped_count
        assert all(self.find(oblock) == cblock for cblock, oblock in mapped.items())
        assert self.dirty_count == sum(1 for flags in self.flags if flags & DIRTY)
        assert self.valid.keys() == {cblock for cblock, flags in enumerate(self.flags) if flags & PARTIAL}
        assert all(valid > 0 for valid in self.valid.values())
        for cblock, state in enumerate(self.flags):
            assert not state or cblock in mapped, f"state {state} of unmapped cblock {cblock}"
            assert not broken_rule(state), f"cblock {cblock}: {broken_rule(state)} (state {state})"
