"""Reuse times: classes and ages, hazards with what was cut off, and scores, each against a plain computation."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.structures import reuse
from policies.structures.lifetimes import (
    BIN_STARTS,
    BINS,
    CELLS,
    CLASSES,
    NEW_CLASSES,
    SLOTS,
    SPAN,
    TURNS,
    cells_by_position,
    group_of,
    interval_bin,
    moves_by_position,
    new_class,
    next_class,
)
from policies.structures.reuse import LEAST, ReuseTables, hull_slopes
from policies.structures.streams import ALONE, FOLLOWS, STREAMS

AGES = st.integers(0, SLOTS - 1)
KNOWN = NEW_CLASSES + 9  # a class of the second bin of counts


def test_bins_are_slots_at_first_then_four_to_an_octave() -> None:
    assert BIN_STARTS[:13] == (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
    assert BIN_STARTS[-4:] == (512, 640, 768, 896)


@given(AGES, st.integers(0, CLASSES - 1))
def test_a_position_tells_class_and_age_whatever_the_time(age: int, which: int) -> None:
    cell = cells_by_position()[age * CLASSES + which]
    assert cell // BINS == which
    assert BIN_STARTS[cell % BINS] <= age < (*BIN_STARTS, SLOTS)[cell % BINS + 1]
    for now in (0, age, SLOTS - 1):
        key = (now - age) % SLOTS * CLASSES + CLASSES - 1 - which
        position = now * CLASSES + CLASSES - 1 - key
        assert cells_by_position()[position] == cell
        for turn in range(TURNS):
            assert moves_by_position()[turn][position] == next_class(which, age, turn)


@given(AGES, st.integers(0, CLASSES - 1), st.integers(0, TURNS - 1))
def test_classes_rise_and_tell_the_interval(age: int, which: int, turn: int) -> None:
    after = next_class(which, age, turn)
    if age <= 4:
        assert after == which, "part of the same use"
    else:
        assert (after - NEW_CLASSES) % 8 == interval_bin(age)
        before = 0 if which < NEW_CLASSES else group_of(which)
        assert max(before, 1) <= group_of(after) <= min(before + 1, 4)


def test_intervals_are_told_by_octaves_of_the_cache() -> None:
    assert [interval_bin(age) for age in (0, 4, 5, 8, 9, 16, 32, 33, 64, 128, 256, 257, 1000)] == [
        *(0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 7)
    ]
    assert {new_class(written, kind) for written in (False, True) for kind in (ALONE, FOLLOWS, STREAMS)} == set(
        range(6)
    )


def learned(tables: ReuseTables) -> ReuseTables:
    tables.begin_epoch()
    steps = 0
    while tables.learning:
        tables.learn()
        steps += 1
    assert steps == 2 * CLASSES
    tables.check()
    return tables


def kaplan_meier(ended: list[int], going_on: list[int]) -> list[float]:
    """Return the hazard of each bin; what does not end in a bin that it reaches counts half there."""
    edges = (*BIN_STARTS, SLOTS)
    hazards = []
    for start, stop in pairwise(edges):
        hits = sum(start <= age < stop for age in ended)
        beyond = sum(age >= stop for age in ended) + sum(age >= stop for age in going_on)
        half = sum(start <= age < stop for age in going_on) / 2
        at_risk = hits + beyond + half
        hazards.append(hits / at_risk if at_risk else 0.0)
    return hazards


def note(tables: ReuseTables, which: int, ended: list[int], cut: list[int], alive: list[int]) -> None:
    cells = cells_by_position()
    for age in ended:
        tables.hits[cells[age * CLASSES + which]] += 1
    for age in cut:
        tables.cut[cells[age * CLASSES + which]] += 1
    for age in alive:
        tables.alive[(tables.base - age * CLASSES - which) % SPAN] += 1


@given(st.lists(AGES, max_size=20), st.lists(AGES, max_size=20), st.lists(AGES, max_size=20), st.integers(0, 5000))
def test_hazards_are_those_of_kaplan_and_meier(ended: list[int], cut: list[int], alive: list[int], now: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse, "_GROUP_WEIGHT", 0.0)
        patch.setattr(reuse, "_ALL_WEIGHT", 0.0)
        patch.setattr(reuse, "_FADE", 1.0)
        tables = ReuseTables(100)
        tables.now = now
        tables.advance()
        note(tables, KNOWN, [*ended, SLOTS - 1], cut, [*alive, SLOTS - 1])  # so that there is a risk in each bin
        for other in range(CLASSES):  # a class that nothing is known of has no hazard to be divided by
            if other != KNOWN:
                note(tables, other, [], [], [SLOTS - 1])
        learned(tables)
    survival, survivals, areas = 1.0, [1.0], [0.0]
    for hazard, (start, stop) in zip(
        kaplan_meier([*ended, SLOTS - 1], [*cut, *alive, SLOTS - 1]), pairwise((*BIN_STARTS, SLOTS)), strict=True
    ):
        areas.append(areas[-1] + (stop - start) * (survival + survival * (1 - hazard)) / 2)
        survival *= 1 - hazard
        survivals.append(survival)
    assert tables.scores[KNOWN * BINS : KNOWN * BINS + BINS] == pytest.approx(hull_slopes(survivals, areas))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 100)), min_size=1, max_size=40))
def test_scores_are_the_best_of_all_stays(steps: list[tuple[float, float]]) -> None:
    survivals, areas = [1.0], [0.0]
    for hazard, width in steps:
        survivals.append(survivals[-1] * (1 - hazard))
        areas.append(areas[-1] + width)
    best = [
        max((survivals[a] - survivals[q]) / (areas[q] - areas[a]) for q in range(a + 1, len(areas)))
        for a in range(len(steps))
    ]
    assert hull_slopes(survivals, areas) == pytest.approx([max(slope, LEAST) for slope in best])


def test_a_class_of_which_little_is_known_leans_on_its_group() -> None:
    tables = ReuseTables(1000)
    note(tables, KNOWN, [40] * 500, [200] * 100, [])
    note(tables, KNOWN + 1, [40], [], [])
    learned(tables)
    known, other, stranger = (tables.scores[which * BINS] for which in (KNOWN, KNOWN + 1, 0))
    assert 0.7 * known < other < 1.3 * known
    assert stranger < known


def test_what_was_learned_fades() -> None:
    tables = ReuseTables(8)
    tables.now = 10_000
    tables.advance()
    note(tables, 0, [3] * 100, [5] * 100, [])
    learned(tables)
    assert (sum(tables.hits), sum(tables.cut)) == pytest.approx((99, 99))


@pytest.mark.parametrize("cache_blocks", [1, 2, 17, 100, 10**6])
def test_the_clock_passes_32_slots_in_a_cache_of_touches(cache_blocks: int) -> None:
    tables = ReuseTables(cache_blocks)
    touches = min(3 * cache_blocks, 10_000)
    passed = 0
    for _ in range(touches):
        tables.now += 1
        if tables.now >= tables.due:
            passed += tables.advance()
            tables.check()
    assert passed == touches * 32 // cache_blocks == tables.slot


def test_epochs_are_short_at_first() -> None:
    tables = ReuseTables(100_000)
    gaps = []
    for _ in range(40):
        tables.now = tables.epoch_due
        tables.advance()
        learned(tables)
        gaps.append(tables.epoch_due - tables.now)
    assert gaps[0] < 25
    assert gaps == sorted(gaps)
    assert gaps[-1] == 50_000


def some_tables(seed: int) -> ReuseTables:
    tables, rng = ReuseTables(500), random.Random(seed)
    for cell in range(CELLS):
        tables.hits[cell] = rng.choice([0.0, rng.random() * 10, rng.random() * 1e6])
        tables.cut[cell] = rng.choice([0.0, rng.random() * 10, rng.random() * 1e6])
    return tables


def test_tables_are_saved_roughly_and_stay_what_they_are_from_then_on() -> None:
    tables, later = some_tables(1), ReuseTables(77)
    saved = tables.save()
    assert len(saved) < 4096
    assert later.load(saved)
    later.check()
    assert later.save() == saved
    for before, after in zip(tables.hits + tables.cut, later.hits + later.cut, strict=True):
        assert after == pytest.approx(before, rel=0.1, abs=0.1)
    learned(tables)
    assert later.scores == pytest.approx(tables.scores, rel=0.3, abs=1e-3)


@given(st.binary(max_size=100), st.integers(0, 3000), st.integers(1, 255))
def test_rubbish_is_refused_and_changes_nothing(rubbish: bytes, place: int, change: int) -> None:
    saved = bytearray(some_tables(2).save())
    tables = some_tables(3)
    before = (list(tables.hits), list(tables.cut), list(tables.scores))
    damaged = bytearray(saved)
    damaged[place % len(saved)] ^= change
    for bad in (rubbish, bytes(saved[:-1]), bytes(saved) + b"\0", bytes(damaged), b"", bytes(saved[:18]) + rubbish):
        assert not tables.load(bad)
        assert (tables.hits, tables.cut, tables.scores) == before
