"""Scenario 26: everything dirty reaches the origin, nothing is called clean before, and what failed is named."""

from __future__ import annotations

import os
import random
from contextlib import closing

import pytest
import trio
from crc32c import crc32c
from trio.testing import MockClock

from fusecache.block.mapping import Mapping
from fusecache.block.sectors import byte_runs
from fusecache.errors import FusecacheError, MetadataError, RefusedError, StoreError
from fusecache.metadata.database import Database
from fusecache.offline import writing_back
from fusecache.offline.writing_back import Failure, Outcome, WriteBack, describe_writeback, require_complete, write_back
from fusecache.stores.base import Data
from tests.fakes import Latency, RecordState, SimRecord, SimStore, StoreState
from tests.unit.offline.places import BLOCK, MIXED, ORIGIN_BLOCKS, PARTS, Place, composed, pattern

DIRTY = sum(dirty for _, dirty in MIXED.values())


def no_progress(done: int, total: int) -> None:
    """Hear nothing."""


def run(place: Place, *, retries: int = 0, force: bool = False) -> Outcome:
    return write_back(place.config, {}, no_progress, retries=retries, force=force)


def test_afterwards_the_origin_is_complete_and_the_cache_is_clean(place: Place) -> None:
    place.fill(MIXED)
    place.hint({cblock: cblock + 5 for cblock in MIXED})
    image = place.image()
    heard: list[tuple[int, int]] = []
    outcome = write_back(place.config, {}, lambda *progress: heard.append(progress), retries=0)
    require_complete(outcome)
    assert outcome == Outcome(DIRTY, DIRTY)
    assert list(describe_writeback(outcome)) == ["5 of 5 dirty blocks were written to the origin"]
    assert heard == [(0, DIRTY), (DIRTY, DIRTY)]
    assert place.origin.read_bytes() == b"".join(image.values()) + b"t" * 512
    assert place.image() == image
    assert place.dirty() == set()
    assert [row.hint for row in place.rows()] == [cblock + 5 for cblock in MIXED]
    assert [row.crc for row in place.rows()] == [crc32c(image[row.oblock]) for row in place.rows()]
    assert place.values()["clean_shutdown"] == "1"
    assert place.mounts()
    assert b'"clean": true' in os.getxattr(place.origin, "user.fusecache.claim")


def test_of_partial_blocks_the_sectors_that_count_are_written_and_no_others(place: Place) -> None:
    place.fill(MIXED, parts=PARTS)
    image = place.image()
    assert image == place.content
    assert run(place) == Outcome(DIRTY, DIRTY)
    assert place.origin.read_bytes()[: ORIGIN_BLOCKS * BLOCK] == b"".join(image.values())
    assert place.dirty() == set()
    assert {row.cblock: row.valid for row in place.rows() if row.valid is not None} == PARTS
    assert {row.cblock for row in place.rows() if row.crc is None} == PARTS.keys()
    assert place.mounts()


def test_after_a_crash_suspects_are_written_too(place: Place) -> None:
    place.fill(MIXED, regions=[1, 2, 4], clean=False)
    image = place.image()
    assert run(place) == Outcome(DIRTY + 2, DIRTY + 2)
    assert place.origin.read_bytes()[: ORIGIN_BLOCKS * BLOCK] == b"".join(image.values())
    assert place.dirty() == set()
    with closing(Database.open(place.metadata)) as database:
        assert not database.regions()


def test_nothing_to_do_is_done_at_once(place: Place) -> None:
    place.fill({1: (1, False)})
    before = place.origin.read_bytes()
    outcome = run(place)
    assert outcome == Outcome(0, 0)
    assert list(describe_writeback(outcome)) == ["nothing is lost: no block was dirty, so the origin has everything"]
    assert place.origin.read_bytes() == before
    assert place.mounts()


def test_without_metadata_nothing_is_made(place: Place) -> None:
    before = place.contents()
    with pytest.raises(RefusedError, match=r"there is no metadata .*: nothing is cached, or it is elsewhere"):
        run(place)
    assert place.contents() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE blocks SET oblock = 3 WHERE cblock = 2",
        "UPDATE blocks SET oblock = 64 WHERE cblock = 2",
        "UPDATE blocks SET dirty = 7 WHERE cblock = 2",
        "UPDATE meta SET value = '1' WHERE name = 'needs_check'",
    ],
)
def test_nothing_is_written_by_damaged_metadata(place: Place, statement: str) -> None:
    place.fill(MIXED)
    place.sql(statement)
    before = place.contents()
    with pytest.raises((MetadataError, RefusedError)):  # a block that lies elsewhere is not what the origin has
        run(place)
    assert {name: place.contents()[name] for name in before} == before


