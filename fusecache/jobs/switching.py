"""Changing the policy or the mode while I/O goes on.

A new policy is told of every cached block, in slices, while the old one goes on answering; migrations pause for that
time, so the mapping stands still, and changes of dirty bits are reported to both.  Hints are kept if they mean the same
to both (dm-cache 2.11).  If they do not, but both policies order blocks by heat, the old one lists them coldest first,
and the new one learns them in that order.  Blocks that are in no list come last, by cblock.

Leaving writeback mode writes back everything that is dirty first: new writes go to both stores meanwhile, so there is
an end to it.  Passthrough mode reads the origin alone, so all that it was given has to be durable there by then: an
origin that forgets what a failed flush did not make durable would show what was there before.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.attach import hint_signature
from fusecache.block import DIRTY, UNMAPPED
from fusecache.config import Mode
from fusecache.errors import FusecacheError, RefusedError
from fusecache.tasks import for_each

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.jobs.flush import Flusher
    from fusecache.jobs.job import Job
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume
    from policies import Policy

log = structlog.get_logger(__name__)

_SLICE: Final = 256
_DROPS_PER_COMMIT: Final = 512
_LOOKED_AT_AT_ONCE: Final = 4096


async def switch_policy(volume: Volume, worker: MigrationWorker, new: Policy, job: Job) -> None:
    """Put a policy that was just made in the place of the present one; every mapping and dirty bit is kept."""
    old = volume.policy
    keep_hints = bool(new.hint_size) and hint_signature(new) == hint_signature(old)
    keep_heat = old.keeps_heat and new.keeps_heat and not keep_hints
    async with worker.paused():
        job.total += volume.mapping.mapped_count
        volume.begin_handover(new)
        try:
            if keep_heat:
                await _tell_by_heat(volume, new, job)
            unknown = (cblock for cblock, _ in volume.mapping.mapped() if not volume.handed_over[cblock])
            while some := list(islice(unknown, _SLICE)):
                await _tell(volume, new, some, [old.get_hint(cblock) if keep_hints else None for cblock in some], job)
        finally:
            volume.incoming = None
        new.allow_migrations(volume.mode is not Mode.PASSTHROUGH)
        volume.take_over(new)
    log.info(
        "policy switched",
        old=old.name,
        new=new.name,
        blocks=volume.mapping.mapped_count,
        hints=keep_hints,
        heat=keep_heat,
    )


async def _tell_by_heat(volume: Volume, new: Policy, job: Job) -> None:
    """Tell the new policy what the old one lists; a block that it lists twice is where it was listed first."""
    oblock_of, known, mapped = volume.mapping.oblock_of, volume.handed_over, volume.mapping.mapped_count
    rank = 0
    for listing in volume.policy.coldest_first():
        for first in range(0, len(listing), _SLICE):
            some = [c for c in listing[first : first + _SLICE] if oblock_of[c] != UNMAPPED and not known[c]]
            await _tell(volume, new, some, [new.hint_by_rank(rank + each, mapped) for each in range(len(some))], job)
            rank += len(some)
        await trio.lowlevel.checkpoint()


async def _tell(volume: Volume, new: Policy, cblocks: list[int], hints: list[int | None], job: Job) -> None:
    """Tell the new policy of some blocks, then let others run."""
    oblock_of, flags, known = volume.mapping.oblock_of, volume.mapping.flags, volume.handed_over
    new.load_mappings(
        (oblock_of[cblock], cblock, bool(flags[cblock] & DIRTY), hint)
        for cblock, hint in zip(cblocks, hints, strict=True)
    )
    for cblock in cblocks:
        known[cblock] = 1
    job.advance(len(cblocks))
    await trio.lowlevel.checkpoint()
    job.require_going_on()


async def switch_mode(
    volume: Volume, worker: MigrationWorker, flusher: Flusher, mode: Mode, replacement: Callable[[], Policy], job: Job
) -> None:
    """Change the mode; what has to be clean for it is written back first.

    :param replacement: makes a new policy of the present kind; passthrough mode begins with one that has no unfinished
        work.
    :raises FusecacheError: not everything could be written back; the mode is what it was.
    """
    old = volume.mode
    if mode is old:
        return
    try:
        if mode is Mode.PASSTHROUGH or (mode is Mode.WRITETHROUGH and old is Mode.WRITEBACK):
            await _write_back_all(volume, worker, flusher, job)
        volume.mode = mode
        if mode is Mode.PASSTHROUGH:
            await switch_policy(volume, worker, replacement(), job)
            await volume.locks.drain_writers()
            _require_clean(volume)
    except BaseException:
        volume.mode = old
        volume.policy.allow_migrations(old is not Mode.PASSTHROUGH)
        raise
    volume.policy.allow_migrations(mode is not Mode.PASSTHROUGH)
    worker.wake()
    log.info("mode switched", old=old.value, new=mode.value)


async def _write_back_all(volume: Volume, worker: MigrationWorker, flusher: Flusher, job: Job) -> None:
    log.info("mode switch: dirty blocks are written back first", dirty=volume.mapping.dirty_count)
    volume.mode = Mode.WRITETHROUGH
    async with worker.paused():
        pass  # overwrites that were under way may have made blocks dirty
    await volume.locks.drain_writers()
    await flusher.flush(job)
    _require_clean(volume)


def _require_clean(volume: Volume) -> None:
    if volume.mapping.dirty_count:
        msg = f"{volume.mapping.dirty_count} blocks are still dirty"
        raise RefusedError(msg)


async def drop(volume: Volume, worker: MigrationWorker, cblocks: range, job: Job) -> None:
    """Forget what these cache blocks hold, durably; for passthrough mode, where nothing is promoted meanwhile.

    What cannot be dropped does not keep the rest from being dropped.

    :raises FusecacheError: how many could not be, and why.
    """
    errors: list[FusecacheError] = []

    async def drop_one(oblock: int) -> None:
        if job.cancelled:
            return
        try:
            await worker.invalidate(oblock)
        except FusecacheError as exc:
            errors.append(exc)
        job.advance()

    oblock_of = volume.mapping.oblock_of
    job.total += len(cblocks)
    for start in range(0, len(cblocks), _LOOKED_AT_AT_ONCE):
        some = cblocks[start : start + _LOOKED_AT_AT_ONCE]
        oblocks = [oblock_of[cblock] for cblock in some if oblock_of[cblock] != UNMAPPED]
        job.advance(len(some) - len(oblocks))
        await for_each(oblocks, drop_one, side_by_side=min(_DROPS_PER_COMMIT, len(oblocks)))
        await trio.lowlevel.checkpoint()
        job.require_going_on()
    if errors:
        msg = f"{len(errors)} blocks could not be dropped from the cache: {errors[-1]}"
        raise FusecacheError(msg)
