"""The slate: what the record lacks, in memory that outlives this process, but no power cut.

Theory of operation
-------------------
A write that was answered and not flushed may be in a block that has no row yet, or in sectors that its row does not
name (:mod:`fusecache.durability.rows`).  A power cut may take such a write, as it may with any disk.  But programs that
go on using a mount whose daemon has died know of no crash, and must find all that was answered.  What was written to
the stores is still there then, in the kernel's memory.  What the rows would have said has to be there as well.

So it is noted here, in memory that the holder of the mount has open too, before the write is answered.  The next daemon
has rows made of it before it recovers (:func:`fusecache.daemon.preparing.prepare`).  Rows that are committed at once
would need a flush of the cache before each; a note costs a microsecond, since nothing becomes durable by it.

*Layout*, in words of 8 bytes: :data:`_MAGIC`, words of one note, how many places for notes were ever used, and which
cache this is about; then the notes.  A note is the cblock plus 1 (0 for none), the oblock, whether the block is whole,
and, if it is not, the sectors that the cache has, as bits.

*Whatever the moment of the kill, what is read is true.*
  What must hold: a note counts by its first word, which is one word, and is written last and erased first.  The sectors
  of a note that counts only grow, so one that was half written names none that the cache does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from fusecache.block import SECTOR
from fusecache.errors import MetadataError

if TYPE_CHECKING:
    from mmap import mmap

_MAGIC: Final = 0x66_63_73_6C_61_74_65_31  # fcslate1
_HEADER: Final = 4
_USED: Final = 2
_WHOSE: Final = 3
_WORD: Final = 8
_SECTORS_AT: Final = 3
"""Words of a note before its sectors."""


def slate_bytes(cache_blocks: int, block_size: int) -> int:
    """Return how large a slate has to be; what was never written to takes no memory."""
    return _WORD * (_HEADER + cache_blocks * _note_words(block_size))


def _note_words(block_size: int) -> int:
    return _SECTORS_AT + -(-block_size // SECTOR // 64)


def _whose(uuid: str) -> int:
    return int.from_bytes(uuid.encode()[:_WORD], "little")


@final
class Slate:
    """Notes of blocks that the record would not find after a crash.

    :param memory: zeros, as many as :func:`slate_bytes` says.
    :param uuid: by which the cache is known.
    """

    __slots__ = ("_bytes", "_free", "_memory", "_place_of", "_size", "_used", "_uuid", "_words")

    def __init__(self, memory: mmap | bytearray, block_size: int, uuid: str) -> None:
        self._memory = memory
        self._bytes = memoryview(memory)
        self._words = self._bytes.cast("Q")
        self._size = _note_words(block_size)
        self._place_of: dict[int, int] = {}
        """Where the note of a cblock begins, in words."""
        self._free: list[int] = []
        self._used = 0
        self._uuid = uuid
        self._words[1] = self._size
        self._words[_WHOSE] = _whose(uuid)
        self._words[0] = _MAGIC

    def note(self, cblock: int, oblock: int, valid: int | None) -> None:
        """Note that the cache has a block, or more of it than before.

        :param valid: sectors that it has; None for all.
        """
        words = self._words
        place = self._place_of.get(cblock)
        is_new = place is None
        if place is None:
            place = self._free.pop() if self._free else self._new_place()
            self._place_of[cblock] = place
            words[place + 1] = oblock
            words[place + 2] = 0
        if valid is None:
            words[place + 2] = 1
        else:
            begin = (place + _SECTORS_AT) * _WORD
            end = (place + self._size) * _WORD
            self._bytes[begin:end] = valid.to_bytes(end - begin, "little")
        if is_new:
            words[place] = cblock + 1

    def wipe(self, cblock: int) -> None:
        """Erase the note of a cblock, if there is one."""
        place = self._place_of.pop(cblock, None)
        if place is not None:
            self._words[place] = 0
            self._free.append(place)

    def notes(self) -> list[tuple[int, int, int | None]]:
        """Return all notes: cblock, oblock, and the sectors that the cache has, or None for all."""
        return read_slate(self._memory, self._uuid)

    def close(self) -> None:
        """Let go of the memory; its content stays."""
        self._words.release()
        self._bytes.release()

    def _new_place(self) -> int:
        place = _HEADER + self._used * self._size
        self._used += 1
        self._words[_USED] = self._used
        return place

    def check(self) -> None:
        """Assert that the memory says what we know."""
        notes = {cblock for cblock, _, _ in self.notes()}
        assert notes == self._place_of.keys()
        assert len(self._place_of) + len(self._free) == self._used


def read_slate(memory: mmap | bytearray | bytes, uuid: str) -> list[tuple[int, int, int | None]]:
    """Return the notes ``(cblock, oblock, valid)`` of a process that has ended; none of a slate that was never used.

    :raises MetadataError: it is no slate of this version, or of another cache.
    """
    with memoryview(memory) as data, data.cast("Q") as words:
        if not words[0]:
            return []
        size = words[1]
        used = words[_USED]
        if words[0] != _MAGIC or size < _SECTORS_AT or _HEADER + used * size > len(words):
            msg = "what the last process noted is of another version of fusecache"
            raise MetadataError(msg)
        if words[_WHOSE] != _whose(uuid):
            msg = "what the last process noted is about another cache"
            raise MetadataError(msg)
        notes: list[tuple[int, int, int | None]] = []
        for place in range(_HEADER, _HEADER + used * size, size):
            cblock, oblock, is_whole = words[place : place + _SECTORS_AT]
            if cblock:
                sectors = data[(place + _SECTORS_AT) * _WORD : (place + size) * _WORD]
                notes.append((cblock - 1, oblock, None if is_whole else int.from_bytes(sectors, "little")))
    return notes
