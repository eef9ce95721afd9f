"""What is read ahead is never older than a write: readers in order and writers at the same blocks, in disorder.

Each rule that keeps it so is broken as well, and that is noticed.  (What matters only after a fault has tests of its
own, in ``tests/unit/migration/test_read_ahead.py``.)
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecache.block.geometry import Geometry
from fusecache.config import Mode
from fusecache.errors import FusecacheError
from fusecache.migration.read_ahead import ReadAhead
from tests.crash.rig import BLOCK, Rig, SimDisk, pause_ends, simulate, simulated
from tests.model import Oracle

_CELL: Final = 512
_PER_BLOCK: Final = BLOCK // _CELL
_BLOCKS: Final = 16
_SEEDS: Final = 60
"""Of histories in which a broken rule has to be noticed."""

Patch = pytest.MonkeyPatch


class _Story:
    """Two clients who read in order and two who write, on a disk that reads ahead."""

    def __init__(self, seed: int, faults: bool) -> None:
        self._rng = random.Random(seed)
        geometry = Geometry(_BLOCKS * BLOCK + 3 * _CELL, BLOCK, self._rng.choice((1, 2, 4, 8)))
        self._cells = geometry.image_bytes // _CELL
        self._oracle = Oracle([0] * self._cells, _CELL)
        disk = SimDisk.new(geometry, region_blocks=2, cell_bytes=_CELL)
        policy = self._rng.choice(("eager", "eager", "smq", "cleaner"))
        mode = self._rng.choice((Mode.WRITEBACK, Mode.WRITEBACK, Mode.WRITETHROUGH, Mode.PASSTHROUGH))
        room = self._rng.choice((8, 32)) * BLOCK
        self._rig = Rig(disk, seed, policy=policy, mode=mode, read_ahead=room)
        self._faults = faults
        if faults:
            self._rig.store.faults.fail_at_random(0.3, seed, ("read", "flush"))
            self._rig.origin.faults.fail_at_random(0.05, seed, ("write", "flush"))

    async def live(self) -> int:
        """Live it; returns how many blocks were taken from what was read ahead."""
        rig = self._rig
        async with rig.running():
            async with trio.open_nursery() as nursery:
                for client in (self._read_on, self._read_on, self._write, self._write):
                    nursery.start_soon(client, random.Random(self._rng.random()))
            rig.heal()
            if self._faults:
                await pause_ends()
            self._oracle.settled(await rig.read_all())
            await rig.check_at_rest()
        return rig.volume.counters.read_ahead_used

    async def _read_on(self, rng: random.Random) -> None:
        for _ in range(4):
            count = rng.choice((2, _PER_BLOCK, _PER_BLOCK, 3 * _PER_BLOCK + 1))
            for first in range(rng.randrange(2 * _PER_BLOCK), self._cells, count):
                held = min(count, self._cells - first)
                began, allowed = self._oracle.begin_read(first, held)
                try:
                    image = await self._rig.cache.read(first * _CELL, held * _CELL)
                except FusecacheError:
                    assert self._faults
                else:
                    self._oracle.end_read(began, first, image, allowed)
                self._rig.worker.read_ahead.check()

    async def _write(self, rng: random.Random) -> None:
        for _ in range(40):
            await trio.sleep(rng.random() * 0.02)
            first = rng.randrange(_BLOCKS) * _PER_BLOCK
            if rng.random() < 0.5:
                count = _PER_BLOCK
            else:
                first += rng.randrange(_PER_BLOCK)
                count = rng.randint(1, min(2 * _PER_BLOCK, self._cells - first))
            write, data = self._oracle.begin_write(first, count)
            try:
                await self._rig.cache.write(first * _CELL, data)
            except FusecacheError:
                assert self._faults
                self._oracle.end_write(write, failed=True)
            else:
                self._oracle.end_write(write)


def tell(seed: int, *, faults: bool = False) -> int:
    """Tell the story of a seed; returns how many blocks were taken from what was read ahead."""

    async def live() -> int:
        return await _Story(seed, faults).live()

    with simulated():
        return simulate(seed, live)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), faults=st.booleans())
def test_nobody_reads_what_is_older_than_a_write(seed: int, faults: bool) -> None:
    tell(seed, faults=faults)


def test_the_stories_are_about_read_ahead() -> None:
    assert sum(tell(seed) for seed in range(10)) > 100


def _unheard(*callers: str) -> Callable[[Patch], None]:
    """Make a rule: these do not say that a block is about to change."""

    def mutate(patch: Patch) -> None:
        forget = ReadAhead.forget

        def forget_of_others(self: ReadAhead, oblock: int) -> None:
            if sys._getframe(1).f_code.co_name not in callers:
                forget(self, oblock)

        patch.setattr(ReadAhead, "forget", forget_of_others)

    return mutate


def _kept_though_written_meanwhile(patch: Patch) -> None:
    forget = ReadAhead.forget

    def forget_what_was_read(self: ReadAhead, oblock: int) -> None:
        run = self._found.get(oblock)
        if run is not None and run.was_read.is_set():
            forget(self, oblock)

    patch.setattr(ReadAhead, "forget", forget_what_was_read)


def _read_while_it_is_written(patch: Patch) -> None:
    def is_free(self: ReadAhead, oblock: int) -> bool:
        return oblock not in self._found and self._volume.mapping.find(oblock) < 0

    patch.setattr(ReadAhead, "_is_free", is_free)


@pytest.mark.parametrize(
    "mutate",
    [
        pytest.param(_unheard("try_write"), id="writers"),
        pytest.param(_unheard("map_promoted", "absorb", "overwrite"), id="promotions"),
        pytest.param(_kept_though_written_meanwhile, id="reads under way"),
        pytest.param(_read_while_it_is_written, id="reads that begin while a write is under way"),
    ],
)
def test_a_broken_rule_is_noticed(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    for seed in range(_SEEDS):
        try:
            tell(seed)
        except (AssertionError, BaseExceptionGroup) as exc:
            others = exc.split(AssertionError)[1] if isinstance(exc, BaseExceptionGroup) else None
            if others is not None:
                raise
            return
    pytest.fail("no story notices it")
