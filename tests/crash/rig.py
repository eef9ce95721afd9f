"""A whole mount without FUSE, files or time: the real parts, put together by the real composition root, on fakes.

A :class:`SimDisk` is what lies there between mounts; a :class:`Rig` is one mount of it.  :func:`simulate` runs a
coroutine under a virtual clock, one seed being one order of events.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from unittest.mock import patch

import trio
import trio.testing
from crc32c import crc32c

import policies
from fusecache.attach.agreement import Verdict, judge_origin
from fusecache.attach.bond import require_same_generation
from fusecache.attach.findings import look_at_origin
from fusecache.attach.recovery import Recovered, hint_signature, recover
from fusecache.attach.resizing import plan_resize
from fusecache.attach.stamp import Stamp
from fusecache.block.geometry import Geometry
from fusecache.block.sectors import byte_runs
from fusecache.block.states import DIRTY
from fusecache.config import DirtyAge, DirtyLimit, Mode, MountConfig
from fusecache.control.control import Control
from fusecache.control.facts import Survival
from fusecache.daemon import serve as mount
from fusecache.daemon.ending import end_cleanly
from fusecache.daemon.preparing import make_volume
from fusecache.datapath.disk import Disk
from fusecache.durability.slate import Slate, slate_bytes
from fusecache.grammar.policies import parse_policy
from fusecache.jobs.flush import Flusher
from fusecache.jobs.table import Jobs
from fusecache.metadata import Superblock
from fusecache.metadata.record import Transaction
from fusecache.migration.cleaning import Cleaning
from fusecache.migration.worker import MigrationWorker
from fusecache.volume.policies import new_policy
from tests.crash.parts import CACHE, METADATA, UUID, Face, RestingRecord, SimOrigin, Ties
from tests.fakes import SECTOR, EagerPolicy, Faults, Latency, RecordState, SimRecord, SimStore, StoreState
from tests.model import initial_image

if TYPE_CHECKING:
    from fusecache.metadata import Database

T = TypeVar("T")

BLOCK: Final = 4096
QUICK_TICKS: Final = 0.05
"""Seconds, instead of one, so that ticks fall among requests."""
_AT_REST_SECONDS: Final = 10
"""Virtual."""
_TICKS_PER_CLOSING: Final = 2
_AGE: Final = DirtyAge(0.1, 6)
_LIMITS: Final = (0, 30, 75, 100)
"""Of which the seed chooses one; per cent."""
_QUIET_SECONDS: Final = 0.03
"""Instead of one."""
_HANG_SECONDS: Final = 300
"""Virtual; nothing that works takes nearly as long."""


_RUBBISH: Final = b"\xee"


@dataclass(slots=True, kw_only=True)
class SimDisk:
    """What lies there while nothing is mounted."""

    region_blocks: int
    origin: StoreState
    face: Face
    cache: StoreState
    stamp: Stamp
    record: RecordState

    @property
    def room(self) -> int:
        """How many blocks the cache is long enough for."""
        return len(self.cache.durable) // BLOCK

    @property
    def geometry(self) -> Geometry:
        """The sizes that the next mount finds, if it is told no others."""
        return Geometry(len(self.origin.durable), BLOCK, int(self.record.values["cache_blocks"]))

    @classmethod
    def new(cls, geometry: Geometry, *, region_blocks: int, cell_bytes: int, face: Face | None = None) -> SimDisk:
        """Make a disk that was never cached, in which nobody has written yet."""
        content = initial_image(geometry.image_bytes, cell_bytes)
        return cls.holding(content, geometry, region_blocks=region_blocks, face=face or Face())

    @classmethod
    def holding(cls, content: bytearray, geometry: Geometry, *, region_blocks: int, face: Face) -> SimDisk:
        """Make a disk that was never cached; the cache has rubbish in it."""
        origin = StoreState(content)
        superblock = Superblock(
            uuid=UUID,
            block_size=BLOCK,
            cache_blocks=geometry.cache_blocks,
            region_blocks=region_blocks,
            image_bytes=geometry.image_bytes,
            origin=SimOrigin.at_rest(face, origin).identity(),
            clean_shutdown=True,
        )
        return cls(
            region_blocks=region_blocks,
            origin=origin,
            face=face,
            cache=StoreState(bytearray(_RUBBISH * (geometry.cache_blocks * BLOCK))),
            stamp=Stamp(UUID),
            record=RecordState(values=superblock.pack()),
        )

    def judged(self) -> Verdict:
        """Judge as a mount would whether its parts belong together.

        :raises RefusedError: the mount would be refused.
        """
        record = RestingRecord(self.record)
        superblock = record.superblock()
        require_same_generation(self.stamp, superblock, cache=CACHE, metadata=METADATA)
        found = look_at_origin(SimOrigin.at_rest(self.face, self.origin).claims, cast("Database", record))
        return judge_origin(superblock, found, arguments=self.face.address)

    def require_accepted(self) -> None:
        """Assert that a mount takes it for what it is, whatever crash has left it."""
        verdict = self.judged()
        has_grown = len(self.origin.durable) > int(self.record.values["origin_bytes"])
        assert verdict is Verdict.SAME or (verdict is Verdict.GROWN and has_grown), f"the origin counts as {verdict}"

    def after_power_cut(self, rng: random.Random) -> SimDisk:
        """Lose whatever a power cut may take."""
        return replace(
            self,
            origin=self.origin.after_power_cut(rng),
            face=self.face.after_power_cut(),
            cache=self.cache.after_power_cut(rng),
            record=self.record.after_crash(rng),
        )

    def after_kill(self, rng: random.Random) -> SimDisk:
        """Lose the process: what it wrote can be read, and is not durable yet."""
        return replace(self, record=self.record.after_crash(rng))

    def keeping_no_claims(self) -> SimDisk:
        """Let the origin have no room for claims any more; one that is there stays."""
        return replace(self, face=replace(self.face, keeps_claims=False))

    def settled(self) -> SimDisk:
        """Have everything durable."""
        return replace(self, origin=StoreState(self.origin.newest()), cache=StoreState(self.cache.newest()))

    def cut_by_others(self, blocks: int) -> SimDisk:
        """Lose the end of the cache; whether that can be borne, a mount will say."""
        return replace(self, cache=_with_room(self.cache, min(blocks, self.room)))

    def grown_by_others(self, cell_bytes: int, held: int) -> SimDisk:
        """Make the origin longer."""
        longer = initial_image(len(self.origin.durable) + held * cell_bytes, cell_bytes)
        longer[: len(self.origin.durable)] = self.origin.durable
        return replace(self, origin=StoreState(longer, self.origin.pending), face=self.face.changed())

    def resized(self, cache_blocks: int | None = None, *, verdict: Verdict | None = None) -> list[SimDisk]:
        """Make ready for a mount with that many cache blocks, as the mount would; returns the disk after each step.

        :param verdict: what :meth:`judged` says, if that is known.
        :raises RefusedError: the mount would be refused.
        """
        verdict = verdict or self.judged()
        found = self.geometry
        blocks = min(found.cache_blocks, self.room) if cache_blocks is None else cache_blocks
        old_bytes = int(self.record.values["image_bytes"])
        resize = plan_resize(
            SimRecord(self.record, latency=_no_latency()).rows(),
            set(self.record.regions),
            region_blocks=self.region_blocks,
            old=Geometry(old_bytes, BLOCK, found.cache_blocks),
            new=Geometry(found.image_bytes, BLOCK, blocks),
            room=self.room,
            stale=verdict is not Verdict.SAME,
        )
        steps = _Steps(self)
        resize.carry_out(steps, steps)
        return steps.disks

    def begun(self, rng: random.Random) -> list[SimDisk]:
        """Begin a mount, and nothing else; returns what crashes find after each step of it."""
        latency = _no_latency()
        origin = SimStore(self.origin, name="origin", rng=rng, latency=latency)
        cache = SimStore(self.cache, name="cache", rng=rng, latency=latency)
        record = SimRecord(self.record, latency=latency)
        ties = Ties(self.face, self.stamp, origin=origin, cache=cache, record=record, geometry=self.geometry)
        disks: list[SimDisk] = []
        ties.on_step = lambda: disks.append(replace(self, face=ties.face, stamp=ties.stamp, record=record.freeze()))
        ties.binding.begin()
        return disks

    def recover(self) -> Recovered:
        """Recover as a mount would, into a policy that nobody uses."""
        geometry = self.geometry
        policy = EagerPolicy(cache_blocks=geometry.cache_blocks, origin_blocks=geometry.origin_blocks, block_size=BLOCK)
        rows = SimRecord(self.record, latency=_no_latency()).rows()
        return recover(
            rows,
            set(self.record.regions),
            geometry=geometry,
            region_blocks=self.region_blocks,
            policy=policy,
            hints_valid=False,
        )

    def image(self) -> bytearray:
        """Read the image as a mount of this disk would show it; every clean block must be the origin's."""
        if self.room < self.geometry.cache_blocks:
            return self.resized()[-1].image()
        recovered = self.recover()
        recovered.mapping.check()
        geometry = self.geometry
        origin, cache = self.origin.newest(), self.cache.newest()
        for cblock, oblock in recovered.mapping.mapped():
            every = geometry.every_sector
            for begin, end in byte_runs(recovered.mapping.valid.get(cblock, every)):
                copy = cache[cblock * BLOCK + begin : cblock * BLOCK + end]
                place = slice(oblock * BLOCK + begin, oblock * BLOCK + end)
                if not recovered.mapping.flags[cblock] & DIRTY:
                    assert copy == origin[place], f"cblock {cblock} counts as clean, and is not as oblock {oblock} is"
                    crc = recovered.mapping.sum_of(cblock)
                    assert crc is None or crc == crc32c(copy), f"the sum of cblock {cblock} is another content's"
                origin[place] = copy
        return origin


