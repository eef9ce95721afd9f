"""A volume in memory, on trio's virtual clock: every store, record and policy does what the test says, when it says.

Small on purpose: crashes and random faults are for the crash tests.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar, ParamSpec

import trio
from trio.testing import MockClock

from fusecache.block.geometry import Geometry
from fusecache.block.locks import BlockLocks
from fusecache.block.mapping import Mapping
from fusecache.config import KIB, DirtyAge, DirtyLimit, Mode
from fusecache.datapath.disk import Disk
from fusecache.durability.durability import Durability
from fusecache.errors import FusecacheError, StoreError
from fusecache.jobs.flush import Flusher
from fusecache.jobs.table import Jobs
from fusecache.metadata.record import Transaction
from fusecache.migration.cleaning import Cleaning
from fusecache.migration.worker import MigrationWorker
from fusecache.stores.base import Data
from fusecache.volume.volume import Volume
from policies import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work

P = ParamSpec("P")

BLOCK = 4 * KIB
_TOO_LONG = 3600
"""Virtual seconds after which a test hangs."""


def virtual(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test on a clock that jumps whenever everybody waits; a hang is a failure at once."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            with trio.fail_after(_TOO_LONG):
                await test(*args, **kwargs)

        trio.run(main, clock=MockClock(autojump_threshold=0))

    return run


def threaded(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test that uses threads, which a clock that jumps would not wait for."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                await test(*args, **kwargs)

        trio.run(main)

    return run


async def settle() -> None:
    """Let every other task run until it waits for something."""
    await trio.testing.wait_all_tasks_blocked()


class MemoryStore:
    """Bytes in memory; ``before`` is awaited with the name of each operation that may wait."""

    def __init__(self, size: int, fill: bytes = b"\0") -> None:
        self.size = size
        self.unflushed = True
        self.data = bytearray(fill * size)
        self.at_once = True
        """Whether ``*_nowait`` does it."""
        self.errors: dict[str, FusecacheError] = {}
        """What ``read``, ``write`` and ``flush`` raise."""
        self.dead: set[int] = set()
        """Offsets at which any read or write fails."""
        self.refused: set[int] = set()
        """Offsets at which any write fails."""
        self.held: dict[int, trio.Event] = {}
        """Offsets from which a read or write waits."""
        self.calls: list[tuple[str, int, int]] = []
        self.hole_ranges: list[tuple[int, int]] = []
        self.before: Callable[[str], Awaitable[None]] | None = None

    async def _begin(self, name: str, offset: int, length: int) -> None:
        self.calls.append((name, offset, length))
        await trio.lowlevel.checkpoint()
        if self.before is not None:
            await self.before(name)
        if offset in self.held:
            await self.held[offset].wait()
        if name in self.errors:
            raise self.errors[name]
        if self._is_dead(name, offset, length):
            msg = f"{name} at {offset} failed: dead sector"
            raise StoreError(msg)

    def _is_dead(self, name: str, offset: int, length: int) -> bool:
        places = self.dead | self.refused if name == "write" else self.dead
        return any(offset <= place < offset + length for place in places)

    def _may(self, name: str, offset: int, length: int) -> bool:
        if not self.at_once or name in self.errors or self._is_dead(name, offset, length):
            return False
        self.calls.append((name, offset, length))
        return True

    def read_nowait(self, offset: int, into: bytearray | memoryview) -> bool:
        if not self._may("read", offset, len(into)):
            return False
        into[:] = self.data[offset : offset + len(into)]
        return True

    async def read(self, offset: int, into: bytearray | memoryview) -> None:
        assert 0 <= offset <= offset + len(into) <= self.size
        await self._begin("read", offset, len(into))
        into[:] = self.data[offset : offset + len(into)]

    def write_nowait(self, offset: int, data: Data) -> bool:
        if not self._may("write", offset, len(data)):
            return False
        self.unflushed = True
        self.data[offset : offset + len(data)] = data
        return True

    async def write(self, offset: int, data: Data) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size
        await self._begin("write", offset, len(data))
        self.unflushed = True
        self.data[offset : offset + len(data)] = data

    async def flush(self) -> None:
        await self._begin("flush", 0, 0)
        self.unflushed = False

    async def discard(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= self.size
        await self._begin("discard", offset, length)
        self.unflushed = True
        self.data[offset : offset + length] = bytes(length)

    async def forget(self, offset: int, length: int) -> None:
        pass

    async def holes(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Tell of the holes that a test has set."""
        within = [(max(begin, offset), min(end, offset + length)) for begin, end in self.hole_ranges]
        return [(begin, end) for begin, end in within if begin < end]

    def names(self) -> list[str]:
        """List what was done, without where."""
        return [name for name, _, _ in self.calls]