def test_a_mounted_cache_is_refused(place: Place) -> None:
    place.fill(MIXED)
    with place.bound(), pytest.raises(RefusedError, match="is in use"):
        run(place)


def test_an_origin_that_others_have_changed_is_written_only_by_force(place: Place) -> None:
    place.fill(MIXED)
    changed = b"c" * BLOCK
    with place.origin.open("r+b") as file:
        file.seek(3 * BLOCK)  # cblock 1 has it, clean
        file.write(changed)
    before = place.contents()
    with pytest.raises(RefusedError, match="was changed by others"):
        run(place)
    assert place.contents() == before
    image = place.image()
    assert run(place, force=True) == Outcome(DIRTY, DIRTY)
    assert place.image() == image | {3: changed}
    assert place.dirty() == set()
    assert {row.cblock for row in place.rows()} == {cblock for cblock, (_, dirty) in MIXED.items() if dirty}


def test_by_force_a_partial_block_goes_over_what_others_have_written_in_its_sectors_only(place: Place) -> None:
    place.fill(MIXED, parts=PARTS)
    changed = b"c" * BLOCK
    dirty, clean = 4, 2
    with place.origin.open("r+b") as file:
        for cblock in (dirty, clean):
            file.seek(MIXED[cblock][0] * BLOCK)
            file.write(changed)
    expected = composed(place.content[MIXED[dirty][0]], PARTS[dirty], changed)
    assert run(place, force=True) == Outcome(DIRTY, DIRTY)
    assert place.image() == place.content | {MIXED[dirty][0]: expected, MIXED[clean][0]: changed}


def test_force_changes_nothing_where_there_is_no_need(place: Place) -> None:
    place.fill(MIXED)
    run(place, force=True)
    assert len(place.rows()) == len(MIXED)


# Over simulated stores