class _Steps:
    """A disk that is resized, and what it was after each step: a crash leaves one of them."""

    def __init__(self, disk: SimDisk) -> None:
        self.disks = [disk]

    def room(self) -> int:
        return self.disks[-1].room

    def extend(self, blocks: int) -> None:
        disk = self.disks[-1]
        self.disks.append(replace(disk, cache=_with_room(disk.cache, blocks)))

    def cut(self, blocks: int) -> None:
        disk = self.disks[-1]
        self.disks.append(replace(disk, cache=_with_room(disk.cache, blocks)))

    def apply(self, transaction: Transaction) -> None:
        disk = self.disks[-1]
        record = disk.record.copy()
        record.unsure = None
        record.apply(transaction)
        self.disks.append(replace(disk, record=record))


def _with_room(store: StoreState, blocks: int) -> StoreState:
    """Make a cache longer, with rubbish, or shorter."""
    size = blocks * BLOCK
    durable = store.durable[:size].ljust(size, _RUBBISH)
    return StoreState(durable, {sector: old for sector, old in store.pending.items() if sector * SECTOR < size})


def _nothing() -> None:
    pass


def _no_latency() -> Latency:
    return Latency(random.Random(0), 0.0)


class Rig:
    """One mount of a disk; use :meth:`running`.

    :param policy: a name, or a name with tunables (``smq,absorb=on``).
    :param seconds: how long an operation of a store may take, virtually.
    :param read_ahead: bytes of memory for what is read ahead.
    """

    def __init__(
        self,
        disk: SimDisk,
        seed: int,
        *,
        policy: str = "eager",
        mode: Mode = Mode.WRITEBACK,
        seconds: float = 0.02,
        read_ahead: int = 0,
    ) -> None:
        rng = random.Random(seed)
        latency = Latency(rng, seconds)
        EagerPolicy.seed = seed
        self.disk = disk
        self.at_end: Callable[[], None] = _nothing
        """Called after each step of a clean end."""
        self.origin = SimStore(disk.origin, name="origin", rng=rng, latency=latency)
        self.store = SimStore(disk.cache, name="cache", rng=rng, latency=latency)
        self.record = SimRecord(disk.record, latency=latency)
        values = self.record.values()
        self.ties = Ties(
            disk.face, disk.stamp, origin=self.origin, cache=self.store, record=self.record, geometry=disk.geometry
        )
        binding = self.binding = self.ties.binding
        self.begun: list[SimDisk] = []
        """What a crash finds after each step of the beginning."""
        self.ties.on_step = lambda: self.begun.append(self.freeze(rng))
        binding.begin()
        self.ties.on_step = _nothing
        choice = parse_policy(policy)
        instance = new_policy(disk.geometry, choice)
        recovered = recover(
            self.record.rows(),
            self.record.regions(),
            geometry=disk.geometry,
            region_blocks=disk.region_blocks,
            policy=instance,
            hints_valid=self.binding.was_clean and values.get("hints") == hint_signature(instance),
        )
        instance.allow_migrations(mode is not Mode.PASSTHROUGH)
        self.volume = make_volume(binding, instance, recovered.mapping, recovered.open_regions, mode)
        self.slate = Slate(bytearray(slate_bytes(disk.geometry.cache_blocks, BLOCK)), BLOCK, UUID)
        self.volume.durability.rows.slate = self.slate
        self.worker = MigrationWorker(self.volume)
        self.cleaning = Cleaning(self.volume, self.worker, _AGE, DirtyLimit(random.Random(seed).choice(_LIMITS)))
        self.worker.read_ahead.set_size(read_ahead)
        self.jobs = Jobs(BLOCK, trio.current_time)
        self.flusher = Flusher(self.volume, self.worker, self.jobs)
        self.cache = Disk(self.volume, self.worker)
        config = MountConfig(origin="/origin", mountpoint=Path("/mnt"), mode=mode, policy=choice)
        self.control = Control(
            self.volume,
            self.worker,
            self.flusher,
            self.jobs,
            cleaning=self.cleaning,
            facts=mount._facts(config, binding, recovered.suspects, lambda: False, Survival()),
            metadata=self.record,
            discard=self.cache.discard,
        )

    @asynccontextmanager
    async def running(self, *, at_most: float = _HANG_SECONDS) -> AsyncIterator[None]:
        """Serve within this block, and end cleanly, as the daemon does; ``at_most`` virtual seconds."""
        with trio.fail_after(at_most):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.volume.durability.run)
                nursery.start_soon(self.worker.run)
                nursery.start_soon(self.cleaning.run)
                nursery.start_soon(self.flusher.run)
                nursery.start_soon(self.control.run)
                nursery.start_soon(mount._tick, self.volume, self.worker)
                if not self.binding.was_clean:
                    await self.volume.durability.secure()
                yield
                async with self.worker.paused():
                    nursery.cancel_scope.cancel()
            self.ties.on_step = self.at_end
            await end_cleanly(self.volume, self.binding)
            self.ties.on_step = _nothing

    def freeze(self, rng: random.Random) -> SimDisk:
        """Copy what a crash at this moment would have to deal with."""
        return replace(
            self.disk,
            origin=self.origin.freeze(rng),
            face=self.ties.face,
            cache=self.store.freeze(rng),
            stamp=self.ties.stamp,
            record=self.record.freeze(),
        )

    def outlived(self, rng: random.Random) -> SimDisk:
        """Kill the process at this moment, and have another one go on: it makes rows of what was on the slate."""
        disk = self.freeze(rng).after_kill(rng)
        rows = Transaction()
        rows.mapped.extend((cblock, oblock, True, None, valid) for cblock, oblock, valid in self.slate.notes())
        disk.record.apply(rows)
        return replace(disk, cache=StoreState(disk.cache.newest()))

    @property
    def faults(self) -> dict[str, Faults]:
        """What is going to fail, by the name of the part."""
        return {"origin": self.origin.faults, "cache": self.store.faults, "record": self.record.faults}

    def heal(self) -> None:
        """Let nothing fail any more."""
        for faults in self.faults.values():
            faults.heal()

    async def read_all(self) -> bytearray:
        """Read the whole image."""
        return bytearray(await self.cache.read(0, self.disk.geometry.image_bytes))

    async def check_at_rest(self) -> None:
        """Assert every invariant while no request and no migration is under way; waits for long work to end."""
        await trio.sleep(0.001)
        if self.flusher.pending:
            await self.flusher.flush()
        await self.control.settle()
        async with self.worker.paused():
            with trio.move_on_after(_AT_REST_SECONDS):
                while self.volume.locks.held:  # noqa: ASYNC110 - what is written back unasked ends, and tells nobody
                    await trio.sleep(0.001)
            await self.volume.durability.commit()
            assert not self.volume.locks.held, f"locks are held: {list(self.volume.locks.held)}"
            self.volume.check()
            self.worker.check()
            self.cleaning.check()
            self.volume.counters.check()
            self.jobs.check()
            self.flusher.check()
            self.control._changes.check()
            mapped = {oblock: cblock for cblock, oblock in self.volume.mapping.mapped()}
            policy = self.volume.policy
            if isinstance(policy, EagerPolicy):
                assert policy.cblock_of == mapped
                assert policy.dirty == {c for c in mapped.values() if self.volume.mapping.flags[c] & DIRTY}
            assert self.volume.mode is not Mode.PASSTHROUGH or not self.volume.mapping.dirty_count

    async def settle_into_origin(self) -> bytearray:
        """Make the origin complete in passthrough mode; returns what it has, durably."""
        await self.control.set("mode", "passthrough")
        await self.cache.flush()
        return bytearray(self.origin.freeze(random.Random(0)).durable)


