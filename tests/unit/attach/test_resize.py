from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
import trio
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from fusecache.attach.cache_file import CacheSpace
from fusecache.attach.resizing import Resize, plan_resize
from fusecache.attach.stamp import DATA_START
from fusecache.block.geometry import Geometry
from fusecache.errors import FusecacheError, MetadataError, RefusedError, StoreError
from fusecache.metadata.database import Database
from fusecache.metadata.record import Row, Transaction
from tests.crash.rig import Rig, SimDisk, simulate, simulated
from tests.fakes import RecordState
from tests.unit.places import BLOCK, CACHE_BLOCKS, CLEAN, IMAGE, Place

SIZES: Final = (23, 513, 1023, 4095)
"""In cache blocks, as in dm-cache's own tests."""
TAIL: Final = 512


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def plan(
    rows: list[Row],
    *,
    regions: tuple[int, ...] = (),
    old: tuple[int, int] = (20 * BLOCK, 8),
    new: tuple[int, int] | None = None,
    room: int | None = None,
    region_blocks: int = 2,
    stale: bool = False,
) -> Resize:
    """Plan with sizes given as image bytes and cache blocks."""
    image_bytes, cache_blocks = new or old
    return plan_resize(
        rows,
        set(regions),
        region_blocks=region_blocks,
        old=Geometry(old[0], BLOCK, old[1]),
        new=Geometry(image_bytes, BLOCK, cache_blocks),
        room=old[1] if room is None else room,
        stale=stale,
    )


def row(cblock: int, oblock: int, dirty: bool = False) -> Row:
    return Row(cblock, oblock, dirty, None)


# What goes and what stays


ROWS: Final = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 19), st.booleans()), max_size=12, unique_by=lambda held: held[0]
).map(lambda held: [row(*cell) for cell in held])


@given(
    ROWS,
    st.sets(st.integers(0, 5), max_size=3),
    st.integers(1, 20),
    st.integers(0, 14),
    st.integers(BLOCK, 24 * BLOCK),
    st.booleans(),
)
def test_what_is_lost_is_clean_or_the_resize_is_refused(
    rows: list[Row], regions: set[int], blocks: int, room: int, image_bytes: int, stale: bool
) -> None:
    def exists(row: Row) -> bool:
        return row.cblock < min(blocks, room) and (row.oblock + 1) * BLOCK <= image_bytes

    def is_newer(row: Row) -> bool:
        return row.dirty or row.cblock // 2 in regions

    sizes = {"old": (20 * BLOCK, 12), "new": (image_bytes, blocks), "room": room, "stale": stale}
    if any(is_newer(row) and not exists(row) for row in rows):
        with pytest.raises(RefusedError):
            plan(rows, regions=tuple(regions), **sizes)  # type: ignore[arg-type]
        return
    resize = plan(rows, regions=tuple(regions), **sizes)  # type: ignore[arg-type]
    kept = [row for row in rows if row.cblock not in resize.transaction.unmapped]
    assert kept == [row for row in rows if exists(row) and (is_newer(row) or not stale)]
    assert resize.transaction.values == {"cache_blocks": str(blocks), "image_bytes": str(image_bytes)}
    assert not resize.transaction.mapped
    assert all(row.cblock // 2 not in resize.transaction.closed for row in kept), (
        "a block that stays is no suspect any more"
    )


