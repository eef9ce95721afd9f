"""The crash hunter: one seed is one history of some clients, crashed at many points, in many ways.

At each crash point the state is frozen and the history goes on; what would be left is then decided (all of what was
written if the process was killed, any part of what was not flushed if the power failed), recovered, and held against
the model.  Two things are asserted of what is recovered: every cell shows what it may, and every block that counts as
clean is the same in cache and origin.  The second is what keeps a cell from going back later, when the block is demoted
or the cache is taken away.  Some of the crashes, and of the clean ends, are *followed*: mounted again, read, worked
with, perhaps crashed again or ended cleanly, and in the end the origin alone has to have everything.

Before a disk is mounted again others may make the origin longer or the cache shorter, and the mount may want another
size of the cache; that is interrupted at each of its steps.  Where a mount is refused, it has to be possible as before.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import trio

from fusecache.config import Mode
from fusecache.errors import FusecacheError, RefusedError
from fusecache.volume.volume import PolicyFaultError
from tests.crash.crasher import Crasher
from tests.crash.rig import BLOCK, Rig, SimDisk, pause_ends, simulate, simulated
from tests.crash.shape import Shape
from tests.crash.tampering import Copy, Tamperer, choose_face
from tests.model import Oracle, judge_crash, shown

_POLICIES: Final = (
    *["eager"] * 8,
    *["adaptive"] * 3,
    *("smq", "mq", "smq,absorb=on", "mq,absorb=on", "lru", "arc", "twoq", "s3fifo", "tinylfu", "cleaner"),
)
_MODES: Final = (Mode.WRITEBACK, Mode.WRITEBACK, Mode.WRITEBACK, Mode.WRITETHROUGH, Mode.PASSTHROUGH)
_SETTINGS: Final = {
    "dirty_limit": ("1%", "50%", "100%"),
    "dirty_age": ("1s,2", "30s,10000"),
    "copy_rate": ("64KiB", "1GiB"),
    "read_ahead": ("off", "auto", "4KiB"),
}
_ACCEPTED_EACH: Final = 3
"""Of so many crashes of a running mount one is judged as a whole: what ties the parts together is the same in most."""
_OUTLIVED: Final = 0.2
"""So often the mount outlives its daemon instead: programs go on, and read what they have written."""
_UNTOUCHED: Final = 0.7
"""So many of the disks that could be tampered with are not."""
_TAMPERED_FOLLOWED: Final = 0.05
_MOST_FOLLOWED: Final = 3
_HAMMERED: Final = 5
"""Requests for which a series of small writes to one block counts."""
_COLLIDED: Final = 5
"""Requests for which a series of writes of the same cells counts."""
_RECEIVED_NEXT: Final = b"\xa5"
"""What lies in the memory of a write as soon as that has returned: it is the next request's."""
_GENERATIONS: Final = 3
_MOST_BLOCKS: Final = 6
"""Of a cache that is resized."""


class HuntError(AssertionError):
    """A history went wrong; the message says which, and how to see it again."""


@dataclass(frozen=True, slots=True)
class Hunted:
    """What came of a seed."""

    crashes: int
    """How many were judged."""
    digest: int
    """Of all that they left behind: equal for equal histories."""


