"""The one table of names: extended attributes, messages and commands all come here.

``user.fusecache.NAME`` is read with :meth:`Control.get` and set with :meth:`Control.set`; every value is one line of
text.  An errno says little, so ``error`` has the last refusal in words.

Long work (:mod:`fusecache.jobs`) is begun here, and ``job`` shows it.  A message begins a flush or a decommissioning
and returns at once; a change of policy or mode returns when it is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from fusecache.config import Mode
from fusecache.control.status import Status, status_line
from fusecache.errors import FusecacheError, InvalidError, ReadOnlyKeyError, UnknownKeyError
from fusecache.grammar import (
    MIGRATION_THRESHOLD,
    Decommission,
    Flush,
    InvalidateCblocks,
    SetThreshold,
    SetTunable,
    parse_message,
    parse_policy,
    parse_threshold,
)
from fusecache.jobs import Changes, Scrub, evacuate
from fusecache.units import SECTOR, parse_size
from policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fusecache.control.facts import MetadataSize, MountFacts
    from fusecache.jobs import Flusher, Jobs
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume

_TUNABLE: Final = "policy."


@dataclass(frozen=True, slots=True)
class _Attribute:
    """How one name is read and set; None where it cannot be."""

    get: Callable[[], str] | None = None
    set: Callable[[str], Awaitable[None]] | None = None


class Control:
    """What can be asked of a running mount, and what can be changed.

    :param scrub_rate: bytes a second at which cached blocks are verified; 0 for not at all.
    """

    def __init__(
        self,
        volume: Volume,
        worker: MigrationWorker,
        flusher: Flusher,
        jobs: Jobs,
        *,
        facts: MountFacts,
        metadata: MetadataSize,
        scrub_rate: int = 0,
    ) -> None:
        self._volume = volume
        self._worker = worker
        self._flusher = flusher
        self._jobs = jobs
        self._facts = facts
        self._metadata = metadata
        self._scrub = Scrub(volume, worker, jobs, scrub_rate)
        self._changes = Changes(volume, worker, flusher, jobs)
        self._began = trio.current_time()
        self._last_error = ""
        self._attributes = {
            "policy": _Attribute(lambda: volume.policy.name, self._set_policy),
            "mode": _Attribute(lambda: volume.mode.value, self._set_mode),
            MIGRATION_THRESHOLD: _Attribute(lambda: str(volume.migration_threshold // SECTOR), self._set_threshold),
            "copy_rate": _Attribute(lambda: str(worker.copy_rate.rate), self._set_copy_rate),
            "scrub": _Attribute(lambda: str(self._scrub.rate), self._set_scrub),
            "message": _Attribute(None, self._carry_out),
            "status": _Attribute(lambda: status_line(self.status())),
            "table": _Attribute(lambda: facts.table),
            "stats": _Attribute(lambda: self.status().as_json()),
            "job": _Attribute(lambda: str(jobs)),
            "lost": _Attribute(lambda: " ".join(f"{begin}-{end}" for begin, end in volume.health.lost)),
            "error": _Attribute(lambda: self._last_error),
        }

    async def run(self) -> None:
        """Do the long work that is begun here, and what begins by itself, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(evacuate, self._volume, self._worker, self._jobs)
            nursery.start_soon(self._scrub.run)
            nursery.start_soon(self._changes.run)

    # Names

    def names(self) -> list[str]:
        """List the names that can be read."""
        names = [name for name, attribute in self._attributes.items() if attribute.get is not None]
        return names + [_TUNABLE + key for key in self._volume.policy.config_values()]

    def get(self, name: str) -> str:
        """Read an attribute; raises UnknownKeyError."""
        if name.startswith(_TUNABLE):
            values = self._volume.policy.config_values()
            if (value := values.get(name.removeprefix(_TUNABLE))) is not None:
                return value
        attribute = self._attributes.get(name)
        if attribute is None or attribute.get is None:
            msg = f"no attribute {name!r}"
            raise UnknownKeyError(msg)
        return attribute.get()

    async def set(self, name: str, value: str) -> None:
        """Set an attribute; raises FusecacheError, and then nothing was changed."""
        try:
            await self._set(name, value)
        except FusecacheError as exc:
            self._last_error = str(exc)
            raise
        self._last_error = ""

    async def _set(self, name: str, value: str) -> None:
        if name.startswith(_TUNABLE):
            self._set_tunable(name.removeprefix(_TUNABLE), value)
            return
        attribute = self._attributes.get(name)
        if attribute is None:
            settable = ", ".join(name for name, attribute in self._attributes.items() if attribute.set is not None)
            msg = f"no attribute {name!r}; there are {settable} and policy.TUNABLE"
            raise UnknownKeyError(msg)
        if attribute.set is None:
            msg = f"attribute {name!r} can only be read"
            raise ReadOnlyKeyError(msg)
        await attribute.set(value.strip())

    def status(self) -> Status:
        """Report everything at this moment."""
        volume = self._volume
        mapping = volume.mapping
        health = volume.health
        facts = self._facts
        return Status(
            origin_bytes=volume.geometry.image_bytes,
            block_bytes=volume.geometry.block_size,
            cache_blocks=volume.geometry.cache_blocks,
            used_blocks=volume.policy.residency(),
            dirty_blocks=mapping.dirty_count,
            suspect_blocks=min(facts.suspects, mapping.dirty_count),
            **volume.counters.as_dict(),
            mode=volume.mode,
            page_cache=facts.page_cache,
            engine=facts.engine,
            policy=volume.policy.name,
            policy_values=volume.policy.config_values(),
            migration_threshold=volume.migration_threshold,
            features=facts.features,
            needs_check=bool(health.read_only),
            read_only=bool(health.read_only),
            state=health.state,
            health=str(health),
            gone=" ".join(health.gone),
            lost_bytes=len(health.lost),
            copy_rate=self._worker.copy_rate.rate,
            scrub_rate=self._scrub.rate,
            job=str(self._jobs),
            flush_pending=self._flusher.pending,
            flush_failed=max(self._flusher.failed, int(self._changes.decommission_failed)),
            decommissioned=self._changes.decommissioned,
            metadata_used_bytes=_size(self._metadata.used_size),
            metadata_total_bytes=_size(self._metadata.size),
            origin=facts.origin,
            cache=facts.cache,
            metadata=facts.metadata,
            mountpoint=facts.mountpoint,
            pid=facts.pid,
            version=facts.version,
            uptime_s=round(trio.current_time() - self._began, 3),
        )

    # Setters

    async def _set_policy(self, text: str) -> None:
        await self._changes.set_policy(parse_policy(text, "policy"))

    async def _set_mode(self, text: str) -> None:
        mode = Mode.parse(text)
        if mode is not Mode.WRITEBACK:
            self._volume.require_writebacks()
        await self._changes.set_mode(mode)

    async def _set_threshold(self, text: str) -> None:
        self._change_threshold(parse_threshold(text))

    async def _set_copy_rate(self, text: str) -> None:
        self._worker.copy_rate.set_rate(parse_size(text))

    async def _set_scrub(self, text: str) -> None:
        self._scrub.set_rate(parse_size(text))

    def _change_threshold(self, size: int) -> None:
        self._volume.migration_threshold = size
        self._worker.wake()

    def _set_tunable(self, key: str, value: str) -> None:
        try:
            self._volume.policy.set_config_value(key, value.strip())
        except PolicyError as exc:
            raise InvalidError(str(exc)) from exc

    async def _carry_out(self, message: str) -> None:
        match parse_message(message):
            case SetThreshold(size):
                self._change_threshold(size)
            case SetTunable(key, value):
                self._set_tunable(key, value)
            case InvalidateCblocks(ranges):
                await self._changes.drop(ranges)
            case Flush():
                self._volume.require_writebacks()
                self._flusher.start()
            case Decommission():
                self._volume.require_writebacks()
                self._changes.decommission()


def _size(ask: Callable[[], int]) -> int:
    """Return a size in bytes; 0 if it cannot be had, which is no reason to say nothing of the rest."""
    try:
        return ask()
    except OSError:
        return 0
