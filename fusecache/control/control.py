"""The one table of names: extended attributes, messages and commands all come here.

``user.fusecache.NAME`` is read with :meth:`Control.get` and set with :meth:`Control.set`; every value is one line of
text.  Changes are made one at a time.  An errno says little, so ``error`` has the last refusal in words.  Long work (a
flush, decommissioning) is begun by a message and can be followed in the statistics; a change of policy or mode returns
when it is done.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog
import trio

from fusecache import __version__
from fusecache.config import Mode
from fusecache.control.status import Status, status_line
from fusecache.errors import (
    FusecacheError,
    InvalidError,
    ReadOnlyKeyError,
    RefusedError,
    UnknownKeyError,
)
from fusecache.grammar import (
    Decommission,
    Flush,
    InvalidateCblocks,
    SetValue,
    check_policy_name,
    parse_decimal,
    parse_message,
    parse_range,
    table_features,
    table_line,
)
from fusecache.jobs import Scrub, drop_all, evacuate, switch_mode, switch_policy
from fusecache.units import SECTOR, parse_size
from fusecache.volume import guarded, now_ms
from policies import PolicyError, create_policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from fusecache.attach import Binding
    from fusecache.block import Geometry
    from fusecache.config import MountConfig
    from fusecache.jobs import Flusher
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume
    from policies import Policy

log = structlog.get_logger(__name__)

_TUNABLE: Final = "policy."
_THRESHOLD: Final = "migration_threshold"


@dataclass(frozen=True, slots=True)
class _Attribute:
    """How one name is read and set; None where it cannot be."""

    get: Callable[[], str] | None = None
    set: Callable[[str], Awaitable[None]] | None = None


class Control:
    """What can be asked of a running mount, and what can be changed.

    :param config: what the mount was told; ``binding``: the files that it came to use.
    :param suspects: blocks that are dirty only because a crash left it open whether they are.
    """

    def __init__(
        self,
        volume: Volume,
        worker: MigrationWorker,
        flusher: Flusher,
        *,
        config: MountConfig,
        binding: Binding,
        suspects: int,
    ) -> None:
        self._volume = volume
        self._worker = worker
        self._flusher = flusher
        self._config = config
        self._binding = binding
        self._suspects = suspects
        self._started = trio.current_time()
        self._changing = trio.Lock()
        self._decommission_asked = trio.Event()
        self._decommissioned = False
        self._last_error = ""
        self._scrub = Scrub(volume, worker, config.scrub)
        worker.copy_rate.set_rate(config.copy_rate)
        self._attributes = {
            "policy": _Attribute(lambda: volume.policy.name, self._set_policy),
            "mode": _Attribute(lambda: volume.mode.value, self._set_mode),
            _THRESHOLD: _Attribute(lambda: str(volume.migration_threshold // SECTOR), self._set_threshold),
            "status": _Attribute(lambda: status_line(self.status())),
            "table": _Attribute(self._table),
            "stats": _Attribute(lambda: self.status().as_json()),
            "message": _Attribute(None, self._message),
            "error": _Attribute(lambda: self._last_error),
            "lost": _Attribute(lambda: " ".join(f"{begin}-{end}" for begin, end in volume.health.lost)),
            "copy_rate": _Attribute(lambda: str(worker.copy_rate.rate), self._set_copy_rate),
            "scrub": _Attribute(lambda: str(self._scrub.rate), self._set_scrub),
        }

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
        await attribute.set(value)

    def status(self) -> Status:
        """Report everything at this moment."""
        volume = self._volume
        mapping = volume.mapping
        health = volume.health
        return Status(
            origin_bytes=volume.geometry.image_bytes,
            block_bytes=volume.geometry.block_size,
            cache_blocks=volume.geometry.cache_blocks,
            used_blocks=volume.policy.residency(),
            dirty_blocks=mapping.dirty_count,
            suspect_blocks=min(self._suspects, mapping.dirty_count),
            **volume.counters.as_dict(),
            mode=volume.mode,
            page_cache=self._config.page_cache,
            engine=self._binding.engine,
            policy=volume.policy.name,
            policy_values=volume.policy.config_values(),
            migration_threshold=volume.migration_threshold,
            features=table_features(self._config),
            needs_check=bool(health.read_only),
            read_only=bool(health.read_only),
            state=health.state,
            health=str(health),
            lost_bytes=len(health.lost),
            copy_rate=self._worker.copy_rate.rate,
            scrub_rate=self._scrub.rate,
            flush_pending=self._flusher.pending,
            flush_failed=self._flusher.failed,
            decommissioned=self._decommissioned,
            metadata_used_bytes=self._binding.database.used_size(),
            metadata_total_bytes=self._binding.database.size(),
            origin=self._binding.origin_address,
            cache=str(self._binding.cache_path),
            metadata=str(self._binding.metadata_path),
            mountpoint=str(self._config.mountpoint),
            pid=os.getpid(),
            version=__version__,
            uptime_s=round(trio.current_time() - self._started, 3),
        )

    def _table(self) -> str:
        """Write the table that would make this mount again."""
        binding = self._binding
        named = replace(
            self._config,
            origin=binding.origin_address,
            cache=binding.cache_path,
            metadata=binding.metadata_path,
            block_size=self._volume.geometry.block_size,
        )
        return table_line(named)

    async def run(self) -> None:
        """Carry out long work, begun by messages or by itself, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(evacuate, self._volume, self._worker)
            nursery.start_soon(self._scrub.run)
            nursery.start_soon(self._carry_out_messages)

    async def _carry_out_messages(self) -> None:
        while True:
            await self._decommission_asked.wait()
            self._decommission_asked = trio.Event()
            try:
                await self._decommission()
            except FusecacheError as exc:
                self._flusher.give_up(str(exc))
                log.error("decommissioning failed", error=str(exc))

    # Setters

    async def _set_policy(self, text: str) -> None:
        name, *settings = text.strip().split(",")
        values = dict(setting.partition("=")[::2] for setting in settings)
        async with self._changing:
            new = self._new_policy(check_policy_name(name), values)
            with _taking_over(name):
                await switch_policy(self._volume, self._worker, new)

    async def _set_mode(self, text: str) -> None:
        mode = Mode.parse(text.strip())
        async with self._changing:
            await self._change_mode(mode)

    async def _change_mode(self, mode: Mode) -> None:
        spare = self._new_policy(self._volume.policy.name, self._volume.policy.config_values())
        with _taking_over(spare.name):
            await switch_mode(self._volume, self._worker, self._flusher, mode, spare)
        if mode is not Mode.PASSTHROUGH:
            self._decommissioned = False

    async def _set_threshold(self, text: str) -> None:
        self._volume.migration_threshold = parse_decimal(text.strip(), _THRESHOLD) * SECTOR
        self._worker.wake()

    async def _set_copy_rate(self, text: str) -> None:
        self._worker.copy_rate.set_rate(parse_size(text.strip()))

    async def _set_scrub(self, text: str) -> None:
        self._scrub.set_rate(parse_size(text.strip()))

    def _set_tunable(self, key: str, value: str) -> None:
        try:
            self._volume.policy.set_config_value(key, value.strip())
        except PolicyError as exc:
            raise InvalidError(str(exc)) from exc

    def _new_policy(self, name: str, values: dict[str, str] | None = None) -> Policy:
        return new_policy(self._volume.geometry, name, (values or {}).items())

    # Messages

    async def _message(self, text: str) -> None:
        match parse_message(text):
            case SetValue(key, value) if key == _THRESHOLD:
                await self._set_threshold(value)
            case SetValue(key, value):
                self._set_tunable(key, value)
            case InvalidateCblocks(ranges):
                await self._invalidate(ranges)
            case Flush():
                self._flusher.start()
            case Decommission():
                self._decommissioned = False
                self._flusher.start()
                self._decommission_asked.set()

    async def _invalidate(self, ranges: tuple[str, ...]) -> None:
        """Drop mappings range by range; those before a bad one stay dropped (dm-cache 1.5)."""
        volume = self._volume
        async with self._changing:
            if volume.mode is not Mode.PASSTHROUGH:
                msg = "invalidate_cblocks works in passthrough mode only"
                raise RefusedError(msg)
            for text in ranges:
                begin, end = parse_range(text, volume.geometry.cache_blocks)
                for cblock in range(begin, end):
                    if (oblock := volume.mapping.oblock_of[cblock]) >= 0:
                        await self._worker.invalidate(oblock)

    async def _decommission(self) -> None:
        """Make the origin complete and the cache empty; the image stays, served by the origin alone."""
        async with self._changing:
            await self._change_mode(Mode.PASSTHROUGH)
            await drop_all(self._volume, self._worker)
            self._decommissioned = True
        log.info("decommissioned: the origin alone is complete")


@contextmanager
def _taking_over(name: str) -> Iterator[None]:
    """Let whatever another package's policy raises while it is told of what is cached be an InvalidError."""
    try:
        yield
    except FusecacheError:
        raise
    except Exception as exc:
        log.exception("policy does not take over", policy=name)
        msg = f"policy {name!r} does not take over: {type(exc).__name__}: {exc}"
        raise InvalidError(msg) from exc


def new_policy(geometry: Geometry, name: str, values: Iterable[tuple[str, str]]) -> Policy:
    """Make a policy for an image, with these tunables set; raises InvalidError in the policy's words."""
    try:
        policy = create_policy(
            name,
            cache_blocks=geometry.cache_blocks,
            origin_blocks=max(1, geometry.origin_blocks),
            block_size=geometry.block_size,
            now_ms=now_ms(),
        )
        for key, value in values:
            policy.set_config_value(key, value)
    except PolicyError as exc:
        raise InvalidError(str(exc)) from exc
    except Exception as exc:
        log.exception("policy cannot be made", policy=name)
        msg = f"policy {name!r} cannot be made: {type(exc).__name__}: {exc}"
        raise InvalidError(msg) from exc
    return guarded(policy)