@contextmanager
def simulated(tick_seconds: float = QUICK_TICKS) -> Iterator[None]:
    """Make virtual time quick, and the wild policy known by its name, within this block."""
    with (
        patch.dict(policies._BUILT_IN, {"eager": "tests.fakes:EagerPolicy"}),
        patch.object(mount, "_TICK_SECONDS", tick_seconds),
        patch.object(mount, "_TICKS_PER_CLOSING", _TICKS_PER_CLOSING),
        patch("fusecache.jobs.switching._SLICE", 1),
        patch("fusecache.migration.cleaning._LOOK_SECONDS", _QUIET_SECONDS),
        patch("fusecache.migration.origin_order.SORTED_AT_ONCE", 2),
        patch("fusecache.volume.activity.QUIET_SECONDS", _QUIET_SECONDS),
        # steps of a few blocks, soon, and in vain as well
        patch("fusecache.migration.read_ahead._UNIT", BLOCK),
        patch("fusecache.streams._STEPS", 1),
        patch("fusecache.streams._LEFT_OUT", 2),
        patch("fusecache.attach.binding.size_of", lambda cache: cache.size),
        # what the wild policy asserts is to be seen
        patch("fusecache.volume.policies.guarded", lambda policy, _: policy),
        # Trio shuffles the order in which tasks run; from our seed only, so that a run can be repeated.
        patch("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True),
    ):
        yield


async def pause_ends() -> None:
    """Let the pause after failures end; no request is there to meet a tick, so ticks are as seldom as in earnest."""
    with simulated(tick_seconds=1.0):
        await trio.sleep(40)


def simulate(seed: int, function: Callable[..., Awaitable[T]], *args: Any, instruments: Any = ()) -> T:
    """Run a coroutine under virtual time, to be used within :func:`simulated`."""
    trio._core._run._r.seed(seed)
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(function, *args, clock=clock, instruments=instruments)
