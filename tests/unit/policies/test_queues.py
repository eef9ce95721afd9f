"""Queues and their ages, histories and sketches, against plain lists and dicts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.structures.history import History
from policies.structures.queues import AGES, AgedQueues, Queues
from policies.structures.ranking import ranked
from policies.structures.sketch import MOST, Sketch

ENTRIES = 12
STEPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, ENTRIES - 1), st.integers(0, 1)), max_size=80)


def where(model: list[list[int]], entry: int) -> int:
    return next((queue for queue, entries in enumerate(model) if entry in entries), -1)


@given(STEPS)
def test_queues_are_lists(steps: list[tuple[int, int, int]]) -> None:
    queues: Queues = AgedQueues(ENTRIES, 2)
    model: list[list[int]] = [[], []]
    for step, entry, queue in steps:
        there = where(model, entry)
        if there < 0:
            queues.push(entry, queue)
            model[queue].append(entry)
        elif step == 0:
            queues.remove(entry, there)
            model[there].remove(entry)
        elif step == 1 and isinstance(queues, AgedQueues):
            queues.renew(entry, there)
            model[there].remove(entry)
            model[there].append(entry)
        assert queues.check() == model
        assert [queues.oldest(number) for number in (0, 1)] == [([*entries, -1])[0] for entries in model]


@given(st.permutations(range(ENTRIES)), st.lists(st.integers(0, AGES - 1), min_size=ENTRIES, max_size=ENTRIES))
def test_entries_loaded_in_any_order_stand_by_age(order: list[int], ages: list[int]) -> None:
    queues = AgedQueues(ENTRIES + 1, 1)
    for entry in order:
        queues.push_aged(entry, 0, ages[entry])
    queues.push(ENTRIES, 0)
    (found,) = queues.check()
    assert [ages[entry] for entry in found[:-1]] == sorted(ages, reverse=True)
    assert found[-1] == ENTRIES
    assert [queues.age(entry) for entry in range(ENTRIES)] == ages
    while (entry := queues.oldest(0)) >= 0:
        assert entry == found.pop(0)
        queues.remove(entry, 0)
    assert not found


def test_what_comes_late_with_an_age_is_older_than_all() -> None:
    queues = AgedQueues(4, 1)
    queues.push(0, 0)
    queues.push_aged(1, 0, 0)
    assert queues.check() == [[1, 0]]
    queues.remove(1, 0)
    queues.remove(0, 0)
    queues.push_aged(2, 0, 3)
    queues.push_aged(1, 0, 5)
    assert queues.oldest(0) == 1  # this drops the anchors of all greater ages
    queues.push_aged(3, 0, AGES - 1)
    queues.push_aged(0, 0, 4)
    assert queues.check() == [[3, 1, 0, 2]]


@pytest.mark.parametrize("events", [0, 3, 4, 5, 8, 100, 3000, 65535])
def test_ages_are_kept_to_a_fifth_over_a_restart(events: int) -> None:
    queues = AgedQueues(64, 1)  # a unit of the clock is one event
    queues.push(0, 0)
    for _ in range(events):
        queues.pass_time()
    later = AgedQueues(64, 1)
    later.push_aged(0, 0, queues.age(0))
    assert later.age(0) == queues.age(0)
    assert events * 0.79 <= later.now - later.stamp[0] & 0xFFFF <= events


def test_a_walk_goes_on_while_entries_move() -> None:
    queues = AgedQueues(3000, 2)
    for entry in range(3000):
        queues.push(entry, entry % 2)
    listed: list[int] = []
    for number, some in enumerate(queues.walk(0, 1)):
        assert len(some) <= 512
        listed += some
        for entry in (4 * number, 1100 + 2 * number):
            queues.renew(entry, 0)  # one that was listed already, one that was not
        queues.remove(2998 - 2 * number, 0)
        queues.push(2998 - 2 * number, 0)
        assert queues.oldest(0) >= 0
        queues.check()
    assert set(listed) == set(range(3000))
    assert [entry for entry in dict.fromkeys(listed) if entry < 1000] == [*range(0, 1000, 2), *range(1, 1000, 2)]


def test_a_walk_left_half_way_leaves_nothing_behind() -> None:
    queues = AgedQueues(2000, 1)
    for entry in range(2000):
        queues.push(entry, 0)
    left = queues.walk(0)
    assert next(left)[0] == 0
    other = queues.walk(0)
    assert next(other)[0] == 0
    assert list(left) == [], "a new walk ends the one before"
    assert next(other)[0] == 512
    del other
    assert len(queues.check()[0]) == 2000
    assert list(queues.older).count(queues.heads + 1) == 1, "the cursor is linked to itself alone"


@given(STEPS)
def test_a_history_remembers_the_latest_of_two_queues(steps: list[tuple[int, int, int]]) -> None:
    history = History(5, 2**40)
    model: list[list[int]] = [[], []]
    for step, entry, queue in steps:
        oblock = entry * 2**36
        there = where(model, oblock)
        if step < 2:
            assert history.take(oblock) == there
            if there >= 0:
                model[there].remove(oblock)
        elif there < 0:
            if sum(map(len, model)) == 5:
                model[queue if model[queue] else 1 - queue].pop(0)
            history.add(oblock, queue)
            model[queue].append(oblock)
        elif step == 3 and model[queue]:
            history.drop(queue)
            model[queue].pop(0)
        assert history.check() == model
        assert history.size == [len(queue) for queue in model]


def test_a_sketch_never_counts_too_few_before_it_halves() -> None:
    sketch = Sketch(1000)
    rng = random.Random(1)
    uses: dict[int, int] = {}
    for _ in range(sketch.period - 1):
        key = int(3000 ** rng.random()) * 2**31
        uses[key] = uses.get(key, 0) + 1
        sketch.add(key)
    sketch.check()
    counts = {key: sketch.count(key) for key in uses}
    assert all(counts[key] >= min(use, MOST) for key, use in uses.items())
    too_many = [key for key, use in uses.items() if counts[key] > min(use, MOST)]
    assert len(too_many) < 0.2 * len(uses)
    sketch.add(0)
    sketch.check()
    assert all(sketch.count(key) == counts[key] // 2 for key in uses)


def test_a_sketch_is_halved_in_slices() -> None:
    sketch = Sketch(10_000)
    for key in range(10_000):
        sketch.learn(key, MOST)
    before = sum(sketch.count(key) for key in range(10_000))
    for _ in range(sketch.period):
        sketch.add(0)
    half_way = sum(sketch.count(key) for key in range(10_000))
    assert 0.6 * before < half_way < 0.9 * before
    for _ in range(3):
        sketch.add(0)
    assert sum(sketch.count(key) for key in range(1, 10_000)) == 7 * 9_999


def test_ranking_lists_the_lowest_first_in_slices() -> None:
    listed = list(ranked(2000, 7, lambda entry: entry % 8 - 1))
    assert listed[:4] == [[]] * 4
    flat = [entry for some in listed for entry in some]
    assert flat == sorted((entry for entry in range(2000) if entry % 8), key=lambda entry: (entry % 8, entry))
    assert max(map(len, listed)) <= 512
