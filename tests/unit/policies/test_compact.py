"""Policies stay small and quick when caches are large."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable

import pytest

from policies import Policy, create_policy
from policies.structures.blockindex import BlockIndex

BLOCKS = 100_000
SPREAD = 2**40 // BLOCKS


def loaded(name: str, *, hint: int, dirty: bool) -> Policy:
    policy = create_policy(name, cache_blocks=BLOCKS, origin_blocks=2**40, block_size=65536)
    for cblock in range(BLOCKS):
        policy.load_mapping(cblock * SPREAD, cblock, dirty=dirty, hint=hint)
    return policy


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


WIDE = {
    "smq": 33,
    "cleaner": 33,
    "mq": 88,
    "lru": 28,
    "arc": 50,
    "twoq": 39,
    "s3fifo": 48,
    "tinylfu": 36,
}
"""Bytes per cache block if block numbers are large."""


@pytest.mark.parametrize(("name", "bytes_per_block"), WIDE.items())
def test_memory_of_a_full_cache_in_use(name: str, bytes_per_block: int) -> None:
    create_policy(name, cache_blocks=4, origin_blocks=4, block_size=65536)  # what importing takes is not counted
    tracemalloc.start()
    try:
        policy = loaded(name, hint=40, dirty=False)
        for step in range(20_000):
            policy.lookup(step * 7 % BLOCKS * SPREAD, write=False, fast_copy=False)
            policy.lookup(step * 7 % BLOCKS * SPREAD + 1 + step % 100, write=False, fast_copy=False)
            if step % 1000 == 0:
                policy.tick(60_001 * (1 + step // 1000))
        policy.get_background_work(idle=True)
        assert tracemalloc.get_traced_memory()[0] < bytes_per_block * BLOCKS
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["arc", "lru", "s3fifo", "tinylfu", "twoq"])
def test_yardsticks_take_forty_bytes_with_their_ghosts(name: str) -> None:
    create_policy(name, cache_blocks=4, origin_blocks=4, block_size=65536)
    tracemalloc.start()
    try:
        policy = create_policy(name, cache_blocks=BLOCKS, origin_blocks=100 * BLOCKS, block_size=65536)
        for oblock in range(20_000):
            policy.lookup(oblock * 99, write=False, fast_copy=False)
            while (work := policy.get_background_work(idle=False)) is not None:
                policy.complete_background_work(work, success=True)
        assert tracemalloc.get_traced_memory()[0] < 41 * BLOCKS
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["arc", "lru", "s3fifo", "tinylfu", "twoq"])
def test_a_victim_is_found_at_once_even_if_all_blocks_deserve_to_stay(name: str) -> None:
    policy = loaded(name, hint=2**32 - 1, dirty=True)
    for cblock in range(BLOCKS):
        policy.lookup(cblock * SPREAD, write=False, fast_copy=False)
    victims = []
    assert cpu_seconds(lambda: victims.append(policy.get_background_work(idle=False))) < 0.05
    assert victims[0] is not None
    assert cpu_seconds(lambda: policy.lookup(1, write=False, fast_copy=False)) < 0.05


@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("hint", [0, 31, 63])
def test_redistributing_all_blocks_is_a_matter_of_milliseconds(hint: int, dirty: bool) -> None:
    policy = loaded("smq", hint=hint, dirty=dirty)
    assert cpu_seconds(lambda: policy.tick(1)) < 0.05  # block by block it would take a second or many
    assert sorted({policy.get_hint(cblock) for cblock in range(BLOCKS)}) == list(range(64))


def test_the_first_bio_after_loading_or_cleaning_does_not_count_block_by_block() -> None:
    policy = loaded("mq", hint=1, dirty=True)
    policy.tick(1)
    assert cpu_seconds(lambda: policy.lookup(0, write=False, fast_copy=False)) < 0.01
    assert [policy.get_hint(cblock) for cblock in (0, 9, BLOCKS - 1)] == [2, 2, 2]
    for cblock in range(BLOCKS):
        policy.clear_dirty(cblock)
    assert [policy.get_hint(cblock) for cblock in (0, 9, BLOCKS - 1)] == [2, 2, 2]
    policy.lookup(SPREAD, write=False, fast_copy=False)
    policy.set_dirty(BLOCKS - 1)
    policy.tick(2)
    assert cpu_seconds(lambda: policy.lookup(0, write=False, fast_copy=False)) < 0.01
    assert [policy.get_hint(cblock) for cblock in (0, 1, 9, BLOCKS - 1)] == [2, 3, 2, 3]


@pytest.mark.parametrize(("origin_blocks_per_block", "most_words"), [(100, 1.3), (2**30, 1.75)])
def test_searching_does_not_take_longer_in_larger_caches(origin_blocks_per_block: int, most_words: float) -> None:
    def words_read(blocks: int) -> float:
        index = BlockIndex(blocks, blocks * origin_blocks_per_block)
        keys = random.Random(blocks).sample(range(blocks * origin_blocks_per_block), blocks)
        for entry, key in enumerate(keys):
            index.insert(entry, key)
        words = 0
        for entry, key in enumerate(keys):
            word = index.buckets[key % index.size]
            words += 1
            while word & index.mask != entry:
                word = index.chain[word & index.mask]
                words += 1
        return words / blocks

    assert words_read(4_000) < most_words
    assert words_read(400_000) < most_words
