"""Whatever is done to it, the image behaves like a plain array of bytes.

Hypothesis makes up a session (requests, some of them side by side, changes of policy and mode, time, restarts); it is
carried out on a tiny cache whose stores take their time, and every answer is held against a ``bytearray``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
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

_CHANGES: Final = ("smq", "mq", "cleaner", "eager")
_SIDE_BY_SIDE: Final = 4
_HANG_SECONDS: Final = 40 * 100
"""Virtual; more than the longest session waits."""


@dataclass(frozen=True)
class Request:
    """A read or write; ``where`` and ``length`` are cut to what the image has."""

    writes: bool
    where: int
    length: int


@dataclass(frozen=True)
class Together:
    """Requests side by side, with a change of policy, mode or more among them."""

    requests: list[Request]
    change: tuple[str, str] | None


@dataclass(frozen=True)
class Wait:
    """Time passes."""

    seconds: float


@dataclass(frozen=True)
class Fsync:
    """The image is flushed."""


@dataclass(frozen=True)
class WriteBack:
    """Everything dirty is written back."""


@dataclass(frozen=True)
class Restart:
    """A clean end, a power cut, and another mount."""

    policy: str


_OFFSETS = st.one_of(
    st.integers(0, 24).map(lambda block: block * BLOCK),
    st.integers(0, 24 * 8).map(lambda sector: sector * 512),
    st.integers(0, 24 * BLOCK),
)
_LENGTHS = st.one_of(st.just(BLOCK), st.sampled_from((2 * BLOCK, 3 * BLOCK)), st.integers(1, 3 * BLOCK))
_REQUESTS = st.builds(Request, st.booleans(), _OFFSETS, _LENGTHS)
_NAMED_CHANGES = st.one_of(
    st.tuples(st.just("policy"), st.sampled_from(_CHANGES)),
    st.tuples(st.just("mode"), st.sampled_from([mode.value for mode in Mode])),
    st.sampled_from((("message", "flush"), ("message", "decommission"), ("invalidate", ""))),
)
_STEPS = st.lists(
    st.one_of(
        _REQUESTS.map(lambda request: Together([request], None)),
        st.builds(
            Together, st.lists(_REQUESTS, min_size=1, max_size=_SIDE_BY_SIDE), st.one_of(st.none(), _NAMED_CHANGES)
        ),
        _NAMED_CHANGES.map(lambda change: Together([], change)),
        st.sampled_from((Wait(0.01), Wait(1.5), Wait(11), Wait(70), Fsync(), Fsync(), WriteBack())),
        st.builds(Restart, st.sampled_from(_CHANGES)),
    ),
    min_size=4,
    max_size=40,
)


@dataclass
class Session:
    """One session; ``model`` is what the image has to be."""

    seed: int
    geometry: Geometry
    region_blocks: int
    policy: str
    mode: Mode
    model: bytearray = field(init=False)
    disk: SimDisk = field(init=False)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.model = bytearray(self.rng.randbytes(self.geometry.image_bytes))
        self.disk = SimDisk.holding(bytearray(self.model), self.geometry, region_blocks=self.region_blocks, face=Face())

    async def run(self, steps: list[Together | Wait | Fsync | WriteBack | Restart]) -> None:
        remaining = iter(steps)
        again: Restart | None = Restart(self.policy)
        while again is not None:
            rig = Rig(self.disk, self.seed, policy=again.policy, mode=self.mode)
            async with rig.running(at_most=_HANG_SECONDS):
                again = await self._mounted(rig, remaining)
                assert await rig.read_all() == self.model
                self.mode = rig.volume.mode
            self.disk = self._cut_the_power(rig)
            assert self.disk.record.values["clean_shutdown"] == "1"
            self.seed += 1

    async def _mounted(
        self, rig: Rig, steps: Iterator[Together | Wait | Fsync | WriteBack | Restart]
    ) -> Restart | None:
        for step in steps:
            match step:
                case Restart():
                    return step
                case Wait(seconds):
                    await trio.sleep(seconds)
                case Fsync():
                    await rig.cache.flush()
                    self._cut_the_power(rig)
                case WriteBack():
                    await rig.flusher.flush()
                    assert not rig.volume.mapping.dirty_count
                    assert rig.origin.freeze(self.rng).durable == self.model
                case Together(requests, change):
                    await self._together(rig, requests, change)
            await rig.check_at_rest()
            if rig.volume.mode is Mode.PASSTHROUGH:
                assert rig.origin.freeze(self.rng).newest() == self.model
        return None

    def _cut_the_power(self, rig: Rig) -> SimDisk:
        """Cut the power when everything has been flushed; returns what that leaves."""
        disk = rig.freeze(self.rng).after_power_cut(self.rng)
        assert disk.image() == self.model
        return disk

    async def _together(self, rig: Rig, requests: list[Request], change: tuple[str, str] | None) -> None:
        """Carry out requests side by side; a byte that is being written may be read as old or new."""
        before, after = self.model, bytearray(self.model)
        taken: list[range] = []
        async with trio.open_nursery() as nursery:
            for request in requests:
                start = request.where % self.geometry.image_bytes
                where = range(start, min(start + request.length, self.geometry.image_bytes))
                if not request.writes:
                    nursery.start_soon(self._read, rig, where, before, after)
                elif not any(where.start < other.stop and other.start < where.stop for other in taken):
                    taken.append(where)
                    data = self.rng.randbytes(len(where))
                    after[where.start : where.stop] = data
                    nursery.start_soon(self._write, rig, where, data)
            if change is not None:
                nursery.start_soon(self._change, rig, *change)
        self.model = after

    async def _write(self, rig: Rig, where: range, data: bytes) -> None:
        assert await rig.cache.write(where.start, data) == len(data)

    async def _read(self, rig: Rig, where: range, before: bytearray, after: bytearray) -> None:
        answer = await rig.cache.read(where.start, len(where) + 1 if where.stop == len(before) else len(where))
        assert len(answer) == len(where)
        old, new = before[where.start : where.stop], after[where.start : where.stop]
        assert all(got in pair for got, *pair in zip(answer, old, new, strict=True))

    async def _change(self, rig: Rig, name: str, value: str) -> None:
        if name == "invalidate":
            if rig.volume.mode is Mode.PASSTHROUGH:
                await rig.control.set("message", f"invalidate_cblocks 0-{self.geometry.cache_blocks}")
            return
        await rig.control.set(name, value)
        if name == "mode" and value == "writethrough":
            assert not rig.volume.mapping.dirty_count


@pytest.fixture(autouse=True, scope="module")
def _simulation() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with simulated(tick_seconds=1.0):
        yield
    structlog.configure(**before)


_GEOMETRIES = st.builds(
    lambda blocks, tail, cached: Geometry(blocks * BLOCK + tail, BLOCK, cached),
    st.integers(1, 20),
    st.sampled_from((0, 1, 512, 4095)),
    st.integers(1, 8),
)


@given(
    seed=st.integers(0, 2**32),
    geometry=_GEOMETRIES,
    region_blocks=st.integers(1, 3),
    policy=st.sampled_from(_CHANGES),
    mode=st.sampled_from(Mode),
    steps=_STEPS,
)
def test_the_image_is_an_array_of_bytes(
    seed: int,
    geometry: Geometry,
    region_blocks: int,
    policy: str,
    mode: Mode,
    steps: list[Together | Wait | Fsync | WriteBack | Restart],
) -> None:
    session = Session(seed, geometry, region_blocks, policy, mode)
    simulate(seed, session.run, steps)


@given(seed=st.integers(0, 2**32), geometry=_GEOMETRIES, steps=_STEPS)
def test_the_image_is_an_array_of_bytes_whatever_a_policy_wants(
    seed: int, geometry: Geometry, steps: list[Together | Wait | Fsync | WriteBack | Restart]
) -> None:
    session = Session(seed, geometry, 1, "eager", Mode.WRITEBACK)
    simulate(seed, session.run, steps)