class History:
    """One history, and those that follow from its crashes.

    :param oracle: what the disk may show; ``disk``: what it begins with.
    :param copies: the disk as it was at other moments before.
    :param is_tampered: whether others have changed it, which a mount takes, and forgets once it has begun.
    """

    def __init__(
        self,
        seed: int,
        shape: Shape,
        disk: SimDisk,
        oracle: Oracle,
        generation: int = 0,
        copies: tuple[Copy, ...] = (),
        *,
        is_tampered: bool = False,
    ) -> None:
        self._rng = random.Random(f"{seed} {generation}")
        self._aside = random.Random(f"{seed} {generation} aside")
        """For what is only looked at: the history stays the same without it."""
        self._copies = copies
        self._is_tampered = is_tampered
        self._copied_live: tuple[Copy, ...] = ()
        self._seed = seed
        self._shape = shape
        self._disk = disk
        self._oracle = oracle
        self._generation = generation
        self._followed: list[tuple[SimDisk, Oracle, tuple[Copy, ...]]] = []
        self._tampered: list[tuple[SimDisk, list[int]]] = []
        self._crasher = Crasher(self._rng, shape.gap, self._judge_here)
        self._rig: Rig | None = None
        self._crashes = 0
        self._digest = 0

    def run(self) -> Hunted:
        """Run it, and some of what follows."""
        seed = self._rng.getrandbits(32)
        try:
            with simulated(self._shape.tick_seconds):
                simulate(seed, self._live, seed, instruments=[self._crasher])
        except BaseException as exc:
            raise (self._crasher.failure or exc) from exc
        if self._crasher.failure is not None:
            raise self._crasher.failure
        for number, (disk, oracle, copies) in enumerate(self._followed):
            following = History(self._seed * 10 + number, self._shape, disk, oracle, self._generation + 1, copies)
            hunted = following.run()
            self._crashes += hunted.crashes
            self._digest = zlib.crc32(repr(hunted).encode(), self._digest)
        for disk, shows in self._tampered:
            oracle = Oracle(shows, self._shape.cell_bytes)
            after = History(self._seed, self._shape, disk, oracle, _GENERATIONS + 1, is_tampered=True)
            self._crashes += after.run().crashes
        return Hunted(self._crashes, self._digest)

    # One mount

    async def _live(self, seed: int) -> None:
        rng = self._rng
        shape = self._shape
        if self._generation and not self._is_tampered:
            self._resize()
            self._tamper(self._disk, self._oracle.allowed, self._copies)
            if self._aside.random() < 0.1:
                self._disk = self._disk.keeping_no_claims()
        self._copies += (Copy(self._disk, tuple(self._oracle.allowed)),)
        policy = rng.choice(_POLICIES)
        mode = rng.choice(_MODES)
        if mode is Mode.PASSTHROUGH and (
            self._disk.record.regions or any(r[1] for r in self._disk.record.rows.values())
        ):
            mode = Mode.WRITETHROUGH  # which is what the composition root would insist on
        rig = self._rig = Rig(self._disk, seed, policy=policy, mode=mode, read_ahead=shape.read_ahead)
        steps = rig.begun
        for _ in range(self._aside.choice((1, 1, 3))):  # beginnings that are interrupted one after the other
            for step in steps:
                self._judge_step(step)
            steps = self._aside.choice(steps).begun(self._aside)
        rig.at_end = lambda: self._judge_step(rig.freeze(self._aside))
        for store in (rig.origin, rig.store):
            store.forgets = store.name == shape.forgets
            store.on_loss = self._oracle.doubt
        for part in shape.failing:
            rig.faults[part].fail_at_random(shape.fault_rate, rng.getrandbits(32), shape.spared)
        with trio.CancelScope() as scope:
            self._crasher.active = True
            async with rig.running():
                await rig.control.set("scrub", str(shape.scrub_rate))
                if not (rig.origin.lost or rig.store.lost):
                    self._oracle.end_flush(self._oracle.now())  # what was found is durable before anybody reads it
                if self._generation:
                    await self._read(0, len(self._oracle.allowed))
                async with trio.open_nursery() as nursery:
                    for number in range(shape.clients):
                        nursery.start_soon(self._client, random.Random(seed + number))
                rig.heal()
                if rig.origin.lost or rig.volume.health.read_only:
                    scope.cancel()  # no clean end is possible any more
                    await trio.lowlevel.checkpoint()
                shows = await self._end_well(rig)
            ended = rig.freeze(rng).after_power_cut(rng)
            assert ended.record.values["clean_shutdown"] == "1"
            assert not ended.record.regions
            assert shown(ended.image(), shape.cell_bytes) == shows, "a clean end lost something"
            copies = self._copies + self._copied_live
            self._tamper(ended, [(write,) for write in shows], copies)
            if rng.random() < 0.3:
                self._follow(ended, Oracle(shows, shape.cell_bytes), copies)

    async def _end_well(self, rig: Rig) -> list[int]:
        """Let everything come to rest, and hold the whole against the model; returns what the cells show."""
        shape = self._shape
        await rig.control.set("scrub", "0")
        self._crasher.active = False
        if shape.fault_rate:
            await pause_ends()
        else:
            await trio.sleep(1)
        self._crasher.active = True
        if rig.volume.health.unreported:
            await self._flush()  # which fails, and the next one does not
        shows = self._oracle.settled(await rig.read_all())
        await rig.check_at_rest()
        if self._rng.random() < 0.5:
            origin = await rig.settle_into_origin()
            assert shown(origin, shape.cell_bytes) == shows, "the origin is not what the image was"
            await rig.check_at_rest()
        self._crasher.active = False
        return shows

    async def _client(self, rng: random.Random) -> None:
        shape = self._shape
        left = shape.requests if not self._generation else shape.requests // 3
        while left > 0:
            left -= 1
            if shape.think_seconds and rng.random() < 0.5:
                await trio.sleep(rng.random() * shape.think_seconds)
            if rng.random() < shape.restlessness:
                await self._tolerate(self._change(rng))
                continue
            if shape.collisions and rng.random() < shape.collisions:
                await self._collide(rng)
                left -= _COLLIDED
                continue
            if shape.discards and rng.random() < shape.discards:
                await self._discard(*self._range(rng))
                if rng.random() < 0.5:
                    await self._flush()
                continue
            if rng.random() < shape.hammering:
                await self._hammer(rng)
                if shape.forgets != "cache":  # which is lost once in a history, when there is much to lose
                    left -= _HAMMERED
                continue
            kind = rng.random()
            first, count = self._range(rng)
            if kind < 0.55:
                await self._write(first, count)
            elif kind < 0.65 and shape.read_ahead:
                await self._scan(first, count)
            elif kind < 0.75:
                await self._read(first, count)
            else:
                await self._flush()

    async def _hammer(self, rng: random.Random) -> None:
        """Write to one block in small pieces, look at it, have it written back, and flush.

        Each piece may add sectors to a partial block, or parts of sectors, if cells are so small.
        """
        assert self._rig is not None
        cells = len(self._oracle.allowed)
        per_block = BLOCK // self._shape.cell_bytes
        begin = rng.randrange(min(cells, 2 * per_block)) // per_block * per_block  # where others hammer as well
        end = min(begin + per_block, cells)

        def some(*counts: int) -> tuple[int, int]:
            first = rng.randrange(begin, end)
            if rng.random() < 0.7:  # near to the others of this round, perhaps in one sector with them
                first = min(max(begin, focus + rng.randint(-3, 3)), end - 1)
            return first, min(rng.choice(counts), end - first)

        if rng.random() < 0.4:
            await self._drill(rng, begin, end)
            return
        for _ in range(rng.randint(2, 6)):
            focus = rng.randrange(begin, end)
            async with trio.open_nursery() as nursery:
                if rng.random() < 0.3:
                    nursery.start_soon(self._read, *some(1, per_block))
                if rng.random() < 0.3:
                    nursery.start_soon(self._change_cells(rng), *some(1, 2))
                await self._change_cells(rng)(*some(1, 1, 2, per_block // 2))
                if rng.random() < 0.3:
                    nursery.start_soon(self._read, *some(1, per_block))
                kind = rng.random()
                if kind < 0.2:
                    await self._tolerate(self._rig.worker.steps.clean(begin // per_block))
                if kind < 0.1 or kind > 0.6:
                    await self._flush()

    async def _collide(self, rng: random.Random) -> None:
        """Have several writers write the same cells at the same time, over a block's end as well; look, and flush."""
        held = len(self._oracle.allowed)
        per_block = BLOCK // self._shape.cell_bytes
        for _ in range(rng.randint(1, 3)):
            first = rng.choice((rng.randrange(held), rng.randrange(held) // per_block * per_block))
            first = max(0, first - rng.choice((0, 1)))
            most = min(rng.choice((1, 2, 4, per_block)), held - first)
            async with trio.open_nursery() as nursery:
                for _ in range(rng.randint(2, 4)):
                    skipped = rng.randrange(most)
                    nursery.start_soon(self._change_cells(rng), first + skipped, rng.randint(1, most - skipped))
                if rng.random() < 0.5:
                    nursery.start_soon(self._read, first, most)
                if rng.random() < 0.3:
                    nursery.start_soon(self._flush)
            await self._read(first, most)
            if rng.random() < 0.5:
                await self._flush()

    async def _drill(self, rng: random.Random, begin: int, end: int) -> None:
        """Have a block get a sector that no row names, flush that, and perhaps have it written back in between."""
        assert self._rig is not None
        oblock = begin // (BLOCK // self._shape.cell_bytes)
        for _ in range(rng.randint(2, 4)):
            await self._write(rng.randrange(begin, end), 1)
            if rng.random() < 0.5:
                await self._tolerate(self._rig.worker.steps.clean(oblock))
            await self._flush()

    def _range(self, rng: random.Random) -> tuple[int, int]:
        """Choose cells: a block, some cells of one, or a run across blocks."""
        held = len(self._oracle.allowed)
        per_block = BLOCK // self._shape.cell_bytes
        kind = rng.random()
        if kind < 0.4:
            first = rng.randrange(held) // per_block * per_block
            return first, min(per_block * rng.choice((1, 1, 2, 3)), held - first)
        first = rng.randrange(held)
        return first, min(rng.randint(1, 3 if kind < 0.7 else 2 * per_block), held - first)

    async def _write(self, first: int, count: int) -> None:
        assert self._rig is not None
        write, data = self._oracle.begin_write(first, count)
        memory = bytearray(data)
        try:
            await self._rig.cache.write(first * self._shape.cell_bytes, memoryview(memory))
        except FusecacheError as exc:
            self._require_tolerable(exc)
            self._oracle.end_write(write, failed=True)
        else:
            self._oracle.end_write(write)
        memory[:] = _RECEIVED_NEXT * len(memory)

    async def _discard(self, first: int, count: int) -> None:
        assert self._rig is not None
        cell_bytes = self._shape.cell_bytes
        discard = self._oracle.begin_discard(first, count)
        try:
            await self._rig.cache.discard(first * cell_bytes, count * cell_bytes)
        except FusecacheError as exc:
            self._require_tolerable(exc)
            self._oracle.end_write(discard, failed=True)
        else:
            self._oracle.end_write(discard)

    def _change_cells(self, rng: random.Random) -> Callable[[int, int], Awaitable[None]]:
        """Choose how some cells are changed."""
        discards = self._shape.discards and rng.random() < self._shape.discards
        return self._discard if discards else self._write

    async def _read(self, first: int, count: int) -> None:
        assert self._rig is not None
        cell_bytes = self._shape.cell_bytes
        began, allowed = self._oracle.begin_read(first, count)
        try:
            image = await self._rig.cache.read(first * cell_bytes, count * cell_bytes)
        except FusecacheError as exc:
            self._require_tolerable(exc)
        else:
            assert len(image) == count * cell_bytes
            self._oracle.end_read(began, first, image, allowed)

    async def _scan(self, first: int, count: int) -> None:
        """Read on from some cells to the end of the image."""
        held = len(self._oracle.allowed)
        for begin in range(first, held, count):
            await self._read(begin, min(count, held - begin))

    async def _flush(self) -> None:
        assert self._rig is not None
        began = self._oracle.now()
        try:
            await self._rig.cache.flush()
        except FusecacheError as exc:
            self._require_tolerable(exc)
        else:
            self._oracle.end_flush(began)

    async def _change(self, rng: random.Random) -> None:
        assert self._rig is not None
        control = self._rig.control
        kind = rng.random()
        if kind < 0.35:
            await control.set("mode", rng.choice(_MODES).value)
        elif kind < 0.6:
            await control.set("policy", rng.choice(_POLICIES))
        elif kind < 0.75:
            control.begin("message", "flush")
        elif kind < 0.8:
            control.begin("message", "decommission")
        elif kind < 0.9:
            name = rng.choice(tuple(_SETTINGS))
            await control.set(name, rng.choice(_SETTINGS[name]))
        else:
            last = self._rig.disk.geometry.cache_blocks
            if self._rig.volume.mode is Mode.PASSTHROUGH:
                await control.set("message", f"invalidate_cblocks 0-{last}")

    async def _tolerate(self, change: Awaitable[None]) -> None:
        try:
            await change
        except FusecacheError as exc:
            if "passthrough mode only" not in str(exc) and "try again when some" not in str(exc):
                self._require_tolerable(exc)

    def _require_tolerable(self, exc: FusecacheError) -> None:
        """Errors are for those who injected faults; a policy that disagrees with the mapping never is."""
        if not self._shape.fault_rate or isinstance(exc, PolicyFaultError):
            raise exc

    # Other sizes

    def _resize(self) -> None:
        """Let others change the sizes of the disk's parts, and the next mount want another one; or not."""
        rng = self._rng
        if rng.random() < 0.2:
            held = rng.randint(1, 2 * BLOCK // self._shape.cell_bytes)
            self._disk = self._disk.grown_by_others(self._shape.cell_bytes, held)
            self._oracle.grow(held)
        while True:
            before = self._disk
            disk = before.cut_by_others(rng.randint(1, _MOST_BLOCKS)) if rng.random() < 0.2 else before
            try:
                steps = disk.resized(self._choose_size())
            except RefusedError:  # something is dirty there
                steps = before.resized()
            for step in steps:
                self._judge(step, self._oracle.allowed)
                self._judge(step.after_power_cut(rng), self._oracle.allowed)
            self._disk = steps[-1]
            if rng.random() < 0.7:
                return
            self._disk = rng.choice(steps)  # which is what a crash left

    def _choose_size(self) -> int | None:
        return self._rng.randint(1, _MOST_BLOCKS) if self._rng.random() < 0.5 else None

    # Crashes

    def _judge_here(self) -> None:
        assert self._rig is not None
        self._rig.volume.mapping.check()
        self._rig.volume.locks.check()
        if not self._shape.fault_rate and self._aside.random() < _OUTLIVED:
            self._rig.volume.durability.rows.check()
            self._oracle.end_read(self._oracle.now(), 0, self._rig.outlived(self._aside).image())
            self._crashes += 1
        allowed = list(self._oracle.allowed)
        frozen = self._rig.freeze(self._rng)
        if not self._copied_live or self._aside.random() < 0.01:
            self._copied_live = (Copy(frozen.after_kill(self._aside), tuple(allowed)),)
        for disk, pinned in (
            (frozen.after_power_cut(self._rng), True),
            (frozen.after_kill(self._rng), False),
            (frozen.after_power_cut(self._rng), True),
        ):
            shows = self._judge(disk, allowed)
            if self._rng.random() < 0.03:
                # What a power cut left is durable; what a kill left is so only when the next flush says it.
                oracle = Oracle(shows, self._shape.cell_bytes, None if pinned else allowed)
                self._follow(disk, oracle, self._copies)

    def _judge(self, disk: SimDisk, allowed: Sequence[tuple[int, ...]]) -> list[int]:
        """Hold what a crash left against the model, perhaps mounted with another size; returns what the cells show."""
        self._crashes += 1
        if self._crashes % _ACCEPTED_EACH == 0:
            disk.require_accepted()
        image = disk.image()
        self._digest = zlib.crc32(image, self._digest)
        if self._rng.random() < 0.2:
            with suppress(RefusedError):
                assert disk.resized(self._rng.randint(1, _MOST_BLOCKS))[-1].image() == image, "it hangs on the size"
        return judge_crash(image, allowed, self._shape.cell_bytes)

    def _judge_step(self, disk: SimDisk) -> None:
        """Judge what a crash leaves between two steps of a beginning or an end."""
        self._crashes += 1
        left = (disk.after_kill if self._aside.random() < 0.5 else disk.after_power_cut)(self._aside)
        if self._is_tampered:
            left = left.resized()[-1]  # what it has still to do is done again
        else:
            left.require_accepted()
        judge_crash(left.image(), self._oracle.allowed, self._shape.cell_bytes)

    def _tamper(self, disk: SimDisk, allowed: Sequence[tuple[int, ...]], copies: Sequence[Copy]) -> None:
        if self._aside.random() < _UNTOUCHED:
            return
        tamperer = Tamperer(disk, allowed, self._shape.cell_bytes, self._aside)
        tamperer.try_all(copies)
        if tamperer.accepted and self._aside.random() < _TAMPERED_FOLLOWED and not self._is_tampered:
            self._tampered = [self._aside.choice(tamperer.accepted)]
        self._crashes += tamperer.tried

    def _follow(self, disk: SimDisk, oracle: Oracle, copies: tuple[Copy, ...]) -> None:
        if self._generation < _GENERATIONS and len(self._followed) < _MOST_FOLLOWED:
            self._followed.append((disk, oracle, copies))


def hunt(seed: int, *, faults: bool = False) -> Hunted:
    """Run one seed, to be used within :func:`tests.crash.rig.simulated`.

    :raises HuntError: data was lost or went back, an invariant broke, or something hung.
    """
    shape = Shape.of(random.Random(seed), faults=faults)
    face = choose_face(random.Random(f"{seed} face"))
    disk = SimDisk.new(shape.geometry, region_blocks=shape.region_blocks, cell_bytes=shape.cell_bytes, face=face)
    held = shape.geometry.image_bytes // shape.cell_bytes
    history = History(seed, shape, disk, Oracle([0] * held, shape.cell_bytes))
    try:
        return history.run()
    except Exception as exc:
        replay = f"FUSECACHE_SEED={seed} FUSECACHE_FAULTS={int(faults)} scripts/test tests/crash -k replay"
        msg = f"seed {seed}: {_first_cause(exc)}\nto see it again: {replay}"
        raise HuntError(msg) from exc


def _first_cause(exc: BaseException) -> Any:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"
