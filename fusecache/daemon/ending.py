"""The clean end of a mount.

Theory of operation
-------------------
As a rule that is one thing: the record is made exact, and marked clean.  More is to do if files were removed or
replaced meanwhile (:mod:`fusecache.attach.names`), since those end with the process:

*The cache.*  What is dirty in it is nowhere else.  So all of it is written back and forgotten, however long that takes.

*The metadata.*  What is recorded describes a cache that is still there.  So it is written anew under its name; what
has the name by now is left alone.  Where not even the directory is there, everything is written back as well.

*The origin.*  Nothing can be done about that here; ``fusecache unmount`` refuses.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache.attach import policy_values
from fusecache.errors import FusecacheError, MetadataError
from fusecache.metadata import Transaction, packed, put_back
from fusecache.tasks import for_each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.attach import Binding
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

log = structlog.get_logger(__name__)

_SIDE_BY_SIDE: Final = 64
_LOOK_SECONDS: Final = 1.0
_LAST_LOOK_SECONDS: Final = 5.0


async def watch_names(volume: Volume, binding: Binding) -> None:
    """Look once a second whether the files still have their names, until cancelled."""
    while True:
        await _look(volume, binding)
        await trio.sleep(_LOOK_SECONDS)


async def _look(volume: Volume, binding: Binding) -> None:
    try:
        gone = await trio.to_thread.run_sync(binding.gone, abandon_on_cancel=True)  # a dead disk may never answer
    except RuntimeError as exc:  # the system gives no thread
        log.warning("cannot look whether all files have their names", error=str(exc))
        return
    if gone != volume.health.gone:
        volume.health.gone = gone
        if gone:
            log.error("files were removed or replaced", parts=" ".join(gone), health=str(volume.health))
        else:
            log.info("all files have their names again")


async def save_what_ends(volume: Volume, binding: Binding, worker: MigrationWorker) -> str:
    """Write back what would end with this process; for the time when nobody uses the image any more.

    :return: what is lost; empty if nothing is.
    """
    with trio.move_on_after(_LAST_LOOK_SECONDS):
        await _look(volume, binding)
    gone = volume.health.gone
    if not ("cache" in gone or ("metadata" in gone and not binding.metadata_path.parent.is_dir())):
        return ""

    async def leave(oblock: int) -> None:
        try:
            await worker.invalidate(oblock)
        except FusecacheError as exc:
            log.error("block not brought to safety", oblock=oblock, error=str(exc))

    log.warning("everything is written back: its files were removed", dirty=volume.mapping.dirty_count)
    await for_each([oblock for _, oblock in volume.mapping.mapped()], leave, side_by_side=_SIDE_BY_SIDE)
    dirty = volume.mapping.dirty_count
    return f"{dirty} dirty blocks could not be saved: {volume.health}" if dirty else ""


async def end_cleanly(volume: Volume, binding: Binding) -> None:
    """Make the record exact, then mark it clean."""
    await volume.durability.settle()
    policy = volume.policy
    if policy.hint_size:
        # One at a time: a list of them would take more memory than the map.
        hints = ((cblock, policy.get_hint(cblock)) for cblock, _ in volume.mapping.mapped())
        await binding.database.save_hints(hints)
    values = policy_values(policy) | packed(stats=volume.counters.persistent()) | binding.end_values()
    await binding.database.commit(Transaction(values=values))
    binding.end(dirty=volume.mapping.dirty_count, cached=volume.mapping.mapped_count)


@contextmanager
def metadata_kept(volume: Volume, binding: Binding) -> Iterator[None]:
    """However this block ends, write metadata anew that has lost its name.

    :raises MetadataError: that was not possible, or only beside what has the name now.
    """
    try:
        yield
    finally:
        if "metadata" in volume.health.gone:
            place = put_back(binding.database)
            log.warning("the metadata was written anew", place=str(place))
            if place != binding.metadata_path:
                msg = f"{binding.metadata_path} is not this mount's metadata any more; that is {place} now"
                raise MetadataError(msg)
