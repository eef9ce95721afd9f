"""The composition root: opens, recovers, serves until unmounted, ends cleanly.

Theory of operation
-------------------
:func:`serve` runs one mount from beginning to end.  Everything that can be refused is refused before anything is
created; then FUSE is told to mount, the record is recovered, and the caller hears that the image is ready.

The end has one path, whether it came by an unmount or by SIGTERM or SIGINT: requests under way are answered;
migrations and flushes stop; the record is made exact, with hints and counters; only then is it marked clean, and only
after that does a mount that is still there disappear.  If any of it fails, the mark is not set, and the next mount
recovers as after a crash.
"""

from __future__ import annotations

import gc
import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pyfuse3
import structlog
import trio

from fusecache import __version__
from fusecache.attach import DamagedRowError, hint_signature, inspect, recover
from fusecache.block import BlockLocks
from fusecache.config import Mode, PageCache
from fusecache.control import Control, MountFacts
from fusecache.datapath import Disk
from fusecache.durability import Durability
from fusecache.errors import BusyError, MetadataError, RefusedError
from fusecache.frontends.fuse import KernelPages, Operations, raise_request_limit, serve_requests
from fusecache.grammar import table_features, table_line
from fusecache.jobs import Flusher, Jobs
from fusecache.linux import become_io_flusher
from fusecache.metadata import Transaction, packed
from fusecache.migration import MigrationWorker
from fusecache.volume import Volume, new_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fusecache.attach import Binding, Plan
    from fusecache.block import Mapping
    from fusecache.config import MountConfig
    from policies import Policy

log = structlog.get_logger(__name__)

_TICK_SECONDS: Final = 1.0
_TICKS_PER_CLOSING: Final = 5


def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
    """Mount the image and serve it until it is unmounted, or until SIGTERM or SIGINT.

    :param on_ready: called once, with notes for the user, when the image can be used.
    :raises FusecacheError: why it could not be mounted, or did not end cleanly.
    """
    try:
        become_io_flusher()
    except OSError as exc:
        log.debug("no IO flusher", reason=exc.strerror)
    trio.run(_serve, config, on_ready)


async def _serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
    _require_mountpoint(config.mountpoint)
    plan = inspect(config, environ=dict(os.environ))
    with plan.resources:
        new_policy(plan.geometry, config.policy)  # refuse before anything is created
        _refuse_dirty_passthrough(plan, config.mode)
        binding = plan.carry_out(config.page_cache)
        policy = new_policy(plan.geometry, config.policy)
        superblock = binding.database.superblock()
        try:
            recovered = recover(
                binding.database.rows(),
                binding.database.regions(),
                geometry=binding.geometry,
                region_blocks=binding.region_blocks,
                policy=policy,
                hints_valid=binding.was_clean and superblock.hints == hint_signature(policy),
            )
        except DamagedRowError as exc:
            msg = f"metadata {binding.metadata_path} is damaged: {exc}"
            raise MetadataError(msg) from exc
        policy.allow_migrations(config.mode is not Mode.PASSTHROUGH)
        volume = _make_volume(binding, policy, recovered.mapping, recovered.open_regions, config.mode)
        if superblock.stats is None:
            log.warning("the counters of earlier mounts cannot be read and begin at 0 again")
        volume.counters.restore(superblock.stats or {})
        if config.policy.migration_threshold is not None:
            volume.migration_threshold = config.policy.migration_threshold
        if not binding.was_clean:
            binding.notes.append(_recovery_note(volume.mapping.dirty_count, recovered.suspects))
        log.info(
            "recovered",
            clean=binding.was_clean,
            blocks=volume.mapping.mapped_count,
            dirty=volume.mapping.dirty_count,
            suspects=recovered.suspects,
        )
        await _run(volume, binding, config, recovered.suspects, on_ready)


def _recovery_note(dirty: int, suspects: int) -> str:
    doubt = f", {suspects} of them because they may have been written at the time" if suspects else ""
    return f"recovered after a crash: {dirty} blocks are dirty{doubt}"


def _make_volume(binding: Binding, policy: Policy, mapping: Mapping, open_regions: set[int], mode: Mode) -> Volume:
    locks = BlockLocks()
    return Volume(
        geometry=binding.geometry,
        mapping=mapping,
        locks=locks,
        policy=policy,
        cache=binding.cache,
        origin=binding.origin,
        durability=Durability(
            mapping,
            locks,
            cache=binding.cache,
            origin=binding.origin,
            record=binding.database,
            region_blocks=binding.region_blocks,
            open_regions=open_regions,
        ),
        mode=mode,
    )


