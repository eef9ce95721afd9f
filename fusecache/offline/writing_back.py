"""Writing back what is dirty, without a mount.

Theory of operation
-------------------
What is dirty, or suspect after a crash, is what recovery says (:mod:`fusecache.attach.recovery`).  It goes to the
origin in the origin's order, a *batch* at a time: copy; make the origin durable; record the blocks of the batch as
clean, and close the regions whose last suspect they were.  Whoever is killed has lost at most the work of one batch,
and the next run, or the next mount, goes on from there.  Before the first write the record says that the last end was
not clean, so that what is written is not taken for a change made by others.

Of a partial block only the sectors that count are read and written, a run of them at a time; it stays partial.

A block that cannot be copied is tried again, then cut in halves down to pages: what can be read goes to the origin,
what cannot is named by byte range, and the block stays dirty.
"""

from __future__ import annotations

import shlex
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio
from crc32c import crc32c

from fusecache.attach import (
    ANY,
    Claims,
    DamagedRowError,
    DisagreementError,
    inspect,
    judge_origin,
    locate,
    look_at_origin,
    read_stamp,
    recover,
    require_no_other_claim,
    require_one_moment,
    require_same_generation,
    require_same_origin,
)
from fusecache.block import DIRTY, byte_runs
from fusecache.config import PolicyChoice
from fusecache.errors import FusecacheError, MetadataError, RefusedError, StoreError
from fusecache.metadata import Database, Suspects, Transaction, packed
from fusecache.offline.opening import find_files, no_metadata, open_locked, open_metadata, open_origin
from fusecache.stores import write_sparsely
from fusecache.tasks import for_each
from fusecache.volume import new_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fusecache.attach import Binding
    from fusecache.block import Mapping as BlockMapping
    from fusecache.config import MountConfig
    from fusecache.metadata import Record, Superblock
    from fusecache.offline.opening import Files
    from fusecache.stores import Store

    Progress = Callable[[int, int], None]
    """Hears how many blocks are done, and of how many."""

BATCH_BYTES: Final = 64 << 20
_SIDE_BY_SIDE: Final = 4
_RETRY_SECONDS: Final = 0.2
_LEAST: Final = 4096


@dataclass(frozen=True, slots=True)
class Failure:
    """A byte range of the image that could not be written to the origin."""

    start: int
    length: int
    reason: str


@dataclass(slots=True)
class Outcome:
    """What was done."""

    blocks: int = 0
    """How many were dirty or suspect."""
    written: int = 0
    failures: list[Failure] = field(default_factory=list)
    """In the order of the image."""
    reason: str = ""
    """Why it ended early, if it did."""


def write_back(
    config: MountConfig, environ: Mapping[str, str], progress: Progress, *, retries: int, force: bool = False
) -> Outcome:
    """Write everything that is dirty to the origin.

    :param config: names the files; nothing else in it counts.
    :param retries: how often a block that failed is tried again.
    :param force: also over an origin that others have changed.
    :raises FusecacheError: it was refused; nothing was changed.
    """
    if force:
        _forget_stale(config, environ)
    plan = inspect(config, environ=environ)
    with plan.resources:
        if plan.database is None:
            raise no_metadata(plan.metadata_path, plan.claims.read())
        _require_writable(plan.read_only)
        return trio.run(_write_back, plan.carry_out(), progress, retries)


def _forget_stale(config: MountConfig, environ: Mapping[str, str]) -> None:
    """Let an origin that others changed count as it is now, and forget the clean blocks, which are stale.

    Another origin, or a cache of another moment, is refused as ever: what would be written is not known then.
    """
    files = find_files(config.origin, cache=config.cache, metadata=config.metadata, environ=environ)
    with ExitStack() as resources:
        open_metadata(files, resources)
        origin = open_origin(locate(config.origin), resources)
        _require_writable(origin.unwritable)
        database = resources.enter_context(closing(Database.open(files.metadata)))
        superblock = database.superblock()
        claims = Claims.of(origin, environ)
        found = look_at_origin(claims, database)
        arguments = shlex.join(files.words())
        require_same_origin(superblock, found.now, arguments=arguments)
        require_no_other_claim(superblock.uuid, found.claim, now=found.now, is_disproved=found.is_disproved)
        require_one_moment(superblock, found.claim)
        try:
            judge_origin(superblock, found, arguments=arguments)
        except DisagreementError:
            _require_same_moment(files, superblock, resources)
            suspects = Suspects(database.regions(), superblock.region_blocks)
            clean = [row.cblock for row in database.rows() if not suspects.count_as_dirty(row)]
            values = packed(origin=found.now, previous_generation=ANY, origin_claimed=False)
            database.apply(Transaction(unmapped=clean, values=values))


