"""Fault sweeps: whatever fails first, second, ... in each of the things that a cache does, no third state comes of it.

Each scenario is run once for every operation that it makes, with that one failing, or with all from that one on.
Afterwards everything is healed: no lock is held, all invariants hold, reads give what may be read, and neither a crash
nor a clean restart loses what was flushed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

import pytest
import trio

from fusecache.block.geometry import Geometry
from fusecache.errors import FusecacheError, ReadOnlyError, StoreError
from fusecache.volume.volume import PolicyFaultError
from policies import Op, Work
from tests.crash.rig import BLOCK, Rig, SimDisk, pause_ends, simulate
from tests.fakes import EagerPolicy
from tests.model import Oracle, judge_crash, shown

_CELL: Final = 512
_PER_BLOCK: Final = BLOCK // _CELL
_GEOMETRY: Final = Geometry(6 * BLOCK + 1024, BLOCK, 3)
_MOST_OPERATIONS: Final = 60
_FOR_EVER: Final = 10**6


@dataclass
class Bench:
    """One mount, and the model of what it holds; requests that fail may be half done."""

    rig: Rig
    oracle: Oracle

    async def write(self, first: int, held: int) -> None:
        write, data = self.oracle.begin_write(first, held)
        try:
            await self.rig.cache.write(first * _CELL, data)
        except FusecacheError:
            self.oracle.end_write(write, failed=True)
            raise
        self.oracle.end_write(write)

    async def read(self, first: int, held: int) -> None:
        began = self.oracle.now()
        self.oracle.end_read(began, first, await self.rig.cache.read(first * _CELL, held * _CELL))

    async def fsync(self) -> None:
        began = self.oracle.now()
        await self.rig.cache.flush()
        self.oracle.end_flush(began)

    async def migrate(self, op: Op, oblock: int) -> None:
        """Have the policy want something, and wait until it is done or was given up."""
        policy = self.rig.volume.policy
        assert isinstance(policy, EagerPolicy)
        cblock = policy._take_free() if op is Op.PROMOTE else policy.cblock_of[oblock]
        policy._queued[oblock] = Work(op, oblock, cblock)
        self.rig.worker.wake()
        with trio.move_on_after(2):
            while oblock in policy._queued or oblock in policy._issued:  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.001)

    async def dirty(self, oblock: int, held: int = 2) -> None:
        await self.migrate(Op.PROMOTE, oblock)
        await self.write(oblock * _PER_BLOCK, held)


Scenario = Callable[[Bench], Awaitable[None]]
Prelude = Callable[[Bench], Awaitable[None]]


async def _nothing(bench: Bench) -> None:
    pass


async def _one_dirty(bench: Bench) -> None:
    await bench.dirty(1)
    await bench.fsync()


async def _two_dirty_one_clean(bench: Bench) -> None:
    await bench.dirty(1)
    await bench.dirty(2)
    await bench.fsync()
    await bench.migrate(Op.PROMOTE, 0)


async def _one_clean(bench: Bench) -> None:
    await bench.migrate(Op.PROMOTE, 1)
    await bench.fsync()
    await trio.sleep(0.5)  # its region is closed


async def _one_clean_in_writethrough(bench: Bench) -> None:
    await _one_clean(bench)
    await bench.rig.control.set("mode", "writethrough")


async def _one_clean_in_passthrough(bench: Bench) -> None:
    await _one_clean(bench)
    await bench.rig.control.set("mode", "passthrough")


async def promotion(bench: Bench) -> None:
    await bench.migrate(Op.PROMOTE, 1)
    await bench.read(_PER_BLOCK, _PER_BLOCK)
    await bench.fsync()


async def writeback(bench: Bench) -> None:
    await bench.migrate(Op.WRITEBACK, 1)
    await bench.fsync()


async def demotion(bench: Bench) -> None:
    await bench.migrate(Op.DEMOTE, 1)
    await bench.read(_PER_BLOCK, _PER_BLOCK)
    await bench.fsync()


async def reuse(bench: Bench) -> None:
    """All cache blocks change hands."""
    for old, new in ((1, 4), (2, 5), (0, 3)):
        policy = bench.rig.volume.policy
        assert isinstance(policy, EagerPolicy)
        if old in policy.cblock_of:  # it is not if the cache was given up
            await bench.migrate(Op.DEMOTE, old)
        if policy._free:
            await bench.migrate(Op.PROMOTE, new)
        await bench.write(new * _PER_BLOCK + 1, 3)
    await bench.fsync()


async def overwrite(bench: Bench) -> None:
    for oblock in range(3):
        await bench.write(oblock * _PER_BLOCK, _PER_BLOCK)
    await bench.fsync()


async def record_intent(bench: Bench) -> None:
    await bench.write(_PER_BLOCK + 2, 3)
    await bench.fsync()


async def double_write(bench: Bench) -> None:
    await bench.write(_PER_BLOCK + 2, 3)
    await bench.read(_PER_BLOCK, _PER_BLOCK)
    await bench.fsync()


async def drop_and_write(bench: Bench) -> None:
    await bench.write(_PER_BLOCK + 2, 3)
    await bench.read(_PER_BLOCK, _PER_BLOCK)
    await bench.fsync()


async def crossing(bench: Bench) -> None:
    """Requests across cached, dirty and other blocks, and the tail, side by side."""
    held = len(bench.oracle.allowed)
    async with trio.open_nursery() as nursery:
        for request in (
            bench.write(3, 2 * _PER_BLOCK),
            bench.write(held - 4, 4),
            bench.read(0, held),
            bench.write(_PER_BLOCK, 3 * _PER_BLOCK),
        ):
            nursery.start_soon(_tolerate, request)
    await bench.fsync()


async def to_writethrough(bench: Bench) -> None:
    await bench.rig.control.set("mode", "writethrough")


async def to_passthrough(bench: Bench) -> None:
    await bench.rig.control.set("mode", "passthrough")
    await bench.write(_PER_BLOCK, 2)


async def decommission(bench: Bench) -> None:
    bench.rig.control.begin("message", "decommission")
    await trio.sleep(5)
    await bench.write(_PER_BLOCK, 2)


async def flusher(bench: Bench) -> None:
    await bench.rig.flusher.flush()


async def ending(bench: Bench) -> None:
    """Nothing more is done: what fails is the clean end."""


async def closing(bench: Bench) -> None:
    await trio.sleep(0.5)
    await bench.write(_PER_BLOCK + 4, 1)
    await bench.fsync()


_SCENARIOS: Final[list[tuple[Scenario, Prelude]]] = [
    (promotion, _nothing),
    (writeback, _one_dirty),
    (demotion, _one_dirty),
    (demotion, _one_clean),
    (reuse, _two_dirty_one_clean),
    (overwrite, _nothing),
    (record_intent, _one_clean),
    (double_write, _one_clean_in_writethrough),
    (drop_and_write, _one_clean_in_passthrough),
    (crossing, _two_dirty_one_clean),
    (to_writethrough, _two_dirty_one_clean),
    (to_passthrough, _two_dirty_one_clean),
    (decommission, _two_dirty_one_clean),
    (flusher, _two_dirty_one_clean),
    (closing, _two_dirty_one_clean),
    (ending, _two_dirty_one_clean),
]


async def _tolerate(request: Awaitable[None]) -> None:
    """What failed because of a fault may fail; a policy that disagrees with the mapping may not."""
    try:
        await request
    except PolicyFaultError:
        raise
    except FusecacheError:
        pass


@dataclass
class Sweep:
    """One scenario with one operation failing; ``reached`` tells whether it came to that."""

    scenario: Scenario
    prelude: Prelude
    part: str
    kind: str
    nth: int
    times: int
    reached: bool = False

    async def run(self, seed: int) -> None:
        held = _GEOMETRY.image_bytes // _CELL
        oracle = Oracle([0] * held, _CELL)
        disk = SimDisk.new(_GEOMETRY, region_blocks=1, cell_bytes=_CELL)
        rig = Rig(disk, seed)
        rig.origin.on_loss = rig.store.on_loss = oracle.doubt
        rig.origin.quickness = rig.store.quickness = 0.0
        policy = rig.volume.policy
        assert isinstance(policy, EagerPolicy)
        policy.keep_still()
        bench = Bench(rig, oracle)
        rng = random.Random(seed)
        ended, before = False, 0
        try:
            async with rig.running():
                await self.prelude(bench)
                faults = rig.faults[self.part]
                before = faults.counts[self.kind]
                faults.fail(self.kind, before + self.nth, self.times)
                await _tolerate(self.scenario(bench))
                self._judge_crashes(rig, oracle, rng)
                if self.scenario is not ending:
                    self.reached = faults.counts[self.kind] > before + self.nth
                    rig.heal()
                    if rig.volume.health.read_only:
                        await self._look_at_read_only(bench)
                    elif not rig.origin.lost:
                        await self._settle(bench, rng)
            ended = True
        except FusecacheError:
            broken = rig.origin.lost or rig.volume.health.read_only
            assert self.scenario is ending or broken, "a clean end failed"
        if self.scenario is ending:
            self.reached = rig.faults[self.part].counts[self.kind] > before + self.nth
        assert (rig.freeze(rng).record.values["clean_shutdown"] == "1") == ended
        self._judge_crashes(rig, oracle, rng)

    async def _look_at_read_only(self, bench: Bench) -> None:
        rig, oracle = bench.rig, bench.oracle
        await pause_ends()
        oracle.settled(await rig.read_all())
        with pytest.raises(ReadOnlyError):
            await rig.cache.write(0, b"new")
        assert rig.volume.health.state == "read-only"
        assert self.times > 1 or rig.record.values()["needs_check"] == "1"

    async def _settle(self, bench: Bench, rng: random.Random) -> None:
        rig, oracle = bench.rig, bench.oracle
        await pause_ends()
        await rig.check_at_rest()
        shows = oracle.settled(await rig.read_all())
        if rig.volume.health.unreported:
            with pytest.raises(StoreError, match="may be lost"):
                await bench.fsync()
        await bench.fsync()
        assert judge_crash(rig.freeze(rng).after_power_cut(rng).image(), oracle.allowed, _CELL) == shows

    def _judge_crashes(self, rig: Rig, oracle: Oracle, rng: random.Random) -> None:
        for _ in range(3):
            frozen = rig.freeze(rng)
            for disk in (frozen.after_power_cut(rng), frozen.after_kill(rng)):
                image = disk.image()
                judge_crash(image, oracle.allowed, _CELL)
                assert -1 not in shown(image, _CELL)


_KINDS: Final = [
    ("cache", "read"),
    ("cache", "write"),
    ("cache", "flush"),
    ("origin", "read"),
    ("origin", "write"),
    ("origin", "flush"),
    ("record", "commit"),
]


@pytest.mark.parametrize(("scenario", "prelude"), _SCENARIOS, ids=lambda part: part.__name__.strip("_"))
@pytest.mark.parametrize(("part", "kind"), _KINDS)
@pytest.mark.parametrize("times", [1, _FOR_EVER], ids=["once", "from-then-on"])
def test_one_failure_makes_no_third_state(
    scenario: Scenario, prelude: Prelude, part: str, kind: str, times: int
) -> None:
    for nth in count():
        assert nth < _MOST_OPERATIONS, "the scenario never ends"
        sweep = Sweep(scenario, prelude, part, kind, nth, times)
        try:
            simulate(nth, sweep.run, nth)
        except Exception as exc:
            msg = f"{kind} number {nth} of {part} failed"
            raise AssertionError(msg) from exc
        if not sweep.reached:
            break