async def _run(
    volume: Volume, binding: Binding, config: MountConfig, suspects: int, on_ready: Callable[[list[str]], None]
) -> None:
    """Serve the mount, then end it."""
    worker = MigrationWorker(volume)
    worker.copy_rate.set_rate(config.copy_rate)
    jobs = Jobs(volume.geometry.block_size, trio.current_time)
    flusher = Flusher(volume, worker, jobs)
    control = Control(
        volume,
        worker,
        flusher,
        jobs,
        facts=_facts(config, binding, suspects),
        metadata=binding.database,
        scrub_rate=config.scrub,
    )
    operations = Operations(
        Disk(volume, worker),
        control,
        image_bytes=binding.geometry.image_bytes,
        page_cache=config.page_cache is PageCache.IMAGE,
    )
    pages = KernelPages()
    if config.page_cache is PageCache.IMAGE:
        volume.content_changed = pages.forget
    mountpoint = config.mountpoint.resolve()  # before it is ours to answer what it is
    with _mounted(operations, config):
        binding.notes.extend(raise_request_limit(mountpoint))
        binding.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.durability.run)
            nursery.start_soon(worker.run)
            nursery.start_soon(flusher.run)
            nursery.start_soon(control.run)
            nursery.start_soon(pages.run)
            nursery.start_soon(_tick, volume, worker)
            await nursery.start(_end_on_signal, worker, jobs, pages)
            if not binding.was_clean:
                await volume.durability.secure()
            volume.tick()  # policies begin to count with the first tick
            gc.freeze()  # what is here now stays: no collection has to look at it, while requests wait
            on_ready(binding.notes)
            await serve_requests()
            log.info("ending", dirty=volume.mapping.dirty_count)
            async with worker.paused():
                nursery.cancel_scope.cancel()
        await _end_cleanly(volume, binding)
    log.info("ended")


def _facts(config: MountConfig, binding: Binding, suspects: int) -> MountFacts:
    named = replace(
        config,
        origin=binding.origin_address,
        cache=binding.cache_path,
        metadata=binding.metadata_path,
        block_size=binding.geometry.block_size,
    )
    return MountFacts(
        origin=binding.origin_address,
        cache=str(binding.cache_path),
        metadata=str(binding.metadata_path),
        mountpoint=str(config.mountpoint),
        engine=binding.engine,
        page_cache=config.page_cache,
        features=table_features(config),
        table=table_line(named),
        suspects=suspects,
        pid=os.getpid(),
        version=__version__,
    )


async def _tick(volume: Volume, worker: MigrationWorker) -> None:
    """Let time pass once a second, for the policy, for waiting work and for the record."""
    ticks = 0
    while True:
        await trio.sleep(_TICK_SECONDS)
        ticks += 1
        volume.tick()
        worker.wake()
        volume.durability.commit_later(close_regions=ticks % _TICKS_PER_CLOSING == 0)


async def _end_on_signal(
    worker: MigrationWorker,
    jobs: Jobs,
    pages: KernelPages,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("asked to end", signal=signal.Signals(number).name)
            # A change of mode may wait for a flush that takes hours; what is dirty may stay so.
            jobs.close("the mount is ending")
            worker.copy_rate.set_rate(0)
            await pages.settle()
            pyfuse3.terminate()


async def _end_cleanly(volume: Volume, binding: Binding) -> None:
    """Make the record exact, then mark it clean."""
    await volume.durability.settle()
    policy = volume.policy
    if policy.hint_size:
        # One at a time: a list of them would take more memory than the map.
        hints = ((cblock, policy.get_hint(cblock)) for cblock, _ in volume.mapping.mapped())
        await binding.database.save_hints(hints)
    values = packed(hints=hint_signature(policy), stats=volume.counters.persistent()) | binding.end_values()
    await binding.database.commit(Transaction(values=values))
    binding.end(dirty=volume.mapping.dirty_count, cached=volume.mapping.mapped_count)


@contextmanager
def _mounted(operations: Operations, config: MountConfig) -> Iterator[None]:
    """Have FUSE mounted within this block."""
    options = set(pyfuse3.default_options)
    origin = config.origin.replace("\\", "\\\\").replace(",", "\\,")
    options |= {f"fsname={origin}", "subtype=fusecache", *config.fuse_options}
    try:
        pyfuse3.init(operations, str(config.mountpoint), options)
    except RuntimeError as exc:
        told = f" (options: {','.join(config.fuse_options)})" if config.fuse_options else ""
        msg = f"cannot mount on {config.mountpoint}: {exc}{told}"
        raise RefusedError(msg) from exc
    try:
        yield
    finally:
        pyfuse3.close(unmount=True)


def _require_mountpoint(path: Path) -> None:
    try:
        is_directory = path.is_dir()
        if not is_directory:
            msg = f"mountpoint {path} is not a directory" if path.exists() else f"mountpoint {path} does not exist"
            raise RefusedError(msg)
        is_empty = not any(path.iterdir())  # raises for a mount whose daemon has died
        if os.path.ismount(path):
            msg = f"mountpoint {path} is busy: something is mounted there already"
            raise BusyError(msg)
        if not is_empty:
            msg = f"mountpoint {path} is not empty"
            raise RefusedError(msg)
    except OSError as exc:
        msg = f"mountpoint {path}: {exc.strerror} (a dead mount? try: fusermount3 -u {path})"
        raise RefusedError(msg) from exc


def _refuse_dirty_passthrough(plan: Plan, mode: Mode) -> None:
    """Refuse passthrough over a cache that has, or after a crash may have, something that the origin does not have."""
    if mode is not Mode.PASSTHROUGH or plan.database is None:
        return
    if plan.database.has_suspects():
        count = plan.database.count(dirty_only=True) or "some"
        msg = f"passthrough needs a clean cache, and {count} blocks are dirty: mount writethrough and flush first"
        raise RefusedError(msg)