def _require_same_moment(files: Files, superblock: Superblock, resources: ExitStack) -> None:
    """Refuse a cache that is not of one moment with the metadata; what is missing is told later."""
    assert files.cache is not None
    if files.cache.exists() and (stamp := read_stamp(open_locked(files.cache, resources))) is not None:
        require_same_generation(stamp, superblock, cache=files.cache, metadata=files.metadata)


def _require_writable(reason: str) -> None:
    if reason:
        msg = f"nothing can be written back, and nothing was changed: {reason}"
        raise RefusedError(msg)


async def _write_back(binding: Binding, progress: Progress, retries: int) -> Outcome:
    database = binding.database
    regions = database.regions()
    mapping = _recovered(binding, regions)
    hints = {
        row.cblock: row.hint for row in database.rows() if row.hint is not None and mapping.flags[row.cblock] & DIRTY
    }
    work = WriteBack(
        mapping,
        cache=binding.cache,
        origin=binding.origin,
        record=database,
        block_size=binding.geometry.block_size,
        region_blocks=binding.region_blocks,
        open_regions=regions,
        hints=hints,
        retries=retries,
    )
    binding.begin()
    outcome = await work.run(progress)
    if not outcome.reason:
        database.set_values(binding.end_values())
        binding.end(dirty=mapping.dirty_count, cached=mapping.mapped_count)
    return outcome


def _recovered(binding: Binding, regions: set[int]) -> BlockMapping:
    """Find out what is dirty; raises MetadataError for rows that cannot be."""
    geometry = binding.geometry
    try:
        return recover(
            binding.database.rows(),
            regions,
            geometry=geometry,
            region_blocks=binding.region_blocks,
            policy=new_policy(geometry, PolicyChoice("cleaner")),
            hints_valid=False,
        ).mapping
    except DamagedRowError as exc:
        msg = f"metadata {binding.metadata_path} is damaged: {exc}; `fusecache check` says what can be done"
        raise MetadataError(msg) from exc


