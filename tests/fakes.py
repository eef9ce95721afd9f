"""Simulated parts for tests of the whole data path: stores and a record that can crash and fail, and a wild policy.

Everything random comes from generators that the caller seeds, so one seed is one run.  What a crash leaves behind is
decided after the run, from a frozen copy (:class:`StoreState`, :class:`RecordState`): one run can be crashed at many
points, and each point in many ways.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import trio

from fusecache.errors import MetadataError, StoreError
from fusecache.metadata.record import Row, Transaction
from fusecache.stores.base import Data
from policies import MISS, MISS_QUEUED, Op, Policy, PolicyError, Work

SECTOR: Final = 512
"""What a disk writes whole or not at all."""
_EVICTION: Final = 0.4
"""How likely it is that memory has been short by the time that something forgotten is read."""


class Faults:
    """Which operations of one part are going to fail: ``fail("write", 2)`` fails the third one."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.rate = 0.0
        self._spared: tuple[str, ...] = ()
        self._planned: dict[str, range] = {}
        self._rng = random.Random(0)

    def fail(self, kind: str, nth: int, times: int = 1) -> None:
        self._planned[kind] = range(nth, nth + times)

    def fail_at_random(self, rate: float, seed: int, spared: tuple[str, ...] = ()) -> None:
        self.rate = rate
        self._rng = random.Random(seed)
        self._spared = spared

    def heal(self) -> None:
        self.rate = 0.0
        self._planned.clear()

    def is_due(self, kind: str) -> bool:
        """Tell whether the next operation is to fail."""
        if self.counts[kind] in self._planned.get(kind, ()):
            return True
        return self.rate > 0 and kind not in self._spared and self._rng.random() < self.rate

    def hit(self, kind: str) -> bool:
        """Count one operation; returns whether it is to fail."""
        due = self.is_due(kind)
        self.counts[kind] += 1
        return due


class Latency:
    """How long simulated operations take: often a task switch, else up to ``seconds`` of virtual time."""

    def __init__(self, rng: random.Random, seconds: float) -> None:
        self._rng = rng
        self._seconds = seconds

    async def pause(self) -> None:
        chance = self._rng.random()
        if chance < 0.4:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(self._seconds * chance * chance)


