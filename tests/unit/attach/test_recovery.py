from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.attach.recovery import (
    DamagedRowError,
    Recovered,
    hint_signature,
    policy_values,
    recover,
    remember,
)
from fusecache.block.geometry import Geometry
from fusecache.block.states import DIRTY, RECORDED, WRITE_INTENT
from fusecache.metadata import Identity, Superblock
from fusecache.metadata.record import Row
from policies import Policy, create_policy
from tests.unit.worlds import BLOCK, ToyPolicy

CACHE_BLOCKS = 8
ORIGIN_BLOCKS = 20


def recover_rows(
    rows: list[Row],
    regions: set[int],
    *,
    policy: Policy | None = None,
    hints_valid: bool = False,
    region_blocks: int = 2,
) -> Recovered:
    recovered = recover(
        rows,
        regions,
        geometry=Geometry(ORIGIN_BLOCKS * BLOCK + 1, BLOCK, CACHE_BLOCKS),
        region_blocks=region_blocks,
        policy=policy or ToyPolicy(CACHE_BLOCKS),
        hints_valid=hints_valid,
    )
    recovered.mapping.check()
    return recovered


ROWS = st.lists(
    st.tuples(st.integers(0, CACHE_BLOCKS - 1), st.integers(0, ORIGIN_BLOCKS - 1), st.booleans()),
    unique_by=(lambda row: row[0], lambda row: row[1]),
    max_size=CACHE_BLOCKS,
)


@given(ROWS, st.sets(st.integers(0, CACHE_BLOCKS)), st.integers(1, 5), st.sampled_from(["smq", "cleaner", "toy"]))
def test_suspects_are_dirty_and_all_others_clean(
    drawn: list[tuple[int, int, bool]], regions: set[int], region_blocks: int, name: str
) -> None:
    rows = [Row(cblock, oblock, dirty, None) for cblock, oblock, dirty in drawn]
    policy: Policy = ToyPolicy(CACHE_BLOCKS)
    if name != "toy":
        policy = create_policy(name, cache_blocks=CACHE_BLOCKS, origin_blocks=ORIGIN_BLOCKS, block_size=BLOCK)
    recovered = recover_rows(rows, regions, policy=policy, region_blocks=region_blocks)
    mapping = recovered.mapping
    policy.check()
    assert recovered.open_regions == regions
    assert dict(mapping.mapped()) == {row.cblock: row.oblock for row in rows}
    assert policy.residency() == len(rows)
    suspects = 0
    for row in rows:
        suspect = row.cblock // region_blocks in regions
        flags = mapping.flags[row.cblock]
        assert bool(flags & DIRTY) == bool(flags & WRITE_INTENT) == (row.dirty or suspect)
        assert bool(flags & RECORDED) == row.dirty
        assert policy.lookup(row.oblock, False, False) == row.cblock
        suspects += suspect and not row.dirty
    assert recovered.suspects == suspects


def test_the_policy_hears_what_is_dirty() -> None:
    policy = ToyPolicy(CACHE_BLOCKS)
    rows = [Row(0, 1, dirty=True, hint=None), Row(2, 3, dirty=False, hint=None), Row(4, 5, dirty=False, hint=None)]
    recover_rows(rows, {1}, policy=policy)
    assert policy.dirty == {0, 2}


