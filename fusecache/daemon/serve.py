"""The composition root: opens, recovers, serves until unmounted, ends cleanly.

Theory of operation
-------------------
:func:`serve` runs one mount from beginning to end.  Everything that can be refused is refused before anything is
created; then FUSE is told to mount, the record is recovered, and the caller hears that the image is ready.

The end has one path, whether it came by an unmount, by SIGTERM or SIGINT, or because another process is to go on:
requests under way are answered; migrations and flushes stop; the record is made exact, with hints and counters; only
then is it marked clean, and only after that does a mount that is still there disappear, unless another process goes on.
If any of it fails, the mark is not set, and the next mount recovers as after a crash.

*A mount that ended badly stays, dead* ("Transport endpoint is not connected").
  What must hold: nobody who writes to ``MOUNTPOINT/image`` writes a plain file into the empty directory below, and
  takes that for his disk.  So the mount is taken away after a clean end only, or if nobody was told of it.
  What it costs: ``fusermount3 -u`` before the next mount.

*The image is ready when the kernel has had an answer.*
  What must hold: an option that FUSE takes, and does not get along with afterwards, is an error of the mount command.
  So the daemon asks the kernel about its own mount, in a thread, and calls it ready when that is answered.
"""

from __future__ import annotations

import gc
import os
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache import __version__
from fusecache.config import DEFAULT_READ_AHEAD, PageCache
from fusecache.control import Control, MountFacts
from fusecache.daemon.end_request import EndRequest
from fusecache.daemon.ending import end_cleanly, metadata_kept, save_what_ends, watch_names
from fusecache.daemon.fuse_words import FuseWords, name_of_log
from fusecache.daemon.lifeline import Lifeline
from fusecache.daemon.preparing import prepare
from fusecache.daemon.succession import Succession
from fusecache.datapath import Disk
from fusecache.errors import FusecacheError, RefusedError, StoreError
from fusecache.frontends.fuse import Attributes, KernelPages, Operations, Session
from fusecache.grammar import table_features, table_line
from fusecache.jobs import Flusher, Jobs
from fusecache.linux import become_io_flusher
from fusecache.migration import Cleaning, MigrationWorker
from fusecache.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from fusecache.attach import Binding, Space
    from fusecache.config import MountConfig
    from fusecache.control import Survival
    from fusecache.daemon.lifeline import Heir
    from fusecache.daemon.preparing import Prepared
    from fusecache.frontends.fuse import Kept
    from fusecache.metadata import ImageTimes

log = structlog.get_logger(__name__)

_ANSWER_SECONDS: Final = 1.0
_TICK_SECONDS: Final = 1.0
_TICKS_PER_CLOSING: Final = 5


def serve(config: MountConfig, on_ready: Callable[[list[str]], None], heir: Heir | None = None) -> None:
    """Mount the image and serve it until it is unmounted, or until SIGTERM or SIGINT.

    :param on_ready: called once, with notes for the user, when the image can be used.
    :param heir: if the mount is there, and was served by another process.
    :raises FusecacheError: why it could not be mounted, or did not end cleanly.
    """
    try:
        become_io_flusher()
    except OSError as exc:
        log.debug("no IO flusher", reason=exc.strerror)
    trio.run(_serve, config, on_ready, heir)


async def _serve(config: MountConfig, on_ready: Callable[[list[str]], None], heir: Heir | None) -> None:
    lifeline = Lifeline(heir)
    with EndRequest.heeded() as end_request, closing(lifeline):
        with ExitStack() as resources:
            kept = None
            with end_request.interrupting():
                prepared = prepare(config, resources, heir=heir)
                if config.survive and not config.foreground:
                    prepared.volume.durability.rows.slate = lifeline.make_slate(prepared.binding)
                if heir is not None:
                    kept = lifeline.obtain()
            await _run(prepared, config, on_ready, end_request, lifeline, kept)
        if lifeline.is_to_leave:
            lifeline.leave()