@dataclass(slots=True)
class StoreState:
    """A store's bytes at one moment: what is durable, and what has been written over it since, per sector."""

    durable: bytearray
    pending: dict[int, list[bytes]] = field(default_factory=dict)
    """Sector -> its contents after each write that no flush has made durable, oldest first."""

    def newest(self) -> bytearray:
        """Return what a reader sees."""
        image = bytearray(self.durable)
        for sector, versions in self.pending.items():
            image[sector * SECTOR : sector * SECTOR + len(versions[-1])] = versions[-1]
        return image

    def read(self, offset: int, length: int) -> bytes:
        """Return a part of that, which is cut where the store ends."""
        first = offset // SECTOR
        place = slice(first * SECTOR, offset + length)
        part = bytearray(self.durable[place])
        if self.pending:
            for sector in range(first, (offset + length - 1) // SECTOR + 1):
                if sector in self.pending:
                    newest = self.pending[sector][-1]
                    part[(sector - first) * SECTOR : (sector - first) * SECTOR + len(newest)] = newest
        return bytes(part[offset - first * SECTOR : offset - first * SECTOR + length])

    def after_power_cut(self, rng: random.Random) -> StoreState:
        """Lose any part of what is not durable: each sector keeps its durable content or any newer one."""
        image = bytearray(self.durable)
        favour = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for sector, versions in self.pending.items():
            if rng.random() < favour:
                survivor = versions[-1]
            elif rng.random() < 0.5 or len(versions) == 1:
                continue
            else:
                survivor = rng.choice(versions[:-1])
            image[sector * SECTOR : sector * SECTOR + len(survivor)] = survivor
        return StoreState(image)


class SimStore:
    """A store in memory, with latency, that declines to be quick at random; see :class:`fusecache.stores.base.Store`.

    A write takes effect somewhere between its beginning and its end, sometimes in two steps.

    A flush that fails may *forget*, as the kernel does (fsync(2)): what could not be written counts as written, can be
    read as long as it stays in memory, and is gone then.

    :ivar forgets: whether failing flushes do that.
    :ivar on_loss: called when a flush fails.
    """

    def __init__(self, state: StoreState, *, name: str, rng: random.Random, latency: Latency) -> None:
        self.name = name
        self.size = len(state.durable)
        self.unflushed = True
        self.faults = Faults()
        self.lost = False
        """Whether a flush has failed; like a file's, every later one fails then."""
        self.quickness = rng.choice((0.0, 0.5, 0.9, 1.0))
        self._rng = rng
        self._latency = latency
        self._image = state.newest()
        self._durable = bytearray(state.durable)
        self._pending = {sector: [(0, version) for version in versions] for sector, versions in state.pending.items()}
        self.writes = 0
        self._flushing = trio.Lock()
        self.forgets = False
        self.on_loss: Callable[[], None] = lambda: None
        self._doomed: set[int] = set()
        self._under_way: list[tuple[int, Data]] = []

    def freeze(self, rng: random.Random) -> StoreState:
        """Copy the state at this moment; of a write that is under way, any sectors may have been written."""
        pending = {sector: [content for _, content in versions] for sector, versions in self._pending.items()}
        for offset, data in self._under_way:
            if rng.random() < 0.5:
                for at, part in _sectors(offset, bytes(data)):
                    if rng.random() < 0.7:
                        sector = at // SECTOR
                        start = sector * SECTOR
                        old = pending[sector][-1] if sector in pending else bytes(self._durable[start : start + SECTOR])
                        new = old[: at - start] + part + old[at - start + len(part) :]
                        pending.setdefault(sector, []).append(new)
        return StoreState(bytearray(self._durable), pending)

    def read_nowait(self, offset: int, into: bytearray | memoryview) -> bool:
        self._require(offset, len(into))
        if self._rng.random() >= self.quickness or self.faults.is_due("read"):
            return False  # an error shows in the waiting read
        self.faults.counts["read"] += 1
        self._evict(offset, len(into))
        into[:] = self._image[offset : offset + len(into)]
        return True

    def read_now(self, offset: int, length: int) -> bytes:
        """Return what is there, whatever fails."""
        return bytes(self._image[offset : offset + length])

    async def read(self, offset: int, into: bytearray | memoryview) -> None:
        self._require(offset, len(into))
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await self._latency.pause()
            failing = self.faults.hit("read")
            if failing:
                self._raise("read")
            self._evict(offset, len(into))
            into[:] = self._image[offset : offset + len(into)]
            await self._latency.pause()

    def write_nowait(self, offset: int, data: Data) -> bool:
        self._require(offset, len(data))
        if self._rng.random() >= self.quickness:
            return False
        self.unflushed = True
        if self.faults.hit("write"):
            self._tear(offset, data)
            self._raise("write")
        self._apply(offset, bytes(data))
        return True

    async def write(self, offset: int, data: Data) -> None:
        self._require(offset, len(data))
        self.unflushed = True
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            entry = (offset, data)
            self._under_way.append(entry)
            try:
                await self._latency.pause()
                if self.faults.hit("write"):
                    self._tear(offset, data)
                    self._raise("write")
                cut = self._choose_cut(offset, len(data))
                if cut:
                    self._apply(offset, bytes(data[:cut]))
                    await self._latency.pause()
                self._apply(offset + cut, bytes(data[cut:]))
            finally:
                self._under_way.remove(entry)
                self.unflushed = True
            await self._latency.pause()
            self.unflushed = True

    async def flush(self) -> None:
        """Like a file's: whoever comes while another flush is under way waits for it, too."""
        async with self._flushing:
            await self._flush()

    async def _flush(self) -> None:
        if self.lost:
            self._raise("flush")
        if not self.unflushed:
            return
        self.unflushed = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                reached = self.writes
                await self._latency.pause()
                if self.faults.hit("flush"):
                    self.lost = True
                    self.on_loss()
                    if self.forgets:
                        self._forget()
                    self._raise("flush")
                self._harden(reached)
                await self._latency.pause()
        except BaseException:
            self.unflushed = True
            raise

    async def discard(self, offset: int, length: int) -> None:
        await self.write(offset, bytes(length))

    async def forget(self, offset: int, length: int) -> None:
        self._require(offset, length)

    async def holes(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Claim at random that everything is a hole, which is only a hint."""
        self._require(offset, length)
        return [(offset, offset + length)] if self._rng.random() < 0.5 else []

    def _choose_cut(self, offset: int, length: int) -> int:
        """Choose where a write pauses halfway, between two sectors; 0 for not at all."""
        cut = self._rng.randrange(length) if self._rng.random() < 0.2 else 0
        return max(0, cut - (offset + cut) % SECTOR)

    def _harden(self, reached: int) -> None:
        """Make every write up to the ``reached``th durable."""
        for sector, versions in list(self._pending.items()):
            hardened = [content for number, content in versions if number <= reached]
            if hardened:
                self._durable[sector * SECTOR : sector * SECTOR + len(hardened[-1])] = hardened[-1]
                del versions[: len(hardened)]
                if not versions:
                    del self._pending[sector]

    def _forget(self) -> None:
        """Give up any part of what is not durable; it can be read until it is evicted from memory."""
        share = self._rng.choice((0.2, 0.5, 1.0))
        for sector in list(self._pending):
            if self._rng.random() < share:
                del self._pending[sector]
                self._doomed.add(sector)

    def _evict(self, offset: int, length: int) -> None:
        """Read from the medium again, perhaps, what was forgotten."""
        if self._doomed:
            for sector in range(offset // SECTOR, (offset + length - 1) // SECTOR + 1):
                if sector in self._doomed and self._rng.random() < _EVICTION:
                    self._doomed.remove(sector)
                    place = slice(sector * SECTOR, (sector + 1) * SECTOR)
                    self._image[place] = self._durable[place]

    def _apply(self, offset: int, data: bytes) -> None:
        self.writes += 1
        self._image[offset : offset + len(data)] = data
        sectors = range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1)
        self._doomed.difference_update(sectors)  # what was read stays, with what is written into it
        for sector in sectors:
            content = bytes(self._image[sector * SECTOR : (sector + 1) * SECTOR])
            self._pending.setdefault(sector, []).append((self.writes, content))

    def _tear(self, offset: int, data: Data) -> None:
        """A write that fails may have done any part of its work."""
        for at, part in _sectors(offset, bytes(data)):
            if self._rng.random() < 0.5:
                self._apply(at, part)

    def _raise(self, kind: str) -> None:
        msg = f"{kind} of {self.name} failed: Input/output error (number {self.faults.counts[kind] - 1})"
        raise StoreError(msg)

    def _require(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= self.size, f"{self.name}: {length} bytes at {offset} of {self.size}"


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a write at sector boundaries."""
    done = 0
    while done < len(data):
        length = SECTOR - (offset + done) % SECTOR
        yield offset + done, data[done : done + length]
        done += length


@dataclass(slots=True)
class RecordState:
    """The durable record at one moment."""

    rows: dict[int, tuple[int, bool, int | None, int | None, int | None]] = field(default_factory=dict)
    """cblock -> oblock, dirty, hint, crc, valid."""
    regions: set[int] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=lambda: {"clean_shutdown": "1"})
    unsure: Transaction | None = None
    """A commit that a crash may let through: one under way, or the ghost of one that failed."""

    def copy(self) -> RecordState:
        return RecordState(dict(self.rows), set(self.regions), dict(self.values), self.unsure)

    def after_crash(self, rng: random.Random) -> RecordState:
        """Return the old state or the new one."""
        state = RecordState(dict(self.rows), set(self.regions), dict(self.values))
        if self.unsure is not None and rng.random() < 0.5:
            state.apply(self.unsure)
        return state

    def apply(self, transaction: Transaction) -> None:
        """Change what a transaction changes, in the order in which the database does."""
        for cblock in transaction.unmapped:
            self.rows.pop(cblock, None)
        for cblock, oblock, dirty, crc, valid in transaction.mapped:
            self.rows[cblock] = (oblock, dirty, None, crc, valid)
        self.regions |= set(transaction.opened)
        self.regions -= set(transaction.closed)
        self.values |= transaction.values


class SimRecord:
    """The record in memory, with latency and faults; see :class:`fusecache.metadata.record.Record`.

    A commit that failed leaves its frames in the write-ahead log until the next one overwrites them, so a crash in
    between may still let it through.
    """

    def __init__(self, state: RecordState, *, latency: Latency) -> None:
        self.faults = Faults()
        self.on_change: Callable[[], None] = lambda: None
        """Called when values were set, while a commit is under way, and when it was made."""
        self._state = state.copy()
        self._latency = latency

    def freeze(self) -> RecordState:
        return self._state.copy()

    def rows(self) -> Iterator[Row]:
        for cblock, (oblock, dirty, hint, crc, valid) in sorted(self._state.rows.items()):
            yield Row(cblock, oblock, dirty, hint, crc, valid)

    def regions(self) -> set[int]:
        return set(self._state.regions)

    def values(self) -> dict[str, str]:
        return dict(self._state.values)

    def set_values(self, values: Mapping[str, str]) -> None:
        self._state.values |= values
        self.on_change()

    def size(self) -> int:
        return 4096

    def used_size(self) -> int:
        return 4096

    async def commit(self, transaction: Transaction) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await self._latency.pause()
            self._state.unsure = transaction
            self.on_change()
            await self._latency.pause()
            if self.faults.hit("commit"):
                msg = f"metadata: disk I/O error (number {self.faults.counts['commit'] - 1})"
                raise MetadataError(msg)
            self._state.unsure = None
            self._state.apply(transaction)
            self.on_change()
            await self._latency.pause()

    async def save_hints(self, hints: Iterable[tuple[int, int]]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await self._latency.pause()
            for cblock, hint in hints:
                oblock, dirty, _, crc, valid = self._state.rows[cblock]
                self._state.rows[cblock] = (oblock, dirty, hint, crc, valid)


class EagerPolicy(Policy):
    """Wants everything at once: promotes every miss, demotes and writes back whatever it likes, by its seed."""

    name: ClassVar[str] = "eager"
    hint_size: ClassVar[int] = 4
    seed: ClassVar[int] = 0
    """For the next one to be made."""

    def __init__(self, *, cache_blocks: int, origin_blocks: int, block_size: int, now_ms: int = 0) -> None:
        self._rng = random.Random(EagerPolicy.seed)
        self._restlessness = self._rng.choice((0.02, 0.1, 0.3))
        self._cache_blocks = cache_blocks
        self._allowed = True
        self._still = False
        self.cblock_of: dict[int, int] = {}
        self.oblock_of: dict[int, int] = {}
        self.dirty: set[int] = set()
        self._free = list(range(cache_blocks))
        self._queued: dict[int, Work] = {}
        self._issued: dict[int, Work] = {}
        self._latest = -1
        """The block that was queued for promotion last."""
        self.absorbs = self._rng.random() < 0.7
        self._aloofness = self._rng.choice((0.0, 0.0, 0.3, 0.6))
        """How many misses are let pass."""

    def keep_still(self) -> None:
        """Want nothing more of its own accord, but overwrites."""
        self._still = True
        self._restlessness = 0.0

    def lookup(self, oblock: int, write: bool, fast_copy: bool) -> int:
        cblock = self.cblock_of.get(oblock)
        if cblock is not None:
            if self._rng.random() < self._restlessness:
                self._queue_migration(oblock, cblock)
            return cblock
        if self._still or not self._allowed or oblock in self._queued or oblock in self._issued:
            return MISS
        if self._rng.random() < self._aloofness:
            return MISS
        if self._free:
            self._queued[oblock] = Work(Op.PROMOTE, oblock, self._take_free())
            self._latest = oblock
        elif self.cblock_of:
            victim = self._rng.choice(list(self.cblock_of))
            self._queue_migration(victim, self.cblock_of[victim], Op.DEMOTE)
        return MISS_QUEUED

    def lookup_with_work(self, oblock: int, write: bool, fast_copy: bool) -> tuple[int, Work | None]:
        known = oblock in self.cblock_of or oblock in self._queued or oblock in self._issued
        if known or not self._allowed or not self._free or self._rng.random() < 0.2:
            return self.lookup(oblock, write, fast_copy), None
        work = self._issued[oblock] = Work(Op.PROMOTE, oblock, self._take_free())
        return MISS, work

    def _take_free(self) -> int:
        # Most often the block that was freed last: to reuse a block too early should hurt.
        return self._free.pop() if self._rng.random() < 0.8 else self._free.pop(0)

    def _queue_migration(self, oblock: int, cblock: int, op: Op | None = None) -> None:
        if oblock in self._queued or oblock in self._issued:
            return
        op = op or self._rng.choice((Op.DEMOTE, Op.WRITEBACK))
        if self._allowed or (op is Op.WRITEBACK and cblock in self.dirty):
            self._queued[oblock] = Work(op, oblock, cblock)

    def get_background_work(self, idle: bool) -> Work | None:
        if not self._queued and self.cblock_of and self._rng.random() < self._restlessness:
            oblock = self._rng.choice(list(self.cblock_of))
            self._queue_migration(oblock, self.cblock_of[oblock])
        if not self._queued:
            return None
        admits_at_once = self._latest in self._queued and self._rng.random() < 0.8
        oblock = self._latest if admits_at_once else self._rng.choice(list(self._queued))
        work = self._issued[oblock] = self._queued.pop(oblock)
        return work

    def complete_background_work(self, work: Work, success: bool) -> None:
        assert self._issued.pop(work.oblock, None) is work, f"{work} is not under way"
        if work.op is Op.PROMOTE:
            if success:
                self._insert(work.oblock, work.cblock)
            else:
                self._free.append(work.cblock)
        elif work.op is Op.DEMOTE and success:
            self._remove(work.cblock)

    def _insert(self, oblock: int, cblock: int) -> None:
        assert oblock not in self.cblock_of
        assert cblock not in self.oblock_of
        self.cblock_of[oblock] = cblock
        self.oblock_of[cblock] = oblock

    def _remove(self, cblock: int) -> None:
        del self.cblock_of[self.oblock_of.pop(cblock)]
        self.dirty.discard(cblock)
        self._free.append(cblock)

    def set_dirty(self, cblock: int) -> None:
        assert cblock in self.oblock_of
        self.dirty.add(cblock)

    def clear_dirty(self, cblock: int) -> None:
        assert cblock in self.oblock_of
        self.dirty.discard(cblock)

    def load_mapping(self, oblock: int, cblock: int, dirty: bool, hint: int | None) -> None:
        assert hint is None or hint == oblock + 1, f"hint {hint} of oblock {oblock}"
        self._insert(oblock, cblock)
        self._free.remove(cblock)
        if dirty:
            self.dirty.add(cblock)

    def invalidate_mapping(self, cblock: int) -> bool:
        oblock = self.oblock_of.get(cblock)
        if oblock is None:
            return False
        if oblock in self._queued or oblock in self._issued:
            msg = f"cblock {cblock} has work outstanding"
            raise PolicyError(msg)
        self._remove(cblock)
        return True

    def get_hint(self, cblock: int) -> int:
        return self.oblock_of.get(cblock, -1) + 1

    def residency(self) -> int:
        return self._cache_blocks - len(self._free)

    def allow_migrations(self, allowed: bool) -> None:
        self._allowed = allowed

    def check(self) -> None:
        assert {cblock: oblock for oblock, cblock in self.cblock_of.items()} == self.oblock_of
        assert self.dirty <= self.oblock_of.keys()
        assert not self._queued.keys() & self._issued.keys()
        reserved = [w.cblock for w in (*self._queued.values(), *self._issued.values()) if w.op is Op.PROMOTE]
        assert sorted([*self._free, *self.oblock_of, *reserved]) == list(range(self._cache_blocks))
