"""Hash table, free list, tracker and detector on their own."""

from __future__ import annotations

from array import array
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.base import Op, PolicyError
from policies.sequential import SequentialDetector
from policies.structures import freelist, hitcounts
from policies.structures.blockindex import BlockIndex
from policies.structures.freelist import FreeList
from policies.structures.tracker import MAX_WORK, WorkTracker


@given(
    st.sampled_from([200, 2**31, 2**40, 2**60]),
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 199)), max_size=80),
)
def test_index_is_a_dictionary(key_limit: int, actions: list[tuple[bool, int, int]]) -> None:
    index = BlockIndex(10, key_limit)
    keys: dict[int, int] = {}
    for insert, entry, low_key in actions:
        key = low_key * (key_limit // 200)
        if insert and entry not in keys.values() and key not in keys:
            index.insert(entry, key)
            keys[key] = entry
        elif not insert and entry in keys.values():
            index.remove(entry)
            keys = {key: other for key, other in keys.items() if other != entry}
        assert index.check() == keys
        assert index.find(key) == keys.get(key, -1)
        assert all(index.key_of(entry) == key for key, entry in keys.items())


@pytest.mark.parametrize("entries", [1, 2, 3, 4, 5, 31, 32, 33, 2**16 + 1])
@pytest.mark.parametrize("key_limit", [1, 2, 2**31, 2**32, 2**40, 2**60])
def test_index_holds_the_first_and_the_last_key(entries: int, key_limit: int) -> None:
    index = BlockIndex(entries, key_limit)
    index.insert(entries - 1, key_limit - 1)
    if key_limit > 1 < entries:
        index.insert(0, 0)
        assert index.find(0) == 0
    assert index.find(key_limit - 1) == entries - 1
    assert index.key_of(entries - 1) == key_limit - 1
    index.remove(entries - 1)
    assert index.find(key_limit - 1) == -1


@pytest.mark.parametrize("key_limit", [2**31, 2**60])
def test_keys_of_one_bucket_are_told_apart(key_limit: int) -> None:
    index = BlockIndex(6, key_limit)
    for entry in range(6):
        index.insert(entry, 1 + entry * index.size)
    assert [index.find(1 + entry * index.size) for entry in range(7)] == [0, 1, 2, 3, 4, 5, -1]
    for entry in (3, 5, 0):
        index.remove(entry)
    assert [index.find(1 + entry * index.size) for entry in range(6)] == [-1, 1, 2, -1, 4, -1]
    assert [index.key_of(entry) for entry in (1, 2, 4)] == [1 + entry * index.size for entry in (1, 2, 4)]


def test_index_does_not_degrade_with_consecutive_or_strided_keys() -> None:
    for stride in (1, 2, 16, 4096):
        index = BlockIndex(4096, 2**31)
        for entry in range(4096):
            index.insert(entry, entry * stride)
        used = sum(first >= 0 for first in index.buckets)
        assert used > 3500, f"stride {stride}: {used} buckets used"


def test_free_list_hands_out_in_order_and_takes_back_at_either_end() -> None:
    free = FreeList(array("I", [0] * 5), array("I", [0] * 5), 4)
    free.fill(range(4))
    assert [free.take(), free.take()] == [0, 1]
    free.give_back(0)
    free.give_back_first(1)
    free.take_this(2)
    assert free.check() == [1, 3, 0]


@pytest.mark.parametrize("entries", [range(1), range(3, 10), range(9, -1, -1), range(9, 2, -1), range(5, 4, -1)])
def test_free_list_hands_out_what_it_is_filled_with_in_order(entries: range) -> None:
    with mock.patch.object(freelist, "_PART", 3):
        free = FreeList(array("I", [0] * 11), array("I", [0] * 11), 10)
        free.fill(entries)
    assert free.check() == list(entries)
    assert [free.take() for _ in entries] == list(entries)
    assert free.check() == []


def test_tracker_hands_out_the_last_item_first() -> None:
    tracker = WorkTracker()
    for oblock in range(3):
        assert tracker.queue(Op.PROMOTE, oblock, oblock)
    works = [tracker.issue() for _ in range(4)]
    assert [work and work.oblock for work in works] == [2, 1, 0, None]


def test_tracker_refuses_a_second_item_for_a_block_whatever_it_is() -> None:
    tracker = WorkTracker()
    assert tracker.queue(Op.DEMOTE, 7, 0)
    assert not tracker.queue(Op.PROMOTE, 7, 1)
    work = tracker.issue()
    assert work is not None
    assert tracker.issue_new(Op.WRITEBACK, 7, 0) is None
    assert tracker.demotions == 1
    tracker.complete(work)
    assert tracker.demotions == 0
    assert 7 not in tracker


def test_tracker_counts_queued_and_issued_items_against_its_limit() -> None:
    tracker = WorkTracker()
    for oblock in range(MAX_WORK):
        assert (
            tracker.queue(Op.PROMOTE, oblock, oblock) if oblock % 2 else tracker.issue_new(Op.PROMOTE, oblock, oblock)
        )
    assert MAX_WORK == 4096
    assert tracker.is_full
    assert not tracker.queue(Op.PROMOTE, MAX_WORK, MAX_WORK)
    assert tracker.issue_new(Op.PROMOTE, MAX_WORK, MAX_WORK) is None
    assert len(tracker.check()) == MAX_WORK


def test_work_comes_back_once_and_by_identity() -> None:
    tracker, other = WorkTracker(), WorkTracker()
    work, stranger = tracker.issue_new(Op.PROMOTE, 1, 2), other.issue_new(Op.PROMOTE, 1, 2)
    assert work is not None
    assert stranger is not None
    with pytest.raises(PolicyError, match="has not been handed out"):
        tracker.complete(stranger)
    tracker.complete(work)
    with pytest.raises(PolicyError, match="complete already"):
        tracker.complete(work)


def test_detector_switches_after_512_contiguous_bios_and_back_after_4() -> None:
    detector = SequentialDetector(512, 4)
    seen = []
    for block in range(600):
        detector.examine(4096 * (100 + block), 4096)
        seen.append(detector.is_sequential)
    assert seen.index(True) == 512  # the 513th: the first one continues nothing
    scattered = []
    for block in range(4):
        detector.examine(2**30 * (block + 1), 4096)
        scattered.append(detector.is_sequential)
    assert scattered == [True, True, True, False]


def test_two_interleaved_streams_look_random() -> None:
    detector = SequentialDetector(8, 4)
    for block in range(100):
        detector.examine(4096 * block, 4096)
        detector.examine(2**30 + 4096 * block, 4096)
    assert not detector.is_sequential


def test_detector_starts_as_if_sector_0_had_been_accessed() -> None:
    detector = SequentialDetector(1, 4)
    detector.examine(512, 4096)
    assert detector.is_sequential


@given(st.sampled_from([0, 2, 5]), st.lists(st.tuples(st.sampled_from("qqqhfbt"), st.integers(0, 9)), max_size=80))
def test_hits_in_batches_are_counted_as_one_by_one(many: int, actions: list[tuple[str, int]]) -> None:
    cached = 8
    with mock.patch.object(hitcounts, "_MANY", many):
        hits = hitcounts.HitCounts(10, cached)
        counts = [0] * 10
        queued: set[int] = set()
        recent: set[int] = set()
        for action, entry in actions:
            if action == "q" and entry < cached:
                hits.forget(entry)
                hits.queue(entry)
                queued.add(entry)
                recent.add(entry)
            elif action == "f":
                hits.forget(entry) if entry < cached else hits.forget_recent(entry)
                queued.discard(entry)
                recent.discard(entry)
            elif action == "t":
                hits.ticked = True
            elif action in {"b", "h"}:
                for counted in recent if hits.ticked else ():
                    counts[counted] += 1
                hits.begin_bio()
                recent.clear()
            if action == "h":
                if entry < cached:
                    hits.settle(entry)
                hits.newest = entry
                queued.add(entry)
                recent.add(entry)
            hits.check(queued)
            assert [hits.of(each) for each in range(cached)] == counts[:cached]
            assert list(hits.counts[cached:]) == counts[cached:]


def test_levels_of_hits_are_logarithms() -> None:
    hits = hitcounts.HitCounts(1, 1)
    hits.state[0] = 0b1110000
    for count in (0, 1, 2, 3, 4, 7, 8, 2**14 - 1, 2**14, 2**15, 2**16, 2**32 - 1):
        hits.write(0, count)
        assert hits.level_of(0) == hits.state[0] & hitcounts.LEVEL_BITS == min(15, max(count, 1).bit_length() - 1)
        assert hits.state[0] & 0b1110000 == 0b1110000


def test_counting_stops_at_32_bits_and_keeps_levels() -> None:
    hits = hitcounts.HitCounts(1, 1)
    for count, after in ((1, 2), (3, 4), (2**32 - 2, 2**32 - 1), (2**32 - 1, 2**32 - 1)):
        hits.write(0, count)
        hits.newest = 0
        hits.ticked = True
        hits.begin_bio()
        assert hits.of(0) == after
        hits.check({0})