async def _run(
    prepared: Prepared,
    config: MountConfig,
    on_ready: Callable[[list[str]], None],
    end_request: EndRequest,
    lifeline: Lifeline,
    kept: Kept | None,
) -> None:
    """Serve the mount, then end it."""
    volume, binding = prepared.volume, prepared.binding
    worker = _make_worker(prepared, config)
    cleaning = Cleaning(volume, worker, config.dirty_age, config.dirty_limit)
    jobs = Jobs(volume.geometry.block_size, trio.current_time)
    flusher = Flusher(volume, worker, jobs)
    disk = Disk(volume, worker)
    session = Session(disk, gated=config.gate)
    control = Control(
        volume,
        worker,
        flusher,
        jobs,
        cleaning=cleaning,
        facts=_facts(config, binding, prepared.suspects, lambda: session.is_gated, lifeline.survival),
        metadata=binding.database,
        discard=disk.discard,
        scrub_rate=config.scrub,
        restart=lambda changes: succession.restart(changes),  # noqa: PLW0108 - it is not there yet
    )
    operations = Operations(
        disk,
        control,
        _attributes(volume, binding, config),
        page_cache=config.page_cache is PageCache.IMAGE,
        read_only=bool(binding.read_only),
    )
    pages = KernelPages(session.drop_pages)
    volume.content_changed = pages.forget
    if kept is None:
        config = replace(config, mountpoint=config.mountpoint.resolve())  # before it is ours to answer what it is
    succession = Succession(config, lifeline, control.status)

    def tell() -> None:
        binding.notes.extend(succession.begin(session))
        on_ready(binding.notes)

    with _mounted(session, operations, config, kept) as mounted:
        with metadata_kept(volume, binding):
            operations.attributes.keeps_pages &= not session.is_gated
            binding.notes.extend(mounted.notes if binding.is_new else ())  # once is enough
            binding.begin()
            binding.remember_names()
            async with trio.open_nursery() as nursery:
                for part in (volume.durability, worker, cleaning, flusher, control, pages, lifeline):
                    nursery.start_soon(part.run)
                nursery.start_soon(_tick, volume, worker)
                nursery.start_soon(_keep_times, binding, operations.attributes)
                nursery.start_soon(watch_names, volume, binding)
                nursery.start_soon(succession.note_changes)
                nursery.start_soon(_end_when_asked, end_request, lifeline, volume, worker, jobs, pages, session)
                if not binding.was_clean:
                    await volume.durability.secure()
                volume.tick()  # policies begin to count with the first tick
                gc.freeze()  # what is here now stays: no collection has to look at it, while requests wait
                mounted.goes = False
                was_ready = await _serve_requests(session, config.mountpoint, tell)
                if was_ready:
                    lifeline.let_go_unless_leaving(end_request.name)
                log.info("ending", dirty=volume.mapping.dirty_count)
                lost = await save_what_ends(volume, binding, worker)
                async with worker.paused():
                    nursery.cancel_scope.cancel()
            if lost:
                raise StoreError(lost)
            await end_cleanly(volume, binding)
        lifeline.let_go_unless_leaving(end_request.name)
        mounted.goes = not lifeline.is_to_leave
    _require(was_ready, config, end_request)
    log.info("ended")


def _make_worker(prepared: Prepared, config: MountConfig) -> MigrationWorker:
    worker = MigrationWorker(prepared.volume)
    worker.copy_rate.set_rate(config.copy_rate)
    worker.read_ahead.usual_size = 0 if prepared.binding.strengths.reads_ahead else DEFAULT_READ_AHEAD
    worker.read_ahead.set_size(config.read_ahead)
    return worker


def _require(was_ready: bool, config: MountConfig, end_request: EndRequest) -> None:
    """Raise RefusedError if the image never was ready."""
    if not was_ready:
        end_request.refuse()
        msg = f"cannot mount on {config.mountpoint}: the kernel and FUSE do not agree{_told(config)}"
        raise RefusedError(msg)


async def _serve_requests(session: Session, mountpoint: Path, on_ready: Callable[[], None]) -> bool:
    """Serve until it is unmounted or asked to end; returns whether it ever became ready."""
    was_ready = False
    tried = trio.Event()

    async def become_ready() -> None:
        nonlocal was_ready
        try:
            await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
        except OSError as exc:
            log.error("the mount does not answer", error=exc.strerror)
        except RuntimeError as exc:  # the system gives no thread, which is no reason not to serve
            log.warning("nobody has asked whether the image is ready", error=str(exc))
            was_ready = True
        else:
            was_ready = True
        if was_ready:
            on_ready()
        tried.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(become_ready)
        await session.serve()
        with trio.move_on_after(_ANSWER_SECONDS):  # asked to end at once, nobody may have answered
            await tried.wait()
        nursery.cancel_scope.cancel()
    return was_ready