@pytest.mark.parametrize(
    ("rows", "sizes", "words"),
    [
        ([row(5, 1, True), row(6, 2)], {"new": (20 * BLOCK, 4)}, "from 8 to 4 blocks.* 1 blocks are dirty: first run"),
        (
            [row(5, 1, True), row(6, 2), row(1, 3)],
            {"new": (20 * BLOCK, 4), "regions": (3, 0)},
            "2 blocks are dirty .1 of them may have been written before a crash.*writeback",
        ),
        ([row(0, 19, True)], {"new": (20 * BLOCK - 1, 8)}, "image cannot shrink.* 1 blocks are dirty"),
        ([row(3, 1, True), row(2, 2, True)], {"room": 3}, "has shrunk to 3 blocks.* 1 blocks are dirty.*--format"),
    ],
)
def test_a_refusal_says_how_many_and_what_to_do(rows: list[Row], sizes: dict[str, tuple[int, int]], words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        plan(rows, **sizes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_block_in_which_the_image_ends_is_tail_and_its_copy_goes() -> None:
    rows = [row(0, 4), row(1, 5), row(2, 6)]
    assert plan(rows, new=(5 * BLOCK + TAIL, 8)).transaction.unmapped == [1, 2]
    assert plan(rows, new=(6 * BLOCK, 8)).transaction.unmapped == [2]


# In which order


class Part:
    """Record and cache of a resize; notes what happens, and fails at the step it is told."""

    def __init__(self, room: int, fails_at: int | None = None) -> None:
        self.blocks = room
        self.fails_at = fails_at
        self.steps: list[tuple[str, object]] = []

    def _step(self, name: str, what: object) -> None:
        if len(self.steps) == self.fails_at:
            msg = f"{name} failed"
            raise StoreError(msg)
        self.steps.append((name, what))

    def room(self) -> int:
        return self.blocks

    def extend(self, blocks: int) -> None:
        self._step("extend", blocks)

    def cut(self, blocks: int) -> None:
        self._step("cut", blocks)

    def apply(self, transaction: Transaction) -> None:
        self._step("apply", (transaction.unmapped, transaction.values.get("cache_blocks")))


def test_growing_extends_before_the_record_says_so() -> None:
    part = Part(8)
    plan([row(0, 1)], new=(20 * BLOCK, 12)).carry_out(part, part)
    assert part.steps == [("extend", 12), ("apply", ([], "12"))]


def test_shrinking_cuts_after_the_record_says_so() -> None:
    part = Part(8)
    plan([row(0, 1), row(6, 2)], new=(20 * BLOCK, 4)).carry_out(part, part)
    assert part.steps == [("apply", ([6], "4")), ("cut", 4)]


def test_what_others_cut_is_forgotten_before_the_cache_is_extended_again() -> None:
    part = Part(3)
    plan([row(0, 1), row(6, 2)], room=3).carry_out(part, part)
    assert part.steps == [("apply", ([6], None)), ("extend", 8), ("apply", ([6], "8"))]


@pytest.mark.parametrize("fails_at", range(4))
def test_nothing_happens_after_a_step_that_failed(fails_at: int) -> None:
    part = Part(3, fails_at)
    resize = plan([row(0, 1), row(6, 2)], room=3)
    if fails_at < 3:
        with pytest.raises(StoreError):
            resize.carry_out(part, part)
    else:
        resize.carry_out(part, part)
    assert len(part.steps) == fails_at


# Real files


def grown(place: Place, by: int = BLOCK) -> None:
    os.truncate(place.origin, place.origin.stat().st_size + by)


def fill_cache(
    place: Place, blocks: int, *, dirty: Callable[[int], bool], clean: bool = True, grows_to: int = 0
) -> None:
    """Make a cache that is full, each block of it something else."""
    place.origin.write_bytes(b"")
    place.lengthen(max(blocks, grows_to))
    rows = tuple((cblock, blocks - cblock, dirty(cblock)) for cblock in range(blocks))
    place.mount(rows=rows, clean=clean, cache_size=blocks * BLOCK)
    with place.cache.open("r+b") as file:
        for cblock in range(blocks):
            file.seek(DATA_START + cblock * BLOCK)
            file.write(cblock.to_bytes(4, "little"))


def in_cache(place: Place, cblock: int) -> int:
    with place.cache.open("rb") as file:
        file.seek(DATA_START + cblock * BLOCK)
        return int.from_bytes(file.read(4), "little")


def recorded(place: Place, name: str) -> str:
    with closing(Database.open(place.metadata)) as database:
        return database.values()[name]


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "clean"])
@pytest.mark.parametrize("blocks", SIZES)
def test_scenario_17_grow_keeps_all(place: Place, blocks: int, dirty: bool) -> None:
    fill_cache(place, blocks, dirty=lambda _: dirty, grows_to=blocks + 5678)
    before = place.blocks()
    with place.bound(cache_size=(blocks + 5678) * BLOCK) as binding:
        assert binding.geometry.cache_blocks == blocks + 5678
        assert binding.cache.size == (blocks + 5678) * BLOCK
        assert any(f"had {blocks} blocks, and now has {blocks + 5678}" in note for note in binding.notes)
        binding.database.set_values(binding.end_values())
    assert place.cache.stat().st_size == DATA_START + (blocks + 5678) * BLOCK
    assert place.blocks() == before
    assert all(in_cache(place, cblock) == cblock for cblock in range(blocks))
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == blocks + 5678


