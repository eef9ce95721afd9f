from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.block.mapping import UNMAPPED, Mapping
from fusecache.block.states import DIRTY, PARTIAL, RECORDED, SUMMED, WRITE_INTENT

OBLOCKS = st.integers(0, 40) | st.integers(0, 2**40)
STEPS = st.tuples(st.sampled_from(["insert", "remove", "dirty", "clean"]), OBLOCKS, st.integers(-1, 8))


def do_step(mapping: Mapping, model: dict[int, tuple[int, bool]], step: tuple[str, int, int]) -> None:
    """Do one step to both; ``model`` has the oblock and the dirty bit of each mapped cblock."""
    name, oblock, cblock = step
    if name == "insert":
        possible = (
            0 <= cblock < mapping.cache_blocks
            and cblock not in model
            and oblock not in {held for held, _ in model.values()}
        )
        if possible:
            mapping.insert(oblock, cblock)
            model[cblock] = (oblock, False)
        else:
            with pytest.raises(ValueError, match="block"):
                mapping.insert(oblock, cblock)
    elif cblock in model:
        held, dirty = model[cblock]
        if name == "remove":
            mapping.write_lost(cblock)
            assert mapping.remove(cblock) == held
            del model[cblock]
        elif name == "dirty":
            if not mapping.flags[cblock] & WRITE_INTENT:
                mapping.intent_recorded(cblock)
            assert mapping.written(cblock) is not dirty
            model[cblock] = (held, True)
        else:
            assert mapping.cleaned(cblock, 7) is dirty
            model[cblock] = (held, False)
    elif name == "remove" and 0 <= cblock < mapping.cache_blocks:
        with pytest.raises(ValueError, match="not mapped"):
            mapping.remove(cblock)


def agree(mapping: Mapping, model: dict[int, tuple[int, bool]]) -> None:
    mapping.check()
    assert dict(mapping.mapped()) == {cblock: held for cblock, (held, _) in model.items()}
    assert mapping.mapped_count == len(model)
    dirty = [(held, cblock) for cblock, (held, is_dirty) in model.items() if is_dirty]
    assert mapping.dirty_blocks() == [cblock for _, cblock in sorted(dirty)]
    assert [cblock for cblock, flag in enumerate(mapping.dirty_map()) if flag] == sorted(cblock for _, cblock in dirty)
    assert set(mapping.dirty_map()) <= {0, 1}
    assert mapping.dirty_count == len(dirty)
    for cblock, (held, _) in model.items():
        assert mapping.find(held) == cblock


@given(st.integers(1, 8), st.lists(st.tuples(OBLOCKS | st.just(-1), st.integers(-1, 8)), max_size=12))
def test_many_are_inserted_as_one_after_the_other(cache_blocks: int, blocks: list[tuple[int, int]]) -> None:
    def insert_each(mapping: Mapping) -> None:
        for oblock, cblock in blocks:
            mapping.insert(oblock, cblock)

    def outcome(insert: Callable[[Mapping], None]) -> tuple[str, list[tuple[int, int]]]:
        mapping = Mapping(cache_blocks)
        words = ""
        try:
            insert(mapping)
        except ValueError as exc:
            words = str(exc)
        mapping.check()
        return words, list(mapping.mapped())

    assert outcome(lambda mapping: mapping.insert_all(iter(blocks))) == outcome(insert_each)


@given(st.integers(1, 8), st.lists(STEPS, max_size=60))
def test_it_is_a_dictionary_both_ways(cache_blocks: int, steps: list[tuple[str, int, int]]) -> None:
    mapping = Mapping(cache_blocks)
    model: dict[int, tuple[int, bool]] = {}
    for step in steps:
        do_step(mapping, model, step)
        agree(mapping, model)
        if step[1] not in {held for held, _ in model.values()}:
            assert mapping.find(step[1]) == UNMAPPED


def colliding(mapping: Mapping, home: int, count: int) -> list[int]:
    """List oblocks that all hash to one slot."""
    return list(islice((oblock for oblock in range(100_000) if mapping._home(oblock) == home), count))


@pytest.mark.parametrize("cache_blocks", range(1, 9))
def test_runs_that_wrap_around_the_end_of_the_table_survive_every_order_of_removal(cache_blocks: int) -> None:
    numbers = random.Random(cache_blocks)
    last = Mapping(cache_blocks)._mask
    for _ in range(40):
        mapping = Mapping(cache_blocks)
        homes = [last, last - 1, 0, last]
        pool = [oblock for home in homes for oblock in colliding(mapping, home, cache_blocks)]
        oblocks = numbers.sample(sorted(set(pool)), cache_blocks)
        for cblock, oblock in enumerate(oblocks):
            mapping.insert(oblock, cblock)
            mapping.check()
        left = dict(enumerate(oblocks))
        for cblock in numbers.sample(range(cache_blocks), cache_blocks):
            assert mapping.remove(cblock) == left.pop(cblock)
            mapping.check()
            assert dict(mapping.mapped()) == left
        assert mapping.mapped_count == 0


