"""The queues of runs do what the definition of SMQ's queues says, whatever the size of runs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.structures.levels import LevelQueue, MarkedQueue, even_targets
from policies.structures.runs import LEVELS, RunPool
from tests.unit.policies.levelmodel import LevelModel

ENTRIES = 60
LOW_LEVELS = st.sampled_from([0, 1, 2, 3, 31, 62, 63])

PUSHES = st.tuples(st.just("push"), st.integers(0, ENTRIES - 1), LOW_LEVELS)
MANY = st.tuples(st.sampled_from(["many", "many_first"]), st.integers(0, ENTRIES - 1), LOW_LEVELS)
REMOVALS = st.tuples(st.just("remove"), st.integers(0, ENTRIES - 1), st.just(0))
HITS = st.tuples(st.just("requeue"), st.integers(0, ENTRIES - 1), st.sampled_from([0, 1, 2, 4]))
PERIODS = st.tuples(st.sampled_from(["redistribute", "flip", "tidy"]), st.integers(0, 20), st.sampled_from([0, 8, 63]))
ACTIONS = st.lists(st.one_of(PUSHES, MANY, REMOVALS, HITS, PERIODS), max_size=60)


def make(run_size: int, *, marked: bool) -> tuple[RunPool, LevelQueue, LevelModel]:
    pool = RunPool(ENTRIES, run_size)
    return pool, MarkedQueue(pool) if marked else LevelQueue(pool), LevelModel(marked=marked)


def act(queue: LevelQueue, model: LevelModel, action: tuple[str, int, int]) -> None:
    name, number, other = action
    queued = {entry for level in model.entries() for entry in level}
    if name == "push" and number not in queued:
        queue.push(number, other)
        model.push(number, other)
    elif name == "many_first":
        entries = [entry for entry in range(number, ENTRIES, 1 + number % 7) if entry not in queued]
        queue.push_first(entries, other)
        model.push_first(entries, other)
    elif name == "many":
        for entry in range(number, ENTRIES):
            if entry not in queued:
                queue.push(entry, other)
                model.push(entry, other)
    elif name == "remove" and number in queued:
        assert queue.remove(number) == model.remove(number)
    elif name == "requeue" and number in queued:
        queue.requeue(number, other)
        model.requeue(number, other)
    elif name == "redistribute":
        queue.redistribute(number, other)
        model.redistribute(number, other)
    elif name == "tidy":
        queue.tidy(number)
    elif name == "flip" and isinstance(queue, MarkedQueue):
        queue.flip()
        model.flip()


@given(st.integers(1, 8), st.booleans(), ACTIONS)
def test_queue_follows_its_definition(run_size: int, marked: bool, actions: list[tuple[str, int, int]]) -> None:
    pool, queue, model = make(run_size, marked=marked)
    for action in actions:
        act(queue, model, action)
        pool.check()
        assert queue.check() == model.entries()
        assert queue.size == sum(map(len, model.entries()))
        assert (queue.peek(), queue.peek(32)) == (model.peek(), model.peek(32))
        if isinstance(queue, MarkedQueue):
            assert queue.peek_old() == model.peek_old()


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("start", [0, 5, 63])
def test_redistribution_of_a_heap_follows_its_definition(start: int, marked: bool) -> None:
    pool = RunPool(1000, 16)
    queue: LevelQueue = MarkedQueue(pool) if marked else LevelQueue(pool)
    model = LevelModel(marked=marked)
    rng = random.Random(start)
    for entry in range(1000):
        level = start if entry % 10 else rng.randrange(LEVELS)
        queue.push(entry, level)
        model.push(entry, level)
    for in_top, top_levels in ((0, 0), (15, 8), (0, 0)):
        queue.redistribute(in_top, top_levels)
        model.redistribute(in_top, top_levels)
        pool.check()
        assert queue.check() == model.entries()


def test_even_means_a_difference_of_one_at_most() -> None:
    queue = LevelQueue(RunPool(1000, 16))
    for entry in range(1000):
        queue.push(entry, 63)
    queue.redistribute()
    assert [len(level) for level in queue.check()] == even_targets(1000) == [16] * 40 + [15] * 24


def test_targets_give_the_top_levels_their_share_even_of_too_few() -> None:
    assert even_targets(10, 16, 8) == [0] * 56 + [2] * 8
    assert even_targets(130, 17, 8) == [3] + [2] * 55 + [3] + [2] * 7


@pytest.mark.parametrize(("labels", "most"), [(65536, 3000), (2200, 1200)])
def test_small_runs_are_merged_when_run_numbers_get_short(labels: int, most: int) -> None:
    pool = RunPool(3000, run_size=8, labels=labels)
    queue = LevelQueue(pool)
    order = list(range(3000))
    for entry in order:
        queue.push(entry, 0)
    stayed: list[int] = []
    for _ in range(12):  # of each run of 8, one entry stays behind
        moved = [entry for place, entry in enumerate(order) if place % 8]
        stayed += [entry for place, entry in enumerate(order) if place % 8 == 0]
        for entry in moved:
            queue.requeue(entry, 0)
        order = moved
    pool.check()
    assert queue.check()[0] == stayed + order
    assert most * 3 // 4 < len(pool.count) < most


def test_entries_out_of_the_queue_remember_their_level() -> None:
    pool = RunPool(4)
    queue = LevelQueue(pool)
    queue.push(2, 17)
    assert pool.level_of(2) == 17
    assert queue.remove(2) == 17
    assert pool.level_of(2) == 17
