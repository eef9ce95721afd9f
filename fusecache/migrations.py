"""Moving blocks between cache and origin: promotion, demotion, writeback, each one straight-line coroutine.

Theory of operation
-------------------
The policy says what is to be moved; a worker asks it whenever something may have changed (a lookup queued work, a
migration ended, a second passed) and runs a bounded number of migrations side by side.  A migration locks its block
at two levels (:mod:`fusecache.locks`): while it copies, only writers are kept out.  The switch, the moment at which
lookups give another answer, is one synchronous step, so nobody sees it half done; a demotion, which has to wait for
its commit in the middle of the switch, keeps everybody out until then.

Any failure before the switch leaves the old state; the item goes back to the policy as failed, and the worker
pauses for longer and longer while stores go on failing.  User I/O at the origin goes before writebacks.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio
from crc32c import crc32c

from fusecache.config import MIB, Mode
from fusecache.errors import BusyError, FusecacheError, StoreError
from fusecache.locks import ALL_OUT, WRITERS_OUT
from fusecache.mapping import DIRTY, UNMAPPED
from policies import Op, PolicyError, Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fusecache.locks import Level
    from fusecache.stores.base import Store
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

MAX_RUNNING: Final = 8
"""Migrations side by side; each holds one chunk in memory."""
CHUNK: Final = 1 * MIB
_LEAST_READ: Final = 4096
"""Bytes in which what is lost of an unreadable block is told."""
_PATIENCE: Final = 0.25
"""Seconds for which the next chunk of a writeback lets user I/O at the origin go first."""
_FIRST_BACKOFF: Final = 0.5
_LAST_BACKOFF: Final = 30.0


class CacheReadError(StoreError):
    """The cache could not give what it holds."""


class Migrations:
    """The migrations of one volume; :meth:`run` carries out what the policy asks for."""

    __slots__ = ("_backoff", "_distrusted", "_ended", "_pauses", "_resume_at", "_running", "_volume", "_woken")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._woken = trio.Event()
        self._ended = trio.Event()
        self._distrusted: set[int] = set()
        self._running = 0
        self._pauses = 0
        self._backoff = 0.0
        self._resume_at = 0.0

    # The worker

    def wake(self) -> None:
        """Say that the policy may have work."""
        self._woken.set()

    @property
    def accepting(self) -> bool:
        """Whether new work may be taken from the policy now."""
        return not (self._pauses or self._volume.health.cache_lost)

    async def run(self) -> None:
        """Carry out the policy's work until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._woken.wait()
                self._woken = trio.Event()
                while self._distrusted:
                    nursery.start_soon(self._drop, self._distrusted.pop())
                while (work := self._next_work()) is not None:
                    self._running += 1
                    nursery.start_soon(self._migrate, work)

    def distrust(self, oblock: int) -> None:
        """Have a block dropped, because its copy in the cache cannot be read."""
        self._distrusted.add(oblock)
        self.wake()

    async def _drop(self, oblock: int) -> None:
        try:
            await self.invalidate(oblock)
        except FusecacheError as exc:
            log.warning("unreadable block not dropped", oblock=oblock, error=str(exc))

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Take no new work within this block; it begins when all that was handed out has come back."""
        self._pauses += 1
        try:
            while self._running:
                await self._ended.wait()
            yield
        finally:
            self._pauses -= 1
            self._announce_end()
            self.wake()

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Be one of those for whom :meth:`paused` waits; begins when nobody pauses."""
        while self._pauses:
            await self._ended.wait()
        self._running += 1
        try:
            yield
        finally:
            self._finished()

    def _next_work(self) -> Work | None:
        volume = self._volume
        now = trio.current_time()
        broken = volume.health.read_only or volume.health.cache_lost
        if (
            broken
            or self._pauses
            or volume.mode is Mode.PASSTHROUGH
            or self._running >= MAX_RUNNING
            or now < self._resume_at
        ):
            return None
        fits = (self._running + 1) * volume.geometry.block_size <= volume.migration_threshold
        return volume.policy.get_background_work(fits and volume.activity.is_quiet(now))

    async def _migrate(self, work: Work) -> None:
        steps = {Op.PROMOTE: self.promote, Op.DEMOTE: self.demote, Op.WRITEBACK: self.writeback}[work.op]
        busy = False
        try:
            async with self._given_back_on_failure(work):
                await steps(work)
            self._backoff = 0.0
        except BusyError:
            busy = True  # somebody else is migrating this block; to ask at once would give the same again
        except FusecacheError as exc:
            self._back_off()
            log.warning("migration failed", op=work.op.value, oblock=work.oblock, cblock=work.cblock, error=str(exc))
        finally:
            self._finished(wake=not busy)

    def _back_off(self) -> None:
        """Take no work for a while, longer each time that a store fails anew."""
        now = trio.current_time()
        if now >= self._resume_at:
            self._backoff = min(max(2 * self._backoff, _FIRST_BACKOFF), _LAST_BACKOFF)
            self._resume_at = now + self._backoff

    @asynccontextmanager
    async def _given_back_on_failure(self, work: Work) -> AsyncIterator[None]:
        policy = self._volume.policy
        try:
            yield
        except BaseException:
            policy.complete_background_work(work, False)
            raise

    def _finished(self, *, wake: bool = True) -> None:
        self._running -= 1
        self._announce_end()
        if wake:
            self.wake()

    def _announce_end(self) -> None:
        """Let those look again who wait for something to end: a migration, or a pause."""
        ended, self._ended = self._ended, trio.Event()
        ended.set()

    # The three migrations.  Each raises only before its switch.

    async def promote(self, work: Work) -> None:
        """Copy a block from the origin to the cache, then map it, clean."""
        volume = self._volume
        async with self._exclusive(work.oblock, WRITERS_OUT):
            volume.require_work(work)
            await volume.durability.vacate(work.cblock)
            size = volume.geometry.block_size
            crc = await self._copy(volume.origin, work.oblock * size, volume.cache, work.cblock * size)
            self._map(work)
            volume.mapping.set_sum(work.cblock, crc)
            volume.policy.clear_dirty(work.cblock)

    async def writeback(self, work: Work) -> None:
        """Copy a dirty block to the origin; it stays mapped, and turns clean, or stays dirty if written meanwhile."""
        async with self._exclusive(work.oblock, WRITERS_OUT):
            self._volume.require_work(work)
            if self._volume.geometry.block_size <= CHUNK:
                await self._save(work.oblock, work.cblock)
            else:
                await self._copy_back(work.oblock, work.cblock)
            self._volume.policy.complete_background_work(work, not self._volume.is_dirty(work.cblock))

    async def demote(self, work: Work) -> None:
        """Unmap a block, writing it back first if it has become dirty; its cache block is free when that is durable."""
        volume = self._volume
        async with self._exclusive(work.oblock, WRITERS_OUT):
            volume.require_work(work)
            await self._copy_back(work.oblock, work.cblock)
            await volume.locks.raise_level(work.oblock)
            await self._unmap(work.cblock)
            volume.stats.demotions += 1
            volume.policy.complete_background_work(work, True)

    # Migrations that come with a request

    def begin_overwrite(self, work: Work) -> None:
        """Take charge of a promotion that the policy handed out to a request, and of its block, at once.

        The block is one that nobody has exclusively.
        """
        took = self._volume.locks.try_exclusive(work.oblock, ALL_OUT)
        assert took, f"oblock {work.oblock} is locked"
        self._running += 1

    async def overwrite(self, work: Work, data: memoryview) -> None:
        """Promote a block by the write that covers all of it: no copy, and the block is dirty.

        Follows :meth:`begin_overwrite`.  If the cache refuses the data, the origin gets it.
        """
        volume = self._volume
        size = volume.geometry.block_size
        try:
            try:
                async with self._given_back_on_failure(work):
                    await volume.locks.drained(work.oblock)
                    await volume.durability.vacate(work.cblock)
                    if not volume.cache.write_nowait(work.cblock * size, data):
                        await volume.cache.write(work.cblock * size, data)
                    volume.require_cache()
            except FusecacheError as exc:
                log.warning("overwrite failed", oblock=work.oblock, cblock=work.cblock, error=str(exc))
                try:
                    await volume.origin.write(work.oblock * size, data)
                finally:
                    volume.durability.owe()
                return
            self._map(work)
            volume.mapping.set_dirty(work.cblock)
            volume.policy.set_dirty(work.cblock)
        finally:
            volume.locks.end_exclusive(work.oblock)
            self._finished()

    async def invalidate(self, oblock: int) -> bool:
        """Drop a block's cached copy; returns whether there was one, durably gone now.

        What only the cache has is written back first.
        """
        volume = self._volume
        async with self._counted(), self._exclusive(oblock, ALL_OUT, park=True):
            cblock = volume.mapping.find(oblock)
            if cblock == UNMAPPED:
                return False
            await self._copy_back(oblock, cblock)
            await self._unmap(cblock)
            while True:
                try:
                    volume.forget(cblock)
                except PolicyError:
                    # An item for it is outstanding.  One under way cannot get our lock, and comes back as failed.
                    if not self._recall(cblock):
                        await self._ended.wait()
                else:
                    return True

    def _recall(self, cblock: int) -> bool:
        """Have the policy give up the item that it has queued for a block; returns whether there was one.

        Items that were queued before it are given up as well; the policy will want them again.
        """
        policy = self._volume.policy
        taken: list[Work] = []
        while (work := policy.get_background_work(idle=False)) is not None:
            taken.append(work)
            if work.cblock == cblock:
                break
        for item in taken:
            policy.complete_background_work(item, False)
        return work is not None

    async def clean(self, oblock: int) -> None:
        """Write a block back if it is cached and dirty, whatever the policy thinks of it."""
        async with self._exclusive(oblock, WRITERS_OUT, park=True):
            cblock = self._volume.mapping.find(oblock)
            if cblock != UNMAPPED:
                await self._copy_back(oblock, cblock)

    async def heal(self, oblock: int, cblock: int) -> bool:
        """Make a clean block's copy in the cache the origin's again, and take its sum; returns whether it was not.

        :raises BusyError: the block is being migrated.
        :raises StoreError: the origin cannot be read or the cache not written; the copy may be anything now.
        """
        volume = self._volume
        size = volume.geometry.block_size
        async with self._exclusive(oblock, ALL_OUT):
            if volume.mapping.find(oblock) != cblock or volume.is_dirty(cblock):
                return False
            mine, right = bytearray(size), bytearray(size)
            await volume.cache.read(cblock * size, mine)
            await volume.origin.read(oblock * size, right)
            rotten = mine != right
            if rotten:
                volume.stats.healed += 1
                await volume.cache.write(cblock * size, right)
            volume.mapping.set_sum(cblock, crc32c(right))
            volume.durability.summed(cblock)
        return rotten

    # Steps they share

    @asynccontextmanager
    async def _exclusive(self, oblock: int, level: Level, *, park: bool = False) -> AsyncIterator[None]:
        """Hold a block exclusively, those whom it excludes gone; BusyError if somebody has it and we do not park."""
        locks = self._volume.locks
        if park:
            await locks.take_exclusive(oblock, level)
        elif not locks.try_exclusive(oblock, level):
            msg = f"oblock {oblock} is being migrated"
            raise BusyError(msg)
        try:
            await locks.drained(oblock)
            yield
        finally:
            locks.end_exclusive(oblock)

    def _map(self, work: Work) -> None:
        """Switch: from here on the block is in the cache."""
        volume = self._volume
        volume.mapping.insert(work.oblock, work.cblock)
        volume.durability.promoted(work.cblock)
        volume.stats.promotions += 1
        volume.policy.complete_background_work(work, True)

    async def _unmap(self, cblock: int) -> None:
        """Switch: from here on a clean block is not in the cache, durably; on failure everything is as it was."""
        mapping, durability = self._volume.mapping, self._volume.durability
        durability.removing(cblock)
        flags = mapping.flags[cblock]
        spoiled = durability.is_spoiled(cblock)
        oblock = mapping.remove(cblock)
        try:
            await durability.commit()
        except BaseException:
            mapping.insert(oblock, cblock)
            mapping.flags[cblock] = flags
            durability.kept(cblock)
            if spoiled:
                self._volume.set_dirty(cblock)  # one of its two copies has to be the right one
            raise

    async def _copy_back(self, oblock: int, cblock: int) -> None:
        """Make a block clean by copying it to the origin, if it is dirty; the caller keeps writers out."""
        volume = self._volume
        if not volume.mapping.flags[cblock] & DIRTY:
            return
        size = volume.geometry.block_size
        try:
            crc = await self._copy(volume.cache, cblock * size, volume.origin, oblock * size)
        except CacheReadError:
            await self.name_lost(oblock, cblock)
            raise
        self._saved(oblock, cblock, crc)

    def _saved(self, oblock: int, cblock: int, crc: int) -> None:
        """Note that the origin has what the cache has."""
        volume = self._volume
        size = volume.geometry.block_size
        volume.set_clean(cblock, crc)
        volume.stats.writebacks += 1
        if volume.health.lost:
            volume.health.lost.discard(oblock * size, (oblock + 1) * size)

    async def _save(self, oblock: int, cblock: int) -> None:
        """Make a block clean, as :meth:`_copy_back` does, but let writers in while the origin writes.

        The origin may be slow, and blocks that are written often are written back often.
        """
        volume = self._volume
        if not volume.is_dirty(cblock):
            return
        size = volume.geometry.block_size
        content = bytearray(size)
        try:
            await self._read(volume.cache, cblock * size, content)
        except CacheReadError:
            await self.name_lost(oblock, cblock)
            raise
        crc = crc32c(content)
        volume.mapping.begin_saving(cblock)
        try:
            volume.locks.lower_level(oblock)
            await volume.activity.give_way(_PATIENCE)
            await volume.origin.write(oblock * size, content)
        finally:
            # A write that has not ended yet would make a block dirty that others have counted as clean meanwhile.
            saved = volume.mapping.end_saving(cblock) and not volume.locks.is_writing(oblock)
        if saved:
            self._saved(oblock, cblock, crc)

    async def name_lost(self, oblock: int, cblock: int) -> None:
        """Find out which parts of an unreadable block cannot be read."""
        volume = self._volume
        size = volume.geometry.block_size
        buffer = memoryview(bytearray(_LEAST_READ))
        for within in range(0, size, _LEAST_READ):
            part = buffer[: size - within]
            try:
                await volume.cache.read(cblock * size + within, part)
            except StoreError:
                volume.health.lost.add(oblock * size + within, oblock * size + within + len(part))

    async def _copy(self, source: Store, start: int, target: Store, target_start: int) -> int:
        """Copy one block in chunks; returns the CRC-32C of its content."""
        volume = self._volume
        size = volume.geometry.block_size
        buffer = memoryview(bytearray(min(size, CHUNK)))
        crc = 0
        for done in range(0, size, CHUNK):
            chunk = buffer[: size - done]
            await self._read(source, start + done, chunk)
            crc = crc32c(chunk, crc)
            if target is volume.origin:
                await volume.activity.give_way(_PATIENCE)
            await target.write(target_start + done, chunk)
        return crc

    async def _read(self, source: Store, position: int, into: bytearray | memoryview) -> None:
        """Read for a copy; raises CacheReadError if it was the cache that failed."""
        if source.read_nowait(position, into):
            return
        try:
            await source.read(position, into)
        except StoreError as exc:
            if source is not self._volume.cache:
                raise
            self._volume.stats.cache_errors += 1
            raise CacheReadError(str(exc)) from exc
