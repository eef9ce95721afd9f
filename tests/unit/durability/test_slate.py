"""What is noted, read as the next process reads it."""

from __future__ import annotations

import random

import pytest

from fusecache.durability import Slate, read_slate, slate_bytes
from fusecache.errors import MetadataError

BLOCK = 64 * 1024
UUID = "0123456789abcdef"


def new(blocks: int = 4, block_size: int = BLOCK) -> tuple[bytearray, Slate]:
    memory = bytearray(slate_bytes(blocks, block_size))
    return memory, Slate(memory, block_size, UUID)


def test_a_slate_that_nobody_has_written_to_has_no_notes() -> None:
    assert read_slate(bytes(slate_bytes(4, BLOCK)), UUID) == []
    memory, slate = new()
    assert read_slate(memory, UUID) == []
    slate.check()


@pytest.mark.parametrize("block_size", [4096, 64 * 1024, 1024 * 1024, 3 * 4096])
def test_notes_are_read_as_they_were_written(block_size: int) -> None:
    memory, slate = new(4, block_size)
    every = (1 << block_size // 512) - 1
    slate.note(3, 1 << 40, 1)
    slate.note(0, 0, None)
    slate.note(2, 7, every ^ 1)
    slate.note(3, 1 << 40, every >> 1)
    assert sorted(read_slate(memory, UUID)) == [(0, 0, None), (2, 7, every ^ 1), (3, 1 << 40, every >> 1)]
    slate.wipe(0)
    slate.wipe(1)
    slate.note(2, 7, None)
    assert sorted(read_slate(memory, UUID)) == [(2, 7, None), (3, 1 << 40, every >> 1)]
    slate.check()


def test_places_are_used_again() -> None:
    memory, slate = new(1000)
    rng = random.Random(1)
    held: dict[int, tuple[int, int | None]] = {}
    for _ in range(3000):
        cblock = rng.randrange(1000)
        if cblock in held or len(held) == 8:
            cblock = rng.choice(list(held))
            slate.wipe(cblock)
            del held[cblock]
        else:
            held[cblock] = (rng.getrandbits(40), rng.choice((None, rng.getrandbits(128))))
            slate.note(cblock, *held[cblock])
        slate.check()
    assert {cblock: (oblock, valid) for cblock, oblock, valid in read_slate(memory, UUID)} == held
    assert not any(memory[2000:]), "eight notes take no more room than that"


def test_a_slate_of_another_cache_or_version_is_refused() -> None:
    memory, slate = new()
    slate.note(0, 1, None)
    with pytest.raises(MetadataError, match="another cache"):
        read_slate(memory, "fedcba9876543210")
    memory[0] ^= 1
    with pytest.raises(MetadataError, match="another version"):
        read_slate(memory, UUID)


def test_one_that_is_too_short_is_refused() -> None:
    memory, slate = new()
    slate.note(0, 1, None)
    with pytest.raises(MetadataError, match="another version"):
        read_slate(memory[:48], UUID)