def _facts(
    config: MountConfig, binding: Binding, suspects: int, gate: Callable[[], bool], survival: Survival
) -> MountFacts:
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
        log=name_of_log(),
        mountpoint=str(config.mountpoint),
        engine=binding.engine,
        gate=gate,
        page_cache=config.page_cache,
        features=table_features(config),
        table=table_line(named),
        suspects=suspects,
        pid=os.getpid(),
        version=__version__,
        survival=survival,
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


def _attributes(volume: Volume, binding: Binding, config: MountConfig) -> Attributes:
    return Attributes(
        _Backing(volume, binding),
        image_bytes=binding.geometry.image_bytes,
        ownership=config.ownership,
        keeps_pages=config.page_cache is PageCache.IMAGE,
    )


async def _keep_times(binding: Binding, attributes: Attributes) -> None:
    """Note once a second, and at the end, when the image was written last."""
    try:
        while True:
            binding.image_times = attributes.image_times()
            await trio.sleep(_TICK_SECONDS)
    finally:
        binding.image_times = attributes.image_times()


async def _end_when_asked(
    end_request: EndRequest,
    lifeline: Lifeline,
    volume: Volume,
    worker: MigrationWorker,
    jobs: Jobs,
    pages: KernelPages,
    session: Session,
) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(until: Callable[[], Awaitable[None]]) -> None:
            await until()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait, end_request.wait)
        nursery.start_soon(wait, lifeline.told_to_leave)
    log.info("asked to end", signal=end_request.name or "none: another process goes on")
    if not end_request.name:
        with suppress(FusecacheError):  # it will be told at the end
            await volume.durability.flush()  # while everybody is served still, so that little is left to do then
    # A change of mode may wait for a flush that takes hours; what is dirty may stay so.
    jobs.close("the mount is ending")
    worker.copy_rate.set_rate(0)
    await pages.settle()
    session.end()


@dataclass(frozen=True, slots=True)
class _Backing:
    """What the attributes of the image tell of its origin and its cache."""

    _volume: Volume
    _binding: Binding

    @property
    def image_times(self) -> ImageTimes:
        return self._binding.image_times

    def allocated(self) -> int | None:
        return self._binding.allocated()

    def space(self) -> Space | None:
        return self._binding.space()

    def waiting(self) -> int:
        return self._volume.mapping.dirty_count * self._volume.geometry.block_size

    def take_written(self) -> bool:
        return self._volume.take_written()


@dataclass(slots=True)
class _Mounted:
    """A mount in the file tree."""

    notes: list[str]
    """Lines that the user should see."""
    goes: bool = True
    """Whether it is taken away when we are done with it."""


@contextmanager
def _mounted(session: Session, operations: Operations, config: MountConfig, kept: Kept | None) -> Iterator[_Mounted]:
    """Have FUSE mounted within this block.

    :param kept: a mount that is there already; its mountpoint has no links in it, and is not looked at.
    """
    if "auto_unmount" in config.fuse_options:
        msg = "auto_unmount would take away a mount that ended badly: what is written then goes into a plain file"
        raise RefusedError(msg)
    # pyfuse3 takes nothing but ASCII
    origin = os.fsencode(config.origin).decode("ascii", "backslashreplace").replace("\\", "\\\\").replace(",", "\\,")
    named = any(option.startswith("fsname=") for option in config.fuse_options)
    options = {*([] if named else [f"fsname={origin}"]), "subtype=fusecache", *config.fuse_options}
    words = FuseWords()
    notes: list[str] = []
    try:
        if kept is None:
            notes = session.mount(operations, config.mountpoint, options)
        else:
            session.take_over(operations, config.mountpoint, options, kept)
    except (RuntimeError, UnicodeEncodeError) as exc:
        msg = f"cannot mount on {config.mountpoint}: {words.heard() or exc}{_told(config)}"
        raise RefusedError(msg) from exc
    mounted = _Mounted(notes)
    try:
        yield mounted
    finally:
        session.close(unmount=mounted.goes)


def _told(config: MountConfig) -> str:
    """Name the options that FUSE was told, and the log, for a message."""
    options = f" (options: {','.join(config.fuse_options)})" if config.fuse_options else ""
    return options + ((name := name_of_log()) and f"; the log is {name}")
