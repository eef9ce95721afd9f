"""The one table of names: extended attributes, messages and commands all come here.

``user.fusecache.NAME`` is read with :meth:`Control.get`; every value is one line of text.  ``stats`` has the values of
all that can be set as well.  An errno says little, so ``error`` has the last refusal in words.

*Nothing that is set is waited for here.*  :meth:`Control.begin` refuses at once what cannot be, does at once what needs
no waiting, and gives back a job for the rest (:mod:`fusecache.jobs`); ``job`` shows what runs.  Who sets an attribute
hears nothing but an errno, and others may set it as well.  So whoever wants to know what becomes of it asks by a
*request*: ``request`` is set to ``TICKET NAME VALUE``, and ``request.TICKET`` tells how far that is and how it ended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from fusecache.config import Mode
from fusecache.control.status import Status, status_line
from fusecache.errors import FusecacheError, InvalidError, ReadOnlyKeyError, UnknownKeyError
from fusecache.grammar import (
    MIGRATION_THRESHOLD,
    Decommission,
    Discard,
    Flush,
    InvalidateCblocks,
    SetThreshold,
    SetTunable,
    parse_bytes,
    parse_dirty_age,
    parse_dirty_limit,
    parse_message,
    parse_policy,
    parse_read_ahead,
    parse_threshold,
)
from fusecache.jobs import Changes, Scrub, evacuate
from fusecache.units import SECTOR, parse_size
from policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fusecache.control.facts import MetadataSize, MountFacts
    from fusecache.jobs import Flusher, Job, Jobs
    from fusecache.migration import Cleaning, MigrationWorker
    from fusecache.volume import Volume

_TUNABLE: Final = "policy."
_REQUEST: Final = "request."
_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_REQUESTS: Final = 256
"""Requests of which is known what became of them."""


@dataclass(frozen=True, slots=True)
class _Attribute:
    """How one name is read and set; None where it cannot be."""

    get: Callable[[], str] | None = None
    set: Callable[[str], Job | None] | None = None


class Control:
    """What can be asked of a running mount, and what can be changed.

    :param discard: has so many bytes of the image from an offset on read as zeros.
    :param scrub_rate: bytes a second at which cached blocks are verified; 0 for not at all.
    :param restart: has another process go on, with options that are to change; returns at once, raises FusecacheError.
        None if nobody can.
    """

    def __init__(
        self,
        volume: Volume,
        worker: MigrationWorker,
        flusher: Flusher,
        jobs: Jobs,
        *,
        cleaning: Cleaning,
        facts: MountFacts,
        metadata: MetadataSize,
        discard: Callable[[int, int], Awaitable[None]],
        scrub_rate: int = 0,
        restart: Callable[[str], None] | None = None,
    ) -> None:
        self._volume = volume
        self._worker = worker
        self._flusher = flusher
        self._jobs = jobs
        self._cleaning = cleaning
        self._facts = facts
        self._metadata = metadata
        self._discard = discard
        self._scrub = Scrub(volume, worker, jobs, scrub_rate)
        self._changes = Changes(volume, worker, flusher, jobs)
        self._began = trio.current_time()
        self._requests: dict[str, Job | str] = {}
        """What became of requests, by their tickets: the job that was begun, or a report."""
        self._attributes = {
            "policy": _Attribute(lambda: volume.policy.name, self._set_policy),
            "mode": _Attribute(lambda: self._changes.mode.value, self._set_mode),
            MIGRATION_THRESHOLD: _Attribute(lambda: str(volume.migration_threshold // SECTOR), self._set_threshold),
            "copy_rate": _Attribute(lambda: str(worker.copy_rate.rate), self._set_copy_rate),
            "dirty_age": _Attribute(lambda: str(cleaning.age), self._set_dirty_age),
            "dirty_limit": _Attribute(lambda: str(cleaning.limit), self._set_dirty_limit),
            "read_ahead": _Attribute(lambda: str(worker.read_ahead.size), self._set_read_ahead),
            "scrub": _Attribute(lambda: str(self._scrub.rate), self._set_scrub),
            "message": _Attribute(None, self._carry_out),
            "request": _Attribute(None, self._request),
            "restart": _Attribute(lambda: facts.survival.restart, restart),
            "status": _Attribute(lambda: status_line(self.status())),
            "table": _Attribute(lambda: facts.table),
            "stats": _Attribute(lambda: self.status().as_json()),
            "job": _Attribute(lambda: str(jobs)),
            "lost": _Attribute(lambda: " ".join(f"{begin}-{end}" for begin, end in volume.health.lost)),
            "error": _Attribute(lambda: jobs.last_error),
        }

    async def run(self) -> None:
        """Do the long work that is begun here, and what begins by itself, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(evacuate, self._volume, self._worker, self._jobs)
            nursery.start_soon(self._scrub.run)
            nursery.start_soon(self._changes.run)

    # By name

    def get(self, name: str) -> str:
        """Read an attribute; raises UnknownKeyError."""
        if name.startswith(_TUNABLE):
            values = self._volume.policy.config_values()
            if (value := values.get(name.removeprefix(_TUNABLE))) is not None:
                return value
        if (asked := self._requests.get(name.removeprefix(_REQUEST))) is not None and name.startswith(_REQUEST):
            return asked if isinstance(asked, str) else asked.report()
        attribute = self._attributes.get(name)
        if attribute is None or attribute.get is None:
            msg = f"no attribute {name!r}"
            raise UnknownKeyError(msg)
        return attribute.get()

    def begin(self, name: str, value: str) -> Job | None:
        """Set an attribute; returns at once, with the job if there is something to wait for.

        :raises FusecacheError: nothing was changed, and nothing will be.
        """
        try:
            job = self._begin(name, value)
        except FusecacheError as exc:
            self._jobs.last_error = str(exc)
            raise
        self._jobs.last_error = ""
        return job

    async def set(self, name: str, value: str) -> None:
        """Set an attribute, and wait until that is done; raises FusecacheError.  For tests: no setter may wait."""
        if (job := self.begin(name, value)) is not None:
            await job.wait()

    async def settle(self) -> None:
        """Wait until every change that was asked for has ended, for good or ill."""
        await self._changes.settle()

    def _begin(self, name: str, value: str) -> Job | None:
        if name.startswith(_TUNABLE):
            self._set_tunable(name.removeprefix(_TUNABLE), value)
            return None
        attribute = self._attributes.get(name)
        if attribute is None:
            settable = ", ".join(name for name, attribute in self._attributes.items() if attribute.set is not None)
            msg = f"no attribute {name!r}; there are {settable} and policy.TUNABLE"
            raise UnknownKeyError(msg)
        if attribute.set is None:
            msg = f"attribute {name!r} can only be read"
            raise ReadOnlyKeyError(msg)
        return attribute.set(value.strip())

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
            partial_blocks=len(mapping.valid),
            suspect_blocks=min(facts.suspects, mapping.dirty_count),
            **volume.counters.as_dict(),
            mode=self._changes.mode,
            page_cache=facts.page_cache,
            engine=facts.engine,
            gate=facts.gate(),
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
            dirty_age=str(self._cleaning.age),
            dirty_limit=str(self._cleaning.limit),
            read_ahead=self._worker.read_ahead.size,
            scrub_rate=self._scrub.rate,
            job=str(self._jobs),
            flush_pending=self._flusher.pending,
            flush_failed=self._flusher.failed,
            outcomes=dict(self._jobs.outcomes),
            decommissioned=self._changes.decommissioned,
            metadata_used_bytes=_size(self._metadata.used_size),
            metadata_total_bytes=_size(self._metadata.size),
            origin=facts.origin,
            cache=facts.cache,
            metadata=facts.metadata,
            log=facts.log,
            mountpoint=facts.mountpoint,
            pid=facts.pid,
            holder=facts.survival.holder,
            unheld=facts.survival.unheld,
            crashes=facts.survival.crashes,
            restarts=facts.survival.restarts,
            restart=facts.survival.restart,
            version=facts.version,
            uptime_s=round(trio.current_time() - self._began, 3),
        )

    # Setters

    def _set_policy(self, text: str) -> Job:
        return self._changes.set_policy(parse_policy(text, "policy"))

    def _set_mode(self, text: str) -> Job:
        mode = Mode.parse(text)
        if mode is not Mode.WRITEBACK:
            self._volume.require_writebacks()
        return self._changes.set_mode(mode)

    def _set_threshold(self, text: str) -> None:
        self._changes.set_threshold(parse_threshold(text))

    def _set_copy_rate(self, text: str) -> None:
        self._worker.copy_rate.set_rate(parse_size(text))

    def _set_dirty_age(self, text: str) -> None:
        self._cleaning.set_age(parse_dirty_age(text))

    def _set_dirty_limit(self, text: str) -> None:
        self._cleaning.set_limit(parse_dirty_limit(text))

    def _set_read_ahead(self, text: str) -> None:
        self._worker.read_ahead.set_size(parse_read_ahead(text))

    def _set_scrub(self, text: str) -> None:
        self._scrub.set_rate(parse_size(text))

    def _set_tunable(self, key: str, value: str) -> None:
        try:
            self._changes.policy.set_config_value(key, value.strip())
        except PolicyError as exc:
            raise InvalidError(str(exc)) from exc

    def _carry_out(self, message: str) -> Job | None:
        match parse_message(message):
            case SetThreshold(size):
                self._changes.set_threshold(size)
            case SetTunable(key, value):
                self._set_tunable(key, value)
            case InvalidateCblocks(ranges):
                return self._changes.drop(ranges)
            case Discard(ranges):
                size = self._volume.geometry.image_bytes
                return self._changes.discard([parse_bytes(text, size) for text in ranges], self._discard)
            case Flush():
                self._volume.require_writebacks()
                return self._flusher.start()
            case Decommission():
                self._volume.require_writebacks()
                return self._changes.decommission()
        return None

    def _request(self, text: str) -> Job | None:
        """Set an attribute for somebody who is going to ask what became of it."""
        ticket, _, setting = text.partition(" ")
        name, _, value = setting.partition(" ")
        if _TICKET.fullmatch(ticket) is None or ticket in self._requests or name == "request":
            msg = "a request is TICKET NAME VALUE, where TICKET is a word of letters and digits that is not in use"
            raise InvalidError(msg)
        self._forget_requests()
        try:
            job = self._begin(name, value)
        except FusecacheError as exc:
            self._requests[ticket] = f"failed 0 0 {' '.join(str(exc).split())}"
            raise
        self._requests[ticket] = f"done 0 0 {name}" if job is None else job
        return job

    def _forget_requests(self) -> None:
        """Forget the oldest requests that have ended, so that there is room for another one."""
        ended = [ticket for ticket, asked in self._requests.items() if isinstance(asked, str) or asked.outcome]
        for ticket in ended[: max(0, len(self._requests) - _MOST_REQUESTS + 1)]:
            del self._requests[ticket]


def _size(ask: Callable[[], int]) -> int:
    """Return a size in bytes; 0 if it cannot be had, which is no reason to say nothing of the rest."""
    try:
        return ask()
    except OSError:
        return 0