@pytest.mark.parametrize("blocks", SIZES)
def test_scenario_17_shrink_keeps_what_is_below(place: Place, blocks: int) -> None:
    half = blocks // 2
    fill_cache(place, blocks, dirty=lambda cblock: cblock < half and cblock % 3 == 0)
    before = place.blocks()
    with place.bound(cache_size=half * BLOCK) as binding:
        assert binding.geometry.cache_blocks == half
        assert any(f"{blocks - half} cached blocks were dropped" in note for note in binding.notes)
    assert place.cache.stat().st_size == DATA_START + half * BLOCK
    assert place.blocks() == before[:half]
    assert all(in_cache(place, cblock) == cblock for cblock in range(half))


@pytest.mark.parametrize("blocks", SIZES)
def test_scenario_17_shrink_is_refused_if_what_goes_is_dirty(place: Place, blocks: int) -> None:
    fill_cache(place, blocks, dirty=lambda cblock: cblock in {0, blocks - 1})
    place.refused(RefusedError, "1 blocks are dirty: .*fusecache writeback", cache_size=blocks // 2 * BLOCK)
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == blocks


def test_scenario_17_shrink_is_refused_if_what_goes_is_suspect_after_a_crash(place: Place) -> None:
    place.mount(rows=((7, 3, False), (1, 4, False)), clean=False)
    with closing(Database.open(place.metadata)) as database:
        database.apply(Transaction(opened=[7, 1]))
    place.refused(RefusedError, "1 blocks are dirty .1 of them may have been written", cache_size=4 * BLOCK)
    with closing(Database.open(place.metadata)) as database:
        database.apply(Transaction(closed=[7]))
    with place.bound(cache_size=4 * BLOCK) as binding:
        assert binding.database.regions() == {1}
    assert place.blocks() == [(1, 4, False)]


def test_regions_beyond_the_new_end_are_closed(place: Place) -> None:
    place.mount(rows=CLEAN, clean=False)
    with closing(Database.open(place.metadata)) as database:
        database.apply(Transaction(opened=[3, 4, 7]))
    with place.bound(cache_size=4 * BLOCK) as binding:
        assert binding.database.regions() == {3}


def test_regions_are_of_a_size_for_the_new_cache_once_none_is_open(place: Place) -> None:
    place.lengthen(4097)
    place.mount(rows=CLEAN, clean=False)
    with closing(Database.open(place.metadata)) as database:
        database.apply(Transaction(opened=[0]))
    with place.bound(cache_size=4096 * BLOCK) as binding:
        assert binding.region_blocks == 1
        binding.database.apply(Transaction(closed=[0], values=binding.end_values()))
    with place.bound(cache_size=4097 * BLOCK) as binding:
        assert binding.region_blocks == 4


def test_a_cache_of_a_stated_size_stays_so(place: Place) -> None:
    place.cache.write_bytes(bytes(DATA_START + 12 * BLOCK))
    place.mount(rows=CLEAN)
    for _ in range(2):
        with place.bound(cache_size=None) as binding:
            assert binding.geometry.cache_blocks == CACHE_BLOCKS
    assert place.cache.stat().st_size == DATA_START + 12 * BLOCK
    os.truncate(place.cache, DATA_START + 13 * BLOCK)
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == CACHE_BLOCKS


def test_a_cache_that_others_extended_grows(place: Place) -> None:
    place.mount(rows=CLEAN)
    os.truncate(place.cache, DATA_START + 12 * BLOCK + 100)
    with place.bound(cache_size=CACHE_BLOCKS * BLOCK) as binding:
        assert binding.geometry.cache_blocks == CACHE_BLOCKS
    os.truncate(place.cache, DATA_START + 13 * BLOCK)
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == CACHE_BLOCKS, "it was told not to fill its file"
    with place.bound(cache_size=13 * BLOCK):
        pass
    os.truncate(place.cache, DATA_START + 15 * BLOCK)
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == 15
    assert place.blocks() == list(CLEAN)


def test_a_cache_that_others_cut_shrinks_by_what_is_clean(place: Place) -> None:
    place.mount(rows=((0, 3, True), (7, 4, False)))
    os.truncate(place.cache, DATA_START + 8 * BLOCK - 1)
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == 7
    assert place.blocks() == [(0, 3, True)]
    os.truncate(place.cache, DATA_START)
    place.refused(RefusedError, "too small", cache_size=None)
    place.refused(RefusedError, "has shrunk to 0 blocks.* 1 blocks are dirty")


def test_a_cache_that_others_cut_is_as_large_as_it_was_if_that_is_asked_for(place: Place) -> None:
    place.mount(rows=((0, 3, True), (7, 4, False)))
    os.truncate(place.cache, DATA_START + BLOCK)
    with place.bound() as binding:
        assert binding.geometry.cache_blocks == CACHE_BLOCKS
        assert binding.notes == ["the cache had 1 blocks, and now has 8: 1 cached blocks were dropped"]
    assert place.cache.stat().st_size == DATA_START + CACHE_BLOCKS * BLOCK
    assert place.blocks() == [(0, 3, True)]


def test_a_cache_too_large_for_its_file_system_is_as_it_was(place: Place) -> None:
    place.lengthen((1 << 43) // BLOCK)
    place.mount(rows=CLEAN)
    before = place.cache.read_bytes(), place.metadata.read_bytes()
    with pytest.raises(StoreError, match="no space for a cache of 8TiB"), place.bound(cache_size=1 << 43):
        pass
    assert (place.cache.read_bytes(), place.metadata.read_bytes()) == before


@pytest.mark.parametrize("asked", [21, 22, 1000, 1 << 40])
def test_g09_a_cache_gets_no_more_blocks_than_the_image_has(place: Place, asked: int) -> None:
    """G09: a cache of 1 GiB in front of an image of 64 MiB took 1 GiB."""
    for _ in range(2):  # when it is made, and when the same is asked for again
        with place.bound(cache_size=asked * BLOCK) as binding:
            assert binding.geometry.cache_blocks == 21
            words = "the cache has 84KiB, not .*: the image has no more"
            assert [note for note in binding.notes if re.fullmatch(words, note)] == binding.notes[: int(asked > 21)]
            binding.database.set_values(binding.end_values())
        assert place.cache.stat().st_size == DATA_START + 21 * BLOCK


def test_g09_a_cache_that_has_more_blocks_keeps_them(place: Place) -> None:
    """G09: an earlier version made it so, and what is dirty in it would be cut off."""
    place.lengthen(40)
    place.mount(rows=((38, 3, True),), cache_size=40 * BLOCK)
    with place.bound(cache_size=60 * BLOCK, image_size=IMAGE) as binding:
        assert binding.geometry.cache_blocks == 40


def test_g09_a_device_that_is_larger_than_the_image_is_used_in_part(place: Place) -> None:
    place.cache.write_bytes(bytes(DATA_START + 100 * BLOCK))
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == 21


@pytest.mark.parametrize("name", ["cache_bytes", "origin_bytes"])
@pytest.mark.parametrize("value", ["", "x", "0", "-1", "٣"])
def test_sizes_that_cannot_be(place: Place, name: str, value: str) -> None:
    place.mount(rows=CLEAN)
    place.sql("UPDATE meta SET value = ? WHERE name = ?", value, name)
    place.refused(MetadataError, f"damaged: {name} is", cache_size=None)


def test_metadata_that_does_not_know_the_last_sizes(place: Place) -> None:
    place.mount(rows=CLEAN)
    place.sql("DELETE FROM meta WHERE name IN ('cache_bytes', 'origin_bytes')")
    os.truncate(place.cache, DATA_START + 20 * BLOCK)
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks == CACHE_BLOCKS
    assert place.blocks() == list(CLEAN)


class Interrupted(Exception):  # noqa: N818 - it stands for a power cut
    """The machine is gone."""


@pytest.fixture(params=["apply", "extend", "cut"])
def interrupted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Give a function that has one step of a resize end before it does anything, or right after."""
    owner = Database if request.param == "apply" else CacheSpace
    original = getattr(owner, request.param)

    def interrupt(does_it: bool) -> None:
        def stop(*arguments: object) -> None:
            if does_it:
                original(*arguments)
            raise Interrupted

        monkeypatch.setattr(owner, request.param, stop)

    yield interrupt
    monkeypatch.undo()


@pytest.mark.parametrize("does_it", [False, True])
@pytest.mark.parametrize("blocks", [4, 12])
def test_scenario_17_interrupted_anywhere_it_is_the_old_size_or_the_new_one(
    place: Place,
    interrupted: Callable[[bool], None],
    does_it: bool,
    blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = ((0, 3, True), (1, 4, False), (7, 5, False))
    place.mount(rows=rows)
    interrupted(does_it)
    try:
        with place.bound(cache_size=blocks * BLOCK):
            pass
    except Interrupted:
        pass
    monkeypatch.undo()
    with place.bound(cache_size=None) as binding:
        assert binding.geometry.cache_blocks in {CACHE_BLOCKS, blocks}
        kept = [row for row in rows if row[0] < binding.geometry.cache_blocks]
        assert [(row.cblock, row.oblock, row.dirty) for row in binding.database.rows()] == kept
    with place.bound(cache_size=blocks * BLOCK) as binding:
        assert binding.geometry.cache_blocks == blocks
    assert place.blocks() == [row for row in rows if row[0] < blocks]


# The origin


@pytest.mark.parametrize("rows", [((0, 3, True), (1, 4, True)), ((0, 3, True), (1, 4, False)), CLEAN])
def test_scenario_18_a_grown_origin_keeps_what_is_newer(place: Place, rows: tuple[tuple[int, int, bool], ...]) -> None:
    place.mount(rows=rows)
    grown(place, 3 * BLOCK)
    with place.bound() as binding:
        assert binding.geometry.image_bytes == IMAGE + 3 * BLOCK
        assert binding.geometry.origin_blocks == 23
        clean = sum(not dirty for _, _, dirty in rows)
        assert [note for note in binding.notes if f"grown outside fusecache: {clean} cached" in note] or not clean
    assert place.blocks() == [row for row in rows if row[2]]


def test_scenario_18_a_grown_origin_after_a_crash(place: Place) -> None:
    place.mount(rows=CLEAN, clean=False)
    grown(place)
    with place.bound() as binding:
        assert binding.geometry.image_bytes == IMAGE + BLOCK
    assert place.blocks() == list(CLEAN)


def test_scenario_18_another_file_that_is_longer_is_no_grown_origin(place: Place) -> None:
    place.mount(rows=((0, 3, True),))
    longer = place.directory / "longer"
    longer.write_bytes(bytes(IMAGE + BLOCK))
    longer.replace(place.origin)
    place.refused(RefusedError, "belongs to another origin.*its inode is")


@pytest.mark.parametrize("same", [True, False])
def test_scenario_18_a_longer_image_put_in_its_place_is_no_grown_origin(place: Place, same: bool) -> None:
    with place.bound() as binding:
        sum_of_old = crc32c(b"o" * BLOCK)
        binding.database.apply(Transaction(mapped=[(0, 3, True, None, None), (1, 4, False, sum_of_old, None)]))
        binding.database.set_values(binding.end_values())
    place.origin.write_bytes((b"o" if same else b"n") * (IMAGE + BLOCK))
    if same:
        place.mount()
        assert place.blocks() == [(0, 3, True)]
    else:
        place.refused(RefusedError, "changed by others while 1 newer blocks")


@pytest.mark.parametrize("clean", [True, False])
def test_scenario_18_a_shrunken_origin_is_refused_unless_a_table_says_so(place: Place, clean: bool) -> None:
    place.mount(rows=((0, 3, False), (1, 10, False)), clean=clean)
    status = place.origin.stat()
    os.truncate(place.origin, 10 * BLOCK + TAIL)
    os.utime(place.origin, ns=(status.st_atime_ns, status.st_mtime_ns))
    place.untouched()
    place.refused(RefusedError, f"shrunk from {IMAGE} to {10 * BLOCK + TAIL}")
    place.refused(RefusedError, "fewer than", image_size=IMAGE)
    with place.bound(image_size=10 * BLOCK + TAIL) as binding:
        assert binding.geometry.image_bytes == 10 * BLOCK + TAIL
    assert place.blocks() == [(0, 3, False)]
    assert recorded(place, "image_bytes") == str(10 * BLOCK + TAIL)


def test_scenario_18_a_table_does_not_cut_off_what_is_dirty(place: Place) -> None:
    place.mount(rows=((0, 3, False), (1, 10, True)))
    place.refused(RefusedError, "1 blocks are dirty.*writeback", image_size=10 * BLOCK + TAIL)
    with place.bound(image_size=11 * BLOCK) as binding:
        assert binding.geometry.origin_blocks == 11
        binding.database.set_values(binding.end_values())
    with place.bound() as binding:
        assert binding.geometry.image_bytes == IMAGE
    assert place.blocks() == [(0, 3, False), (1, 10, True)]


# Restarts


def full(blocks: int, *, dirty: bool) -> SimDisk:
    """Make a disk whose cache is full, on top of a larger origin with a tail."""
    origin_blocks = blocks + 5
    disk = SimDisk.new(Geometry(origin_blocks * BLOCK + TAIL, BLOCK, blocks), region_blocks=4, cell_bytes=TAIL)
    order = random.Random(blocks).sample(range(origin_blocks), blocks)
    for cblock, oblock in enumerate(order):
        disk.record.rows[cblock] = (oblock, dirty, None, None, None)
        content = disk.origin.durable[oblock * BLOCK : (oblock + 1) * BLOCK]
        disk.cache.durable[cblock * BLOCK : (cblock + 1) * BLOCK] = content
    return disk


def mapping(record: RecordState) -> dict[int, int]:
    return {cblock: values[0] for cblock, values in record.rows.items()}


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "clean"])
@pytest.mark.parametrize("blocks", SIZES)
def test_scenario_16_a_restart_retains_mappings(blocks: int, dirty: bool) -> None:
    disk = full(blocks, dirty=dirty)

    async def restart() -> SimDisk:
        rig = Rig(disk, 1, policy="smq")
        async with rig.running():
            pass
        return rig.freeze(random.Random(1)).after_power_cut(random.Random(1))

    with simulated():
        after = simulate(1, restart)
    assert mapping(after.record) == mapping(disk.record)
    assert all(values[1] <= dirty for values in after.record.rows.values()), "it may only get cleaner"
    assert after.record.values["clean_shutdown"] == "1"
    assert after.image() == disk.image()


@pytest.mark.parametrize("opened", [False, True], ids=["no-writes", "writes-everywhere"])
@pytest.mark.parametrize("blocks", SIZES)
def test_scenario_15_a_kill_retains_mappings_and_suspects_what_was_written(blocks: int, opened: bool) -> None:
    """dm-cache would take all for dirty; we take what was in an open region, here none or all of them."""
    disk = full(blocks, dirty=False)

    async def kill() -> SimDisk:
        rig = Rig(disk, 1, policy="smq")
        async with rig.running():
            if opened:
                for region in range(blocks // 4 + 1):
                    await rig.record.commit(Transaction(opened=[region]))
            await trio.lowlevel.checkpoint()
            return rig.freeze(random.Random(1)).after_kill(random.Random(1))

    with simulated():
        after = simulate(1, kill)
    recovered = after.recover()
    assert dict(recovered.mapping.mapped()) == mapping(disk.record)
    assert recovered.mapping.dirty_count == recovered.suspects == (blocks if opened else 0)
    assert after.record.values["clean_shutdown"] == "0"


def test_scenario_22_a_cache_block_and_a_tail_are_enough(place: Place) -> None:
    """50 KiB of cache and of image, with blocks of 32 KiB: one block, and a tail that is never cached."""
    small = 50 * 1024
    place.origin.write_bytes(bytes(small))
    with place.bound(cache_size=small, block_size=32 * 1024) as binding:
        geometry = binding.geometry
        assert (geometry.cache_blocks, geometry.origin_blocks, geometry.tail_start) == (1, 1, 32 * 1024)
        trio.run(binding.origin.write, small - 5, b"tail.")
        trio.run(binding.origin.flush)
        binding.database.set_values(binding.end_values())
    assert place.origin.read_bytes()[-5:] == b"tail."
    with pytest.raises(FusecacheError, match="too small"), place.bound(cache_size=31 * 1024, block_size=None):
        pass
