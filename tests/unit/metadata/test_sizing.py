"""Scenario 25: the formula holds for real databases."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from fusecache.metadata import bitmap_bytes, region_blocks_for
from fusecache.metadata.database import Database
from fusecache.metadata.record import Transaction
from fusecache.metadata.sizing import FIXED_BYTES, PARTIAL_BYTES, ROW_BYTES, metadata_size

LARGEST = 2**32 - 1
BLOCK_SIZE = 65536
BITMAP = 2**128 - 2


async def use(database: Database, blocks: int, rng: random.Random) -> int:
    """Change every row many times, in any order, and save hints; returns the largest size seen."""
    peak = 0
    region = region_blocks_for(blocks)
    for start in range(0, blocks, 4096):
        cblocks = range(start, min(blocks, start + 4096))
        opened = sorted({cblock // region for cblock in cblocks})
        await database.commit(Transaction(mapped=[(cblock, 0, True, None, None) for cblock in cblocks], opened=opened))
    for _ in range(12):
        some = rng.sample(range(blocks), blocks // 4)
        if rng.random() < 0.3:
            await database.commit(Transaction(unmapped=some))
        else:
            valid = rng.choice((None, BITMAP))
            await database.commit(
                Transaction(mapped=[(cblock, rng.getrandbits(45), False, LARGEST, valid) for cblock in some])
            )
        await database.save_hints((cblock, LARGEST) for cblock in range(blocks))
        peak = max(peak, database.size())
    await database.commit(
        Transaction(mapped=[(cblock, 2**45 + cblock, False, LARGEST, BITMAP) for cblock in range(blocks)])
    )
    await database.save_hints((cblock, LARGEST) for cblock in range(blocks))
    return max(peak, database.size())


@pytest.mark.parametrize("blocks", [1, 1024, 2048, 4096, 8192, 16384])
def test_scenario_25_metadata_never_takes_more_than_the_formula_says(tmp_path: Path, blocks: int) -> None:
    database = Database.create(tmp_path / "metadata", {f"value{number}": "v" * 500 for number in range(20)})
    peak = trio.run(use, database, blocks, random.Random(blocks))
    database.close()
    alone = (tmp_path / "metadata").stat().st_size
    most = metadata_size(blocks, BLOCK_SIZE)
    assert peak <= most
    each = ROW_BYTES + PARTIAL_BYTES + 2 * bitmap_bytes(BLOCK_SIZE)
    assert alone <= 64 * 1024 + each * blocks
    assert most <= FIXED_BYTES + 4 * max(alone, each), "nor is it far too much"