@pytest.mark.parametrize("cache_blocks", [1, 2, 3, 1000, 1024, 1025])
def test_a_full_table_ends_its_search_for_what_is_not_there(cache_blocks: int) -> None:
    mapping = Mapping(cache_blocks)
    for cblock in range(cache_blocks):
        mapping.insert(7 * cblock, cblock)
    mapping.check()
    assert mapping.find(1) == UNMAPPED
    assert mapping.find(-1) == UNMAPPED
    assert len(mapping._slots) >= 2 * cache_blocks


def test_a_refused_insert_changes_nothing() -> None:
    mapping = Mapping(2)
    mapping.insert(5, 0)
    for oblock, cblock in [(5, 1), (6, 0), (-1, 1), (6, 2), (6, -1)]:
        with pytest.raises(ValueError, match="block"):
            mapping.insert(oblock, cblock)
        agree(mapping, {0: (5, False)})


def test_unmapping_takes_all_flags_along() -> None:
    mapping = Mapping(1)
    mapping.insert(3, 0)
    mapping.recovered_dirty(0)
    assert mapping.flags[0] == WRITE_INTENT | RECORDED | DIRTY
    mapping.cleaned(0, 7)
    assert mapping.flags[0] == WRITE_INTENT | RECORDED | SUMMED
    assert mapping.remove(0) == 3
    assert (mapping.flags[0], mapping.dirty_count) == (0, 0)
    mapping.insert(3, 0)
    assert mapping.flags[0] == 0


def test_a_block_that_is_put_back_is_as_it_was_but_for_its_row() -> None:
    mapping = Mapping(1)
    mapping.insert(3, 0)
    mapping.recovered_dirty(0)
    mapping.cleaned(0, 7)
    state = mapping.flags[0]
    mapping.remove(0)
    mapping.put_back(3, 0, state, None)
    assert mapping.find(3) == 0
    assert mapping.flags[0] == WRITE_INTENT | SUMMED
    assert mapping.sum_of(0) == 7
    mapping.check()


def test_the_mapping_may_change_while_it_is_walked() -> None:
    mapping = Mapping(3)
    for cblock in range(3):
        mapping.insert(cblock + 10, cblock)
    seen = []
    for cblock, oblock in mapping.mapped():
        seen.append((cblock, oblock))
        if cblock == 0:
            mapping.remove(1)
    assert seen == [(0, 10), (2, 12)]


def test_check_sees_what_is_wrong() -> None:
    def broken(name: str) -> Mapping:
        mapping = Mapping(2)
        mapping.insert(5, 0)
        mapping.promoted(0)
        if name == "count":
            mapping.mapped_count = 2
        elif name == "twice":
            mapping.oblock_of[1] = 5
        elif name == "stray flag":
            mapping.flags[1] = WRITE_INTENT
        elif name == "dirty count":
            mapping.flags[0] |= DIRTY
        else:
            mapping.taken_as_clean(0)
            mapping.written(0)
        return mapping

    for name in ("count", "twice", "stray flag", "dirty count", "no write intent"):
        mapping = broken(name)
        with pytest.raises(AssertionError):
            mapping.check()


def test_a_sum_is_of_a_clean_block_only() -> None:
    mapping = Mapping(2)
    mapping.insert(5, 0)
    assert mapping.sum_of(0) is None
    mapping.sum_known(0, 0xFFFFFFFF)
    assert mapping.sum_of(0) == 0xFFFFFFFF
    mapping.intent_recorded(0)
    mapping.written(0)
    assert mapping.sum_of(0) is None
    mapping.cleaned(0, 7)
    assert mapping.sum_of(0) == 7
    assert mapping.rewriting(0)
    assert mapping.sum_of(0) is None
    assert not mapping.rewriting(0)
    mapping.sum_known(0, 7)
    mapping.remove(0)
    assert mapping.sum_of(0) is None
    mapping.check()


def test_a_partial_block_gets_sectors_until_it_is_whole() -> None:
    mapping = Mapping(2)
    mapping.insert(5, 1)
    mapping.holds_part(1, 0b0110)
    assert mapping.flags[1] & PARTIAL
    assert not mapping.validated(1, 0b0010, 0b1111)
    assert mapping.validated(1, 0b1000, 0b1111)
    assert mapping.valid == {1: 0b1110}
    mapping.check()
    assert mapping.validated(1, 0b0011, 0b1111)
    assert mapping.valid == {}
    assert not mapping.flags[1] & PARTIAL
    assert not mapping.validated(1, 0b0001, 0b1111)
    mapping.check()


def test_what_a_partial_block_has_goes_with_it_and_comes_back_with_it() -> None:
    mapping = Mapping(1)
    mapping.insert(5, 0)
    mapping.holds_part(0, 0b01)
    state = mapping.flags[0]
    mapping.remove(0)
    assert mapping.valid == {}
    mapping.put_back(5, 0, state, 0b01)
    assert mapping.valid == {0: 0b01}
    mapping.check()


def test_the_check_finds_a_partial_block_without_its_sectors() -> None:
    mapping = Mapping(1)
    mapping.insert(5, 0)
    mapping.holds_part(0, 0b01)
    del mapping.valid[0]
    with pytest.raises(AssertionError):
        mapping.check()
