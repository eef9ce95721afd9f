"""Some of what is cached is compared with the origin at every mount."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fusecache.attach import locate
from fusecache.attach.claims import Claims
from fusecache.attach.findings import FEW, MANY, compare, look_at_origin
from fusecache.metadata.database import Database
from tests.unit.offline.places import BLOCK, Blocks, Place

CLEAN: Blocks = {cblock: (cblock, False) for cblock in range(32)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def compared(place: Place, size: int = FEW) -> tuple[int, int]:
    with ExitStack() as resources:
        origin = locate(str(place.origin)).open(resources)
        with Database.read_only(place.metadata) as database:
            return compare(origin, database, size)


def of_generation(place: Place, generation: str) -> None:
    with closing(Database.open(place.metadata)) as database:
        database.set_values({"generation": generation})


def change(place: Place, oblock: int, data: bytes = b"x") -> None:
    with place.origin.open("r+b") as file:
        file.seek(oblock * BLOCK)
        file.write(data)


def test_f02_few_are_compared_at_a_mount_and_more_where_there_is_doubt(place: Place) -> None:
    place.fill(CLEAN)
    assert compared(place) == (16, 0)
    assert compared(place, MANY) == (32, 0)
    for oblock in range(32):
        change(place, oblock)
    assert compared(place) == (16, 16)
    assert compared(place, MANY) == (32, 32)


def test_f02_every_mount_takes_others(place: Place) -> None:
    """F02: what one mount overlooks another one finds."""
    place.fill(CLEAN)
    change(place, 7)
    seen = set()
    for number in range(2):
        of_generation(place, f"{number}-x")
        seen.add(compared(place))
    assert seen == {(16, 0), (16, 1)}


@pytest.mark.parametrize("generation", ["", "x", "-", "9" * 500 + "-x", "\u0663-x"])
def test_whatever_the_generation_is_some_are_compared(place: Place, generation: str) -> None:
    place.fill(CLEAN)
    of_generation(place, generation)
    assert compared(place) == (16, 0)


def test_f02_neither_dirty_ones_nor_suspects_nor_zeroes_say_anything(place: Place) -> None:
    blocks = dict(CLEAN)
    blocks |= {cblock: (cblock, True) for cblock in range(10)}
    place.content |= {oblock: bytes(BLOCK) for oblock in (20, 21)}
    for oblock in (20, 21):
        change(place, oblock, bytes(BLOCK))
    place.fill(blocks, regions=[30, 31], clean=False)
    assert compared(place, MANY) == (18, 0)


def test_an_origin_that_is_too_short_differs_and_one_that_cannot_be_read_says_nothing(place: Place) -> None:
    place.fill(CLEAN)
    with place.origin.open("r+b") as file:
        file.truncate(8 * BLOCK)
    assert compared(place, MANY) == (32, 24)


def test_f02_after_a_crash_and_after_a_change_more_is_looked_at(place: Place) -> None:
    def looked() -> int:
        with ExitStack() as resources:
            origin = locate(str(place.origin)).open(resources)
            with Database.read_only(place.metadata) as database:
                return look_at_origin(Claims(origin, None), database).compared

    place.fill(CLEAN)
    assert looked() == 16
    place.sql("UPDATE meta SET value = '0' WHERE name = 'clean_shutdown'")
    assert looked() == 32
    place.sql("UPDATE meta SET value = '1' WHERE name = 'clean_shutdown'")
    change(place, 40)
    assert looked() == 32
