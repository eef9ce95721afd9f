"""Ghosts against a model: what they say is true, and what they lose is old."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.structures.ghosts import WAYS, Ghosts
from policies.structures.lifetimes import BLANK


@given(st.integers(1, 80), st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=200))
def test_ghosts_are_those_of_a_model_or_were_pushed_out(places: int, events: list[tuple[bool, int]]) -> None:
    ghosts = Ghosts(places)
    model: dict[int, int] = {}
    by_key: dict[int, int] = {}
    for number, (put, oblock) in enumerate(events):
        found = ghosts.take(oblock)
        assert found == model.pop(oblock, BLANK), "61 blocks have 61 prints"
        if put:
            by_key[number] = oblock
            model[oblock] = number
            pushed = ghosts.put(oblock, number)
            if pushed != BLANK:
                assert model.pop(by_key[pushed]) == pushed
        ghosts.check()
        assert sorted(model.values()) == sorted(key for key in ghosts.keys if key != BLANK)
        assert len(ghosts) == len(model)


def test_they_are_nearly_one_queue() -> None:
    ghosts, queue, rng = Ghosts(4096), OrderedDict[int, None](), random.Random(1)
    lost = 0
    for number in range(30_000):
        oblock = rng.randrange(2**40)
        pushed = ghosts.put(oblock, number % BLANK)
        queue[number % BLANK] = None
        if len(queue) > 4096:
            queue.popitem(last=False)
        if pushed != BLANK and number - pushed < 2048:
            lost += 1
    assert lost < 300, "few of those that are lost were among the newest half"


def test_strangers_are_not_taken_for_ghosts() -> None:
    ghosts, rng = Ghosts(8192), random.Random(2)
    for number in range(20_000):
        ghosts.put(rng.randrange(2**40), number % 1000)
    assert all(ghosts.take(2**40 + rng.randrange(2**40)) == BLANK for _ in range(20_000))


@pytest.mark.parametrize(("places", "size"), [(1, WAYS), (16, WAYS), (17, 2 * WAYS), (3_000_000, 3_000_000)])
def test_a_place_takes_six_bytes(places: int, size: int) -> None:
    ghosts = Ghosts(places)
    assert len(ghosts.keys) == size
    assert ghosts.keys.itemsize + ghosts._prints.itemsize == 6