@given(ROWS, st.sets(st.integers(0, CACHE_BLOCKS)), st.data())
def test_partial_blocks_hold_the_sectors_that_their_rows_name(
    drawn: list[tuple[int, int, bool]], regions: set[int], data: st.DataObject
) -> None:
    """Those of a suspect count as dirty, like those of a dirty block; no others do."""
    bitmaps = st.none() | st.integers(1, 2 ** (BLOCK // 512) - 2)
    rows = [Row(cblock, oblock, dirty, None, None, data.draw(bitmaps)) for cblock, oblock, dirty in drawn]
    recovered = recover_rows(rows, regions)
    assert recovered.mapping.valid == {row.cblock: row.valid for row in rows if row.valid is not None}
    for row in rows:
        suspect = row.cblock // 2 in regions
        assert bool(recovered.mapping.flags[row.cblock] & DIRTY) == (row.dirty or suspect)
        assert recovered.mapping.sum_of(row.cblock) is None


def test_the_regions_are_a_copy() -> None:
    regions = {1}
    assert recover_rows([], regions).open_regions is not regions


@pytest.mark.parametrize("valid", [True, False])
def test_hints_count_only_if_they_are_valid(valid: bool) -> None:
    policy = ToyPolicy(CACHE_BLOCKS)
    recover_rows(
        [Row(0, 1, dirty=False, hint=7), Row(1, 2, dirty=False, hint=None)], set(), policy=policy, hints_valid=valid
    )
    assert policy.hints == {0: 7 if valid else None, 1: None}


def test_a_policy_without_hints_is_given_none() -> None:
    class Plain(ToyPolicy):
        hint_size = 0

    policy = Plain(CACHE_BLOCKS)
    recover_rows([Row(0, 1, dirty=False, hint=7)], set(), policy=policy, hints_valid=True)
    assert policy.hints == {0: None}


def test_what_hints_mean_depends_on_name_major_version_and_size() -> None:
    class Later(ToyPolicy):
        version = (1, 5, 9)

    class Other(ToyPolicy):
        version = (2, 0, 0)

    class Renamed(ToyPolicy):
        name = "other"

    class Resized(ToyPolicy):
        hint_size = 0

    toy, later, *others = (hint_signature(kind(1)) for kind in (ToyPolicy, Later, Other, Renamed, Resized))
    assert toy == later
    assert len({toy, *others}) == 4


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([Row(0, ORIGIN_BLOCKS, dirty=False, hint=None)], "beyond the end"),
        ([Row(0, 2**62, dirty=False, hint=None)], "beyond the end"),
        ([Row(0, -1, dirty=False, hint=None)], "no such block"),
        ([Row(CACHE_BLOCKS, 0, dirty=False, hint=None)], "no such block"),
        ([Row(-1, 0, dirty=False, hint=None)], "no such block"),
        ([Row(0, 5, dirty=False, hint=None), Row(1, 5, dirty=True, hint=None)], "oblock 5 is mapped to cblock 0"),
        ([Row(0, 5, dirty=False, hint=None), Row(0, 6, dirty=True, hint=None)], "cblock 0 holds oblock 5"),
    ],
)
def test_rows_that_contradict_each_other_or_the_sizes(rows: list[Row], words: str) -> None:
    with pytest.raises(DamagedRowError, match=words) as caught:
        recover_rows(rows, set())
    assert "\n" not in str(caught.value)


SUPERBLOCK = Superblock(
    uuid="u",
    block_size=BLOCK,
    cache_blocks=1,
    region_blocks=1,
    image_bytes=BLOCK,
    origin=Identity("/o", "1", "2", BLOCK),
    clean_shutdown=True,
)


class Learner(ToyPolicy):
    """Has a memory."""

    name = "learner"

    def __init__(self, learned: bytes = b"") -> None:
        super().__init__(1)
        self.learned = learned

    def memory(self) -> bytes:
        return self.learned

    def remember(self, memory: bytes) -> bool:
        self.learned = memory
        return True


@pytest.mark.parametrize("learned", [b"", b"tables \x00\xff", bytes(32768)])
def test_what_a_policy_has_learned_outlives_a_mount(learned: bytes) -> None:
    later = Learner()
    values: dict[str, Any] = policy_values(Learner(learned))
    remember(later, replace(SUPERBLOCK, **values))
    assert later.learned == learned


def test_what_is_too_much_another_policys_or_no_text_of_ours_is_not_remembered() -> None:
    values: dict[str, Any] = policy_values(Learner(b"tables"))
    assert policy_values(Learner(bytes(32769)))["learned"] == ""
    for changes in ({"hints": "smq 2 4"}, {"learned": "no base 64!"}, {"learned": "YQ"}, {"learned": "\udcff"}):
        later = Learner()
        remember(later, replace(SUPERBLOCK, **(values | changes)))
        assert later.learned == b""