class MemoryRecord:
    """The durable record as plain sets; ``before`` is awaited ahead of each commit."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, bool]] = {}
        self.sums: dict[int, int | None] = {}
        self.parts: dict[int, int | None] = {}
        """cblock -> the sectors that its row names; None: all."""
        self.regions: set[int] = set()
        self.values: dict[str, str] = {}
        self.hints: dict[int, int] = {}
        self.batches: list[Transaction] = []
        self.error: FusecacheError | None = None
        self.before: Callable[[Transaction], Awaitable[None]] | None = None

    async def commit(self, transaction: Transaction) -> None:
        await trio.lowlevel.checkpoint()
        if self.before is not None:
            await self.before(transaction)
        if self.error is not None:
            raise self.error
        self.batches.append(transaction)
        for cblock in transaction.unmapped:
            self.rows.pop(cblock, None)
            self.sums.pop(cblock, None)
            self.parts.pop(cblock, None)
        self.rows |= {cblock: (oblock, dirty) for cblock, oblock, dirty, *_ in transaction.mapped}
        self.sums |= {cblock: crc for cblock, _, _, crc, _ in transaction.mapped}
        self.parts |= {cblock: valid for cblock, *_, valid in transaction.mapped}
        self.regions |= set(transaction.opened)
        self.regions -= set(transaction.closed)
        self.values |= transaction.values

    async def save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        self.hints |= dict(hints)


class ToyPolicy(Policy):
    """Hands out the work that a test puts into ``queue``.

    ``overwrites`` are promoted by the write of a whole block, ``admitted`` by the first request that misses them.
    ``listed`` is what it lists as coldest first.
    """

    name: ClassVar[str] = "toy"
    hint_size: ClassVar[int] = 4
    keeps_heat: ClassVar[bool] = True

    def __init__(self, cache_blocks: int) -> None:
        self.index: dict[int, int] = {}
        self.dirty: set[int] = set()
        self.cache_blocks = cache_blocks
        self.queue: deque[Work] = deque()
        self.overwrites: dict[int, int] = {}
        self.admitted: dict[int, int] = {}
        self.outstanding: list[Work] = []
        self.completed: list[tuple[Op, int, bool]] = []
        self.idle_asked: list[bool] = []
        self.hints: dict[int, int | None] = {}
        self.allowed = True
        self.ticks: list[int] = []
        self.listed: list[list[int]] = []

    def coldest_first(self) -> Iterator[list[int]]:
        return iter(self.listed)

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        if oblock in self.admitted and oblock not in self.index:
            self.queue.appendleft(Work(Op.PROMOTE, oblock, self.admitted.pop(oblock)))
        return self.index.get(oblock, MISS_QUEUED if self.queue else MISS)

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        if oblock in self.index or oblock not in self.overwrites:
            return self.lookup(oblock, write, fast_copy), None
        work = Work(Op.PROMOTE, oblock, self.overwrites.pop(oblock))
        self.outstanding.append(work)
        return MISS, work

    def get_background_work(self, idle: bool) -> Work | None:
        self.idle_asked.append(idle)
        if not self.queue:
            return None
        self.outstanding.append(self.queue.popleft())
        return self.outstanding[-1]

    def complete_background_work(self, work: Work, success: bool) -> None:
        if work not in self.outstanding:
            msg = f"{work} was not handed out by this policy"
            raise PolicyError(msg)
        self.outstanding.remove(work)
        self.completed.append((work.op, work.oblock, success))
        if success and work.op is Op.PROMOTE:
            self.index[work.oblock] = work.cblock
        if success and work.op is Op.DEMOTE:
            del self.index[work.oblock]

    def set_dirty(self, cblock: int) -> None:
        self.dirty.add(cblock)

    def clear_dirty(self, cblock: int) -> None:
        self.dirty.discard(cblock)

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        self.index[oblock] = cblock
        self.hints[cblock] = hint
        if dirty:
            self.dirty.add(cblock)

    def invalidate_mapping(self, cblock: int) -> bool:
        if any(work.cblock == cblock for work in [*self.queue, *self.outstanding]):
            msg = f"work is outstanding for cblock {cblock}"
            raise PolicyError(msg)
        known = [oblock for oblock, held in self.index.items() if held == cblock]
        for oblock in known:
            del self.index[oblock]
        self.dirty.discard(cblock)
        return bool(known)

    def get_hint(self, cblock: int) -> int:
        return self.hints.get(cblock) or 0

    def residency(self) -> int:
        return len(self.index) + sum(work.op is Op.PROMOTE for work in self.outstanding)

    def tick(self, now_ms: int) -> None:
        self.ticks.append(now_ms)

    def allow_migrations(self, allowed: bool) -> None:
        self.allowed = allowed

    def check(self) -> None:
        assert len(set(self.index.values())) == len(self.index) <= self.cache_blocks


@dataclass
class World:
    """One cached disk with ``tail`` bytes beyond its last whole block, all parts within reach."""

    cache_blocks: int = 4
    origin_blocks: int = 16
    tail: int = 512
    mode: Mode = Mode.WRITEBACK
    region_blocks: int = 2
    block_size: int = BLOCK
    record: MemoryRecord = field(default_factory=MemoryRecord)

    def __post_init__(self) -> None:
        size = self.block_size
        self.geometry = Geometry(self.origin_blocks * size + self.tail, size, self.cache_blocks)
        self.origin = MemoryStore(self.geometry.image_bytes, b"o")
        self.cached = MemoryStore(self.cache_blocks * size, b"c")
        self.mapping = Mapping(self.cache_blocks)
        self.locks = BlockLocks()
        self.policy = ToyPolicy(self.cache_blocks)
        self.durability = Durability(
            self.mapping,
            self.locks,
            cache=self.cached,
            origin=self.origin,
            record=self.record,
            region_blocks=self.region_blocks,
            open_regions=set(self.record.regions),
        )
        self.volume = Volume(
            geometry=self.geometry,
            mapping=self.mapping,
            locks=self.locks,
            policy=self.policy,
            cache=self.cached,
            origin=self.origin,
            durability=self.durability,
            mode=self.mode,
        )
        self.worker = MigrationWorker(self.volume)
        self.cleaning = Cleaning(self.volume, self.worker, DirtyAge(0, 0), DirtyLimit(100))
        self.jobs = Jobs(self.geometry.block_size, trio.current_time)
        self.flusher = Flusher(self.volume, self.worker, self.jobs)
        self.cache = Disk(self.volume, self.worker)

    def load(self, oblock: int, cblock: int, *, dirty: bool = False, valid: int | None = None) -> None:
        """Have a block cached, as recovery would; ``valid`` says which sectors of it, if not all."""
        self.mapping.insert(oblock, cblock)
        if valid is not None:
            self.mapping.holds_part(cblock, valid)
            self.durability.rows._recorded_parts[cblock] = valid
            self.record.parts[cblock] = valid
        self.policy.load_mapping(oblock, cblock, dirty, None)
        self.record.rows[cblock] = (oblock, dirty)
        if dirty:
            self.mapping.recovered_dirty(cblock)

    def admit(self, oblock: int, cblock: int) -> None:
        """Let the policy want a block as soon as a request misses it, and absorb the request if it is a write."""
        self.policy.absorbs = True
        self.policy.admitted[oblock] = cblock

    def ask(self, op: Op, oblock: int, cblock: int) -> None:
        """Let the policy want a migration."""
        self.policy.queue.append(Work(op, oblock, cblock))
        self.worker.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        """Run the background tasks; every invariant holds in the end, and nobody holds a block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.durability.run)
            nursery.start_soon(self.worker.run)
            nursery.start_soon(self.flusher.run)
            await settle()
            yield nursery
            await settle()
            self.volume.check()
            self.worker.check()
            self.cleaning.check()
            self.jobs.check()
            self.flusher.check()
            assert not self.locks.held
            nursery.cancel_scope.cancel()

    def origin_block(self, oblock: int) -> bytes:
        """Return what the origin has of a block."""
        return bytes(self.origin.data[oblock * self.block_size : (oblock + 1) * self.block_size])

    def cache_block(self, cblock: int) -> bytes:
        """Return what a cache block holds."""
        return bytes(self.cached.data[cblock * self.block_size : (cblock + 1) * self.block_size])
