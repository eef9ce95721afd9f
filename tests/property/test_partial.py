"""Partial blocks: whatever is written in whatever pieces, each byte shows what was written to it last.

One request comes after the other, so that the model is exact: a ``bytearray``, and what of it the last flush has made
durable.  After each step every structure is asked whether it is sound, and what a process would find that goes on in
the place of this one is held against the model: everything that was written.  After each flush, and where a crash
comes, what a power cut leaves is.  What is done side by side is for ``test_disk.py`` and the crash hunter.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from fusecache.block.geometry import Geometry
from fusecache.config import Mode
from tests.crash.parts import Face
from tests.crash.rig import BLOCK, Rig, SimDisk, simulate, simulated

_HANG_SECONDS: Final = 4000
_SECTOR: Final = 512
_BLOCKS: Final = 6
"""Of the image, which has a tail besides."""


@dataclass(frozen=True)
class Write:
    """A write, which is cut where the image ends."""

    where: int
    length: int


@dataclass(frozen=True)
class Read:
    """A read, which is cut where the image ends."""

    where: int
    length: int


@dataclass(frozen=True)
class Flush:
    """A flush of the image; then a power cut would leave exactly what it shows."""


@dataclass(frozen=True)
class Wait:
    """Time passes, in which migrations are carried out."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """A block leaves the cache."""

    oblock: int


@dataclass(frozen=True)
class Switch:
    """Another mode."""

    mode: Mode


@dataclass(frozen=True)
class Crash:
    """A power cut, and another mount."""


Step = Write | Read | Flush | Wait | Drop | Switch | Crash

_WHERE = st.one_of(
    st.integers(0, _BLOCKS * 8).map(lambda sector: sector * _SECTOR),
    st.integers(0, _BLOCKS * BLOCK),
    st.integers(BLOCK, BLOCK + 4 * _SECTOR),  # many in one place
)
_LENGTH = st.one_of(
    st.integers(1, 3 * _SECTOR), st.sampled_from((_SECTOR, 2 * _SECTOR, BLOCK)), st.integers(1, 3 * BLOCK)
)
_WRITES = st.builds(Write, _WHERE, _LENGTH)
_STEPS = st.lists(
    st.one_of(
        _WRITES,
        _WRITES,
        st.builds(Read, _WHERE, _LENGTH),
        st.sampled_from((Flush(), Flush(), Wait(0.05), Wait(30.0), Crash())),
        st.builds(Drop, st.integers(0, _BLOCKS - 1)),
        st.builds(Switch, st.sampled_from((Mode.WRITEBACK, Mode.WRITETHROUGH))),
    ),
    min_size=4,
    max_size=30,
)


class Session:
    """One session; ``model`` is what the image has to be."""

    def __init__(self, seed: int, geometry: Geometry, *, absorbs: bool) -> None:
        self._rng = random.Random(seed)
        self._seed = seed
        self._absorbs = absorbs
        self.model = bytearray(self._rng.randbytes(geometry.image_bytes))
        self._flushed = bytearray(self.model)
        """What the last flush has made durable."""
        self._disk = SimDisk.holding(bytearray(self.model), geometry, region_blocks=2, face=Face())

    async def run(self, steps: list[Step]) -> None:
        """Carry the steps out, in one mount after the other."""
        rest = steps
        while rest:
            rest = await self._mount(rest)
        self.require_durable(self._disk, self.model)

    async def _mount(self, steps: list[Step]) -> list[Step]:
        """Carry out the steps up to a crash, or the last; returns those that follow."""
        rig = Rig(self._disk, self._seed)
        rig.volume.policy.absorbs = self._absorbs
        with trio.CancelScope() as scope:
            async with rig.running(at_most=_HANG_SECONDS):
                for step in steps:
                    if isinstance(step, Crash):
                        self._disk = rig.freeze(self._rng).after_power_cut(self._rng)
                        self._take_what_is_left()
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                    await self._carry_out(rig, step)
                    self._check(rig)
                    assert rig.outlived(self._rng).image() == self.model, "what was written, the next process misses"
                await rig.check_at_rest()
                assert await rig.read_all() == self.model
        if scope.cancelled_caught:
            return steps[steps.index(Crash()) + 1 :] or [Flush()]
        self._disk = rig.freeze(self._rng).after_power_cut(self._rng)
        return []

    async def _carry_out(self, rig: Rig, step: Step) -> None:
        match step:
            case Write(where, length):
                data = self._rng.randbytes(min(length, len(self.model) - where))
                await rig.cache.write(where, data)
                self.model[where : where + len(data)] = data
            case Read(where, length):
                assert await rig.cache.read(where, length) == self.model[where : where + length]
            case Flush():
                await rig.cache.flush()
                self._flushed[:] = self.model
                self.require_durable(rig.freeze(self._rng).after_power_cut(self._rng), self.model)
            case Wait(seconds):
                await trio.sleep(seconds)
            case Drop(oblock):
                await rig.worker.invalidate(oblock)
            case Switch(mode):
                await rig.control.set("mode", mode.value)
            case _:
                raise AssertionError(step)

    def _take_what_is_left(self) -> None:
        """Go on with what a crash has left, which has each sector as flushed, or newer."""
        image = self._disk.image()
        for begin in range(0, len(image), _SECTOR):
            place = slice(begin, begin + _SECTOR)
            if self._flushed[place] == self.model[place]:
                assert image[place] == self.model[place], f"sector {begin // _SECTOR} was flushed, and is gone"
        self.model[:] = image
        self._flushed[:] = image

    @staticmethod
    def require_durable(disk: SimDisk, model: bytearray) -> None:
        """Assert that what a power cut has left is the model."""
        image = disk.image()
        sectors = [slice(at, at + _SECTOR) for at in range(0, len(model), _SECTOR)]
        wrong = [place.start // _SECTOR for place in sectors if image[place] != model[place]]
        assert not wrong, f"sectors {wrong} were flushed, and are gone"

    @staticmethod
    def _check(rig: Rig) -> None:
        """Ask every structure whether it is sound, although something may be under way."""
        rig.volume.check()
        rig.worker.check()


@given(
    seed=st.integers(0, 2**32 - 1),
    cache_blocks=st.integers(2, 8),
    tail=st.sampled_from((0, 1, 512, 700)),
    absorbs=st.sampled_from((True, True, True, False)),
    steps=_STEPS,
)
def test_each_byte_shows_what_was_written_to_it_last(
    seed: int, cache_blocks: int, tail: int, absorbs: bool, steps: list[Step]
) -> None:
    session = Session(seed, Geometry(_BLOCKS * BLOCK + tail, BLOCK, cache_blocks), absorbs=absorbs)
    with simulated():
        simulate(seed, session.run, steps)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