class WriteBack:
    """One writing back of everything that is dirty in ``mapping``, over any stores and record.

    :param hints: by cblock; a row that is written anew loses its hint, so they are saved again.
    """

    def __init__(
        self,
        mapping: BlockMapping,
        *,
        cache: Store,
        origin: Store,
        record: Record,
        block_size: int,
        region_blocks: int,
        open_regions: set[int],
        hints: Mapping[int, int],
        retries: int,
    ) -> None:
        self._mapping = mapping
        self._cache = cache
        self._origin = origin
        self._record = record
        self._size = block_size
        self._region_blocks = region_blocks
        self._open = set(open_regions)
        self._hints = hints
        self._attempts = retries + 1
        self._waiting = Counter(cblock // region_blocks for cblock in mapping.dirty_blocks())
        """By region, how many blocks are dirty still."""
        self._outcome = Outcome(blocks=mapping.dirty_count)
        self._sums: dict[int, int | None] = {}
        """The CRC-32C of each block of the batch of which all was copied that counts; a partial block has none."""

    async def run(self, progress: Progress) -> Outcome:
        """Do all of it; faults are in the outcome."""
        outcome = self._outcome
        done = 0
        progress(done, outcome.blocks)
        try:
            for batch in self._batches():
                self._sums = {}
                await for_each(batch, self._copy, side_by_side=_SIDE_BY_SIDE)
                await self._origin.flush()
                await self._commit(sorted(self._sums))
                outcome.written += len(self._sums)
                done += len(batch)
                progress(done, outcome.blocks)
            await self._settle()
        except FusecacheError as exc:
            outcome.reason = str(exc)
        outcome.failures.sort(key=lambda failure: failure.start)
        return outcome

    def _batches(self) -> Iterator[list[int]]:
        """Yield cblocks in the order of the origin."""
        blocks = self._mapping.dirty_blocks()
        step = max(1, BATCH_BYTES // self._size)
        for start in range(0, len(blocks), step):
            yield blocks[start : start + step]

    async def _commit(self, cblocks: list[int]) -> None:
        """Record blocks as clean that the origin has durably."""
        batch = Transaction(mapped=[self._row(cblock, dirty=False, crc=self._sums[cblock]) for cblock in cblocks])
        self._waiting.subtract(cblock // self._region_blocks for cblock in cblocks)
        batch.closed.extend(sorted(region for region in self._open if not self._waiting[region]))
        if batch:
            await self._record.commit(batch)
        self._open.difference_update(batch.closed)
        for cblock in cblocks:
            if (crc := self._sums[cblock]) is None:
                self._mapping.cleaned_in_part(cblock)
            else:
                self._mapping.cleaned(cblock, crc)
        if hints := [(cblock, self._hints[cblock]) for cblock in cblocks if cblock in self._hints]:
            await self._record.save_hints(hints)

    async def _settle(self) -> None:
        """Let the rows say of the rest that it is dirty, so that no region has to."""
        batch = Transaction(closed=sorted(self._open))
        batch.mapped += [self._row(cblock, dirty=True, crc=None) for cblock in self._mapping.dirty_blocks()]
        if batch:
            await self._record.commit(batch)

    def _row(self, cblock: int, *, dirty: bool, crc: int | None) -> tuple[int, int, bool, int | None, int | None]:
        return cblock, self._mapping.oblock_of[cblock], dirty, crc, self._mapping.valid.get(cblock)

    async def _copy(self, cblock: int) -> None:
        """Copy one block; what cannot be copied becomes a failure."""
        target = self._mapping.oblock_of[cblock] * self._size
        valid = self._mapping.valid.get(cblock)
        pieces = [(0, self._size)] if valid is None else list(byte_runs(valid))
        buffer = memoryview(bytearray(self._size))
        for attempt in range(self._attempts):
            if attempt:
                await trio.sleep(_RETRY_SECONDS)
            try:
                for begin, end in pieces:
                    await self._transfer(cblock, begin, buffer[begin:end])
            except StoreError:
                continue
            self._sums[cblock] = crc32c(buffer) if valid is None else None
            return
        pieces.reverse()
        while pieces:
            begin, end = pieces.pop()
            try:
                await self._transfer(cblock, begin, buffer[begin:end])
            except StoreError as exc:
                if middle := _page_between(begin, end):
                    pieces += [(middle, end), (begin, middle)]
                else:
                    self._fail(target + begin, end - begin, str(exc))

    async def _transfer(self, cblock: int, start: int, buffer: memoryview) -> None:
        await self._cache.read(cblock * self._size + start, buffer)
        await write_sparsely(self._origin, self._mapping.oblock_of[cblock] * self._size + start, buffer)

    def _fail(self, start: int, length: int, reason: str) -> None:
        """Note a failure, joined to the one before it in the image."""
        failures = self._outcome.failures
        if failures and failures[-1].start + failures[-1].length == start:
            last = failures.pop()
            start, length, reason = last.start, last.length + length, last.reason
        failures.append(Failure(start, length, reason))


def _page_between(begin: int, end: int) -> int:
    """Return where a page begins about the middle of a range; 0 if the range lies within one page."""
    middle = (begin + end) // 2 // _LEAST * _LEAST
    if middle <= begin:
        middle = begin // _LEAST * _LEAST + _LEAST
    return middle if middle < end else 0


def describe_writeback(outcome: Outcome) -> Iterator[str]:
    """Yield what to tell the user, line by line."""
    if not (outcome.blocks or outcome.reason):
        yield "nothing is lost: no block was dirty, so the origin has everything"
        return
    yield f"{outcome.written} of {outcome.blocks} dirty blocks were written to the origin"
    for failure in outcome.failures:
        end = failure.start + failure.length - 1
        yield f"not written: image bytes {failure.start}-{end}: {failure.reason}"


def require_complete(outcome: Outcome) -> None:
    """Raise FusecacheError if something remained."""
    remaining = outcome.blocks - outcome.written
    if outcome.reason or remaining:
        reason = f"{outcome.reason}; " if outcome.reason else ""
        msg = (
            f"{reason}{remaining} blocks are still dirty in the cache; nothing is lost, and writeback can be run again"
        )
        raise FusecacheError(msg)