BLOCKS = {cblock: (cblock * 5 % 16, cblock % 2 == 0) for cblock in range(12)}
REGIONS = {1, 2}
REGION_BLOCKS = 2
NEWER = {oblock for cblock, (oblock, dirty) in BLOCKS.items() if dirty or cblock // REGION_BLOCKS in REGIONS}
OLD = [pattern("origin", oblock) for oblock in range(16)]
VALID = {0: 0b0000_0001, 1: 0b0101_0101, 2: 0b1110_0111, 5: 0b0001_1000, 6: 0b1000_0000}
"""Which sectors of the partial ones count: of dirty, suspect and clean ones."""
VALID_OF = {oblock: VALID.get(cblock) for cblock, (oblock, _) in BLOCKS.items()}
TRUTH = [
    composed(pattern("newer", oblock), VALID_OF[oblock], OLD[oblock]) if oblock in NEWER else OLD[oblock]
    for oblock in range(16)
]

States = tuple[StoreState, StoreState, RecordState]


class World:
    """Stores and a record in memory, with twelve cached blocks, of which some are dirty and some suspect."""

    def __init__(self, states: States | None = None, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        cache, origin, record = states or self._unflushed()
        latency = Latency(self.rng, 0.001)
        self.cache = SimStore(cache, name="cache", rng=self.rng, latency=latency)
        self.origin = SimStore(origin, name="origin", rng=self.rng, latency=latency)
        self.record = SimRecord(record, latency=latency)
        self.mapping = Mapping(12)
        regions = self.record.regions()
        for row in self.record.rows():
            self.mapping.insert(row.oblock, row.cblock)
            if row.valid is not None:
                self.mapping.holds_part(row.cblock, row.valid)
            if row.dirty or row.cblock // REGION_BLOCKS in regions:
                self.mapping.recovered_suspect(row.cblock)
        self.work = WriteBack(
            self.mapping,
            cache=self.cache,
            origin=self.origin,
            record=self.record,
            block_size=BLOCK,
            region_blocks=REGION_BLOCKS,
            open_regions=regions,
            hints={row.cblock: row.hint for row in self.record.rows() if row.hint is not None},
            retries=2,
        )

    @staticmethod
    def _unflushed() -> States:
        cache = bytearray(12 * BLOCK)
        for cblock, (oblock, _) in BLOCKS.items():
            cached = composed(TRUTH[oblock], VALID.get(cblock), pattern("rubbish", oblock))
            cache[cblock * BLOCK : (cblock + 1) * BLOCK] = cached
        rows = {
            cblock: (oblock, dirty, cblock + 100, None, VALID.get(cblock)) for cblock, (oblock, dirty) in BLOCKS.items()
        }
        return StoreState(cache), StoreState(bytearray(b"".join(OLD))), RecordState(dict(rows), set(REGIONS))

    def freeze(self) -> States:
        """Cut the power."""
        return (
            self.cache.freeze(self.rng).after_power_cut(self.rng),
            self.origin.freeze(self.rng).after_power_cut(self.rng),
            self.record.freeze().after_crash(self.rng),
        )

    def run(self) -> Outcome:
        return trio.run(self.work.run, no_progress, clock=MockClock(autojump_threshold=0))

    def run_until(self, when: float) -> States | None:
        """Cut the power at a moment; None if all was done by then."""

        async def main() -> States | None:
            with trio.move_on_after(when):
                await self.work.run(no_progress)
                return None
            return self.freeze()

        return trio.run(main, clock=MockClock(autojump_threshold=0))

    def check(self) -> None:
        """Assert that a mount would show the truth, and that clean blocks are the origin's."""
        cache, origin = self.cache.freeze(self.rng).newest(), self.origin.freeze(self.rng).newest()
        image = [bytes(origin[oblock * BLOCK : (oblock + 1) * BLOCK]) for oblock in range(16)]
        regions = self.record.regions()
        for row in self.record.rows():
            if row.dirty or row.cblock // REGION_BLOCKS in regions:
                cached = bytes(cache[row.cblock * BLOCK : (row.cblock + 1) * BLOCK])
                image[row.oblock] = composed(cached, row.valid, image[row.oblock])
            assert row.valid == VALID.get(row.cblock)
            if row.crc is not None:
                assert row.valid is None
                assert row.crc == crc32c(TRUTH[row.oblock])
        assert image == TRUTH

    def check_done(self) -> None:
        self.check()
        assert self.origin.freeze(self.rng).durable == b"".join(TRUTH)
        assert not any(row.dirty for row in self.record.rows())
        assert not self.record.regions()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two blocks."""
    monkeypatch.setattr(writing_back, "BATCH_BYTES", 2 * BLOCK)


def test_all_goes_well(small_batches: None) -> None:
    world = World()
    outcome = world.run()
    assert (outcome.blocks, outcome.written, outcome.failures, outcome.reason) == (len(NEWER), len(NEWER), [], "")
    world.check_done()
    assert [row.hint for row in world.record.rows()] == [cblock + 100 for cblock in range(12)]


@pytest.mark.parametrize("first_seed", range(0, 200, 50))
def test_the_power_may_be_cut_at_any_moment_and_again(small_batches: None, first_seed: int) -> None:
    cuts = 0
    for seed in range(first_seed, first_seed + 50):
        world = World(seed=seed)
        for _ in range(4):
            states = world.run_until(world.rng.uniform(0, 0.02))
            if states is None:
                break
            cuts += 1
            world = World(states, seed=world.rng.randrange(2**32))
            world.check()
        else:
            world.run()
        world.check()
    assert cuts > 50


def test_what_was_written_before_the_power_was_cut_is_not_written_again(small_batches: None) -> None:
    world = World()
    states = world.run_until(0.01)
    assert states is not None
    again = World(states)
    assert 0 < again.mapping.dirty_count < world.work._outcome.blocks
    again.run()
    again.check_done()


@pytest.mark.parametrize(("part", "kind"), [("cache", "read"), ("origin", "write")])
@pytest.mark.parametrize("nth", range(0, 8, 3))
def test_a_fault_that_passes_is_tried_again(part: str, kind: str, nth: int) -> None:
    world = World()
    store = world.cache if part == "cache" else world.origin
    store.quickness = 0
    store.faults.fail(kind, nth, times=2)
    outcome = world.run()
    assert not outcome.failures
    world.check_done()


def test_what_cannot_be_read_is_named_and_stays_dirty_and_the_rest_is_written() -> None:
    world = World()
    read = world.cache.read

    async def read_around(offset: int, into: bytearray | memoryview) -> None:
        if offset <= 4 * BLOCK + 100 < offset + len(into):
            msg = "read of cache failed: I/O error"
            raise StoreError(msg)
        await read(offset, into)

    world.cache.read = read_around  # type: ignore[method-assign]  # a bad sector
    outcome = world.run()
    oblock = BLOCKS[4][0]
    assert outcome.failures == [Failure(oblock * BLOCK, BLOCK, "read of cache failed: I/O error")]
    assert outcome.written == outcome.blocks - 1
    assert list(describe_writeback(outcome))[1:] == [
        f"not written: image bytes {oblock * BLOCK}-{oblock * BLOCK + BLOCK - 1}: read of cache failed: I/O error"
    ]
    assert [row.cblock for row in world.record.rows() if row.dirty] == [4]
    assert not world.record.regions()
    with pytest.raises(FusecacheError, match=r"^1 blocks are still dirty in the cache; nothing is lost"):
        require_complete(outcome)
    world.check()


def test_of_a_large_block_only_the_bad_pages_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing_back, "_LEAST", 512)
    world = World()
    write = world.origin.write
    bad = {BLOCKS[4][0] * BLOCK + 1024, BLOCKS[4][0] * BLOCK + 1536, BLOCKS[8][0] * BLOCK}

    async def write_around(offset: int, data: Data) -> None:
        if any(offset <= start < offset + len(data) for start in bad):
            msg = "write of origin failed: I/O error"
            raise StoreError(msg)
        await write(offset, data)

    world.origin.write = write_around  # type: ignore[method-assign]  # bad sectors
    outcome = world.run()
    ranges = sorted([(BLOCKS[4][0] * BLOCK + 1024, 1024), (BLOCKS[8][0] * BLOCK, 512)])
    assert [(failure.start, failure.length) for failure in outcome.failures] == ranges
    assert outcome.written == outcome.blocks - 2
    world.check()


@pytest.mark.parametrize("nth", range(4))
def test_an_origin_that_cannot_be_flushed_ends_it(small_batches: None, nth: int) -> None:
    world = World()
    world.origin.faults.fail("flush", nth)
    outcome = world.run()
    assert "flush" in outcome.reason
    assert outcome.written == 2 * nth
    assert sum(row.dirty for row in world.record.rows()) + 2 >= outcome.blocks - outcome.written - 2
    world.check()
    with pytest.raises(FusecacheError, match=f"{outcome.blocks - outcome.written} blocks are still dirty"):
        require_complete(outcome)
    again = World(world.freeze())
    again.run()
    again.check_done()


@pytest.mark.parametrize("nth", range(6))
def test_a_record_that_cannot_be_written_ends_it(small_batches: None, nth: int) -> None:
    world = World()
    world.record.faults.fail("commit", nth)
    outcome = world.run()
    if nth < 4:
        assert "disk I/O error" in outcome.reason
    world.check()
    again = World(world.freeze())
    again.run()
    again.check_done()


def test_blocks_go_to_the_origin_in_its_order_and_each_run_of_sectors_is_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing_back, "_SIDE_BY_SIDE", 1)
    world = World()
    write, written = world.origin.write, list[tuple[int, int]]()

    async def note(offset: int, data: Data) -> None:
        written.append((offset, len(data)))
        await write(offset, data)

    world.origin.write = note  # type: ignore[method-assign]  # to look on
    world.run()
    world.check_done()
    runs = [
        (oblock * BLOCK + begin, end - begin) for oblock in NEWER for begin, end in byte_runs(VALID_OF[oblock] or 255)
    ]
    assert written == sorted(runs)


@pytest.mark.parametrize(
    ("begin", "end", "middle"),
    [
        (0, 4096, 0),
        (512, 4096, 0),
        (0, 8192, 4096),
        (512, 4608, 4096),
        (3584, 8192, 4096),
        (0, 65536, 32768),
        (4096, 12288 + 512, 8192),
        (4096, 8192, 0),
        (8191, 8193, 8192),
    ],
)
def test_what_cannot_be_copied_is_cut_where_pages_begin(begin: int, end: int, middle: int) -> None:
    assert writing_back._page_between(begin, end) == middle
